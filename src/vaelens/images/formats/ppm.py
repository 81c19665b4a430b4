"""PPM and PGM files whose largest value isn't 255: Pillow decodes them one pixel at a time, this a strip at a time."""

from typing import BinaryIO

import numpy as np
from PIL import Image

STRIP = 2**20  # pixels


def is_slow(image: Image.Image) -> bool:
    """Whether Pillow would take seconds for a megapixel."""
    return image.format == "PPM" and _tile(image)[0] == "ppm"


def has_16_bits(image: Image.Image) -> bool:
    """Whether each channel has more than 8 bits."""
    return is_slow(image) and _tile(image)[3][1] > 255


def decode(image: Image.Image, stream: BinaryIO) -> Image.Image:
    """The pixels, of which each value v becomes v / largest * 255, rounded; grey with 16 bits * 65535.

    Raises EOFError for a file that is too short.
    """
    _, _, offset, (_, largest) = _tile(image)
    w, h = image.size
    channels = len(image.getbands())
    wide, grey = largest > 255, image.mode == "I"
    white = 65535 if grey else 255
    scaled = np.rint(np.arange(largest + 1) / largest * white).astype(np.uint16 if grey else np.uint8)
    pixels = np.empty((h, w * channels), dtype=scaled.dtype)
    stream.seek(offset)
    rows = max(1, STRIP // w)
    for top in range(0, h, rows):
        strip = pixels[top : top + rows]
        data = stream.read(strip.size * (1 + wide))
        if len(data) < strip.size * (1 + wide):
            raise EOFError("its data end before its last row")
        values = np.frombuffer(data, dtype=">u2" if wide else "u1").reshape(strip.shape)
        strip[:] = scaled[np.minimum(values, largest)]
    return Image.fromarray(pixels if channels == 1 else pixels.reshape(h, w, channels))


def _tile(image: Image.Image) -> tuple[str, tuple[int, ...], int, tuple[str, int]]:
    """What Pillow will decode: the decoder's name, the box, the offset, and the decoder's arguments."""
    return image.tile[0]  # pyright: ignore[reportAttributeAccessIssue, reportUnknownMemberType, reportUnknownVariableType]
