"""Synthetic faces with what decoders get wrong first: eyes with iris, pupil, highlight and lashes."""

from dataclasses import dataclass

import numpy as np
from PIL import Image, ImageDraw

from vaelens.images.drawing import (
    OVERSAMPLING,
    Box,
    Colour,
    Drawing,
    background,
    finish,
    random_colour,
    shade,
)

SKIN: tuple[Colour, ...] = ((255, 224, 196), (238, 190, 150), (205, 150, 110), (150, 100, 70), (95, 62, 45))
IRIS: tuple[Colour, ...] = ((90, 60, 35), (60, 110, 160), (80, 130, 70), (120, 120, 120), (40, 30, 25))


@dataclass(frozen=True)
class Head:
    """Where the head is (canvas pixels: centre and half axes) and its colours."""

    cx: float
    cy: float
    rx: float
    ry: float
    skin: Colour
    hair: Colour


@dataclass(frozen=True)
class Eye:
    """One eye: centre, half width and half height in canvas pixels; gaze in half widths, right positive."""

    x: float
    y: float
    width: float
    height: float
    gaze: float
    iris: Colour


def draw_face(seed: int, side: int = 256) -> Drawing:
    """One face, side x side pixels, fixed by its seed; boxes: face, eye (twice), iris (twice), mouth.

    The eyes are from about side/12 to side/6 wide, as in a portrait taken from some distance.
    """
    rng = np.random.default_rng((seed, 1))
    s = side * OVERSAMPLING
    canvas = background(rng, s)
    pen = ImageDraw.Draw(canvas)

    skin = shade(SKIN[int(rng.integers(len(SKIN)))], rng.uniform(0.85, 1.08))
    cx, cy = s * rng.uniform(0.42, 0.58), s * rng.uniform(0.45, 0.58)
    rx, ry = s * rng.uniform(0.24, 0.34), s * rng.uniform(0.32, 0.42)
    head = Head(cx, cy, rx, ry, skin, hair=random_colour(rng, 0, 120))

    _draw_hair(pen, rng, head)
    draw_skull(pen, head)
    boxes = [clipped("face", (cx - rx, cy - ry, cx + rx, cy + ry), s)]

    y, apart = cy - ry * rng.uniform(0.08, 0.2), rx * rng.uniform(0.4, 0.48)
    width, openness = rx * rng.uniform(0.24, 0.32), rng.uniform(0.42, 0.75)
    gaze, iris = rng.uniform(-0.2, 0.2), shade(IRIS[int(rng.integers(len(IRIS)))], rng.uniform(0.8, 1.3))
    for x in (cx - apart, cx + apart):
        boxes += draw_eye(canvas, rng, Eye(x, y, width, width * openness, gaze, iris), skin)
        brow = [(x - width, y - width * 0.85), (x, y - width * 1.15), (x + width, y - width * 0.9)]
        pen.line(brow, fill=head.hair, width=max(2, int(width * rng.uniform(0.12, 0.25))), joint="curve")

    draw_nose(pen, head, y)
    boxes.append(_draw_mouth(pen, rng, head, s))
    return finish(canvas, boxes)


def _draw_hair(pen: ImageDraw.ImageDraw, rng: np.random.Generator, head: Head) -> None:
    cx, cy, rx, ry = head.cx, head.cy, head.rx, head.ry
    pen.ellipse((cx - rx * 1.15, cy - ry * 1.2, cx + rx * 1.15, cy + ry * 0.6), fill=head.hair)
    length = rng.uniform(0.3, 1.2)
    for x in np.linspace(-1.12, 1.12, 60):
        top = cy - ry * 1.15 * (1 - min(1.0, x * x / 1.3)) ** 0.5
        end = (cx + x * rx * rng.uniform(0.98, 1.1), cy + ry * length * rng.uniform(0.8, 1.0))
        strand = shade(head.hair, rng.uniform(0.6, 1.6))
        pen.line([(cx + x * rx, top), end], fill=strand, width=int(rx * 0.05) + 1)


def draw_skull(pen: ImageDraw.ImageDraw, head: Head) -> None:
    cx, cy, rx, ry = head.cx, head.cy, head.rx, head.ry
    pen.rectangle((cx - rx * 0.4, cy + ry * 0.7, cx + rx * 0.4, cy + ry * 1.5), fill=shade(head.skin, 0.8))
    for step in range(12):  # shaded from the rim to the middle
        t = step / 11
        x, y = rx * (1 - 0.45 * t), ry * (1 - 0.45 * t)
        pen.ellipse((cx - x, cy - y, cx + x, cy + y), fill=shade(head.skin, 0.86 + 0.16 * t))


