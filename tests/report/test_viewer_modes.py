"""The large view's modes in a browser, its keys and fingers, the help and the two languages."""

import re
import time

import pytest

from support.browser.pages import BLUE, GREEN, HOSTILE, RED, RESULTS, YELLOW, page_of, panel_of, solid
from support.browser.viewing import FIT, QUARTERS, SECOND, STACK, THREE, Open
from vaelens.report.page import render_page

PRESSED = "all => all.filter(b => b.ariaPressed == 'true').map(b => b.dataset.mode)"
VISIBLE = "all => all.filter(e => getComputedStyle(e).visibility == 'visible').map(e => e.dataset.of)"
COLOURS = {"original": RED, "vae-1": GREEN, "vae-2": BLUE}


def is_shown(view, name: str) -> bool:
    """Whether the large view shows that layer and says so."""
    named = view.page.locator(".shown-label .name").inner_text() == name
    return named and view.colour(STACK, 0.25) == view.colour(STACK, 0.75) == COLOURS[name]


def test_the_modes_change_by_button_and_key_and_nothing_moves(open_page: Open) -> None:
    view = open_page(THREE)
    measure = "['.stack', '.compare', '.readout', '.row', '.settings', '.zoom'].map("
    measure += "s => JSON.stringify(document.querySelector(s).getBoundingClientRect()))"
    before = view.page.evaluate(measure)
    for name, mode in (("Flicker", "flicker"), ("Heat map", "heat"), ("Slider", "slider")):
        view.page.get_by_role("button", name=name, exact=True).click()
        pressed = view.page.eval_on_selector_all(".modes button", PRESSED)
        assert (view.mode(), pressed) == (mode, [mode])
        assert view.page.evaluate(measure) == before, mode
        assert view.page.eval_on_selector_all(".settings > *", VISIBLE) == [mode]
        assert view.handle.is_visible() == (mode == "slider")
    for key, mode, focus in (("f", "flicker", "stack"), ("h", "heat", "stack"), ("s", "slider", "handle")):
        view.press(key)
        assert view.mode() == mode
        assert view.page.evaluate("document.activeElement.className").endswith(focus), "the keys still work"


def test_flicker_shows_one_layer_at_a_time_and_names_it(open_page: Open) -> None:
    view = open_page(THREE)
    view.handle.focus()
    view.press("f")
    assert is_shown(view, "original")
    for key, name in (("Space", "vae-1"), ("Space", "original"), ("3", "vae-2"), ("Space", "original"), ("2", "vae-1")):
        view.press(key)
        assert is_shown(view, name), key
    for key, name in (("ArrowRight", "vae-2"), ("ArrowRight", "original"), ("ArrowLeft", "vae-2"), ("9", "vae-2")):
        view.press(key)
        assert is_shown(view, name), key
    assert view.page.locator(".shown-label").get_attribute("aria-live") == "polite"
    view.page.get_by_label("Left").select_option("vae-1")
    assert is_shown(view, "vae-1")
    view.page.get_by_label("Right").select_option("vae-2")
    assert is_shown(view, "vae-2")
    view.page.locator(STACK).focus()
    view.press("Space")
    assert is_shown(view, "vae-1")
    view.press("s")
    assert (view.colour(STACK, 0.25), view.colour(STACK, 0.75)) == (GREEN, BLUE)
    view.press("Space")
    assert (view.mode(), is_shown(view, "vae-2")) == ("flicker", True), "space flickers from every mode"


def test_keys_work_only_where_the_large_view_has_the_focus(open_page: Open) -> None:
    view = open_page(THREE, height=500)
    view.press("f", "2", "n", "p", "?")
    assert (view.mode(), view.page.locator("dialog").count()) == ("slider", 0)
    view.press("Space")
    view.until("scrollY > 50")  # the page's own key
    time.sleep(0.5)  # it scrolls smoothly
    for place in (".left", ".row", ".in"):
        view.page.locator(place).focus()
        view.press("2")
        assert view.mode() == "slider", place
    view.handle.focus()
    view.press("Control+f", "Alt+f", "Meta+f")
    assert view.mode() == "slider", "the browser's own keys"
    view.press("h")
    view.page.locator(".gain").focus()
    view.press("Space", "3", "s")
    assert view.mode() == "heat"
    time.sleep(0.5)  # a range leaves space to the page, too
    view.page.locator(STACK).focus()
    top = view.page.evaluate("scrollY")
    view.press("Space")
    assert (view.mode(), view.page.evaluate("scrollY")) == ("flicker", top)


