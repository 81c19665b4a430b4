"""The viewer in a browser: what its hands and keys do, judged by the pixels on the screen.

The large view's modes are in test_viewer_modes.py, looking closely in test_viewer_pixels.py.
"""

import re
import time
from pathlib import Path

import numpy as np
import pytest

from support.browser.pages import BLUE, GREEN, HOSTILE, NO_TABLE, RED, RESULTS, YELLOW, page_of, panel_of, solid
from support.browser.viewing import FIRST, FIT, QUARTERS, SECOND, STACK, THREE, Open
from vaelens.images.writing import encode_png
from vaelens.report.page import render_page
from vaelens.report.tables import Column, Table


def test_hostile_names_are_shown_and_do_nothing(open_page: Open) -> None:
    view = open_page(page_of(HOSTILE))
    assert view.page.evaluate("window.owned") is None
    for selector in ("h1", ".shown", ".panel .name", ".row .note", ".facts th", ".left option"):
        assert view.page.locator(selector).first.text_content() == HOSTILE, selector
    assert view.page.title() == HOSTILE


def test_the_policy_stops_what_would_get_in_or_out(browser, tmp_path: Path) -> None:
    path = tmp_path / "page.html"
    path.write_text(THREE, encoding="utf-8")
    page = browser.new_page()
    page.goto(path.as_uri())
    fetched = page.evaluate("fetch('data:,x').then(() => 'fetched', () => 'refused')")
    image = "new Promise(r => { const i = new Image(); i.onload = () => r('seen'); i.onerror = () => r('refused'); "
    (tmp_path / "other.png").write_bytes(encode_png(solid(RED)))
    seen = page.evaluate(image + "i.src = 'other.png' })")
    page.evaluate("() => { const s = document.createElement('script'); s.text = 'owned = 1'; document.body.append(s) }")
    assert (fetched, seen, page.evaluate("window.owned")) == ("refused", "refused", None)
    page.close()


def test_dragging_the_divider_shows_the_other_layer(open_page: Open) -> None:
    view = open_page(THREE)
    assert view.now() == "50"
    assert (view.colour(STACK, 0.25), view.colour(STACK, 0.75)) == (RED, GREEN)
    clip = view.page.eval_on_selector(".over", "e => getComputedStyle(e).clipPath")
    view.drag(view.point(".handle", 0.5, 0.2), view.point(STACK, 0.1, 0.5))
    assert view.page.eval_on_selector(".over", "e => getComputedStyle(e).clipPath") != clip
    assert view.now() == "10"
    assert (view.colour(STACK, 0.03), view.colour(STACK, 0.25)) == (RED, GREEN)
    view.drag(view.point(STACK, 0.6, 0.3), view.point(STACK, 0.9, 0.9))  # beside the divider, with nothing to pan
    assert (view.now(), view.colour(STACK, 0.75)) == ("90", RED)
    view.drag(view.point(".handle", 0.5, 0.2), view.point(STACK, 1.2, 0.5))
    assert view.now() == "100"


def test_the_divider_is_a_slider_for_the_keyboard(open_page: Open) -> None:
    view = open_page(THREE)
    assert view.handle.get_attribute("role") == "slider"
    assert (view.handle.get_attribute("aria-valuemin"), view.handle.get_attribute("aria-valuemax")) == ("0", "100")
    view.handle.focus()
    steps = [("ArrowRight", "51"), ("ArrowUp", "52"), ("ArrowLeft", "51"), ("ArrowDown", "50"), ("PageUp", "60")]
    for key, value in [*steps, ("PageDown", "50"), ("Home", "0"), ("ArrowLeft", "0"), ("End", "100")]:
        view.page.keyboard.press(key)
        assert view.now() == value, key
    assert view.handle.get_attribute("aria-valuetext") == "100% original"
    assert view.colour(STACK, 0.75) == RED


def test_the_selects_choose_the_layers_and_both_sides_are_named(open_page: Open) -> None:
    view = open_page(THREE)
    labels = [view.page.locator(f".{side}-label") for side in ("left", "right")]
    assert [label.inner_text().split("\n") for label in labels] == [["original"], ["vae-1", "24.31 dB"]]
    view.page.get_by_label("Left").select_option("vae-2")
    view.page.get_by_label("Right").select_option("original")
    assert (view.colour(STACK, 0.25), view.colour(STACK, 0.75)) == (BLUE, RED)
    assert [label.inner_text().split("\n")[0] for label in labels] == ["vae-2", "original"]
    assert [view.colour(f".row figure:nth-child({n}) .view", 0.5) for n in (1, 2, 3)] == [RED, GREEN, BLUE]


