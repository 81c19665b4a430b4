"""`vaelens blind`: what it prints and writes, and its exit codes."""

import json
from pathlib import Path

import pytest

from support.blind_results import abx_trials, result, save, save_all
from support.commands import invoke


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The working folder, with the results of two people."""
    monkeypatch.chdir(tmp_path)
    save_all(tmp_path, [result(abx_trials(11, 16), person="Anna"), result(abx_trials(14, 16), person="Ben \x1b[31m")])
    return tmp_path


def test_results_are_pooled_to_a_page(folder: Path) -> None:
    ran = invoke("blind", "1.json", "2.json")
    lines = [" ".join(line.split()) for line in ran.stdout.splitlines()]
    assert lines[0] == "ABX"
    assert lines[1].startswith("2 tests: 32 of 32 planned trials answered")
    assert "tiny-ft-ema tiny-ft-mse 25 32 78.1 [60.0, 90.7] 0.001" in lines
    assert "tiny-ft-ema tiny-ft-mse Anna 11 16 68.8 [41.3, 89.0] 0.105" in lines
    assert lines[-1] == "wrote blind.html and 1 more beside it"
    assert "\x1b" not in ran.stdout
    assert (folder / "blind.html").stat().st_size > 10_000
    assert (folder / "blind.run.json").exists()


def test_every_number_is_there_as_json(folder: Path) -> None:
    values = json.loads(invoke("blind", "1.json", "2.json", "-o", "both.html", "--json").stdout)
    (pair,) = values["tests"][0]["pairs"]
    assert (pair["hits"], pair["trials"], list(pair["people"])) == (25, 32, ["Anna", "Ben \x1b[31m"])
    assert values["written"] == ["both.html", "both.run.json"]


def test_refusals_have_their_exit_codes_and_come_before_anything_is_written(folder: Path) -> None:
    save(folder / "other.json", result(abx_trials(3, 4), names=("a", "b")))
    (folder / "cut.json").write_bytes((folder / "1.json").read_bytes()[:500])
    before = sorted(path.name for path in folder.iterdir())
    for arguments, code, says in (
        (["1.json", "other.json"], 2, "other.json is a test of other VAEs ('a', 'b') than 1.json"),
        (["1.json", "1.json"], 2, "1.json is named twice"),
        (["cut.json"], 3, "cut.json can't be read as a result of the blind test: it is cut off"),
        (["no.json"], 3, "no.json: there is no such file"),
        (["no.json", "-o", "1.json"], 2, "-o 1.json: the output is a page"),
        ([""], 2, "empty"),
        (["1.json", "-o", ""], 2, "empty"),
        ([], 2, ""),
    ):
        assert says in invoke("blind", *arguments, code=code).stderr
    assert sorted(path.name for path in folder.iterdir()) == before
