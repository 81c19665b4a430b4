"""The blind test in a browser: scripted observers take it by keys and by touch, and its numbers are SciPy's."""

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scipy.stats import binomtest

from support.browser.blind import (
    answer_by_touch,
    blind_page,
    blind_panel,
    recognise,
    result_of,
    right_answer,
    rows,
    take,
)
from support.browser.viewing import Open, View
from vaelens.blind.pooling import pool_blind_results
from vaelens.blind.result_file import read_result
from vaelens.report.panels import page_id

TRIALS = 40
NBSP = "\N{NO-BREAK SPACE}"
OTHER = {"A": "B", "B": "A"}


def told(hits: int, trials: int = TRIALS) -> list[bool]:
    """In which trials an observer is right, so many in all."""
    return np.random.default_rng(0).permutation([number < hits for number in range(trials)]).tolist()


def interval(hits: int, trials: int) -> str:
    """A share with its interval, as the page writes it."""
    found = binomtest(hits, trials).proportion_ci(0.95, "exact")
    share, low, high = (f"{math.floor(100 * value + 0.5)}{NBSP}%" for value in (hits / trials, found.low, found.high))
    return f"{share} ({low} – {high})"  # noqa: RUF001


def shown_as(counts: dict[str, Any]) -> list[str]:
    """A pair of `vaelens blind` as a row of the page."""
    p = "< 0.001" if counts["p"] < 0.001 else f"{counts['p']:.3f}"
    hits, trials = counts["hits"], counts["trials"]
    return ["mellow \N{EN DASH} crisp", f"{hits} of {trials}", interval(hits, trials), p]


def reach(view: View, selector: str) -> None:
    """Move the focus there by Tab."""
    for _ in range(40):
        if view.page.evaluate(f"document.activeElement?.matches({selector!r})"):
            return
        view.press("Tab")
    raise AssertionError(f"Tab never reached {selector}")


def test_forty_trials_by_keys_alone(open_page: Open, tmp_path: Path) -> None:
    view = open_page(blind_page())
    reach(view, ".begin")
    view.press("Enter")
    reach(view, "input.trials")
    view.press("Control+a")
    view.page.keyboard.type(str(TRIALS))
    view.press("Enter")
    view.until("document.querySelector('.trial')")
    right = told(29)
    truth: list[str] = []

    def wanted(number: int) -> str:
        truth.append(right_answer(view))
        return truth[-1] if right[number] else OTHER[truth[-1]]

    take(view, wanted)
    with view.page.expect_download() as download:
        reach(view, ".save")
        view.press("Enter")
    download.value.save_as(tmp_path / "result.json")
    result = result_of(tmp_path / "result.json")
    assert [trial["x"].upper() for trial in result["trials"]] == truth
    assert [trial["answer"] == trial["x"] for trial in result["trials"]] == right
    assert (result["page"], result["planned"], result["stopped_early"]) == (page_id([blind_panel()]), TRIALS, False)
    assert [decoder["name"] for decoder in result["decoders"]] == ["mellow", "crisp"]
    assert result["images"][0]["latents"] == ["00" * 32] * 2
    assert read_result(tmp_path / "result.json").test.run == result["run"]
    test = binomtest(29, TRIALS, alternative="greater")
    assert rows(view)[0] == ["mellow – crisp", "29 of 40", interval(29, TRIALS), f"{test.pvalue:.3f}"]  # noqa: RUF001
    assert "You saw a difference" in view.text(".found p")
    (pooled,) = pool_blind_results(tmp_path / "result.json").as_dict()["tests"]
    assert shown_as(pooled["pairs"][0]) == rows(view)[0]
    expected = {kind: shown_as(counts)[1:] for kind, counts in pooled["pairs"][0]["kinds"].items()}
    view.page.click(".found summary")
    titles = dict(zip(("eye", "letters", "badge", "difference", "random"), rows(view, 1), strict=True))
    assert {kind: row[1:] for kind, row in titles.items()} == expected
    reach(view, ".leave")
    view.press("Enter")
    view.until("document.querySelector('.panel')")


@pytest.mark.slow
def test_forty_trials_by_touch(open_page: Open, tmp_path: Path) -> None:
    view = open_page(blind_page(), width=390, height=844, has_touch=True, is_mobile=True, device_scale_factor=2)
    view.page.locator(".begin").tap()
    view.page.locator("[value=better]").tap()
    view.page.fill(".trials", str(TRIALS))
    view.page.locator(".setup .primary").tap()
    view.until("document.querySelector('.trial')")
    likes = told(27)
    liked: list[bool] = []

    def wanted(number: int) -> str:
        seen = recognise(view)
        if seen["A"] == seen["B"]:
            return "A"
        liked.append(likes[len(liked)])
        at = "A" if seen["A"] == "crisp" else "B"
        return at if liked[-1] else OTHER[at]

    take(view, wanted, answer_by_touch)
    with view.page.expect_download() as download:
        view.page.locator(".save").tap()
    download.value.save_as(tmp_path / "result.json")
    result = result_of(tmp_path / "result.json")
    real = [trial for trial in result["trials"] if trial["a"] != trial["b"]]
    assert [trial[trial["answer"]] == 1 for trial in real] == liked == likes
    same = len(result["trials"]) - TRIALS
    assert same == 5
    assert rows(view)[0] == ["mellow – crisp", "13 of 40", interval(13, TRIALS), f"{binomtest(13, TRIALS).pvalue:.3f}"]  # noqa: RUF001
    assert f"A was chosen in {same} of {same} trials" in view.page.locator(".found").inner_text()
    (pooled,) = pool_blind_results(tmp_path / "result.json").as_dict()["tests"]
    assert shown_as(pooled["pairs"][0]) == rows(view)[0]
