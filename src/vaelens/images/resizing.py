"""From a decoded image to the square that is measured, and where a labelled box lands in it.

| method           | preset    | how the shortest side becomes `side`                                                  |
|------------------|-----------|-----------------------------------------------------------------------------|
| `opencv_bilinear`| card-2022 | OpenCV's bilinear on bytes: no antialiasing, fixed-point (cv2 does it)      |
| `pillow_bicubic` | modern    | Pillow's bicubic on bytes: antialiased                                      |

Both scale by side / shortest side, round the long side (half to even), and cut the centre square out at
(long - side) // 2. An image smaller than `side` is enlarged, as both protocols do.
"""

from dataclasses import dataclass
from importlib import import_module
from typing import Any, Literal, get_args

import numpy as np
from PIL import Image

from vaelens.errors import BadInputError, UsageError
from vaelens.images.drawing import Box
from vaelens.images.headers import MAX_PIXELS

ResizeMethod = Literal["opencv_bilinear", "pillow_bicubic"]
RESIZE_METHODS: tuple[ResizeMethod, ...] = get_args(ResizeMethod)
SMALLEST = 2.0  # pixels a side: below, a box says nothing about what it frames


@dataclass(frozen=True)
class Placement:
    """Where an image went: it was scaled by (scale_x, scale_y), and the crop's corner lies at (left, top) of that."""

    scale_x: float
    scale_y: float
    left: int
    top: int
    side: int

    def map(self, box: Box) -> Box | None:
        """A box of the source image in the crop's pixels, clipped to the crop.

        None if less than half of its area is left, or what is left is under 2 pixels wide or high.
        """
        left, right = (v * self.scale_x - self.left for v in (box.left, box.right))
        top, bottom = (v * self.scale_y - self.top for v in (box.top, box.bottom))
        inside = [float(min(max(v, 0), self.side)) for v in (left, top, right, bottom)]
        width, height = inside[2] - inside[0], inside[3] - inside[1]
        if min(width, height) < SMALLEST or 2 * width * height < (right - left) * (bottom - top):
            return None
        return Box(box.label, *inside, glyph=box.glyph)


def resized_size(height: int, width: int, side: int) -> tuple[int, int]:
    """Height and width after scaling the shortest side to `side`, each side rounded half to even."""
    scale = side / min(height, width)  # in this order, as the published script multiplies
    return round(height * scale), round(width * scale)


def placement(height: int, width: int, side: int) -> Placement:
    """Where an image of this size goes, by either method."""
    h, w = resized_size(height, width, side)
    return Placement(w / width, h / height, (w - side) // 2, (h - side) // 2, side)


def resize_and_crop(pixels: np.ndarray, side: int, method: ResizeMethod, name: str = "the image") -> np.ndarray:
    """A decoded image, uint8 [h,w,3], to the centre square, uint8 [side,side,3].

    Raises BadInputError, naming the image, for one so long and thin that it can't be scaled in memory;
    UsageError for an unknown method, a side below 1, or without OpenCV where it is needed.
    """
    if method not in RESIZE_METHODS or side < 1:
        known = ", ".join(RESIZE_METHODS)
        raise UsageError(f"Can't resize to {side} pixels by {method!r}. The methods are {known}, from 1 pixel up.")
    height, width = pixels.shape[:2]
    h, w = resized_size(height, width, side)
    if h * w > MAX_PIXELS:
        raise BadInputError(f"{name} is too long and thin ({width}x{height}) for a {side}x{side} crop. Leave it out.")
    if method == "opencv_bilinear":
        cv2 = opencv()
        scaled = cv2.resize(pixels, (w, h), interpolation=cv2.INTER_LINEAR)
    else:
        scaled = np.asarray(Image.fromarray(pixels).resize((w, h), Image.Resampling.BICUBIC))
    where = placement(height, width, side)
    top, left = where.top, where.left
    return np.ascontiguousarray(scaled[top : top + side, left : left + side])


def opencv() -> Any:
    """The module cv2. Raises UsageError where it isn't installed; cheap, so ask before long work."""
    try:
        return import_module("cv2")
    except ImportError as error:
        raise UsageError(
            "card-2022 resizes with OpenCV, which isn't installed. "
            "Run `pip install opencv-python-headless`, or choose another preset."
        ) from error
