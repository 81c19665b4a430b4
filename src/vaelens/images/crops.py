"""Random squares of images for training, with the boxes that are left in them."""

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from PIL import Image

from vaelens.images.drawing import Box


@dataclass(frozen=True)
class Crops:
    """Random changes to an image: a square of `shares` (from, to) of its shorter side, resized to `size` pixels.

    flip, color_jitter: the probability that it is mirrored, and that its colours are changed
    """

    size: int
    shares: tuple[float, float]
    flip: float
    color_jitter: float


def random_square(
    pixels: np.ndarray, boxes: Sequence[Box], how: Crops, rng: np.random.Generator
) -> tuple[np.ndarray, tuple[Box, ...]]:
    """A square of an image, uint8 [size,size,3], and what is left of its boxes, in the square's pixels.

    Side and place are random, but for shares of (1, 1), which mean the middle square; resized by area (Pillow's BOX),
    or enlarged by BICUBIC where the image is too small. Boxes of which less than half is left are dropped.
    """
    height, width = (int(n) for n in pixels.shape[:2])
    side = min(height, width) * float(rng.uniform(*how.shares))
    left, top = float(rng.uniform(0, width - side)), float(rng.uniform(0, height - side))
    if how.shares == (1, 1):
        left, top = (width - side) / 2, (height - side) / 2
    method = Image.Resampling.BOX if side >= how.size else Image.Resampling.BICUBIC
    window = (left, top, min(left + side, width), min(top + side, height))  # rounding may lead out
    square = np.asarray(Image.fromarray(pixels).resize((how.size, how.size), method, box=window))
    found = [_placed(box, left, top, how.size / side, how.size) for box in boxes]
    inside = [box for box in found if box is not None]
    if rng.random() < how.flip:
        square = square[:, ::-1]
        inside = [dataclasses.replace(box, left=how.size - box.right, right=how.size - box.left) for box in inside]
    if rng.random() < how.color_jitter:
        square = jittered(square, rng)
    return np.ascontiguousarray(square), tuple(inside)


def jittered(pixels: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """The image with its channels mixed up, and brightness, colour balance and contrast changed; uint8."""
    values = pixels[..., rng.permutation(3)] / 255.0
    values = np.clip(values * rng.uniform(0.6, 1.3, 3), 0, 1) ** rng.uniform(0.7, 1.5)
    return (values * 255 + 0.5).astype(np.uint8)


def _placed(box: Box, left: float, top: float, scale: float, size: int) -> Box | None:
    x0, x1 = ((x - left) * scale for x in (box.left, box.right))
    y0, y1 = ((y - top) * scale for y in (box.top, box.bottom))
    inside = [float(min(max(v, 0.0), size)) for v in (x0, y0, x1, y1)]
    if 2 * (inside[2] - inside[0]) * (inside[3] - inside[1]) < (x1 - x0) * (y1 - y0):
        return None
    return dataclasses.replace(box, left=inside[0], top=inside[1], right=inside[2], bottom=inside[3])
