"""Pages with blind tests, and observers who take them: they see pixels, and answer as they were told to."""

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from support.browser.pages import NO_TABLE
from support.browser.viewing import View
from vaelens.images.drawing import Box
from vaelens.images.writing import encode_png
from vaelens.report.page import render_page
from vaelens.report.panels import Decoder, Layer, Panel

WIDTH, HEIGHT = 320, 240
DECODERS = {
    name: Decoder(f"{number}e" * 32, f"{number}d" * 32) for number, name in enumerate(("mellow", "crisp", "quirky"))
}
BOXES = (Box("eye", 20, 30, 60, 60), Box("A", 200, 100, 220, 130, glyph=True), Box("badge", 100, 150, 180, 220))
# What the canvases of a trial show: for each the mean of its channels, and a hash of its pixels (FNV-1a).
CANVASES = """() => [...document.querySelectorAll('.stage canvas')].map(canvas => {
  const copy = new OffscreenCanvas(canvas.width, canvas.height).getContext('2d', { willReadFrequently: true });
  copy.drawImage(canvas, 0, 0);
  const { data } = copy.getImageData(0, 0, canvas.width, canvas.height);
  const [sums, pixels] = [[0, 0, 0], new Uint32Array(data.buffer)];
  let hash = 2166136261;
  for (const pixel of pixels) {
    for (let i = 0; i < 3; i++) sums[i] += (pixel >>> (8 * i)) & 255;
    hash = Math.imul(hash ^ pixel, 16777619);
  }
  return { means: sums.map(sum => sum / pixels.length), hash };
})"""
# What a page and its owner can see of itself, but for the pixels.
SEEN = """() => ({
  html: document.documentElement.outerHTML,
  title: document.title,
  address: location.href,
  history: history.length,
  cookies: document.cookie,
  local: { ...localStorage },
  session: { ...sessionStorage },
  resources: performance.getEntriesByType('resource').map(({ name }) => name),
  globals: Object.keys(window).filter(key => !isFinite(key)),
  styles: [...document.querySelectorAll('.stage *')].map(e => {
    const { cursor, transition, animation, opacity, filter } = getComputedStyle(e);
    return [cursor, transition, animation, opacity, filter].join();
  }),
  boxes: [...document.querySelectorAll('.stage canvas')].map(e => {
    const { left, top } = e.getBoundingClientRect();
    return [e.width, e.height, e.style.cssText, left, top];
  }),
  images: document.images.length,
})"""


def noise(seed: int, without: int | None = None) -> np.ndarray:
    """Coloured noise, so that each place of each image is like no other; a channel may be missing."""
    pixels = np.random.default_rng(seed).integers(0, 256, (HEIGHT, WIDTH, 3), dtype=np.uint8)
    if without is not None:
        pixels[..., without] = 0
    return pixels


def blind_panel(names: Sequence[str] = ("mellow", "crisp"), seed: int = 0, original: bool = True) -> Panel:
    """A photo through decoders, each its own noise without a channel of its own, by which observers know it."""
    layers = [Layer("original", encode_png(noise(1000 + seed)), "")] * original
    for name in names:
        number = list(DECODERS).index(name)
        pixels = noise(100 * seed + number, number)
        layers.append(Layer(name, encode_png(pixels), "24.31 dB", DECODERS[name], f"{seed:02d}" * 32))
    return Panel(f"photo-{seed}.png", WIDTH, HEIGHT, tuple(layers), boxes=BOXES)


def blind_page(*panels: Panel, blind: bool = False) -> str:
    return render_page("Photos", panels or [blind_panel()], NO_TABLE, {"shown": "Two decoders."}, blind=blind)


def begin(view: View, **settings: Any) -> None:
    """Open the test from the page and start it with these settings, by mouse; by default the page's own."""
    if view.page.locator(".begin").count():
        view.page.click(".begin")
    choose(view, **settings)
    view.page.click(".setup .primary")
    view.until("document.querySelector('.trial')")


def choose(view: View, test: str = "abx", **settings: Any) -> None:
    view.page.check(f"[name=test][value={test}]")
    for name, value in settings.items():
        if name == "kinds":
            for box in view.page.locator("[name=kind]").all():
                box.set_checked(box.get_attribute("value") in value)
        elif name == "zoom":
            view.page.select_option(".magnification", str(value))
        else:
            view.page.fill(f".{name}", str(value))


def look(view: View) -> dict[str, int]:
    """What each image of the trial shows, by its name: a hash of its pixels."""
    names = view.page.locator(".stage figcaption").all_text_contents()
    return dict(zip(names, (one["hash"] for one in view.page.evaluate(CANVASES)), strict=True))


def recognise(view: View) -> dict[str, str]:
    """The decoder of each image of the trial, by its name; "original" for that."""
    names = view.page.locator(".stage figcaption").all_text_contents()
    known = [*DECODERS, "original"]
    return {
        name: known[next((i for i, mean in enumerate(one["means"]) if mean == 0), 3)]
        for name, one in zip(names, view.page.evaluate(CANVASES), strict=True)
    }


def seen(view: View) -> dict[str, Any]:
    """Everything but pixels, with the tree that assistive technology gets."""
    found = view.page.evaluate(SEEN)
    session = view.page.context.new_cdp_session(view.page)
    nodes = session.send("Accessibility.getFullAXTree")["nodes"]
    session.detach()
    found["accessible"] = [
        [node.get(key) for key in ("role", "name", "description", "value", "properties")] for node in nodes
    ]
    return found


def right_answer(view: View) -> str:
    """A or B: of an ABX trial the one that X is."""
    seen = look(view)
    assert (seen["A"] == seen["X"]) != (seen["B"] == seen["X"])
    return "A" if seen["A"] == seen["X"] else "B"


def answer_by_keys(view: View, answer: str) -> None:
    view.press(*(name[0].lower() for name in view.page.locator(".stage figcaption").all_text_contents()))
    view.press("1" if answer == "A" else "2")


def answer_by_touch(view: View, answer: str) -> None:
    buttons = [*(f".choices button:nth-child({n + 1})" for n in range(view.page.locator(".choices button").count()))]
    for selector in [*buttons, f"[data-answer={answer.lower()}]"]:
        view.page.touchscreen.tap(*view.point(selector, 0.5, 0.5))


def trial_number(view: View) -> int:
    return int(view.text(".count").split()[1])


def take(view: View, wanted: Callable[[int], str], answer: Callable[[View, str], None] = answer_by_keys) -> None:
    """Answer every trial as `wanted(number of the trial from 0)` says."""
    number = 0
    while view.page.locator(".trial").count():
        before = trial_number(view)
        assert before == number + 1
        answer(view, wanted(number))
        view.until(
            f"!document.querySelector('.trial') || !document.querySelector('.count').textContent.includes(' {before} ')"
        )
        number += 1


def save(view: View, folder: Path) -> Path:
    """The result's file, as the page offers it."""
    with view.page.expect_download() as download:
        view.page.click(".outcome .save")
    path = folder / download.value.suggested_filename
    download.value.save_as(path)
    return path


def result_of(path: Path) -> dict[str, Any]:
    return json.loads(path.read_text("utf-8"))


def rows(view: View, table: int = 0) -> list[list[str]]:
    """The texts of a table's body in the outcome."""
    cells = "all => all.map(row => [...row.children].map(cell => cell.textContent))"
    return view.page.locator(".found table").nth(table).locator("tbody tr").evaluate_all(cells)