def test_automatic_flicker_is_off_until_asked_for_and_stops(open_page: Open) -> None:
    view = open_page(THREE)
    view.page.get_by_role("button", name="Flicker", exact=True).click()
    often = view.page.locator(".often button")
    pressed = ".often button[aria-pressed=true]"
    name = "document.querySelector('.shown-label .name').textContent"
    assert view.text(pressed) == "Off"
    time.sleep(0.5)
    assert view.page.evaluate(name) == "original"
    often.nth(3).click()
    assert (view.text(pressed), view.page.locator(".shown-label").get_attribute("aria-live")) == ("4 Hz", "off")
    for expected in ("vae-1", "original", "vae-1"):
        view.until(f"{name} == '{expected}'")
    view.page.locator(STACK).focus()
    view.press("Space")
    shown = view.page.evaluate(name)
    assert (view.text(pressed), view.page.locator(".shown-label").get_attribute("aria-live")) == ("Off", "polite")
    time.sleep(0.6)
    assert view.page.evaluate(name) == shown, "what was seen when it was stopped stays"
    often.nth(3).click()
    view.page.locator(STACK).focus()
    view.press("h", "f")
    assert view.text(pressed) == "Off", "another mode stops it"


@pytest.mark.parametrize("mode", ["flicker", "heat"])
def test_fingers_tap_and_pinch_in_every_mode(open_page: Open, mode: str) -> None:
    view = open_page(QUARTERS, width=400, height=900, has_touch=True)

    place = view.point(STACK, 0.75, 0.75)
    view.swipe(place)
    assert view.mode() == "slider", "in slider mode a tap does nothing"
    view.page.locator(f".modes [data-mode={mode}]").click()
    if mode == "flicker":
        assert view.colour(STACK, 0.75, 0.75) == RED
        view.swipe(place)
        assert (view.text(".shown-label .name"), view.colour(STACK, 0.75, 0.75)) == ("vae-1", GREEN)
        view.swipe(place)
        assert view.text(".shown-label .name") == "original"
    view.swipe(view.point(STACK, 0.5, 0.5), view.point(STACK, 0.8, 0.5))
    assert (view.now(), view.transforms()) == ("50", FIT)
    view.pinch()
    assert view.region()[2] == pytest.approx(3, rel=0.05)
    assert view.colour(SECOND, 0.6, 0.3) == GREEN
    assert view.transforms() == {view.page.eval_on_selector(".heat", "c => c.style.transform")}
    if mode == "flicker":
        assert view.text(".shown-label .name") == "original", "a pinch isn't a tap"
        assert view.colour(STACK, 0.6, 0.3) == RED
    view.swipe(*(view.point(STACK, 0.5, v) for v in (0.1, 0.3, 0.5, 0.7, 0.9)))
    assert (view.colour(SECOND, 0.6, 0.3), view.page.evaluate("scrollY")) == (YELLOW, 0), "a finger moves the region"


def test_the_wheel_and_the_keys_zoom_in_every_mode(open_page: Open) -> None:
    view = open_page(QUARTERS)
    for mode in ("flicker", "heat"):
        view.page.locator(f".modes [data-mode={mode}]").click()
        view.wheel(STACK, 0.9, 0.9, -200)
        assert len(view.transforms()) == 1
        view.press("+", "-", "0")
        assert view.transforms() == FIT


def test_the_help_lists_the_keys_and_gives_the_focus_back(open_page: Open) -> None:
    view = open_page(THREE)
    view.handle.focus()
    view.press("?")
    dialog = view.page.get_by_role("dialog", name="Keys and gestures")
    assert dialog.is_visible()
    terms = dialog.locator("dt").all_inner_texts()
    assert {"Space", "1 … 9", "n b", "p", "?", "Tap"} <= set(terms)
    assert all(dialog.locator("dd").all_inner_texts())
    assert len(terms) == dialog.locator("dd").count()
    view.press("f")
    assert view.mode() == "slider"
    view.press("Escape")
    view.until("!document.querySelector('dialog')")  # it leaves in a task of its own
    view.until("document.activeElement.className == 'handle'")
    view.page.get_by_role("button", name="Help").click()
    view.page.get_by_role("button", name="Close").click()
    view.until("!document.querySelector('dialog')")  # it leaves in a task of its own


NAMED = "all => all.filter(e => e.dataset.text).map(e => e.textContent)"
LABELLED = "all => all.filter(e => e.dataset.label).map(e => e.getAttribute('aria-label'))"


