"""Image files written by hand: what Pillow doesn't write, or writes only whole."""

import io
import struct
import zlib
from collections.abc import Sequence

import numpy as np
from PIL import Image

PNG = b"\x89PNG\r\n\x1a\n"


def saved(image: Image.Image, form: str, **options: object) -> bytes:
    out = io.BytesIO()
    image.save(out, form, **options)
    return out.getvalue()


def noise(h: int, w: int, seed: int = 0) -> Image.Image:
    return Image.fromarray(np.random.default_rng(seed).integers(0, 256, (h, w, 3), dtype=np.uint8))


def chunk(kind: bytes, data: bytes) -> bytes:
    """A PNG chunk with its checksum."""
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def png(
    width: int, height: int, rows: bytes, depth: int = 8, color: int = 2, interlace: int = 0, *, before: bytes = b""
) -> bytes:
    """A PNG of packed rows, each with its filter byte; `before` are chunks before the pixels."""
    header = struct.pack(">IIBBBBB", width, height, depth, color, 0, 0, interlace)
    return PNG + chunk(b"IHDR", header) + before + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")


def cut_jpeg(data: bytes, share: float) -> bytes:
    """A JPEG of which only the first part of the coded data is left, closed by an end marker."""
    start = data.index(b"\xff\xda")
    place = start + 30 + int((len(data) - start - 32) * share)
    return data[:place].rstrip(b"\xff") + b"\xff\xd9"


def tiff(
    size: tuple[int, int],
    bits: int,
    photometric: int,
    values: bytes,
    channels: int = 1,
    order: str = "<",
    **tags: Sequence[int],
) -> bytes:
    """An uncompressed TIFF in one strip, or one for each of its planes; `tags` are further ones, as t338=[1]."""
    w, h = size
    separate = tags.get("t284") == [2]
    strips = channels if separate else 1
    entries: dict[int, Sequence[int]] = {
        256: [w], 257: [h], 258: [bits] * channels, 259: [1], 262: [photometric], 277: [channels], 278: [h],
        279: [len(values) // strips] * strips,
    }  # fmt: skip
    entries |= {int(name[1:]): value for name, value in tags.items()} | {273: [0] * strips}
    place = 8 + 2 + 12 * len(entries) + 4
    wide = {273, 279}
    extra = sum(n for tag, v in entries.items() if (n := len(v) * (4 if tag in wide else 2)) > 4)
    entries[273] = [place + extra + i * len(values) // strips for i in range(strips)]
    directory, outside = struct.pack(order + "H", len(entries)), b""
    for tag in sorted(entries):
        kind, letter = (4, "I") if tag in wide else (3, "H")
        data = struct.pack(f"{order}{len(entries[tag])}{letter}", *entries[tag])
        head = struct.pack(order + "HHI", tag, kind, len(entries[tag]))
        if len(data) > 4:
            directory += head + struct.pack(order + "I", place + len(outside))
            outside += data
        else:
            directory += head + data.ljust(4, b"\0")
    start = b"II*\0" if order == "<" else b"MM\0*"
    return start + struct.pack(order + "I", 8) + directory + bytes(4) + outside + values
