"""A trial of the blind test in a browser: its views, its pixels, its keys and pointers, and how it ends."""

import io
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from support.browser.blind import (
    DECODERS,
    HEIGHT,
    WIDTH,
    answer_by_keys,
    begin,
    blind_page,
    blind_panel,
    look,
    noise,
    recognise,
    result_of,
    save,
    take,
)
from support.browser.viewing import Open, View
from vaelens.images.writing import encode_png
from vaelens.report.panels import Panel

DASH = "\N{EN DASH}"


def screen_of(view: View, selector: str) -> np.ndarray:
    """What the screen shows there, in device pixels [h,w,3], with a margin of one."""
    ratio = view.page.evaluate("devicePixelRatio")
    x, y, width, height = view.box(selector)
    whole = np.array(Image.open(io.BytesIO(view.page.screenshot())).convert("RGB"))
    left, top = round(x * ratio), round(y * ratio)
    return whole[top - 1 : top + round(height * ratio) + 1, left - 1 : left + round(width * ratio) + 1]


MORE_SCREENS = [(1, 1), (1.5, 3), (2, 6), (2.625, 1), (1.35, 3)]


@pytest.mark.parametrize(
    ("ratio", "zoom"),
    [(1, 4), (1.25, 2), (1.1, 4), *(pytest.param(*one, marks=pytest.mark.slow) for one in MORE_SCREENS)],
)
def test_each_pixel_is_a_square_of_whole_pixels_of_the_screen(
    open_page: Open, tmp_path: Path, ratio: float, zoom: int
) -> None:
    view = open_page(blind_page(), device_scale_factor=ratio)
    begin(view, test="better", trials=4, zoom=zoom)
    view.press("f")
    names = recognise(view)
    shown = screen_of(view, ".stage figure.visible canvas")
    view.press("a", "b", "1", "Escape")
    view.page.get_by_role("dialog").get_by_role("button", name="Stop").click()
    trial = result_of(save(view, tmp_path))["trials"][0]
    pixels = noise(list(DECODERS).index(names["A"]), list(DECODERS).index(names["A"]))
    left, top, width, height = (trial[key] for key in ("left", "top", "width", "height"))
    region = pixels[top : top + height, left : left + width]
    by = zoom * max(1, round(ratio))
    expected = region.repeat(by, 0).repeat(by, 1)
    h, w = expected.shape[:2]
    at = [(y, x) for y in range(3) for x in range(3) if np.array_equal(shown[y : y + h, x : x + w], expected)]
    assert len(at) == 1, "a browser rounds where an image begins, not how large its pixels are"


def test_a_page_zoomed_during_a_trial_is_drawn_again(open_page: Open) -> None:
    view = open_page(blind_page(), width=1920)  # wider than the page's parts grow
    begin(view, trials=4)
    width = "Number(document.querySelector('.stage canvas').width)"
    before = view.page.evaluate(width)
    zoomed = {"width": 1536, "height": 867, "deviceScaleFactor": 1.5, "mobile": False}
    view.page.context.new_cdp_session(view.page).send("Emulation.setDeviceMetricsOverride", zoomed)
    view.until(f"{width} === {2 * before}")
    assert len(set(look(view).values())) == 2, "and shows its images"


def test_regions_lie_where_their_kind_says(open_page: Open, tmp_path: Path) -> None:
    view = open_page(blind_page())
    begin(view, test="better", trials=20, zoom=12)
    take(view, lambda _: "A")
    trials = result_of(save(view, tmp_path))["trials"]
    inside = {"eye": (20, 30, 60, 60), "letters": (200, 100, 220, 130), "badge": (100, 150, 180, 220)}
    assert {trial["kind"] for trial in trials} == {*inside, "difference", "random"}
    for trial in trials:
        assert 0 <= trial["left"] <= WIDTH - trial["width"]
        assert 0 <= trial["top"] <= HEIGHT - trial["height"]
        if trial["kind"] in inside:
            left, top, right, bottom = inside[trial["kind"]]
            assert left - 1 <= trial["left"] + trial["width"] / 2 <= right + 1
            assert top - 1 <= trial["top"] + trial["height"] / 2 <= bottom + 1


def with_pixels(panel: Panel, *versions: np.ndarray) -> Panel:
    """The panel with other pixels of its decoders."""
    original, *made = panel.layers
    layers = [replace(layer, png=encode_png(pixels)) for layer, pixels in zip(made, versions, strict=True)]
    return replace(panel, layers=(original, *layers))


def test_the_largest_differences_are_found(open_page: Open, tmp_path: Path) -> None:
    """Two versions differ in one place only: that is where the trials look."""
    first = noise(0)
    second = first.copy()
    second[150:170, 230:250] ^= 255
    view = open_page(blind_page(with_pixels(blind_panel(), first, second)))
    begin(view, trials=4, zoom=12, kinds=["difference"])
    take(view, lambda _: "A")
    for trial in result_of(save(view, tmp_path))["trials"]:
        assert trial["left"] < 250
        assert trial["left"] + trial["width"] > 230
        assert trial["top"] < 170
        assert trial["top"] + trial["height"] > 150


def test_two_decoders_with_equal_pixels_can_be_tested(open_page: Open, tmp_path: Path) -> None:
    view = open_page(blind_page(with_pixels(blind_panel(), noise(5), noise(5))))
    begin(view, trials=8, kinds=["difference"])

    def wanted(_: int) -> str:
        seen = look(view)
        assert seen["A"] == seen["B"] == seen["X"]
        return "A"

    take(view, wanted)
    places = {(trial["left"], trial["top"]) for trial in result_of(save(view, tmp_path))["trials"]}
    assert len(places) > 1, "nowhere is the difference largest, so anywhere"


