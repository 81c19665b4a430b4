"""Looking closely in a browser: the heat map, the pixel read-out and its crosshair, and jumps to boxes."""

import re
from collections.abc import Sequence

import numpy as np
import pytest

from support.browser.pages import GREEN, HOSTILE, NO_TABLE, RED, panel_of, solid
from support.browser.viewing import FIRST, FIT, SECOND, STACK, THREE, Open, View
from vaelens.images.drawing import Box
from vaelens.images.writing import encode_png
from vaelens.report.page import render_page
from vaelens.report.panels import Layer, Panel

WIDTH, HEIGHT = 120, 80
NOISE = [np.random.default_rng(seed).integers(0, 256, (HEIGHT, WIDTH, 3), dtype=np.uint8) for seed in range(3)]
NEAR = np.clip(NOISE[0].astype(int) + np.random.default_rng(9).integers(-40, 41, NOISE[0].shape), 0, 255)
LAYERS = [NOISE[0], NEAR.astype(np.uint8), NOISE[2]]
NOISY = render_page("t", [panel_of(*LAYERS)], NO_TABLE, {})
BYTES = """c => {
  const copy = Object.assign(document.createElement('canvas'), { width: c.width, height: c.height });
  const context = copy.getContext('2d', { willReadFrequently: true });
  context.drawImage(c, 0, 0);
  return [...context.getImageData(0, 0, c.width, c.height).data];
}"""


def heat_map(view: View) -> np.ndarray:
    """The map's RGB bytes [h,w,3], once it is there."""
    view.until("document.querySelector('.heat').width > 1 && !document.querySelector('.stack[aria-busy]')")
    size = view.page.eval_on_selector(".heat", "c => [c.height, c.width, 4]")
    pixels = np.array(view.page.eval_on_selector(".heat", BYTES), dtype=np.uint8).reshape(size)
    assert np.all(pixels[..., 3] == 255)
    return pixels[..., :3]


@pytest.fixture
def colours(open_page: Open) -> np.ndarray:
    """The 256 colours [256,3], as the differences 0 to 255 have them without gain."""
    ramp = np.zeros((2, 256, 3), dtype=np.uint8)
    ramp[0, :, 1] = ramp[1, :, 2] = np.arange(256)
    view = open_page(render_page("t", [panel_of(ramp, np.zeros_like(ramp))], NO_TABLE, {}))
    view.handle.focus()
    view.press("h", *["ArrowLeft"] * 3)
    assert view.text(".gained") == "×1"
    found = heat_map(view)
    assert np.array_equal(found[0], found[1]), "one channel is as much as another"
    return found[0]


def test_the_colours_rise_in_lightness(colours: np.ndarray) -> None:
    linear = np.where(colours <= 10, colours / 255 / 12.92, ((colours / 255 + 0.055) / 1.055) ** 2.4)
    luminance = linear @ [0.2126, 0.7152, 0.0722]
    lightness = np.where(luminance > 0.008856, 116 * np.cbrt(luminance) - 16, 903.3 * luminance)
    assert np.all(np.diff(lightness) > 0)
    assert (lightness[0] < 5, lightness[-1] > 95) == (True, True)
    assert np.max(np.abs(lightness - np.linspace(lightness[0], lightness[-1], 256))) < 6, "evenly"


def test_the_heat_map_is_that_of_numpy(open_page: Open, colours: np.ndarray) -> None:
    view = open_page(NOISY)
    view.page.locator(".modes [data-mode=heat]").click()
    for pair, keys, gain, top in (
        ((0, 1), [], 8, 32),
        ((0, 1), ["ArrowRight"], 16, 16),
        ((0, 1), ["ArrowUp", "ArrowUp", "ArrowUp"], 64, 4),
        ((2, 1), ["ArrowDown"] * 5, 2, 128),
    ):
        view.page.get_by_label("Left").select_option(index=pair[0])
        view.page.get_by_label("Right").select_option(index=pair[1])
        view.page.locator(STACK).focus()
        view.press(*keys)
        levels = np.abs(LAYERS[pair[0]].astype(int) - LAYERS[pair[1]]).max(axis=2)
        assert np.array_equal(heat_map(view), colours[np.minimum(255, gain * levels)]), gain
        assert (view.text(".gained"), view.text(".top")) == (f"×{gain}", f"≥ {top} / 255")
        assert view.page.locator(".gain").get_attribute("aria-valuetext") == f"×{gain}"
    assert view.page.locator(".heat").get_attribute("aria-label") == "Heat map of vae-2 against vae-1, gain ×2"