@pytest.mark.parametrize("over", [STACK, FIRST, SECOND])
def test_the_wheel_zooms_every_image_to_the_same_region(open_page: Open, over: str) -> None:
    view = open_page(QUARTERS)
    assert view.colour(FIRST, 0.2, 0.2) == YELLOW
    for _ in range(3):
        view.wheel(over, 0.9, 0.9, -200)
    left, _, scale = view.region()
    assert scale == pytest.approx(np.exp(1.2), rel=1e-4)
    # The point under the pointer stays: nine tenths of the image at nine tenths of the view.
    assert left == pytest.approx(0.9 * (1 - 1 / scale), rel=0.01)
    assert [view.colour(place, 0.2, 0.2) for place in (FIRST, SECOND, STACK)] == [RED, GREEN, RED]
    assert view.colour(STACK, 0.8, 0.2) == GREEN
    for _ in range(9):
        view.page.mouse.wheel(0, 200)
    view.until("document.querySelector('.scale').textContent == 'fit'")
    assert view.transforms() == FIT


def test_the_wheel_scrolls_the_page_where_there_is_nothing_to_zoom_out_of(open_page: Open) -> None:
    view = open_page(render_page("t", [panel_of(solid(RED), solid(GREEN))] * 3, NO_TABLE, {}))
    view.page.mouse.move(*view.point(STACK, 0.5, 0.5))
    view.page.mouse.wheel(0, 100)
    view.until("scrollY > 50")
    turn = "const turn = by => !document.querySelector('.stack').dispatchEvent("
    turn += "new WheelEvent('wheel', { deltaY: by, cancelable: true }));"
    assert not view.page.evaluate(f"() => {{ {turn} dispatchEvent(new Event('scroll')); return turn(-100) }}")
    assert view.transforms() == FIT
    time.sleep(0.3)  # the pause after which a turn of the wheel is a new one
    assert view.page.evaluate(f"() => {{ {turn} return [turn(-1), turn(100), turn(100)] }}") == [True] * 3


def test_dragging_moves_all_and_double_click_and_reset_go_back(open_page: Open) -> None:
    view = open_page(QUARTERS)
    for back in ("dblclick", "click"):
        view.page.get_by_role("button", name="Zoom in").click(click_count=3)
        view.drag(view.point(SECOND, 0.9, 0.9), view.point(SECOND, 0.1, 0.1))
        assert len(view.transforms()) == 1
        assert [view.colour(place, 0.2, 0.2) for place in (FIRST, SECOND, STACK)] == [RED, GREEN, RED]
        assert view.now() == "50"
        view.drag(view.point(STACK, 0.2, 0.2), view.point(STACK, 0.9, 0.9))  # beside the divider it pans, too
        assert (view.now(), view.colour(SECOND, 0.2, 0.2)) == ("50", YELLOW)
        view.page.locator(SECOND if back == "dblclick" else ".reset").dispatch_event(back)
        assert view.transforms() == FIT
    view.page.get_by_role("button", name="Zoom in").click()
    view.drag(view.point(".handle", 0.5, 0.2), view.point(STACK, 0.75, 0.5))
    assert view.now() == "75", "the divider can be dragged in a zoomed view"
    view.page.get_by_role("button", name="Zoom out").click()
    assert view.transforms() == FIT


def test_the_row_can_be_moved_with_keys_and_everything_reached(open_page: Open) -> None:
    view = open_page(QUARTERS)
    reached = []
    for _ in range(14):
        view.page.keyboard.press("Tab")
        reached.append(view.page.evaluate("(e => e.className || e.lang || e.dataset.mode)(document.activeElement)"))
    tools = ["en", "ja", "slider", "flicker", "heat", "left", "right", "probe", "out", "in", "reset", "ask"]
    assert reached == [*tools, "handle", "row"]
    view.page.locator(".row").focus()
    view.press("Shift+Tab", "Tab")
    assert view.page.evaluate("getComputedStyle(document.activeElement).outlineColor") == "rgb(255, 255, 255)"
    before = view.pixels()
    view.page.evaluate("document.activeElement.blur()")
    assert not np.array_equal(view.pixels(), before), "focus can be seen"
    view.page.locator(".row").focus()
    view.press("+", "+", "+", *["ArrowRight"] * 9, *["ArrowDown"] * 9)
    assert len(view.transforms()) == 1
    assert (view.colour(FIRST, 0.2, 0.2), view.colour(STACK, 0.8, 0.2)) == (RED, GREEN)
    view.press(*["ArrowLeft"] * 9, *["ArrowUp"] * 9)
    assert view.colour(FIRST, 0.2, 0.2) == YELLOW
    view.press("0", "+", "-")
    assert view.transforms() == FIT


