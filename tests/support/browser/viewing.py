"""A page in a browser, judged by the pixels on the screen: what the tests of the viewer share.

The browser is a Chromium on the PATH. Without one the tests are skipped, unless VAELENS_REQUIRE_BROWSER=1.
"""

import io
import os
import re
import shutil
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from support.browser.pages import BLUE, GREEN, NO_TABLE, RED, YELLOW, panel_of, solid
from vaelens.report.page import render_page

FLAGS = ["--headless", "--no-sandbox", "--disable-gpu", "--disable-background-networking", "--disable-component-update"]
FLAGS += ["--disable-sync", "--no-first-run"]


@pytest.fixture(scope="session")
def browser() -> Iterator[object]:
    found = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
    if not found:
        missing = "no chromium, chromium-browser or google-chrome on the PATH"
        if os.environ.get("VAELENS_REQUIRE_BROWSER") == "1":
            pytest.fail(missing)
        pytest.skip(missing)
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        opened = playwright.chromium.launch(executable_path=found, args=FLAGS)
        yield opened
        opened.close()


@contextmanager
def watched_pages(browser, allowed: Callable[[str], bool]) -> Iterator["Open"]:
    """Open pages by address; at the end, none may have requested another address or reported an error."""
    contexts, errors, foreign = [], [], []

    def open_it(address: str, width: int, height: int, refused: str = "(?!)", **options: object) -> View:
        """`refused` is a pattern of the statuses that the console may report."""
        contexts.append(browser.new_context(viewport={"width": width, "height": height}, **options))
        page, expected = contexts[-1].new_page(), f"status of ({refused})"
        page.on("request", lambda request: allowed(request.url) or foreign.append(request.url))
        page.on("console", lambda message: re.search(expected, message.text) or errors.append(message.text))
        page.on("pageerror", lambda error: errors.append(str(error)))
        page.goto(address)
        return View(page)

    yield open_it
    for context in contexts:
        context.close()
    assert (errors, foreign) == ([], [])


@pytest.fixture
def open_path(browser) -> Iterator["Open"]:
    """Open a page from disk, which may request nothing else."""
    opened = set()

    def open_it(path: Path, width: int = 1000, height: int = 1300, **options: object) -> View:
        opened.add(path.as_uri())
        view = open_page(path.as_uri(), width, height, **options)
        view.until("[...document.images].every(i => i.complete && i.naturalWidth > 0)")
        return view

    with watched_pages(browser, lambda url: url in opened or url.startswith("data:")) as open_page:
        yield open_it


@pytest.fixture
def open_page(open_path: "Open", tmp_path: Path) -> "Open":
    """Open a page given as text, as `open_path` does."""

    def open_it(html: str, **options: object) -> View:
        path = tmp_path / "page.html"
        path.write_text(html, encoding="utf-8")
        view = open_path(path, **options)
        view.until("[...document.images].every(i => i.style.transform)")
        return view

    return open_it


class View:
    """A page with one photo, looked at through its pixels."""

    def __init__(self, page) -> None:
        self.page, self.handle, self.session = page, page.locator(".handle"), None

    def until(self, condition: str) -> None:
        """Wait for a JavaScript condition, from outside: the page's policy stops Playwright's own way."""
        end = time.monotonic() + 30
        while not self.page.evaluate(condition):
            assert time.monotonic() < end, f"never: {condition}"
            time.sleep(0.02)

    def box(self, selector: str) -> tuple[float, float, float, float]:
        """x, y, width, height in the window."""
        box = self.page.locator(selector).first.bounding_box()
        return box["x"], box["y"], box["width"], box["height"]

    def point(self, selector: str, u: float, v: float) -> tuple[float, float]:
        x, y, width, height = self.box(selector)
        return x + u * width, y + v * height

    def pixels(self) -> np.ndarray:
        return np.array(Image.open(io.BytesIO(self.page.screenshot())).convert("RGB"))

    def colour(self, selector: str, u: float, v: float = 0.5) -> tuple[int, ...]:
        x, y = self.point(selector, u, v)
        return tuple(self.pixels()[int(y), int(x)].tolist())

    def drag(self, start: tuple[float, float], end: tuple[float, float]) -> None:
        self.page.mouse.move(*start)
        self.page.mouse.down()
        self.page.mouse.move(*end, steps=4)
        self.page.mouse.up()

    def transforms(self) -> set[str]:
        return set(self.page.eval_on_selector_all(".view img", "all => all.map(i => i.style.transform)"))

    def wheel(self, selector: str, u: float, v: float, turn: float) -> None:
        (before,) = self.transforms()
        self.page.mouse.move(*self.point(selector, u, v))
        self.page.mouse.wheel(0, turn)
        self.until(f"document.querySelector('.view img').style.transform != '{before}'")

    def touch(self, kind: str, *points: tuple[float, float]) -> None:
        """kind: Start, Move or End; where the fingers are then."""
        self.session = self.session or self.page.context.new_cdp_session(self.page)
        places = [{"x": x, "y": y, "id": number} for number, (x, y) in enumerate(points)]
        self.session.send("Input.dispatchTouchEvent", {"type": f"touch{kind}", "touchPoints": places})

    def swipe(self, *points: tuple[float, float]) -> None:
        self.touch("Start", points[0])
        for point in points[1:]:
            self.touch("Move", point)
        self.touch("End")

    def pinch(self) -> None:
        """Two fingers on the right of the large view move apart, to three times the distance."""
        for kind, apart in (("Start", 0.1), ("Move", 0.15), ("Move", 0.2), ("Move", 0.3)):
            self.touch(kind, self.point(STACK, 0.75, 0.7 - apart), self.point(STACK, 0.75, 0.7 + apart))
        self.touch("End")

    def region(self) -> tuple[float, float, float]:
        """The left and top of what every view shows, in shares of the image, and the scale."""
        (transform,) = self.transforms()
        left, top, scale = (float(number) for number in re.findall(r"-?[\d.]+", transform))
        return -left / 100 / scale, -top / 100 / scale, scale

    def press(self, *keys: str) -> None:
        for key in keys:
            self.page.keyboard.press(key)

    def mode(self) -> str:
        return self.page.locator(".panel").first.get_attribute("data-mode")

    def text(self, selector: str) -> str:
        return self.page.locator(selector).first.text_content()

    def now(self) -> str:
        return self.handle.get_attribute("aria-valuenow")


Open = Callable[..., View]
FIT = {"translate(0%, 0%) scale(1)"}  # the whole image
STACK, FIRST, SECOND = ".stack", ".row figure:nth-child(1) .view", ".row figure:nth-child(2) .view"
THREE = render_page("t", [panel_of(solid(RED), solid(GREEN), solid(BLUE))], NO_TABLE, {})


def quarters(lower_right: tuple[int, int, int]) -> np.ndarray:
    image = solid(YELLOW)
    image[120:, 160:] = lower_right
    return image


QUARTERS = render_page("t", [panel_of(quarters(RED), quarters(GREEN), quarters(BLUE))], NO_TABLE, {})