@pytest.mark.slow
def test_the_heat_map_lies_over_the_image_and_zooms_with_it(open_page: Open) -> None:
    left, right = solid(RED), solid(RED)
    right[120:, 160:] = GREEN
    view = open_page(render_page("t", [panel_of(left, right)], NO_TABLE, {}))
    view.page.locator(".modes [data-mode=heat]").click()
    found = heat_map(view)
    none, full = (tuple(found[y, x].tolist()) for y, x in ((0, 0), (239, 319)))
    assert [view.colour(STACK, u, v) for u, v in ((0.2, 0.2), (0.9, 0.2), (0.9, 0.9))] == [none, none, full]
    for _ in range(3):
        view.wheel(STACK, 0.9, 0.9, -200)
    assert view.colour(STACK, 0.2, 0.2) == full
    assert view.page.eval_on_selector(".heat", "c => c.style.imageRendering") == "pixelated"
    view.page.locator(".gain").focus()
    view.press("Home")
    assert view.text(".gained") == "×1"
    assert view.colour(STACK, 0.2, 0.2) != full


def read(view: View) -> tuple[str, list[list[str]]]:
    rows = "all => all.map(r => [...r.querySelectorAll('td')].map(d => d.textContent))"
    return view.text(".where"), view.page.eval_on_selector_all(".values tr", rows)


def expect(view: View, x: int, y: int, layers: Sequence[np.ndarray] = LAYERS) -> None:
    view.until(f"document.querySelector('.where').textContent == 'x {x}, y {y}'")
    assert read(view)[1] == [[str(value) for value in layer[y, x]] for layer in layers]


