"""From an image file's bytes to the 8-bit square that a preset measures, and back from a VAE's output to 8 bits."""

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from vaelens.evaluation.presets import Preset
from vaelens.images.drawing import Box
from vaelens.images.reading import decode_bytes, decode_plain
from vaelens.images.resizing import placement, resize_and_crop
from vaelens.images.writing import to_pixels


@dataclass(frozen=True)
class Prepared:
    """An image as a preset sees it: uint8 [side,side,3], and the boxes that are left in it, in its pixels."""

    pixels: np.ndarray
    boxes: tuple[Box, ...]


def prepare(data: bytes, name: str, boxes: tuple[Box, ...], preset: Preset) -> Prepared:
    """Decode, resize and crop as the preset has it. Raises BadInputError, naming it, where it can't be read."""
    pixels = decode_plain(data, name) if preset.reading == "plain" else to_pixels(decode_bytes(data, name).image)
    square = resize_and_crop(pixels, preset.side, preset.resize, name)
    height, width = pixels.shape[:2]
    where = placement(height, width, preset.side)
    mapped = (where.map(box) for box in boxes)
    return Prepared(square, tuple(box for box in mapped if box is not None))


def saved_originals(pixels: Tensor, preset: Preset) -> Tensor:
    """The originals, uint8 [b,3,h,w], as the preset's reconstructions are compared with them.

    Where the preset truncates, the originals went through x/127.5 - 1 and back like everything else, which lowers
    some values by one. The way there is in float64, cast to fp32, and the way back in fp32, as in the published code.
    """
    if preset.rounding == "half-up":
        return pixels
    levels = (torch.arange(256, dtype=torch.float64) / 127.5 - 1).float()
    table = ((levels + 1) / 2 * 255).to(torch.uint8).to(pixels.device)
    return table[pixels.long()]


def saved(image: Tensor, preset: Preset) -> Tensor:
    """Reconstructions [b,3,h,w] in [0,1] as the preset writes them: uint8, truncated or rounded half up."""
    levels = image.clamp(0, 1) * 255
    return (levels if preset.rounding == "truncate" else (levels + 0.5).floor()).to(torch.uint8)