def test_every_label_is_japanese_where_the_reader_is_and_changes_at_once(open_page: Open) -> None:
    html = render_page("t", [panel_of(solid(RED), solid(GREEN))], RESULTS, {"seed": "0"})
    view = open_page(html, locale="ja-JP")
    japanese = re.compile(r"[\u3040-\u30ff\u4e00-\u9fff]")
    lang = "document.documentElement.lang"
    for kind in (NAMED, LABELLED):
        texts = view.page.eval_on_selector_all("body *", kind)
        assert len(texts) > 10
        assert [text for text in texts if not japanese.search(text)] == []
    assert view.page.evaluate(lang) == "ja"
    assert view.page.locator(".results h2").all_inner_texts() == ["測定値", "作成条件"]
    assert view.text(".scale") == "全体"
    view.page.get_by_role("button", name="EN").click()
    assert view.page.evaluate(lang) == "en"
    for kind in (NAMED, LABELLED):
        assert [text for text in view.page.eval_on_selector_all("body *", kind) if japanese.search(text)] == []
    assert view.page.locator(".results h2").all_inner_texts() == ["Measured", "How it was made"]
    assert view.text(".scale") == "fit"
    assert view.text(".languages [aria-pressed=true]") == "EN"
    view.page.reload()
    assert view.page.evaluate(lang) == "en", "the choice is remembered"


def test_the_language_is_english_for_others_and_needs_no_storage(open_page: Open) -> None:
    view = open_page(THREE, locale="fr-FR")
    assert (view.page.evaluate("document.documentElement.lang"), view.text(".reset")) == ("en", "Reset")
    refused = "Object.defineProperty(window, 'localStorage', { get() { throw new Error('refused') } })"
    view.page.add_init_script(refused)
    view.page.reload()
    view.page.get_by_role("button", name="日本語").click()
    assert view.text(".reset") == "リセット"


def test_hostile_names_do_nothing_in_any_mode(open_page: Open) -> None:
    view = open_page(page_of(HOSTILE), locale="ja-JP")
    view.handle.focus()
    view.press("f", "h", "p", "ArrowLeft", "?")
    assert view.page.evaluate("window.owned") is None
    view.press("Escape")
    assert view.text(".shown-label .name") == view.text(".values th span") == HOSTILE
    assert HOSTILE in view.page.locator(".heat").get_attribute("aria-label")


PANEL = """() => {
  const { panels: [panel] } = JSON.parse(document.querySelector('#data').textContent);
  window.earlier = document.querySelector('.flick');
  vaelensViewer.show(document.querySelector('main'), ['one', 'two'].map(title => ({ ...panel, title, boxes: [] })));
}"""


def test_show_replaces_the_panels_and_stops_their_timers(open_page: Open) -> None:
    view = open_page(THREE)
    view.page.locator(".modes [data-mode=flicker]").click()
    view.page.locator(".often [data-often='4']").click()
    view.until("document.querySelector('.shown-label .name').textContent == 'vae-1'")
    view.page.evaluate(PANEL)
    assert view.page.locator(".panel .name:not(span .name)").first.text_content() == "one"
    assert view.page.locator(".panel").count() == 2
    states = "[...earlier.children].map(i => i.style.visibility).join()"
    before = view.page.evaluate(states)
    time.sleep(0.6)
    assert view.page.evaluate(states) == before, "the earlier panel's timer has stopped"
    view.until("[...document.images].every(i => i.complete && i.style.transform)")
    view.page.locator(".modes [data-mode=flicker]").first.click()
    view.press("3")
    assert is_shown(view, "vae-2")
    view.page.get_by_role("button", name="日本語").click()
    assert view.page.locator(".reset").all_inner_texts() == ["リセット"] * 2
    view.page.evaluate("vaelensViewer.show(document.querySelector('main'), [])")
    assert view.page.locator(".panel").count() == 0


BROKEN = """() => {
  const { panels: [panel] } = JSON.parse(document.querySelector('#data').textContent);
  const broken = { ...panel.layers[0], name: 'broken', src: 'data:image/png;base64,AAAA' };
  vaelensViewer.show(document.querySelector('main'), [{ ...panel, layers: [...panel.layers, broken] }]);
}"""


def test_an_image_that_cant_be_read_leaves_no_map_of_others(open_page: Open) -> None:
    view = open_page(THREE)
    view.page.evaluate(BROKEN)
    view.page.locator(".handle").focus()
    view.press("h")
    view.until("document.querySelector('.heat').width == 320")
    view.page.locator("select.right").select_option(label="broken")
    view.until("document.querySelector('.heat').width == 1")
    assert "broken" in view.page.locator(".heat").get_attribute("aria-label")
    assert view.page.locator(".stack").get_attribute("aria-busy") is None
    view.page.locator("select.right").select_option(index=1)
    view.until("document.querySelector('.heat').width == 320")
