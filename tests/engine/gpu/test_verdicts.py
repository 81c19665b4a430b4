"""Verdicts on cards: kept, read back, and ignored with a notice where they don't count any more."""

import dataclasses
from pathlib import Path

import pytest
import torch

from vaelens.engine.gpu import verdicts
from vaelens.engine.gpu.verdicts import FILE, Card, Trial, Verdict, read_verdicts, verified_way, way_for, write_verdicts
from vaelens.engine.gpu.ways import BUDGETED, WAYS, Way
from vaelens.runtime import silent

CARD = Card("Card A", "9.0", "580.1", "0.1.0", "2.13.0", "3.7.1")
BEST = Way(triton=True, graphs=True)
TRIALS = (Trial("torch", 1e-6, 2e-6, 0.02, 0.04), Trial(BEST.name, 1e-6, 2e-6, 0.01, 0.02), Trial("gpu", problem="no"))


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("VAELENS_CACHE", str(tmp_path))
    monkeypatch.setattr(verdicts, "_said", set[str]())
    return tmp_path / FILE


def verdict(card: Card = CARD, dtype: str = "bfloat16", way: str = BEST.name) -> Verdict:
    return Verdict(card, dtype, 512, way, TRIALS)


def test_without_verdicts_plans_serve() -> None:
    assert read_verdicts() == ((), None)
    assert way_for(CARD, "bfloat16", pytest.fail) is None


def test_verdicts_are_read_back(cache: Path) -> None:
    other = dataclasses.replace(CARD, device="Card B")
    assert write_verdicts([verdict(), verdict(dtype="float32", way=BUDGETED)]) == cache
    write_verdicts([verdict(other, way="gpu")])
    write_verdicts([verdict(way="gpu-triton")])
    assert read_verdicts() == ((verdict(dtype="float32", way=BUDGETED), verdict(other, way="gpu"),
                                verdict(way="gpu-triton")), None)  # fmt: skip
    assert way_for(CARD, "bfloat16", pytest.fail) == Way(triton=True)
    assert way_for(other, "bfloat16", pytest.fail) == Way()
    assert way_for(CARD, "float32", pytest.fail) is None
    assert way_for(CARD, "float16", pytest.fail) is None


@pytest.mark.parametrize("field", ["capability", "driver", "vaelens", "torch", "triton"])
def test_a_verdict_counts_for_its_versions_only(field: str) -> None:
    write_verdicts([verdict()])
    said = list[str]()
    changed = dataclasses.replace(CARD, **{field: "new"})
    assert way_for(changed, "bfloat16", said.append) is None
    assert way_for(changed, "bfloat16", said.append) is None
    assert said == [
        f"Card A runs as if it had not been tuned: {field} is new, and was {getattr(CARD, field)}. "
        "Run `vaelens doctor --tune` again."
    ]


@pytest.mark.parametrize(
    ("content", "why"),
    [("changed", "it has changed since it was written: its checksum is wrong"), ("{}", "it has no checksum")],
)
def test_what_can_not_be_read_is_ignored_with_a_notice(cache: Path, content: str, why: str) -> None:
    write_verdicts([verdict()])
    cache.write_text(cache.read_text().replace("580.1", "580.2") if content == "changed" else content)
    said = list[str]()
    assert [way_for(CARD, "bfloat16", said.append) for _ in range(2)] == [None, None]
    assert len(said) == 1
    assert said[0].startswith(f"{cache}: not used, because {why}")
    assert said[0].endswith("Run `vaelens doctor --tune` again.")
    write_verdicts([verdict()])
    assert way_for(CARD, "bfloat16", pytest.fail) == BEST


@pytest.mark.parametrize(
    ("record", "why"),
    [
        ({"schema": 2, "verdicts": []}, "another version of vaelens wrote it"),
        ({"schema": 1, "verdicts": [{"way": "magic"}]}, "it names the way 'magic', which isn't known"),
        ({"schema": 1, "verdicts": [{"way": "gpu", "trials": [], "card": {"device": "x"}}]}, "it isn't a list"),
        ({"schema": 1}, "it isn't a list of verdicts"),
    ],
)
def test_other_records_are_ignored_too(cache: Path, record: dict[str, object], why: str) -> None:
    cache.write_bytes(verdicts.checked_json(record))
    found, problem = read_verdicts()
    assert found == ()
    assert why in str(problem)


def test_the_cpu_needs_no_verdict(cache: Path) -> None:
    cache.write_text("nothing reads this")
    assert verified_way(torch.device("cpu"), torch.float32, pytest.fail) is None


def test_the_plans_can_be_forced(monkeypatch: pytest.MonkeyPatch) -> None:
    write_verdicts([verdict()])
    monkeypatch.setattr(verdicts, "card_of", lambda _: CARD)
    assert verified_way(torch.device("cuda"), torch.bfloat16, silent) == BEST
    monkeypatch.setenv("VAELENS_KERNELS", "torch")
    assert verified_way(torch.device("cuda"), torch.bfloat16, silent) is None


def test_ways_have_names() -> None:
    assert list(WAYS) == ["gpu", "gpu-graphs", "gpu-triton", "gpu-triton-graphs"]
    assert all(way.name == name for name, way in WAYS.items())
