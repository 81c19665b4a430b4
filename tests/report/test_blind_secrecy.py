"""During a trial nothing but pixels tells which image is whose: not the document, not what assistive technology gets,
not storage, addresses or timings. And a page for a blind test can't be read at a glance."""

import json
import re
from typing import Any

import pytest

from support.browser.blind import DECODERS, begin, blind_page, blind_panel, choose, look, recognise, seen, take
from support.browser.viewing import Open, View

# The browser's random numbers, made repeatable: the same draws lead to the same trials.
REPEATABLE = """() => {
  let state = 1;
  crypto.getRandomValues = (array) => {
    for (let i = 0; i < array.length; i++) array[i] = state = (Math.imul(state, 1664525) + 1013904223) >>> 0;
    return array;
  };
}"""


PREFERENCES = [pytest.param(test, marks=pytest.mark.slow) for test in ("better", "closer")]


@pytest.mark.parametrize("test", ["abx", *PREFERENCES])
def test_pages_with_the_decoders_exchanged_look_the_same(open_page: Open, test: str) -> None:
    """The same draws on two pages, whose decoders are exchanged: what is A on one page is B on the other."""
    shown: list[list[dict[str, Any]]] = []
    decoders: list[list[dict[str, str]]] = []
    for names in (("mellow", "crisp"), ("crisp", "mellow")):
        view = open_page(blind_page(blind_panel(names), blind_panel(names, seed=1)))
        view.page.evaluate(REPEATABLE)
        begin(view, test=test, trials=6)
        decoders.append([])
        shown.append([])

        def wanted(number: int, view: View = view) -> str:
            decoders[-1].append(recognise(view))
            for key in "afs":  # A alone, as it is shown in flicker, and the slider
                view.press(key)
                shown[-1].append(seen(view))
            view.press("f")
            return "AB"[number % 2]

        take(view, wanted)
    assert len(shown[0]) == len(shown[1]) >= 18
    swapped = {"mellow": "crisp", "crisp": "mellow", "original": "original"}
    assert [{key: swapped[name] for key, name in trial.items()} for trial in decoders[0]] == decoders[1]
    for one, other in zip(*shown, strict=True):
        assert one == other


def test_a_trial_names_no_decoder_and_its_images_are_alike(open_page: Open) -> None:
    panel = blind_panel()
    view = open_page(blind_page(panel))
    begin(view, trials=4)
    found = seen(view)
    text = json.dumps(found)
    secrets = [*(name for name in DECODERS if name != "quirky"), panel.title, "24.31", "data:image", "00" * 32, "tiny-"]
    secrets += [half for decoder in DECODERS.values() for half in (decoder.encoder, decoder.decoder)]
    assert [secret for secret in secrets if secret in text] == []
    assert (found["images"], found["resources"], found["title"]) == (0, [], "Blind test")
    assert len({tuple(box) for box in found["boxes"]}) == 1, "size and place of every image"
    figures = view.page.locator(".stage figure").evaluate_all("all => all.map(e => [e.className, e.outerHTML])")
    alike = {re.sub(r"(Image |>)[ABX]\b", r"\1?", html.replace('class="visible"', 'class=""')) for _, html in figures}
    assert len(alike) == 1
    for key in "axb":
        view.press(key)
        visible = view.page.locator(".stage figure").evaluate_all(
            "all => all.map(e => getComputedStyle(e.firstElementChild).visibility)"
        )
        assert visible == ["visible" if name == key else "hidden" for name in "axb"]


def test_an_images_own_name_stays_out_of_the_tree_of_assistive_technology(open_page: Open) -> None:
    view = open_page(blind_page())
    begin(view, trials=4)
    names = [node[1]["value"] for node in seen(view)["accessible"] if node[1] and node[0]["value"] == "image"]
    assert names == ["Image A"], "only what is shown"


def test_a_page_for_a_blind_test_opens_in_it_and_holds_no_readable_name(open_page: Open) -> None:
    panels = [blind_panel(("mellow", "crisp", "quirky"))]
    html = blind_page(*panels, blind=True)
    for secret in ("mellow", "crisp", "quirky", "photo-0", "24.31", "Photos", "Two decoders"):
        assert not re.search(rf"\b{secret}\b", html), secret
    view = open_page(html)
    assert view.page.locator(".setup").count() == 1
    assert view.page.locator("[name=decoder]:visible").count() == 0
    assert "mellow" not in view.page.evaluate("document.documentElement.outerHTML")
    assert not view.page.locator(".setup .leave").is_visible()
    begin(view, trials=4)
    take(view, lambda _: "A")
    assert "mellow" in view.page.locator(".found").inner_text(), "the names appear at the end"
    view.page.click(".outcome .leave")
    view.page.get_by_role("dialog").get_by_role("button", name="Keep it").click()
    assert view.page.locator(".outcome").count() == 1, "an unsaved result isn't lost by one click"
    view.page.click(".outcome .leave")
    view.page.get_by_role("dialog").get_by_role("button", name="Discard").click()
    view.until("document.querySelectorAll('.row figure').length == 4")
    assert view.page.title() == view.text("h1") == "Photos"
    assert view.page.locator(".row .name").all_inner_texts() == ["original", "mellow", "crisp", "quirky"]
    assert view.text(".shown") == "Two decoders."


def test_the_page_comes_back_as_it_was(open_page: Open) -> None:
    view = open_page(blind_page(blind_panel(), blind_panel(seed=1)))
    view.page.evaluate("scrollTo(0, 300)")
    before = view.page.evaluate("document.body.innerHTML")
    view.page.evaluate("document.querySelector('.begin').click()")
    assert "mellow" in view.text(".decoders"), "where a page has shown the names, they may be chosen by name"
    view.page.click(".setup .leave")
    view.until("document.querySelector('.panel')")
    assert view.page.evaluate("document.body.innerHTML") == before
    view.until("scrollY == 300")
    view.page.locator(".begin").click()
    view.page.get_by_role("button", name="日本語").click()
    choose(view, trials=4)
    view.page.click(".setup .primary")
    view.until("document.querySelector('.trial')")
    assert "試行 1 / 4" in view.text(".count")
    assert look(view).keys() == {"A", "X", "B"}
    view.press("Escape")
    view.page.get_by_role("dialog").get_by_role("button", name="中止").click()
    view.page.click(".outcome .leave")
    view.until("document.querySelector('.panel')")
    assert view.text(".begin") == "ブラインドテスト"
