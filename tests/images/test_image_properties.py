"""Any bytes that look like an image: pixels or our own error, soon, in memory that follows the pixels."""

import io
import struct
import zlib
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image, ImageCms
from PIL.PngImagePlugin import PngInfo

from support.properties import ROOM, Tally, commands, examples, run_command
from vaelens.images.headers import FORMATS, MAX_PIXELS
from vaelens.images.reading import decode_bytes, decode_file, decode_plain, read_size, read_text

PER_PIXEL = 16  # bytes
MODES = ("1", "L", "LA", "P", "RGB", "RGBA", "CMYK", "YCbCr", "LAB", "I;16", "I", "F")
NUMBERS = (0, 1, 2**8, 2**16 - 1, 2**16, 2**26, 2**31 - 1, 2**31, 2**32 - 1)


def _pixels() -> dict[str, Image.Image]:
    """A small image in every mode."""
    values = np.random.default_rng(0).integers(0, 256, (24, 40, 4), dtype=np.uint8) // 8 * 8
    rgba = Image.fromarray(values)
    rgb = rgba.convert("RGB")
    special = {
        "RGBA": rgba,
        "P": rgb.quantize(16),
        "LAB": Image.merge("LAB", rgb.split()),
        "I;16": Image.fromarray(values.view(np.uint16)[..., 0].copy()),
        "I": rgb.convert("L").convert("I"),
        "F": rgb.convert("L").convert("F"),
    }
    return {mode: special[mode] if mode in special else rgb.convert(mode) for mode in MODES}


def _options() -> list[dict[str, object]]:
    """What changes a file's structure: metadata, compression, frames."""
    text = PngInfo()
    text.add_text("packed", "a" * 50, zip=True)
    text.add_itxt("vaelens", "{}")
    exif = Image.Exif()
    exif[0x0112], exif[0x010E], exif[0x011A] = 6, "a description", 2.5
    return [
        {},
        {"exif": exif},
        {"icc_profile": ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()},
        {"pnginfo": text},
        {"progressive": True},
        {"lossless": True},
        {"save_all": True, "append_images": [Image.new("RGB", (40, 24), "red")]},
        *({"compression": name} for name in ("jpeg", "tiff_lzw", "tiff_adobe_deflate", "packbits")),
    ]


def _files() -> list[bytes]:
    """Files of every format that Pillow writes; of those that are read, in every mode and with every option in RGB."""
    Image.init()
    options = _options()
    found: dict[bytes, None] = {}
    for form in sorted(Image.SAVE):
        known = form in {*FORMATS, "MPO"}
        for mode, image in _pixels().items():
            for option in options if mode == "RGB" and known else options[: known or mode == "RGB"]:
                out = io.BytesIO()
                with suppress(Exception):  # this format doesn't take them
                    image.save(out, form, **(option | ({"speed": 10} if form == "AVIF" else {})))
                    found[out.getvalue()] = None
    return [data for data in found if data]


@pytest.fixture(scope="module")
def files() -> list[bytes]:
    return _files()


def _with_checksums(data: bytes) -> bytes:
    """A PNG whose checksums are right again, so that damage gets past them."""
    out, place = bytearray(data[:8]), 8
    while place + 12 <= len(data):
        end = place + 8 + int.from_bytes(data[place : place + 4], "big")
        if end + 4 > len(data):
            break
        out += data[place:end] + struct.pack(">I", zlib.crc32(data[place + 4 : end]))
        place = end + 4
    return bytes(out) + data[place:]


def _damaged(draw: Callable[[st.SearchStrategy[int]], int], data: bytes) -> bytes:
    """Cut, with bytes set, numbers of the header replaced, parts removed, repeated or put in."""

    def place(most: int = len(data)) -> int:
        return draw(st.integers(0, max(0, min(len(data), most) - 1)))

    changed = bytearray(data)
    kind = draw(st.integers(0, 5))
    if kind == 0:
        del changed[place() :]
    elif kind == 1:
        for _ in range(draw(st.integers(1, 8))):
            changed[place(400)] = draw(st.integers(0, 255))
    elif kind == 2:
        for _ in range(draw(st.integers(1, 20))):
            changed[place()] ^= 1 << draw(st.integers(0, 7))
    elif kind == 3:
        start = place(400)
        number = NUMBERS[draw(st.integers(0, len(NUMBERS) - 1))]
        changed[start : start + 4] = struct.pack("<I" if draw(st.integers(0, 1)) else ">I", number)
    elif kind == 4:
        start = place()
        del changed[start : start + draw(st.integers(1, 64))]
    else:
        start, source = place(), place()
        changed[start:start] = data[source : source + draw(st.integers(1, 64))]
    damaged = bytes(changed)
    return _with_checksums(damaged) if damaged.startswith(b"\x89PNG") and draw(st.integers(0, 3)) else damaged


def _allowed(read: Callable[[], tuple[int, int]]) -> int:
    """Bytes of memory for an image of this size, where its header tells one."""
    try:
        h, w = read()
    except Exception:  # noqa: BLE001 - then nothing is decoded
        return ROOM
    return PER_PIXEL * min(h * w, MAX_PIXELS) + ROOM


@pytest.mark.properties
def test_a_damaged_image_gives_pixels_or_our_own_error(files: list[bytes], tmp_path: Path) -> None:
    tally = Tally("images")
    path = tmp_path / "image"

    @examples(100, 500, 20_000)
    @given(st.data())
    def check(data: st.DataObject) -> None:
        content = _damaged(data.draw, files[data.draw(st.integers(0, len(files) - 1))])
        path.write_bytes(content)
        calls: tuple[Callable[[], object], ...] = (
            lambda: decode_file(path),
            lambda: decode_file(path, max_side=16),
            lambda: decode_plain(content, "image"),
            lambda: read_text(path),
            lambda: read_size(path),
        )
        tally.check(calls[data.draw(st.integers(0, len(calls) - 1))], _allowed(lambda: read_size(path)))
        tally.check(lambda: decode_bytes(content, "image"), _allowed(lambda: read_size(path)))

    check()
    print(tally)


@pytest.mark.properties
def test_a_damaged_image_ends_the_command_with_a_documented_code(files: list[bytes], tmp_path: Path) -> None:
    """Files spread over all formats, cut or with a number of their header replaced."""
    rng = np.random.default_rng(0)
    codes: dict[int, int] = {}
    for number in range(commands()):
        data = files[int(rng.integers(len(files)))]
        place = int(rng.integers(min(len(data), 300)))
        damaged = data[: len(data) // 2] if number % 3 == 0 else data[:place] + rng.bytes(4) + data[place + 4 :]
        (tmp_path / "photo.png").write_bytes(damaged)
        code = run_command("reconstruct", "photo.png", "-o", "out.html", "--max-side", 64, cwd=tmp_path)
        codes[code] = codes.get(code, 0) + 1
        (tmp_path / "out.html").unlink(missing_ok=True)
    print(f"reconstruct: exit codes {codes}")