def test_flicker_slider_and_side_by_side(open_page: Open) -> None:
    view = open_page(blind_page(), width=1280, height=900)
    begin(view, test="closer", trials=4)
    assert view.page.locator(".trial").get_attribute("data-view") == "beside"
    assert view.page.locator(".stage figcaption:visible").all_text_contents() == ["A", "Original", "B"]
    assert recognise(view)["Original"] == "original"
    tops = view.page.locator(".stage canvas").evaluate_all("all => all.map(c => c.getBoundingClientRect().top)")
    assert len(set(tops)) == 1, "beside each other"
    assert view.page.locator("[data-answer=a]").is_enabled(), "all are in sight"
    pressed = view.page.locator(".choices [aria-pressed=true]")
    view.press("f", "o")
    assert pressed.text_content() == "Original"
    view.press(" ")
    assert pressed.text_content() == "B"
    view.page.mouse.click(*view.point(".stage", 0.5, 0.5))
    assert pressed.text_content() == "A"
    view.press("s")
    assert view.page.locator(".choices button").all_text_contents() == ["A | Original", "Original | B", "A | B"]
    before = screen_of(view, ".stage figure:first-child canvas")
    view.drag(view.point(".stage", 0.5, 0.5), view.point(".stage", 0.25, 0.5))
    after = screen_of(view, ".stage figure:first-child canvas")
    changed = np.flatnonzero((before != after).any(axis=(0, 2))) / before.shape[1]
    assert 0.23 < changed.min() < 0.27
    assert 0.48 < changed.max() < 0.52
    view.press("ArrowRight")
    assert view.page.locator(".line").evaluate("line => line.style.left").startswith("30")


def test_an_answer_needs_a_look_at_every_image(open_page: Open) -> None:
    view = open_page(blind_page())
    begin(view, trials=4)
    view.press("1", "x", "2")
    assert view.text(".count") == "Trial 1 of 4"
    assert view.page.locator("[data-answer=a]").is_disabled()
    view.press("b", "2")
    assert view.text(".count") == "Trial 2 of 4"
    assert view.page.locator("[data-answer=a]").is_disabled(), "the next trial is another one"


def test_a_key_held_down_answers_once(open_page: Open) -> None:
    view = open_page(blind_page())
    begin(view, test="better", trials=8)
    view.press("d")
    view.page.keyboard.down("1")
    view.page.keyboard.down("1")
    view.page.keyboard.up("1")
    assert view.text(".count") == "Trial 2 of 9"


def test_a_double_click_answers_once_and_leaves_the_keys_working(open_page: Open) -> None:
    view = open_page(blind_page())
    begin(view, test="better", trials=8)
    view.press("d")
    view.page.locator("[data-answer=a]").dblclick()
    assert view.text(".count") == "Trial 2 of 9"
    view.press("f")
    view.page.locator(".choices button").nth(1).click()
    view.press(" ")
    assert view.page.locator(".choices [aria-pressed=true]").text_content() == "A", "space shows the next image"
    view.page.locator(".out").click()
    view.press(" ")
    assert view.text(".scale").startswith("3")


def test_magnification_ends_where_the_image_no_longer_fits(open_page: Open) -> None:
    view = open_page(blind_page(), width=1000, height=900)
    begin(view, test="better", trials=4)
    view.press("d")
    for _ in range(9):
        view.press("+")
    assert view.page.locator(".in").is_disabled()
    assert view.page.evaluate("document.documentElement.scrollWidth <= innerWidth")
    assert view.page.locator(".trial").get_attribute("data-view") == "beside"
    bottom = view.page.locator("[data-answer=a]").evaluate("e => e.getBoundingClientRect().bottom")
    assert bottom <= 900, "the answers stay in sight"


def test_stopping_early_is_possible_and_said(open_page: Open, tmp_path: Path) -> None:
    view = open_page(blind_page())
    begin(view, trials=20, person="Anna")
    for _ in range(3):
        answer_by_keys(view, "A")
    view.press("Escape")
    dialog = view.page.get_by_role("dialog")
    dialog.get_by_role("button", name="Continue").click()
    assert view.text(".count") == "Trial 4 of 20"
    view.press("a", "x", "b", "Escape", "1")
    assert view.text(".count") == "Trial 4 of 20", "behind the question no key answers"
    dialog.get_by_role("button", name="Stop").click()
    assert view.text(".outcome .shown") == "Stopped early, after 3 of 20 trials."
    result = result_of(save(view, tmp_path))
    assert (result["planned"], len(result["trials"])) == (20, 3)
    assert (result["stopped_early"], result["person"]) == (True, "Anna")
    assert all(trial["ms"] >= 0 and trial["zoom"] == 4 for trial in result["trials"])
    view.page.click(".outcome .again")
    assert view.page.locator(".trials").input_value() == "20"
    assert view.page.locator(".person").input_value() == "Anna"


def test_the_browser_asks_before_a_test_is_lost(open_page: Open, tmp_path: Path) -> None:
    view = open_page(blind_page())
    asked: list[str] = []
    view.page.on("dialog", lambda dialog: (asked.append(dialog.type), dialog.dismiss()))
    begin(view, trials=4)
    view.press("a", "x", "b", "1")
    view.page.close(run_before_unload=True)
    view.page.wait_for_timeout(200)
    assert asked == ["beforeunload"]
    while view.page.locator(".trial").count():
        answer_by_keys(view, "A")
    save(view, tmp_path)
    with view.page.expect_event("close"):
        view.page.close(run_before_unload=True)
    assert asked == ["beforeunload"], "once the result is saved, nothing is lost"
