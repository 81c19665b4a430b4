"""Synthetic letters: lines of text at sizes where decoders begin to fail, each glyph with its box."""

import string

import numpy as np
from PIL import ImageDraw, ImageFont

from vaelens.images.drawing import OVERSAMPLING, Box, Drawing, background, finish, random_colour

GLYPHS = string.ascii_letters + string.digits + "&?!%+"


def draw_letters(seed: int, side: int = 256, height: int | None = None) -> Drawing:
    """A page of random letters, side x side pixels, fixed by its seed; one box per glyph, labelled with it.

    `height` is the type size in pixels; without it each line has its own, from side/20 to side/5.
    The typeface is the one inside Pillow (Aileron), in random weights and colours.
    """
    rng = np.random.default_rng((seed, 2))
    s = side * OVERSAMPLING
    canvas = background(rng, s)
    pen = ImageDraw.Draw(canvas)
    boxes: list[Box] = []
    y = s * rng.uniform(0.02, 0.08)
    while y < s:
        size = float(height or side * rng.uniform(0.05, 0.2)) * OVERSAMPLING
        boxes += _line(pen, rng, y, size, s)
        y += size * rng.uniform(1.1, 1.5)
    return finish(canvas, boxes)


def _line(pen: ImageDraw.ImageDraw, rng: np.random.Generator, y: float, size: float, side: int) -> list[Box]:
    """One line of type with its top at y; glyphs that would leave the canvas aren't drawn."""
    font = ImageFont.load_default(size)
    stroke = int(size * rng.choice([0.0, 0.0, 0.03, 0.06]))
    dark = bool(rng.random() < 0.5)
    ink = random_colour(rng, 0, 90) if dark else random_colour(rng, 165, 256)
    plate = random_colour(rng, 165, 256) if dark else random_colour(rng, 0, 90)
    if rng.random() < 0.7:  # a plate behind the line, so that it can be read on any background
        pen.rectangle((0, y - size * 0.05, side, y + size * 1.2), fill=plate)
    boxes: list[Box] = []
    x = side * rng.uniform(0.01, 0.1)
    while True:
        glyph = GLYPHS[int(rng.integers(len(GLYPHS)))]
        left, top, right, bottom = pen.textbbox((x, y), glyph, font=font, stroke_width=stroke)
        if right > side or bottom > side:
            return boxes
        pen.text((x, y), glyph, font=font, fill=ink, stroke_width=stroke)
        boxes.append(Box(glyph, left, top, right, bottom, glyph=True))
        x = right + size * rng.uniform(0.02, 0.5)
