"""The blind test in an evaluation's report: beside the measured differences, of the same VAEs, refused otherwise."""

import dataclasses
import hashlib
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from support.blind_results import abx_trials, preference_trials, result, save, save_all, sha256
from support.commands import invoke
from support.reports import made_up
from support.small_run import PRESET, Run, command, rows
from vaelens.blind.pooling import pool_blind_results
from vaelens.errors import BadInputError, UsageError
from vaelens.evaluation.presets import PRESETS
from vaelens.evaluation.report.blind_section import blind_table, evaluated
from vaelens.evaluation.report.html import report_html
from vaelens.evaluation.report.report_files import report_files
from vaelens.evaluation.results import Results

Measure = Callable[..., Results]
A, B = "kl-f8", "ft-ema"


def records(*names: str) -> dict[str, dict[str, Any]]:
    """Of VAEs as the evaluation's record has them; `decoders` of the support makes the same fingerprints."""
    return {
        name: {"fingerprint": {"encoder": {"stored": sha256("encoder")}, "decoder": {"stored": sha256(name)}}}
        for name in names
    }


@pytest.fixture
def results(tmp_path: Path) -> Results:
    """Two made-up VAEs, and a blind test whose page has them in the same order."""
    answers = [
        result(abx_trials(14, 16), names=(A, B), person="Anna"),
        result(preference_trials(4, 16), "better", (A, B), person="<b>"),
    ]
    pooled = pool_blind_results(save_all(tmp_path, answers))
    return dataclasses.replace(made_up((A, B), 12, full=False), blind=evaluated(pooled, records(A, B)))


def test_what_is_seen_stands_beside_what_is_measured(results: Results) -> None:
    table = blind_table(results)
    assert {row[:2] for row in table.rows} == {(B, A)}, "as the differences are: the VAE named later first"
    seen = [row[2:] for row in table.rows[:2]]
    assert seen == [
        ("ABX: right, %", "87.5", "[61.7, 98.4]", "told apart, p = 0.002"),
        ("Looks better: first chosen, %", "75.0", "[47.6, 92.7]", "not shown, p = 0.077"),
    ]
    assert table.notes == {(0, 2): ("14 of 16",), (1, 2): ("12 of 16",)}
    measured = {row[2]: row[3:] for row in table.rows[2:]}
    assert len(measured) == len(results.metrics)
    found = results.differences[B, A, "psnr"]
    value, interval, says = measured["PSNR"]
    assert float(value.replace("\N{MINUS SIGN}", "-")) == pytest.approx(found.difference, abs=0.01)
    assert interval.startswith("[")
    assert says in {f"{B} is better", f"{A} is better", "not distinguishable"}
    assert float(measured["rFID"][0]) == pytest.approx(0.31, abs=0.005)


def test_the_one_chosen_more_often_is_named_in_either_order(tmp_path: Path) -> None:
    answers = result(preference_trials(15, 16), "closer", (B, A))
    pooled = evaluated(pool_blind_results(save(tmp_path / "r.json", answers)), records(A, B))
    for vaes in ((A, B), (B, A)):
        of_both = dataclasses.replace(made_up(vaes, 12, full=False), blind=pooled)
        table = blind_table(of_both)
        row = table.rows[0]
        assert row[:2] == vaes[::-1]
        assert row[5] == f"{B} is chosen more often, p < 0.001"
        assert table.notes[0, 2] == (f"{15 if vaes[1] == B else 1} of 16",)


def test_the_report_has_a_section_and_every_format_the_numbers(
    results: Results, monkeypatch: pytest.MonkeyPatch
) -> None:
    for plots in ("_distributions", "_pairs"):  # which take seconds
        monkeypatch.setattr(f"vaelens.evaluation.report.html.{plots}", lambda *_: "")
    page = report_html(results, [])
    assert page.count('<section class="results" id="blind-test-results">') == 1
    assert "14 of 16 right:" in page
    assert "<b>" not in page.partition('id="blind-test-results"')[2].partition("</section>")[0]
    files = report_files(results, [])
    markdown = files["report.md"].decode()
    assert "## Blind test results\n\n2 tests by 2 people. What people saw" in markdown
    assert "### Looks better\n" in markdown
    assert "<b>" not in markdown
    found = json.loads(files["results.json"])["blind_test"]
    assert [one["test"] for one in found["tests"]] == ["abx", "better"]
    without = dataclasses.replace(results, blind=None)
    assert "blind" not in report_html(without, []).partition("<body>")[2].partition("<template")[0].lower()
    assert "blind_test" not in json.loads(report_files(without, [])["results.json"])
    assert "Blind" not in report_files(without, [])["report.md"].decode()


