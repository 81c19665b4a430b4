"""The two presets' resizes against what defines them, and boxes that land where the pixels do."""

import sys

import cv2
import numpy as np
import pytest
from PIL import Image

from vaelens.errors import BadInputError, UsageError
from vaelens.images.drawing import Box
from vaelens.images.resizing import RESIZE_METHODS, Placement, ResizeMethod, placement, resize_and_crop, resized_size

SIZES = [(480, 640), (427, 640), (640, 425), (256, 256), (256, 400), (511, 513), (900, 700), (100, 140), (1, 1), (7, 9)]


def noise(h: int, w: int) -> np.ndarray:
    return np.random.default_rng((h, w)).integers(0, 256, (h, w, 3), dtype=np.uint8)


def fixed_point_bilinear(pixels: np.ndarray, h: int, w: int) -> np.ndarray:
    """OpenCV's 8-bit bilinear written out: 11-bit weights, and no look at what lies between two pixels."""

    def weights(n: int, m: int, clamp: bool) -> tuple[np.ndarray, ...]:
        f = ((np.arange(m) + 0.5) * (n / m) - 0.5).astype(np.float32)
        i = np.floor(f).astype(int)
        f = f - i.astype(np.float32)
        if clamp:  # along rows, where a neighbour is missing, the edge has the whole weight
            f = np.where((i < 0) | (i >= n - 1), np.float32(0), f)
        i, j = np.clip(i, 0, n - 1), np.clip(i + 1, 0, n - 1)
        one, other = (np.rint(v * np.float32(2048)).astype(np.int64) for v in (np.float32(1) - f, f))
        return i, j, one, other

    x0, x1, a0, a1 = weights(pixels.shape[1], w, True)
    y0, y1, b0, b1 = weights(pixels.shape[0], h, False)
    wide = pixels.astype(np.int64)
    rows = wide[:, x0] * a0[:, None] + wide[:, x1] * a1[:, None]
    upper, lower = ((b[:, None, None] * (rows[y] >> 4)) >> 16 for y, b in ((y0, b0), (y1, b1)))
    return ((upper + lower + 2) >> 2).astype(np.uint8)


def middle(pixels: np.ndarray) -> np.ndarray:
    """The 256x256 pixels in the middle."""
    top, left = ((side - 256) // 2 for side in pixels.shape[:2])
    return pixels[top : top + 256, left : left + 256]


@pytest.mark.parametrize("size", SIZES)
def test_the_cards_resize_is_opencvs(size: tuple[int, int]) -> None:
    h, w = resized_size(*size, 256)
    found = resize_and_crop(noise(*size), 256, "opencv_bilinear")
    assert found.shape == (256, 256, 3)
    assert found.dtype == np.uint8
    assert found.flags.c_contiguous
    assert np.array_equal(found, middle(cv2.resize(noise(*size), (w, h), interpolation=cv2.INTER_LINEAR)))


@pytest.mark.parametrize("size", [size for size in SIZES if min(size) > 10])
def test_opencv_still_computes_as_it_did_in_2022(size: tuple[int, int]) -> None:
    """By the arithmetic written out above: a release of OpenCV that changed it would change published numbers."""
    expected = middle(fixed_point_bilinear(noise(*size), *resized_size(*size, 256)))
    assert np.array_equal(resize_and_crop(noise(*size), 256, "opencv_bilinear"), expected)


@pytest.mark.parametrize("size", SIZES)
def test_the_modern_resize_is_pillows(size: tuple[int, int]) -> None:
    h, w = resized_size(*size, 256)
    expected = middle(np.asarray(Image.fromarray(noise(*size)).resize((w, h), Image.Resampling.BICUBIC)))
    assert np.array_equal(resize_and_crop(noise(*size), 256, "pillow_bicubic"), expected)


def test_only_pillows_resize_smooths_before_it_shrinks() -> None:
    spread = {method: resize_and_crop(noise(1024, 1024), 256, method).std() for method in RESIZE_METHODS}
    assert spread["pillow_bicubic"] < 0.6 * spread["opencv_bilinear"]


def test_the_long_side_is_rounded_half_to_even() -> None:
    """640x427 gives 383.7 (384); 512x513 at 256 gives 256.5 (256), 512x515 gives 257.5 (258)."""
    sizes = [resized_size(h, w, 256) for h, w in ((427, 640), (512, 513), (515, 512), (64, 64))]
    assert sizes == [(256, 384), (256, 256), (258, 256), (256, 256)]


@pytest.mark.parametrize("size", [(300, 431), (431, 300), (60, 91)])
@pytest.mark.parametrize("method", RESIZE_METHODS)
def test_a_box_lands_on_what_it_frames(size: tuple[int, int], method: ResizeMethod) -> None:
    """A white patch on black, found again in the crop by its brightness."""
    h, w = size
    box = Box("patch", w // 2 - w // 8, h // 2 - h // 9, w // 2 + w // 10, h // 2 + h // 7)
    pixels = np.zeros((h, w, 3), dtype=np.uint8)
    pixels[int(box.top) : int(box.bottom), int(box.left) : int(box.right)] = 255
    bright = resize_and_crop(pixels, 128, method)[..., 0] > 127
    rows, columns = np.flatnonzero(bright.any(axis=1)), np.flatnonzero(bright.any(axis=0))
    found = placement(h, w, 128).map(box)
    assert found is not None
    assert found.label == "patch"
    seen = (columns[0], rows[0], columns[-1] + 1, rows[-1] + 1)
    assert np.allclose((found.left, found.top, found.right, found.bottom), seen, atol=0.75)


def test_boxes_at_the_crops_edge() -> None:
    """512x256 to 128: halved, and 64 columns cut off on each side."""
    where = placement(256, 512, 128)
    assert where == Placement(0.5, 0.5, 64, 0, 128)
    assert where.map(Box("in", 128, 0, 384, 256)) == Box("in", 0, 0, 128, 128)
    assert where.map(Box("half in", 118, 0, 138, 20)) == Box("half in", 0, 0, 5, 10)
    assert where.map(Box("mostly out", 116, 0, 138, 20)) is None
    assert where.map(Box("out", 0, 0, 100, 20)) is None
    assert where.map(Box("2 pixels", 200, 0, 204, 4)) == Box("2 pixels", 36, 0, 38, 2)
    assert where.map(Box("too small", 200, 0, 203, 40)) is None


def test_an_image_too_long_and_thin_is_refused_with_its_name() -> None:
    pixels = np.zeros((1, 4096, 3), dtype=np.uint8)
    with pytest.raises(BadInputError, match=r"strip\.png is too long and thin \(4096x1\)"):
        resize_and_crop(pixels, 256, "pillow_bicubic", "strip.png")


def test_an_unknown_method_and_side_0_are_refused() -> None:
    with pytest.raises(UsageError, match="opencv_bilinear, pillow_bicubic"):
        resize_and_crop(noise(4, 4), 2, "lanczos")  # type: ignore[arg-type]
    with pytest.raises(UsageError, match="from 1 pixel up"):
        resize_and_crop(noise(4, 4), 0, "pillow_bicubic")


def test_without_opencv_the_message_names_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "cv2", None)
    with pytest.raises(UsageError, match="pip install opencv-python-headless"):
        resize_and_crop(noise(4, 4), 2, "opencv_bilinear")
    assert resize_and_crop(noise(4, 4), 2, "pillow_bicubic").shape == (2, 2, 3)
