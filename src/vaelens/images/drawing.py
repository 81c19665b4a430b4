"""What the generators of synthetic images share: labels with exact boxes, finishing, colours and backgrounds.

Images are drawn four times too large and reduced by area, so that edges are smooth and a label's
box is known to a quarter of a pixel. A seed fixes an image, bit for bit, for one Pillow and NumPy.
"""

from dataclasses import dataclass, replace

import numpy as np
from PIL import Image

OVERSAMPLING = 4

Colour = tuple[int, int, int]


@dataclass(frozen=True)
class Box:
    """A labelled region in pixels of the finished image: left and top inside, right and bottom outside.

    glyph: True for a synthetic character, whose label the glyph reader knows. A label of the user or of another dataset
    never is one, even where it is a single letter.
    """

    label: str
    left: float
    top: float
    right: float
    bottom: float
    glyph: bool = False


@dataclass(frozen=True)
class Drawing:
    """A finished image, uint8 [h,w,3], with everything that was drawn into it on purpose."""

    pixels: np.ndarray
    boxes: tuple[Box, ...]


def finish(canvas: Image.Image, boxes: list[Box]) -> Drawing:
    """Reduce an oversampled canvas and its boxes (in canvas pixels) to the finished image."""
    k = OVERSAMPLING
    small = canvas.reduce(k)
    scaled = tuple(replace(b, left=b.left / k, top=b.top / k, right=b.right / k, bottom=b.bottom / k) for b in boxes)
    return Drawing(np.asarray(small, dtype=np.uint8).copy(), scaled)


def random_colour(rng: np.random.Generator, low: int = 0, high: int = 256) -> Colour:
    """A colour with each channel in [low, high)."""
    r, g, b = (int(v) for v in rng.integers(low, high, 3))
    return r, g, b


def shade(colour: Colour, gain: float) -> Colour:
    """The colour, darker (gain < 1) or lighter (> 1), clipped to a byte."""
    r, g, b = (int(min(255.0, max(0.0, v * gain))) for v in colour)
    return r, g, b


def background(rng: np.random.Generator, side: int) -> Image.Image:
    """A square canvas: a gradient between two colours, with cloudy texture of random strength and scale."""
    ends = np.array([random_colour(rng), random_colour(rng)], dtype=np.float64)
    angle = rng.uniform(0, 2 * np.pi)
    v, u = np.mgrid[0:64, 0:64] / 63.0 - 0.5
    ramp = np.clip(0.5 + u * np.cos(angle) + v * np.sin(angle), 0, 1)[..., None]
    pixels = ends[0] * (1 - ramp) + ends[1] * ramp
    canvas = _resized(pixels, side)
    for cells in (4, 16, 64):
        strength = rng.uniform(0, 40) * (16 / cells) ** 0.5
        canvas += _resized(rng.normal(0, strength, (cells, cells, 1)) * np.ones(3), side)
    return Image.fromarray(np.clip(canvas, 0, 255).astype(np.uint8))


def _resized(pixels: np.ndarray, side: int) -> np.ndarray:
    planes = [
        Image.fromarray(pixels[..., c].astype(np.float32)).resize((side, side), Image.Resampling.BICUBIC)
        for c in range(3)
    ]
    return np.stack([np.asarray(p, dtype=np.float64) for p in planes], axis=-1)