@pytest.mark.parametrize("shape", [(HEIGHT, WIDTH), (40, 240), (240, 40), (1, 30)])
def test_the_values_under_the_pointer_are_those_of_the_file(open_page: Open, shape: tuple[int, int]) -> None:
    h, w = shape
    layers = [np.random.default_rng(seed).integers(0, 256, (h, w, 3), dtype=np.uint8) for seed in range(3)]
    view = open_page(render_page("t", [panel_of(*layers)], NO_TABLE, {}), height=900)
    assert read(view) == ("Point at an image to read its pixel values", [["–"] * 3] * 3)
    names = view.page.locator(".values th").all_inner_texts()
    assert names == ["original", "vae-1", "vae-2"]
    for view_of in (STACK, FIRST, SECOND):
        view.page.locator(view_of).scroll_into_view_if_needed()
        left, top, width, height = view.box(view_of)
        by = min(width / w, height / h)
        spare = ((width - by * w) / 2, (height - by * h) / 2)  # beside an image that is longer than its view
        for x, y in ((0, 0), (w - 1, h - 1), (w // 3, h // 2)):
            middle = (left + spare[0] + (x + 0.5) * by, top + spare[1] + (y + 0.5) * by)
            view.page.mouse.move(*(np.ceil(place - 0.5) for place in middle))  # a mouse stands on whole pixels
            expect(view, x, y, layers)
            shown = "all => all.map(m => getComputedStyle(m).display != 'none')"
            assert view.page.eval_on_selector_all(".mark", shown) == [view_of != FIRST, view_of != SECOND, True]
    view.page.locator(STACK).scroll_into_view_if_needed()
    if max(spare) > 1:
        view.page.mouse.move(*view.point(STACK, 0.01, 0.01))
        assert read(view)[1] == [["–"] * 3] * 3
    view.page.mouse.move(1, 1)
    assert read(view) == ("Point at an image to read its pixel values", [["–"] * 3] * 3)


def test_the_values_are_right_in_a_zoomed_view_in_every_mode(open_page: Open) -> None:
    view = open_page(NOISY)
    for _ in range(4):
        view.wheel(STACK, 0.7, 0.6, -200)
    for mode in ("slider", "flicker", "heat"):
        view.page.locator(f".modes [data-mode={mode}]").click()
        for u, v in ((0.31, 0.42), (0.77, 0.13)):
            view.page.mouse.move(*view.point(STACK, u, v))
            view.until("document.querySelector('.where').textContent.startsWith('x')")
            x, y = (int(n) for n in re.findall(r"\d+", read(view)[0]))
            expect(view, x, y)
            left, top, scale = view.region()
            assert (x, y) == (int((left + u / scale) * WIDTH), int((top + v / scale) * HEIGHT))
    view.page.locator(".modes [data-mode=slider]").click()
    view.page.mouse.move(*view.point(STACK, 0.25, 0.5))
    x, y = (int(n) for n in re.findall(r"\d+", read(view)[0]))
    assert view.colour(STACK, 0.25, 0.5) == tuple(NOISE[0][y, x].tolist()), "what is named is what is seen"


def test_a_crosshair_reads_pixels_by_keys_alone(open_page: Open) -> None:
    view = open_page(NOISY)
    view.handle.focus()
    view.press("p")
    assert view.page.evaluate("document.activeElement.className") == "cross"
    assert view.page.locator(".probe").get_attribute("aria-pressed") == "true"
    expect(view, 60, 40)
    steps = [("ArrowRight", 61, 40), ("ArrowDown", 61, 41), ("Shift+ArrowLeft", 51, 41)]
    steps += [("Shift+ArrowUp", 51, y) for y in (31, 21, 11, 1, 0, 0)]
    for key, x, y in (*steps, ("ArrowLeft", 50, 0)):
        view.press(key)
        expect(view, x, y)
    announced = f"x 50, y 0; original {' '.join(map(str, NOISE[0][0, 50]))}; vae-1 "
    assert view.text(".announcement").startswith(announced)
    assert (view.now(), view.mode()) == ("50", "slider"), "the arrows are the crosshair's"
    (left, top), (x, y, w, h) = view.point(STACK, 50.5 / WIDTH, 0.5 / HEIGHT), view.box(".cross")
    assert (x + w / 2, y + h / 2) == pytest.approx((left, top), abs=1)
    view.press("f", "2")
    assert (view.mode(), view.text(".shown-label .name")) == ("flicker", "vae-1"), "other keys still work"
    view.press("+", "+", "+", "+")
    view.page.locator(".cross").evaluate("e => { e.hidden = false; e.focus() }")
    view.press("ArrowRight")
    expect(view, 51, 0)
    x, y, w, h = view.box(".cross")
    left, top, width, height = view.box(STACK)
    assert left <= x + w / 2 <= left + width, "the images follow the crosshair"
    assert top <= y + h / 2 <= top + height
    view.press("Escape")
    assert not view.page.locator(".cross").is_visible()
    assert read(view)[1] == [["–"] * 3] * 3
    assert view.page.evaluate("document.activeElement.className") == "view stack"


def test_a_finger_moves_the_crosshair(open_page: Open) -> None:
    view = open_page(NOISY, width=400, height=900, has_touch=True)
    view.page.get_by_role("button", name="Crosshair").click()
    expect(view, 60, 40)
    by = view.box(STACK)[2] / WIDTH
    x, y = view.point(".cross", 0.5, 0.5)
    view.touch("Start", (x + 9, y - 9))
    for step in (0.5, 1):
        view.touch("Move", (x + 9 + step * 10 * by, y - 9 + step * 5 * by))
    view.touch("End")
    expect(view, 70, 45)
    assert (view.now(), view.transforms()) == ("50", FIT)
    assert view.text(".announcement").startswith("x 60, y 40;"), "a finger's way isn't announced"


COUNTING = """
window.reads = 0;
const real = CanvasRenderingContext2D.prototype.getImageData;
CanvasRenderingContext2D.prototype.getImageData = function (...at) {
  if (at[2] == %d) reads++;
  return real.apply(this, at);
};
"""


def test_only_the_panel_looked_at_is_decoded(open_page: Open) -> None:
    view = open_page(render_page("t", [panel_of(NOISE[0], NOISE[1])] * 3, NO_TABLE, {}), height=2600)
    view.page.add_init_script(COUNTING % WIDTH)
    view.page.reload()
    view.until("[...document.images].every(i => i.complete && i.style.transform)")
    assert view.page.evaluate("reads") == 0
    where = [f".panel:nth-of-type({number}) .stack" for number in (1, 2)]
    for number, reads in ((0, 2), (0, 2), (1, 4), (0, 6)):  # going back decodes again: the first was let go
        for u in (0.4, 0.6):
            view.page.mouse.move(*view.point(where[number], u, 0.5))
            panel = f"document.querySelectorAll('.panel')[{number}]"
            view.until(f"{panel}.querySelector('.where').textContent.startsWith('x {int(u * WIDTH)},')")
        assert view.page.evaluate("reads") == reads


def test_a_browser_that_falsifies_pixels_is_reported(open_page: Open) -> None:
    view = open_page(NOISY)
    view.page.mouse.move(*view.point(STACK, 0.5, 0.5))
    view.until("document.querySelector('.where').textContent.startsWith('x')")
    assert not view.page.locator(".altered").is_visible()
    noise = "const real = CanvasRenderingContext2D.prototype.getImageData; "
    noise += "CanvasRenderingContext2D.prototype.getImageData = function (...at) "
    noise += "{ const got = real.apply(this, at); got.data[4] ^= 1; return got; }"
    view.page.add_init_script(noise)
    view.page.reload()
    view.page.mouse.move(*view.point(STACK, 0.4, 0.5))
    view.until("document.querySelector('.where').textContent.startsWith('x')")
    assert view.page.locator(".altered").is_visible()


BOXES = (
    Box("A", 20, 30, 26, 38, glyph=True),
    Box("logo", 200, 20, 220, 40),
    Box("eye", 100, 100, 120, 110),
    Box("eye", 160.5, 100, 180.5, 112),
    Box("letters", 0, 0, 10, 10),
    Box("B", 29, 30, 35, 38, glyph=True),
    Box(HOSTILE, 300, 200, 320, 240),
)


def boxed(boxes: tuple[Box, ...]) -> str:
    layers = tuple(Layer(name, encode_png(solid(RED)), "") for name in ("original", "vae"))
    return render_page("t", [Panel("photo", 320, 240, layers, boxes=boxes)], NO_TABLE, {})


def shown_area(view: View) -> tuple[float, float, float, float]:
    """Left, top, right and bottom of what every view shows, in the image's pixels."""
    x, y, scale = view.region()
    return 320 * x, 240 * y, 320 * (x + 1 / scale), 240 * (y + 1 / scale)


def test_jumping_leads_from_box_to_box_by_kind(open_page: Open) -> None:
    view = open_page(boxed(BOXES))
    choice = view.page.get_by_label("Jump to")
    names = ["Eyes (2)", "Letters (2)", "logo (1)", "letters (1)", f"{HOSTILE} (1)"]
    assert choice.locator("option").all_text_contents() == names
    assert view.text(".which") == "– / 2"
    assert view.transforms() == FIT

    def at(box: Box, which: str) -> None:
        assert view.text(".which") == which
        left, top, right, bottom = shown_area(view)
        assert (left <= box.left, top <= box.top, right >= box.right, bottom >= box.bottom) == (True,) * 4
        width, height = box.right - box.left, box.bottom - box.top
        # Half a side of margin on each side, but for the image's edge and the shape of the view.
        assert min((right - left) / width, (bottom - top) / height) == pytest.approx(2, abs=0.01)

    view.page.get_by_role("button", name="Next").click()
    at(BOXES[2], "1 / 2")
    view.page.locator(".row").focus()
    for key, box, which in (("n", 3, "2 / 2"), ("n", 2, "1 / 2"), ("b", 3, "2 / 2")):
        view.press(key)
        at(BOXES[box], which)
    choice.select_option("Letters (2)")
    at(BOXES[0], "A 1 / 2")
    view.handle.focus()
    view.press("n")
    at(BOXES[5], "B 2 / 2")
    view.page.get_by_role("button", name="Previous").click()
    at(BOXES[0], "A 1 / 2")
    choice.select_option(index=4)
    assert view.text(".which") == "1 / 1"
    assert shown_area(view)[2:] == pytest.approx((320, 240)), "no farther than the image's edge"
    view.page.get_by_role("button", name="日本語").click()
    assert view.page.locator(".where-to option").all_text_contents()[:3] == ["目（2）", "文字（2）", "logo（1）"]


def test_without_boxes_there_is_nothing_to_jump_to(open_page: Open) -> None:
    view = open_page(THREE)
    assert not view.page.locator(".jump").is_visible()
    view.handle.focus()
    view.press("n", "b")
    assert view.transforms() == FIT


def test_a_live_page_may_take_images_from_its_own_address(browser) -> None:
    html = render_page("t", [], NO_TABLE, {}).replace("img-src data:", "img-src 'self'").replace('href="data:,"', "")
    layers = [NOISE[0], NOISE[1]]
    context = browser.new_context(viewport={"width": 1000, "height": 1300})
    page = context.new_page()
    errors = []
    page.on("console", lambda message: errors.append(message.text))
    page.on("pageerror", lambda error: errors.append(str(error)))
    for number, layer in enumerate(layers):
        answer = {"body": encode_png(layer), "content_type": "image/png"}
        page.route(f"http://viewer.test/{number}.png", lambda route, _, answer=answer: route.fulfill(**answer))
    page.route("http://viewer.test/", lambda r: r.fulfill(body=html, content_type="text/html"))
    page.goto("http://viewer.test/")
    panel = {"title": "live", "width": WIDTH, "height": HEIGHT}
    panel["layers"] = [{"name": f"layer {n}", "src": f"/{n}.png"} for n in range(2)]
    page.evaluate("panel => vaelensViewer.show(document.querySelector('main'), [panel])", panel)
    view = View(page)
    view.until("[...document.images].length == 4 && [...document.images].every(i => i.complete && i.naturalWidth)")
    view.handle.focus()
    view.press("h", "p")
    expect(view, 60, 40, layers)
    assert heat_map(view).shape == (HEIGHT, WIDTH, 3)
    assert (view.text(".why"), view.text(".row .note")) == ("", "")
    assert errors == []
    context.close()
