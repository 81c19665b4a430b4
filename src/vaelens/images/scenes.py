"""Synthetic images of what a prompt of the small language describes: the training data of tiny-sd."""

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from vaelens.images.drawing import OVERSAMPLING, Box, Colour, Drawing, finish, shade
from vaelens.images.faces import SKIN, Eye, Head, clipped, draw_eye, draw_nose, draw_skull
from vaelens.images.prompts import Face, Letter, Scene

COLOURS: dict[str, Colour] = {
    "white": (242, 242, 242),
    "black": (18, 18, 20),
    "red": (212, 30, 38),
    "green": (28, 150, 60),
    "blue": (35, 80, 205),
    "yellow": (245, 205, 40),
}
IRIS: dict[str, Colour] = {
    "blue": (40, 110, 225),
    "green": (40, 165, 70),
    "brown": (125, 70, 25),
    "grey": (135, 138, 142),
}
HAIR: dict[str, Colour] = {
    "black": (26, 22, 24),
    "brown": (112, 64, 30),
    "red": (196, 66, 28),
    "blond": (232, 196, 104),
    "white": (226, 226, 230),
}
LIPS: Colour = (178, 52, 70)
INSIDE: Colour = (74, 16, 24)  # of an open mouth


def draw_scene(scene: Scene, seed: int, side: int = 256) -> Drawing:
    """The scene, side x side pixels; its seed fixes what the scene leaves open: place, size, skin, strength.

    Every attribute of the scene must be given. Boxes: face, eye (twice), iris (twice), mouth; or the letter.
    """
    rng = np.random.default_rng((seed, 3))
    s = side * OVERSAMPLING
    canvas = Image.new("RGB", (s, s), shade(COLOURS[scene.ground], rng.uniform(0.94, 1.04)))
    boxes = _letter(canvas, rng, scene) if isinstance(scene, Letter) else _face(canvas, rng, scene)
    return finish(canvas, boxes)


def _letter(canvas: Image.Image, rng: np.random.Generator, scene: Letter) -> list[Box]:
    s = canvas.width
    font = ImageFont.load_default(s * rng.uniform(0.8, 0.92))
    stroke = int(s * rng.uniform(0.014, 0.03))
    left, top, right, bottom = ImageDraw.Draw(canvas).textbbox((0, 0), scene.letter, font=font, stroke_width=stroke)
    x = s * rng.uniform(0.47, 0.53) - (left + right) / 2
    y = s * rng.uniform(0.47, 0.53) - (top + bottom) / 2
    ink = shade(COLOURS[scene.ink], rng.uniform(0.94, 1.04))
    ImageDraw.Draw(canvas).text((x, y), scene.letter, font=font, fill=ink, stroke_width=stroke)
    mask = Image.new("L", canvas.size)  # a typeface's box has room beside the glyph, which isn't the letter
    ImageDraw.Draw(mask).text((x, y), scene.letter, font=font, fill=255, stroke_width=stroke)
    left, top, right, bottom = mask.getbbox() or (0, 0, s, s)
    return [Box(scene.letter, left, top, right, bottom, glyph=True)]


def _face(canvas: Image.Image, rng: np.random.Generator, scene: Face) -> list[Box]:
    s = canvas.width
    pen = ImageDraw.Draw(canvas)
    skin = shade(SKIN[int(rng.integers(len(SKIN)))], rng.uniform(0.95, 1.03))
    cx, cy = s * rng.uniform(0.47, 0.53), s * rng.uniform(0.51, 0.55)
    rx, ry = s * rng.uniform(0.28, 0.32), s * rng.uniform(0.35, 0.39)
    head = Head(cx, cy, rx, ry, skin, hair=shade(HAIR[scene.hair], rng.uniform(0.94, 1.04)))

    _hair(pen, rng, head)
    draw_skull(pen, head)
    pen.chord((cx - rx, cy - ry, cx + rx, cy + ry), 205, 335, fill=head.hair)  # a fringe
    boxes = [clipped("face", (cx - rx, cy - ry, cx + rx, cy + ry), s)]
    y, apart, width = cy - ry * rng.uniform(0.08, 0.14), rx * 0.45, rx * rng.uniform(0.34, 0.38)
    openness = {"surprised": 0.85, "smiling": 0.62, "sad": 0.6, "serious": 0.62}[scene.mood]
    iris = shade(IRIS[scene.eyes], rng.uniform(0.95, 1.05))
    for side in (-1, 1):
        x = cx + side * apart
        boxes += draw_eye(canvas, rng, Eye(x, y, width, width * openness, 0.0, iris), skin)
        _brow(pen, scene.mood, side, Eye(x, y, width, width * openness, 0.0, iris), head.hair)
    draw_nose(pen, head, y)
    boxes.append(_mouth(pen, rng, scene.mood, head, s))
    return boxes


def _hair(pen: ImageDraw.ImageDraw, rng: np.random.Generator, head: Head) -> None:
    cx, cy, rx, ry = head.cx, head.cy, head.rx, head.ry
    length = cy + ry * rng.uniform(0.3, 0.9)
    pen.ellipse((cx - rx * 1.2, cy - ry * 1.2, cx + rx * 1.2, cy + ry * 0.9), fill=head.hair)
    pen.rounded_rectangle((cx - rx * 1.2, cy - ry * 0.1, cx + rx * 1.2, length), rx * 0.2, fill=head.hair)


def _brow(pen: ImageDraw.ImageDraw, mood: str, side: int, eye: Eye, hair: Colour) -> None:
    """One brow; its inner end is high in a sad face, and low in a serious one."""
    tilt = {"sad": 0.22, "serious": -0.16}.get(mood, 0.0) * eye.width
    x, width = eye.x, eye.width
    y = eye.y - width * (1.15 if mood == "surprised" else 0.95)
    ends = [(x - side * width * 0.9, y - tilt), (x, y - width * 0.12), (x + side * width * 0.9, y + tilt)]
    pen.line(ends, fill=shade(hair, 0.6), width=int(width * 0.2), joint="curve")


def _mouth(pen: ImageDraw.ImageDraw, rng: np.random.Generator, mood: str, head: Head, side: int) -> Box:
    x, y = head.cx, head.cy + head.ry * rng.uniform(0.54, 0.58)
    w, h, thick = head.rx * 0.42, head.ry * 0.16, max(2, int(head.ry * 0.075))
    if mood == "smiling":
        pen.chord((x - w, y - h * 1.8, x + w, y + h * 1.2), 15, 165, fill=(245, 243, 238))
        pen.arc((x - w, y - h * 1.8, x + w, y + h * 1.2), 10, 170, fill=LIPS, width=thick)
    elif mood == "sad":
        pen.arc((x - w * 0.9, y - h * 0.3, x + w * 0.9, y + h * 2.4), 195, 345, fill=LIPS, width=thick)
    elif mood == "surprised":
        pen.ellipse((x - w * 0.5, y - h * 1.1, x + w * 0.5, y + h * 1.5), fill=LIPS)
        pen.ellipse((x - w * 0.34, y - h * 0.8, x + w * 0.34, y + h * 1.2), fill=INSIDE)
    else:
        pen.rounded_rectangle((x - w * 0.75, y - thick / 2, x + w * 0.75, y + thick / 2), thick / 2, fill=LIPS)
    return clipped("mouth", (x - w, y - h * 1.8, x + w, y + h * 1.8), side)