def test_touch_moves_the_divider_and_pinches(open_page: Open) -> None:
    view = open_page(QUARTERS, width=400, height=900, has_touch=True)
    view.swipe(*(view.point(STACK, u, 0.5) for u in (0.5, 0.4, 0.3, 0.2)))
    assert view.now() == "20"
    view.pinch()
    assert view.region()[2] == pytest.approx(3, rel=0.05)
    assert (view.colour(STACK, 0.6, 0.3), view.now()) == (GREEN, "20")
    view.swipe(*(view.point(STACK, 0.5, v) for v in (0.1, 0.3, 0.5, 0.7, 0.9)))
    assert (view.colour(STACK, 0.6, 0.3), view.page.evaluate("scrollY")) == (YELLOW, 0), "a finger moves the region"


def test_pixels_are_exact_in_their_own_size_and_sharp_when_large(open_page: Open) -> None:
    noise = np.random.default_rng(0).integers(0, 256, (771, 513, 3), dtype=np.uint8)
    html = render_page("t", [panel_of(noise, 255 - noise)], NO_TABLE, {})
    for width in (1200, 1201):  # one of them puts the middle between two pixels
        view = open_page(html, width=width, height=2000)
        pixels = view.pixels()
        for place, expected in ((FIRST, noise), (SECOND, 255 - noise)):
            x, y, w, h = view.box(place)
            assert (w, h) == (513, 771)
            left, top = int(x + 0.5), int(y + 0.5)
            assert np.array_equal(pixels[top : top + 771, left : left + 513], expected), width
    rendering = "all => all.map(i => i.style.imageRendering)"
    assert set(view.page.eval_on_selector_all(".view img", rendering)) == {"auto"}
    view.page.locator(".in").click(click_count=2)
    assert set(view.page.eval_on_selector_all(".view img", rendering)) == {"pixelated"}


@pytest.mark.parametrize("width", [360, 1600])
@pytest.mark.parametrize("shape", [(1, 1), (9, 7), (1, 4096), (4096, 1), (771, 513)])
def test_any_size_fits_any_window(open_page: Open, width: int, shape: tuple[int, int]) -> None:
    panel = panel_of(*[solid(RED, shape[1], shape[0])] * 20, title="x" * 300, name="v" * 300)
    table = Table((Column("image"), Column("PSNR", "higher")), (("x" * 300, "1"),))
    view = open_page(render_page("y" * 300, [panel], table, {"shown": "z" * 300, "Command": "c" * 300}), width=width)
    assert view.page.evaluate("document.documentElement.scrollWidth") <= width
    boxes = view.page.eval_on_selector_all(".view", "all => all.map(v => [v.clientWidth, v.clientHeight])")
    assert len(boxes) == 21
    assert np.min(boxes) >= 30, "an image too small to be seen or touched"
    assert np.max([h for _, h in boxes]) <= 1300
    widest = max(view.page.eval_on_selector_all(".row figure", "all => all.map(f => f.clientWidth)"))
    assert widest <= max(120, *[w for w, _ in boxes[1:]]), "a name widens its figure"


TEXTS = {"body": True, ".shown": True, ".reset": False, ".modes [aria-pressed=true]": False, ".mat": False}
TEXTS |= {".languages [aria-pressed=true]": True, ".languages [aria-pressed=false]": True}
TEXTS |= {".hint": True, "thead th": True}  # whether it stands on the page's ground, not on its own


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_both_colour_schemes_can_be_read(open_page: Open, scheme: str) -> None:
    view = open_page(render_page("t", [panel_of(solid(RED))], RESULTS, {"shown": "s"}), color_scheme=scheme)
    of = "e => [getComputedStyle(e).color, getComputedStyle(e).backgroundColor]"

    def light(colour: str) -> float:
        r, g, b = (((int(v) / 255 + 0.055) / 1.055) ** 2.4 for v in re.findall(r"\d+", colour)[:3])
        return 0.2126 * r + 0.7152 * g + 0.0722 * b

    page = view.page.eval_on_selector("body", of)[1]
    assert (light(page) < 0.1) == (scheme == "dark")
    for text, on_page in TEXTS.items():
        ink, ground = view.page.eval_on_selector(text, of)
        pair = sorted([light(ink), light(page if on_page else ground)])
        assert (pair[1] + 0.05) / (pair[0] + 0.05) >= 4.5, text
    assert len(set(re.findall(r"\d+", view.page.eval_on_selector(".mat", of)[1]))) == 1, "a neutral surround"


@pytest.mark.parametrize("width", [320, 375, 640, 1000])
def test_the_languages_never_lie_on_the_title(open_page: Open, width: int) -> None:
    view = open_page(THREE.replace("<h1>t</h1>", "<h1>One latent, every decoder, and a long title</h1>"), width=width)
    _, top, _, height = view.box(".languages")
    assert top >= 0
    title = view.page.locator("h1").bounding_box()
    left = view.box(".languages")[0]
    words = "(() => { const r = document.createRange(); r.selectNodeContents(document.querySelector('h1')); "
    words += "const b = r.getBoundingClientRect(); return [b.right, b.top]; })()"
    right, first = view.page.evaluate(words)
    assert first >= top + height or right <= left, title