def test_decoders_are_known_by_their_weights(tmp_path: Path) -> None:
    pooled = pool_blind_results(save(tmp_path / "r.json", result(abx_trials(3, 4), names=(A, B))))
    renamed = {f"my {name}": record for name, record in records("another", B, A).items()}
    assert evaluated(pooled, renamed).names == [f"my {A}", f"my {B}"]
    with pytest.raises(UsageError, match=r"r\.json: its decoder 'ft-ema' has other weights than each evaluated VAE"):
        evaluated(pooled, records(A, "ft-mse"))
    encoder = records(A, B)
    encoder[B]["fingerprint"]["encoder"] = {"stored": sha256("another encoder")}
    with pytest.raises(UsageError, match="'ft-ema' has other weights"):
        evaluated(pooled, encoder)


@pytest.fixture
def answers(whole: Run, tmp_path: Path) -> Path:
    """A result file of the small evaluation's VAEs, under other names."""
    prints = [vae["fingerprint"] for vae in whole.results.record["vaes"]]
    decoders = [
        {"name": f"page's {n}", **{half: one[half]["stored"] for half in ("encoder", "decoder")}}
        for n, one in enumerate(prints)
    ]
    return save(tmp_path / "answers.json", result(abx_trials(11, 16), decoders=decoders))


@pytest.fixture
def copied(whole: Run, tmp_path: Path) -> Path:
    """The finished evaluation, in a folder of its own."""
    shutil.copytree(whole.folder, tmp_path / "run")
    return tmp_path / "run"


@pytest.mark.usefixtures("small_runs")
def test_a_finished_evaluation_only_gets_another_report(
    whole: Run, measure: Measure, answers: Path, copied: Path
) -> None:
    before = rows(copied)
    results = measure(output=copied, blind_results=answers)
    assert results.blind is not None
    assert results.blind.names == ["one", "two"]
    assert rows(copied) == before == rows(whole.folder)
    record = json.loads((copied / "run.json").read_text())
    (named,) = record["blind_results"]
    assert named == {
        "file": "answers.json",
        "sha256": hashlib.sha256(answers.read_bytes()).hexdigest(),
        "run": json.loads(answers.read_bytes())["run"],
    }
    assert len(record["calls"]) == 1, "nothing was measured"
    assert "## Blind test results" in (copied / "report.md").read_text()
    assert measure(output=copied).blind is None
    assert "## Blind test results" not in (copied / "report.md").read_text()


@pytest.mark.usefixtures("small_runs")
def test_files_of_other_vaes_and_damaged_ones_are_refused_before_any_work(
    measure: Measure, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    other = save(tmp_path / "other.json", result(abx_trials(11, 16)))
    with pytest.raises(
        UsageError, match=r"other\.json: its decoder 'tiny-ft-ema' has other weights than each .*one, two"
    ):
        measure(blind_results=[other])
    (tmp_path / "cut.json").write_bytes(other.read_bytes()[:-9])
    monkeypatch.setattr("vaelens.evaluation.run.vae_of", None)
    with pytest.raises(BadInputError, match=r"cut\.json can't be read as a result of the blind test"):
        measure(blind_results=[tmp_path / "cut.json"])
    assert not (tmp_path / "run").exists()


@pytest.mark.usefixtures("small_runs")
def test_the_command_takes_files_and_prints_the_table(
    two_vaes: list[Path], photos: Path, answers: Path, copied: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(PRESETS, "offline", PRESET)
    ran = invoke(*command(photos, two_vaes, copied, "--blind-results", str(answers)))
    lines = [" ".join(line.split()) for line in ran.stdout.splitlines()]
    assert "two one ABX: right, % 68.8 [41.3, 89.0] not shown, p = 0.105" in lines
