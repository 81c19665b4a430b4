"""PPM and PGM that Pillow decodes one value at a time, a strip at a time: plain text, and a largest value not 255."""

import re
from collections.abc import Generator
from typing import BinaryIO

import numpy as np
from PIL import Image

STRIP = 2**20  # pixels, or bytes of text
COMMENT, LINE_END = re.compile(rb"#[^\r\n]*[\r\n]"), re.compile(rb"[\r\n]")
MOST_DIGITS = 10


def is_slow(image: Image.Image) -> bool:
    """Whether Pillow would take seconds for a megapixel."""
    return image.format == "PPM" and image.mode != "1" and _tile(image)[0] in {"ppm", "ppm_plain"}


def has_16_bits(image: Image.Image) -> bool:
    """Whether each channel has more than 8 bits."""
    return is_slow(image) and _tile(image)[3][1] > 255


def decode(image: Image.Image, stream: BinaryIO) -> Image.Image:
    """The pixels, of which each value v becomes v / largest * 255, rounded; grey with 16 bits * 65535.

    Raises EOFError for a file that is too short.
    """
    coder, _, offset, (_, largest) = _tile(image)
    w, h = image.size
    channels = len(image.getbands())
    grey = image.mode == "I"
    white = 65535 if grey else 255
    scaled = np.rint(np.arange(largest + 1) / largest * white).astype(np.uint16 if grey else np.uint8)
    pixels = np.empty((h, w, channels), dtype=scaled.dtype)
    flat, place = pixels.reshape(-1), 0
    stream.seek(offset)
    read = _words if coder == "ppm_plain" else _numbers
    for values in read(stream, flat.size, largest):
        flat[place : place + len(values)] = scaled[values]
        place += len(values)
    if place < flat.size:
        raise EOFError("its data end before its last row")
    return Image.fromarray(pixels[..., 0] if channels == 1 else pixels)


def _numbers(stream: BinaryIO, count: int, largest: int) -> Generator[np.ndarray]:
    """So many binary values, of one or two bytes; larger ones than the largest count as that."""
    kind = np.dtype(">u2" if largest > 255 else "u1")
    while count > 0 and (data := stream.read(min(count, STRIP) * kind.itemsize)):
        values = np.frombuffer(data[: len(data) // kind.itemsize * kind.itemsize], dtype=kind)
        count -= len(values)
        yield np.minimum(values, largest)


def _words(stream: BinaryIO, count: int, largest: int) -> Generator[np.ndarray]:
    """So many values in plain text with comments. Raises ValueError for one that isn't from 0 to the largest."""
    begun, in_comment = b"", False
    while count > 0:
        block = stream.read(STRIP)
        if in_comment and block:
            end = LINE_END.search(block)
            if end is None:
                continue
            block, in_comment = block[end.end() :] or b" ", False
        text, hash_sign, _ = COMMENT.sub(b"", begun + block).partition(b"#")
        in_comment = bool(hash_sign)
        words = text.split()
        begun = words.pop() if block and words and not text[-1:].isspace() else b""
        if any(len(word) > MOST_DIGITS for word in (begun, *words)):
            raise ValueError(f"a value of over {MOST_DIGITS} digits")
        if not block and not words:
            return
        values = np.array([b"0", *words[:count]]).astype(np.int64)[1:]
        if len(values) and not 0 <= values.min() <= values.max() <= largest:
            raise ValueError(f"a value that isn't from 0 to {largest}")
        count -= len(values)
        yield values


def _tile(image: Image.Image) -> tuple[str, tuple[int, ...], int, tuple[str, int]]:
    """What Pillow will decode: the decoder's name, the box, the offset, and the decoder's arguments."""
    return image.tile[0]  # pyright: ignore[reportAttributeAccessIssue, reportUnknownMemberType, reportUnknownVariableType]
