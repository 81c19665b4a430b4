"""The small networks that ship: they rank damages, tell sets apart and read letters, on images they never saw."""

import functools
import importlib.util
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors import safe_open

from vaelens.errors import BadInputError
from vaelens.images.drawing import Box
from vaelens.images.faces import draw_face
from vaelens.images.letters import GLYPHS, draw_letters
from vaelens.metrics import small
from vaelens.metrics.frechet import frechet_distance
from vaelens.metrics.glyph_reader import LOOKALIKES, SHAPES, glyph_crops, read_glyphs, readable, shape_of
from vaelens.networks.small import SmallPerceptual

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def check() -> ModuleType:
    loader = importlib.util.spec_from_file_location("check_metrics", ROOT / "embedded" / "check_metrics.py")
    module = importlib.util.module_from_spec(loader)
    loader.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def perceptual() -> SmallPerceptual:
    return small.load_small_perceptual()


def photo(name: str, side: int = 256) -> Image.Image:
    """The middle of an example."""
    with Image.open(ROOT / "examples" / f"{name}.png") as opened:
        image = opened.convert("RGB")
    m = min(image.size)
    left, top = (image.width - m) // 2, (image.height - m) // 2
    return image.crop((left, top, left + m, top + m)).resize((side, side), Image.Resampling.BICUBIC)


def test_they_are_small_and_say_how_they_were_made() -> None:
    sizes = {name: small.small_weights(name).stat().st_size for name in ("psim-small", "fd-small", "glyph-reader")}
    assert sizes["psim-small"] + sizes["fd-small"] <= 2_000_000
    assert sizes["glyph-reader"] <= 400_000
    for name in sizes:
        with safe_open(small.small_weights(name), "pt") as opened:
            assert f" --only {name} --steps" in opened.metadata()["command"]
            assert {opened.get_tensor(key).dtype for key in opened.keys()} == {torch.float16}  # noqa: SIM118


@pytest.mark.parametrize("name", ["astronaut", "chelsea"])
def test_psim_small_rises_with_damage(name: str, check: ModuleType, perceptual: SmallPerceptual, capsys: Any) -> None:
    image = photo(name, 160)
    found = check.measured(perceptual, image)
    for ladder, rungs in found.items():
        assert all(np.diff([0.0, *(distance for distance, _, _ in rungs)]) > 0), (ladder, rungs)
    light, vae = found["JPEG, quality"][0][0], found["tiny-kl-f8, share"][-1][0]
    coarse = found["reduced by"][-1][0]
    assert light < vae < coarse
    # Detail that is gone counts for more than noise on top of it; the untrained network has it the other way.
    assert found["blur, sigma"][2][0] > found["noise, sigma/255"][3][0]
    x = check.tensor(image)
    assert small.psim_small(perceptual, x.flip(3), x) > coarse  # what is there counts for more than how sharp it is
    by_psnr, by_ssim = check.agreement(found)
    with capsys.disabled():
        print(f"\n{name}: psim-small's order has Spearman {by_psnr:.2f} with PSNR's, {by_ssim:.2f} with SSIM's", end="")
    assert min(by_psnr, by_ssim) > 0.7


def test_equal_images_are_no_distance_apart(check: ModuleType, perceptual: SmallPerceptual) -> None:
    """Also where nothing is to be seen: a vector of zeros would count 1."""
    grey = torch.linspace(0, 1, 8).view(8, 1, 1, 1).expand(8, 3, 64, 64)
    batch = [photo("chelsea", 128), *(Image.fromarray(draw(7, 128).pixels) for draw in (draw_face, draw_letters))]
    images = [grey, *(check.tensor(p) for p in batch), torch.eye(3).view(3, 3, 1, 1).expand(3, 3, 32, 32)]
    for image in images:
        assert small.psim_small(perceptual, image, image).abs().max() < 1e-6


def test_taps_are_full_precision_whatever_surrounds_them(check: ModuleType, perceptual: SmallPerceptual) -> None:
    image = check.tensor(photo("astronaut", 64))
    taps = small.perceptual_taps(perceptual, image)
    assert [tuple(t.shape) for t in taps] == [(1, w, 64 >> k, 64 >> k) for k, w in enumerate(perceptual.widths)]
    assert all(t.min() >= 0 for t in taps)
    with torch.autocast("cpu", torch.bfloat16):
        again = small.perceptual_taps(perceptual, image)
    assert all(torch.equal(a, b) for a, b in zip(taps, again, strict=True))