def draw_eye(canvas: Image.Image, rng: np.random.Generator, eye: Eye, skin: Colour) -> list[Box]:
    """Paint one eye; gives its box and its iris' box."""
    x, y, width, height = eye.x, eye.y, eye.width, eye.height
    radius = height * 0.95
    ix = x + eye.gaze * width
    ball = Image.new("RGB", canvas.size, (245, 243, 238))
    pen = ImageDraw.Draw(ball)
    pen.ellipse((ix - radius, y - radius, ix + radius, y + radius), fill=shade(eye.iris, 0.55))
    inner = radius * 0.88
    pen.ellipse((ix - inner, y - inner, ix + inner, y + inner), fill=eye.iris)
    for angle in np.linspace(0, 2 * np.pi, 28, endpoint=False):  # the iris' spokes
        tip = (ix + inner * np.cos(angle), y + inner * np.sin(angle))
        spoke = shade(eye.iris, rng.uniform(0.6, 1.7))
        pen.line([(ix, y), tip], fill=spoke, width=max(1, int(radius * 0.06)))
    pupil = radius * rng.uniform(0.35, 0.55)
    pen.ellipse((ix - pupil, y - pupil, ix + pupil, y + pupil), fill=(8, 8, 10))
    light, lx, ly = radius * 0.22, ix - radius * 0.3, y - radius * 0.35
    pen.ellipse((lx - light, ly - light, lx + light, ly + light), fill=(255, 255, 255))

    t = np.linspace(0, np.pi, 24)
    upper = [(x - width * np.cos(a), y - height * np.sin(a)) for a in t]
    lower = [(x + width * np.cos(a), y + height * 0.8 * np.sin(a)) for a in t]
    opening = Image.new("L", canvas.size, 0)
    ImageDraw.Draw(opening).polygon(upper + lower, fill=255)
    canvas.paste(ball, mask=opening)

    pen = ImageDraw.Draw(canvas)
    pen.line(lower, fill=shade(skin, 0.65), width=max(1, int(width * 0.05)))
    pen.line(upper, fill=(30, 20, 18), width=max(2, int(width * 0.11)), joint="curve")
    for a in t[2:-2:2]:  # lashes point away from the eye's middle
        root = (x - width * np.cos(a), y - height * np.sin(a))
        tip = (root[0] - width * 0.22 * np.cos(a), root[1] - width * 0.28)
        pen.line([root, tip], fill=(25, 18, 16), width=max(1, int(width * 0.045)))
    iris = (max(ix - radius, x - width), y - height, min(ix + radius, x + width), y + height * 0.8)
    side = canvas.width
    return [
        clipped("eye", (x - width, y - height, x + width, y + height * 0.8), side),
        clipped("iris", iris, side),
    ]


def draw_nose(pen: ImageDraw.ImageDraw, head: Head, eye_y: float) -> None:
    cx, rx, tip = head.cx, head.rx, eye_y + head.ry * 0.5
    bridge = [(cx - rx * 0.05, eye_y + head.ry * 0.08), (cx - rx * 0.14, tip), (cx + rx * 0.1, tip)]
    pen.line(bridge, fill=shade(head.skin, 0.72), width=max(2, int(rx * 0.03)), joint="curve")


def _draw_mouth(pen: ImageDraw.ImageDraw, rng: np.random.Generator, head: Head, side: int) -> Box:
    y = head.cy + head.ry * rng.uniform(0.5, 0.6)
    w, h = head.rx * rng.uniform(0.3, 0.45), head.ry * rng.uniform(0.04, 0.11)
    lips = (int(rng.integers(140, 210)), int(rng.integers(50, 100)), int(rng.integers(60, 110)))
    pen.ellipse((head.cx - w, y - h, head.cx + w, y + h), fill=lips)
    pen.line([(head.cx - w, y), (head.cx + w, y)], fill=shade(lips, 0.5), width=max(2, int(h * 0.25)))
    return clipped("mouth", (head.cx - w, y - h, head.cx + w, y + h), side)


def clipped(label: str, corners: tuple[float, float, float, float], side: int) -> Box:
    x0, y0, x1, y1 = (float(min(max(v, 0), side)) for v in corners)
    return Box(label, x0, y0, x1, y1)
