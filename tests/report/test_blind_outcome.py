"""The questions before a blind test, what it takes from a page, and the numbers after it."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from support.browser.blind import (
    DECODERS,
    begin,
    blind_page,
    blind_panel,
    choose,
    recognise,
    result_of,
    rows,
    save,
    take,
)
from support.browser.viewing import Open
from vaelens.metrics.binomial import power
from vaelens.metrics.bradley_terry import bradley_terry
from vaelens.report.tables import interval, number

NBSP = "\N{NO-BREAK SPACE}"
DASH = "\N{EN DASH}"


def test_wrong_settings_are_refused_in_a_sentence(open_page: Open) -> None:
    view = open_page(blind_page())
    view.page.click(".begin")
    for settings, says in (
        ({"trials": "3"}, "a whole number from 4 to 200"),
        ({"trials": ""}, "a whole number from 4 to 200"),
        ({"trials": "16.5"}, "a whole number from 4 to 200"),
        ({"trials": "201"}, "a whole number from 4 to 200"),
        ({"trials": "16", "kinds": []}, "at least one kind of region"),
    ):
        choose(view, **settings)
        view.page.click(".setup .primary")
        assert says in view.text(".refusal"), settings
        assert view.page.locator(".trial").count() == 0
    choose(view, kinds=["random"])
    assert view.text(".refusal") == ""


def test_the_hint_says_how_probable_a_proof_is(open_page: Open) -> None:
    view = open_page(blind_page())
    view.page.click(".begin")
    assert f"16 trials show it (p ≤ 0.05) with a probability of {round(100 * power(16, 0.75))}{NBSP}%" in view.text(
        ".power"
    )
    choose(view, trials=40)
    assert f"probability of {round(100 * power(40, 0.75))}{NBSP}%" in view.text(".power")
    choose(view, test="better", trials=40)
    assert f"probability of {round(100 * power(40, 0.75, 0.025))}{NBSP}%" in view.text(".power")
    assert "5 more" in view.text(".power")


def test_too_few_trials_are_said_to_be_too_few(open_page: Open) -> None:
    view = open_page(blind_page())
    view.page.click(".begin")
    choose(view, trials=4)
    assert "4 trials can't show a difference" in view.text(".power")
    view.page.click(".setup .primary")
    view.until("document.querySelector('.trial')")
    take(view, lambda _: "A")
    assert "So few trials can't show a difference" in view.text(".found p")


def test_only_images_with_an_original_ask_what_is_closer_to_it(open_page: Open, tmp_path: Path) -> None:
    view = open_page(blind_page(blind_panel(original=False), blind_panel(seed=1)))
    begin(view, test="closer", trials=8)
    take(view, lambda _: "A")
    assert [image["title"] for image in result_of(save(view, tmp_path))["images"]] == ["photo-1.png"]
    view = open_page(blind_page(blind_panel(original=False)))
    view.page.click(".begin")
    assert not view.page.locator("[value=closer]").is_visible()


@pytest.mark.slow
def test_a_test_shows_some_of_many_images(open_page: Open, tmp_path: Path) -> None:
    panel = blind_panel()
    view = open_page(blind_page(*(replace(panel, title=f"{number}.png") for number in range(40))))
    begin(view, trials=24, kinds=["random"])
    take(view, lambda _: "A")
    result = result_of(save(view, tmp_path))
    assert 5 < len(result["images"]) <= 24
    assert {trial["image"] for trial in result["trials"]} == set(range(len(result["images"])))


def test_a_page_with_one_decoder_offers_no_test(open_page: Open) -> None:
    view = open_page(blind_page(blind_panel(("mellow",))))
    assert view.page.locator(".begin").count() == 0


def test_three_decoders_get_scores_that_are_pythons(open_page: Open, tmp_path: Path) -> None:
    """The observer prefers the later decoder, but for the second trial of each pair."""
    view = open_page(blind_page(blind_panel(tuple(DECODERS))))
    begin(view, test="better", trials=12)
    order = {name: rank for rank, name in enumerate(DECODERS)}
    seen: list[set[str]] = []

    def wanted(_: int) -> str:
        names = recognise(view)
        seen.append(set(names.values()))
        later = "A" if order[names["A"]] > order[names["B"]] else "B"
        return {"A": "B", "B": "A"}[later] if seen.count(seen[-1]) == 2 else later

    take(view, wanted)
    wins = np.zeros((3, 3), int)
    for trial in result_of(save(view, tmp_path))["trials"]:
        if trial["a"] != trial["b"]:
            chosen = trial[trial["answer"]]
            wins[chosen, trial["a"] + trial["b"] - chosen] += 1
    scores = bradley_terry(wins.tolist()).scores
    assert scores is not None
    texts = [[number(score.value, 2, True), interval(score.low, score.high, 2, True)] for score in scores]
    assert rows(view, 1) == [[name, *cells] for name, cells in zip(DECODERS, texts, strict=True)]
    assert [row[0] for row in rows(view)] == [f"mellow {DASH} crisp", f"mellow {DASH} quirky", f"crisp {DASH} quirky"]


def test_a_decoder_that_always_wins_gets_a_sentence_for_a_score(open_page: Open) -> None:
    view = open_page(blind_page(blind_panel(tuple(DECODERS))))
    begin(view, test="better", trials=12)

    def wanted(_: int) -> str:
        """Prefers quirky, else the decoder that comes first on the page, or whichever is A."""
        names = recognise(view)
        return "B" if names["B"] == "quirky" or (names["B"] == "mellow" and names["A"] != "quirky") else "A"

    take(view, wanted)
    assert "No finite scores: quirky never lost to mellow, crisp" in view.page.locator(".found").inner_text()
