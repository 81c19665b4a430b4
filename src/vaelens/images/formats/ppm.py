"""PPM, PGM and PBM that Pillow decodes slowly, a strip at a time: plain text, and a largest value not 255."""

import re
from collections.abc import Generator
from itertools import chain
from typing import BinaryIO

import numpy as np
from PIL import Image

STRIP = 2**20  # pixels, or bytes of text
COMMENT, LINE_END = re.compile(rb"#[^\r\n]*[\r\n]"), re.compile(rb"[\r\n]")
MOST_DIGITS = 10


def is_slow(image: Image.Image) -> bool:
    """Whether Pillow would take seconds for a megapixel, or for a megabyte of comments."""
    return image.format == "PPM" and _tile(image)[0] in {"ppm", "ppm_plain"}


def has_16_bits(image: Image.Image) -> bool:
    """Whether each channel has more than 8 bits."""
    return is_slow(image) and _largest(image) > 255


def decode(image: Image.Image, stream: BinaryIO) -> Image.Image:
    """The pixels, of which each value v becomes v / largest * 255, rounded; grey with 16 bits * 65535.

    Raises EOFError for a file that is too short.
    """
    coder, _, offset, _ = _tile(image)
    largest = _largest(image)
    w, h = image.size
    channels = len(image.getbands())
    grey = image.mode == "I"
    white = 65535 if grey else 255
    scaled = np.rint(np.arange(largest + 1) / largest * white).astype(np.uint16 if grey else np.uint8)
    pixels = np.empty((h, w, channels), dtype=scaled.dtype)
    flat, place = pixels.reshape(-1), 0
    stream.seek(offset)
    read = _numbers if coder == "ppm" else _digits if image.mode == "1" else _words
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
    begun = b""
    for part in chain(_without_comments(stream), (b" ",)):  # which ends the last word
        text = begun + part
        words = text.split()
        begun = words.pop() if words and not text[-1:].isspace() else b""
        if any(len(word) > MOST_DIGITS for word in (begun, *words)):
            raise ValueError(f"a value of over {MOST_DIGITS} digits")
        words = words[:count]
        if not b"".join((b"0", *words)).isdigit():
            raise ValueError("a value that isn't a whole number in digits")
        values = np.array([b"0", *words]).astype(np.int64)[1:]
        if len(values) and values.max() > largest:
            raise ValueError(f"a value that isn't from 0 to {largest}")
        count -= len(values)
        yield values
        if count == 0:
            return


def _digits(stream: BinaryIO, count: int, _largest: int) -> Generator[np.ndarray]:
    """So many black (1 in the text, 0 here) or white pixels, with or without space between them."""
    for part in _without_comments(stream):
        values = np.frombuffer(b"".join(part.split()), dtype=np.uint8)[:count]
        if not np.isin(values, (ord("0"), ord("1"))).all():
            raise ValueError("a value that isn't 0 or 1")
        count -= len(values)
        yield (ord("1") - values).astype(np.intp)
        if count == 0:
            return


def _without_comments(stream: BinaryIO) -> Generator[bytes]:
    """The text, in parts."""
    in_comment = False
    while block := stream.read(STRIP):
        if in_comment:
            end = LINE_END.search(block)
            if end is None:
                continue
            block = block[end.end() :]
        line = max(block.rfind(b"\n"), block.rfind(b"\r")) + 1
        cut = block.find(b"#", line)  # behind each # before it comes a line end, so that none is looked for in vain
        in_comment = cut >= 0
        yield COMMENT.sub(b"", block[:cut] if in_comment else block)


def _largest(image: Image.Image) -> int:
    arguments = _tile(image)[3]
    return 1 if isinstance(arguments, str) else arguments[1]


def _tile(image: Image.Image) -> tuple[str, tuple[int, ...], int, str | tuple[str, int]]:
    """What Pillow will decode: the decoder's name, the box, the offset, and the decoder's arguments."""
    return image.tile[0]  # pyright: ignore[reportAttributeAccessIssue, reportUnknownMemberType, reportUnknownVariableType]
