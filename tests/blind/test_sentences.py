"""What a report on blind tests calls things, and what it says of people who don't differ."""

import json
from importlib.resources import files
from pathlib import Path

import pytest

from support.blind_results import abx_trials, result, save, save_all
from vaelens import pool_blind_results
from vaelens.blind.sentences import KINDS


@pytest.mark.parametrize(
    ("kind", "shown"),
    [
        ("difference", "largest differences"),
        ("random", "random regions"),
        ("eye", "eyes"),
        ("my label", "my label"),
    ],
)
def test_kinds_of_region_are_called_as_on_the_page(kind: str, shown: str, tmp_path: Path) -> None:
    trials = [*abx_trials(3, 8, kind=kind), *abx_trials(3, 8, kind="letters")]
    parts = {part.heading: part for part in pool_blind_results(save(tmp_path / "r.json", result(trials))).parts()}
    assert [row[2] for row in parts["ABX: by kind of region"].table.rows] == [shown, "letters"]


def test_every_kind_of_region_has_the_name_that_the_page_gives_it() -> None:
    said = json.loads((files("vaelens.report.viewer") / "strings" / "en.json").read_text("utf-8"))
    others = {"difference": "kindDifference", "random": "kindRandom"}
    assert {kind: said[others.get(kind, kind)].lower() for kind in KINDS} == KINDS


@pytest.mark.parametrize(
    ("hits", "said"),
    [
        (8, "The 3 people's hit rates are the same: 100 %."),
        (
            6,
            "The 3 people's hit rates are the same: 75 %. By chance alone, their standard deviation would be about 15 "
            "percentage points.",
        ),
    ],
)
def test_people_who_do_not_differ(hits: int, said: str, tmp_path: Path) -> None:
    people = [result(abx_trials(hits, 8), person=name) for name in ("Anna", "Ben", "Chika")]
    same = pool_blind_results(save_all(tmp_path, people)).parts()
    assert same[1].findings == (said,)
