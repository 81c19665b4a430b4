"""The page of `make demo`, written by the Makefile's own command: a generated image and a photo through the embedded
trio, and every mode of the viewer in a browser."""

import os
import re
import shlex
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from support.browser.viewing import Open, View
from support.commands import vaelens

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[2]
TRIO = ["tiny-kl-f8", "tiny-ft-ema", "tiny-ft-mse"]
GENERATED, PHOTO = 0, 1


@pytest.fixture(scope="module")
def demo(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder that the Makefile's `vaelens compare` writes, offline."""
    command = re.search(r"\$\(BIN\)/vaelens (compare .*?)\n", (ROOT / "Makefile").read_text().replace("\\\n", " "))
    assert command is not None
    folder = tmp_path_factory.mktemp("demo")
    arguments = shlex.split(command[1])
    arguments[arguments.index("-o") + 1] = str(folder / "demo")
    env = os.environ | {"HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1", "VAELENS_CACHE": str(folder / "empty")}
    vaelens(*arguments, cwd=ROOT, env=env)
    return folder / "demo"


@pytest.fixture
def view(open_path: Open, demo: Path) -> View:
    view = open_path(demo / "index.html", height=1000)
    view.until("[...document.images].every(i => i.style.transform)")
    return view


def panel(view: View, number: int) -> Any:
    return view.page.locator(".panel").nth(number)


def pixels(demo: Path, number: int) -> dict[str, np.ndarray]:
    """The image files beside the page, by layer."""
    files = [next(demo.glob(f"{number + 1:03d}-*-{name}.png")) for name in TRIO]
    found = {name: np.array(Image.open(file)) for name, file in zip(TRIO, files, strict=True)}
    if number == PHOTO:
        found = {"original": np.array(Image.open(ROOT / "examples" / "astronaut.png").convert("RGB"))} | found
    return found


@pytest.mark.parametrize("number", [GENERATED, PHOTO])
def test_every_mode_of_the_viewer_works(view: View, demo: Path, number: int) -> None:
    layers, one = pixels(demo, number), panel(view, number)
    names = list(layers)
    one.scroll_into_view_if_needed()
    assert one.locator(".row figcaption .name").all_inner_texts() == names
    one.locator(".handle").focus()
    before = int(one.locator(".handle").get_attribute("aria-valuenow"))
    view.press("ArrowLeft")
    assert int(one.locator(".handle").get_attribute("aria-valuenow")) < before, "the slider"
    for key, name in (("f", names[0]), ("Space", names[1]), ("3", names[2]), ("Space", names[0])):
        view.press(key)
        assert one.locator(".shown-label .name").inner_text() == name, f"flicker, {key}"
    view.press("h")
    view.until("[...document.querySelectorAll('.heat')].some(c => c.width > 1)")
    gained = one.locator(".gained").inner_text()
    view.press("ArrowRight")
    assert one.locator(".gained").inner_text() != gained, "the heat map's gain"
    view.press("s", "p")
    h, w = layers[names[0]].shape[:2]
    view.until(f"document.querySelectorAll('.where')[{number}].textContent == 'x {w // 2}, y {h // 2}'")
    rows = "all => all.map(r => [...r.querySelectorAll('td')].map(d => Number(d.textContent)))"
    values = one.locator(".values tr").evaluate_all(rows)
    assert values == [layer[h // 2, w // 2].tolist() for layer in layers.values()], "the read-out"
    view.press("+", "+")
    transforms = one.locator(".row .view img, .stack img").evaluate_all("all => all.map(i => i.style.transform)")
    assert len(transforms) >= len(layers)
    assert len(set(transforms)) == 1, "zoom is locked"
    assert "scale(1)" not in transforms[0]


def test_the_next_button_zooms_to_the_eyes_in_both_images(view: View) -> None:
    for number in (GENERATED, PHOTO):
        one = panel(view, number)
        assert one.locator(".where-to option").all_inner_texts()[0] == "Eyes (2)"
        one.locator(".next").click()
        assert one.locator(".which").inner_text() == "1 / 2"
        transform = one.locator(".row .view img").first.evaluate("i => i.style.transform")
        assert float(re.findall(r"scale\(([\d.]+)\)", transform)[0]) > 2


def test_the_page_says_that_the_vaes_decode_one_latent(view: View, demo: Path) -> None:
    text = view.page.locator("main, body").first.inner_text()
    assert "sha256" in text
    assert "All 3 VAEs have the same encoder" in text
    assert "seconds" in text
    assert view.page.locator(".panel").count() == 2
    view.page.get_by_role("button", name="日本語").click()
    assert view.page.evaluate("document.documentElement.lang") == "ja"
    for image in demo.glob("0*.png"):
        assert Image.open(image).text["vaelens"], image.name
