"""From an image's bytes to the square that is encoded: three rules with names, and the mix of them that a preset has.

| rule    | reading                    | resizing                                   | as in                           |
|---------|----------------------------|--------------------------------------------|---------------------------------|
| area    | the rules of `reading.py`  | Pillow's BOX, or BICUBIC where it enlarges | `finetune` with crops of [1, 1] |
| bicubic | the rules of `reading.py`  | Pillow's bicubic, antialiased              | the presets modern and offline  |
| opencv  | Pillow's `convert("RGB")`  | OpenCV's bilinear, not antialiased         | the preset card-2022            |

Each takes the middle square of the shorter side.
"""

import difflib
from dataclasses import asdict, dataclass
from typing import Any, Literal

import numpy as np

from vaelens.errors import UsageError
from vaelens.images.crops import Crops, random_square
from vaelens.images.drawing import Box
from vaelens.images.reading import decode_bytes, decode_plain
from vaelens.images.resizing import ResizeMethod, placement, resize_and_crop
from vaelens.images.writing import to_pixels

Reading = Literal["plain", "rules"]
Resizing = Literal["area"] | ResizeMethod
RULES: dict[str, tuple[Reading, Resizing]] = {
    "area": ("rules", "area"),
    "bicubic": ("rules", "pillow_bicubic"),
    "opencv": ("plain", "opencv_bilinear"),
}


@dataclass(frozen=True)
class Square:
    """The middle of an image: uint8 [side,side,3], with the boxes that are left in it, in its pixels.

    `of` is the height and width of the whole image.
    """

    pixels: np.ndarray
    boxes: tuple[Box, ...]
    of: tuple[int, int]


@dataclass(frozen=True)
class SizeRule:
    """How an image's file becomes a square of `side` pixels."""

    reading: Reading
    resize: Resizing
    side: int

    @classmethod
    def named(cls, name: str, side: int) -> "SizeRule":
        """The rule of that name in RULES. Raises UsageError for another name, or a side below 1."""
        if name not in RULES:
            near = difflib.get_close_matches(name, RULES, 1)
            hint = f"Did you mean {near[0]}?" if near else f"Known: {', '.join(RULES)}."
            raise UsageError(f"there is no size rule {name!r}. {hint}")
        if side < 1:
            raise UsageError(f"a square has a side of 1 pixel or more, not {side}.")
        return cls(*RULES[name], side)

    @property
    def name(self) -> str:
        """In RULES; else how it resizes and reads."""
        names = {how: name for name, how in RULES.items()}
        return names.get((self.reading, self.resize), f"{self.resize} ({self.reading})")

    def __str__(self) -> str:
        return f"{self.name} to {self.side}x{self.side}"

    def as_dict(self) -> dict[str, Any]:
        """For records."""
        return asdict(self)

    def square(self, data: bytes, name: str, boxes: tuple[Box, ...] = ()) -> Square:
        """Of an image's file. Raises BadInputError, naming the image, where it can't be read."""
        plain = self.reading == "plain"
        pixels = decode_plain(data, name) if plain else to_pixels(decode_bytes(data, name).image)
        height, width = pixels.shape[:2]
        if self.resize == "area":
            unused = np.random.default_rng(0)  # the middle square, neither mirrored nor recoloured, is the only one
            return Square(*random_square(pixels, boxes, Crops(self.side, (1, 1), 0, 0), unused), (height, width))
        square = resize_and_crop(pixels, self.side, self.resize, name)
        where = placement(height, width, self.side)
        mapped = (where.map(box) for box in boxes)
        return Square(square, tuple(box for box in mapped if box is not None), (height, width))