def test_fd_small_grows_with_damage_and_tells_sets_apart(check: ModuleType) -> None:
    net = small.load_small_frechet()
    images = [
        Image.fromarray(draw(s, 128).pixels) for draw in (draw_face, draw_letters) for s in range(310_000, 310_010)
    ]
    whole = photo("astronaut", 512)
    images += [whole.crop((x, y, x + 128, y + 128)) for x in range(0, 512, 128) for y in range(0, 512, 128)]
    clean = check.moments(net, images)
    assert frechet_distance(clean, clean) < 1e-6
    halves = frechet_distance(check.moments(net, images[::2]), check.moments(net, images[1::2]))
    sets = [check.moments(net, images[:10]), check.moments(net, images[10:20]), check.moments(net, images[20:])]
    for i, j in ((0, 1), (0, 2), (1, 2)):
        assert frechet_distance(sets[i], sets[j]) > 2 * halves
    for ladder in ("blur, sigma", "noise, sigma/255", "JPEG, quality"):
        damage, strengths = check.LADDERS[ladder]
        steps = [functools.partial(check.at, damage, strength) for strength in strengths[::2]]
        found = [frechet_distance(clean, check.moments(net, images, step)) for step in steps]
        assert all(np.diff([0.0, *found]) > 0), (ladder, found)


def test_features_are_of_images_one_by_one() -> None:
    net = small.load_small_frechet()
    pixels = torch.randint(0, 256, (3, 3, 96, 64), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    features = small.frechet_features(net, pixels)
    assert features.shape == (3, net.features)
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.allclose(small.frechet_features(net, pixels[1:2]), features[1:2], rtol=1e-5, atol=1e-6)


def test_the_reader_reads_clean_letters_and_fewer_damaged_ones(check: ModuleType, capsys: Any) -> None:
    drawings = [draw_letters(seed) for seed in range(310_000, 310_006)]
    pages = [(Image.fromarray(d.pixels), [b for b in d.boxes if b.bottom - b.top >= 12]) for d in drawings]

    def share(damage: object = lambda p: p) -> float:
        good, all_ = np.sum(check.reading(pages, damage), axis=0)
        assert all_ > 150
        return float(good / all_)

    damages = (check.through_vae, functools.partial(check.blurred, sigma=3), functools.partial(check.reduced, factor=8))
    clean, vae, blurred, coarse = share(), *(share(damage) for damage in damages)
    damaged = f"tiny-kl-f8 {vae:.1%}, blur 3 {blurred:.1%}, reduced by 8 {coarse:.1%}"
    with capsys.disabled():
        print(f"\nletters read: {clean:.1%}; {damaged}", end="")
    assert clean > 0.95
    assert max(vae, blurred) < clean - 0.05
    assert coarse < min(vae, blurred) - 0.2


def test_shapes_stand_for_all_glyphs() -> None:
    assert {shape_of(g) for g in GLYPHS} == set(SHAPES)
    assert all(shape_of(s) == s for s in SHAPES)
    assert len(SHAPES) == len(GLYPHS) - sum(len(like) - 1 for like in LOOKALIKES)
    assert shape_of("o") == "O"


def test_a_crop_shows_its_glyph_alone_and_in_proportion() -> None:
    box = Box("I", 20, 10, 24, 30)
    image = torch.full((1, 3, 40, 60), 0.9)
    image[..., 10:30, 20:24] = 0.1
    crop = glyph_crops(image, [box])
    assert crop.shape == (1, 1, 32, 32)
    assert crop.mean().abs() < 1e-5
    assert (crop.std(correction=0) - 1).abs() < 1e-5
    ink = crop[0, 0] < crop[0, 0].mean()
    height, width = int(ink.any(dim=1).sum()), int(ink.any(dim=0).sum())
    assert 25 <= height <= 29  # 32 / 1.2
    assert 4 <= width <= 8  # a fifth of that, with soft edges
    neighbours = image.clone()
    neighbours[..., 28:] = 0.1
    neighbours[..., :16] = 0.1
    assert torch.allclose(glyph_crops(neighbours, [box]), crop)
    assert torch.allclose(glyph_crops(image * 0.5 + 0.2, [box]), crop, atol=1e-4)  # contrast doesn't count


def test_no_boxes_and_wrong_inputs() -> None:
    image = torch.zeros(1, 3, 32, 32)
    assert read_glyphs(image, []) == []
    assert readable(image, []) == []
    with pytest.raises(ValueError, match="one image"):
        read_glyphs(torch.zeros(2, 3, 32, 32), [Box("a", 0, 0, 9, 9)])
    with pytest.raises(ValueError, match="one shape"):
        small.psim_small(small.load_small_perceptual(), image, torch.zeros(1, 3, 32, 31))
    with pytest.raises(ValueError, match="uint8"):
        small.frechet_features(small.load_small_frechet(), image)


def test_a_damaged_file_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = small.small_weights("fd-small").read_bytes()
    monkeypatch.setattr(small, "WEIGHTS", tmp_path)
    for content in (None, whole[:1000], small.__doc__.encode(), whole[:-1000]):
        if content is not None:
            (tmp_path / "fd-small.safetensors").write_bytes(content)
        with pytest.raises(BadInputError, match=r"fd-small\.safetensors.*Install vaelens again"):
            small.load_small_frechet()
