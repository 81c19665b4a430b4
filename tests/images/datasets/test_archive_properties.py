"""Property: whatever a tar, zip or parquet file says, only our own errors come of it, soon and in bounded memory.

VAELENS_EXAMPLES=whole .venv/bin/pytest -n0 -s tests/images/datasets/test_archive_properties.py
"""

import io
import json
import random
import tarfile
import zipfile
from collections import Counter
from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from support.images.stored_images import END, Entry, header, parquet, pax, raw_zip, stored
from support.properties import ROOM, Tally, commands, examples, run_command
from vaelens.images.datasets import open_dataset
from vaelens.images.writing import encode_png

pytestmark = pytest.mark.properties
SEEDS = st.integers(0, 2**48)
BLOCK = 512
IMAGES = [encode_png(np.full((4 + i, 4, 3), 40 * i, np.uint8)) for i in range(4)]
# What stands in the place of numbers, at the edges of their ranges: binary, and tar's octal digits and base 256.
NUMBERS = [n.to_bytes(size, "little") for size in (2, 4, 8) for n in (0, 1, 2 ** (8 * size) - 1, 2 ** (8 * size - 1))]
SIZES = [b"0" * 11 + b"\0", b"7" * 11 + b"\0", b"\xff" * 12, b"\x80" + b"\xff" * 11, b"-0000001000\0", b"9" * 12]
FLAGS = [b"0", b"\0", b"1", b"2", b"5", b"7", b"x", b"g", b"L", b"K", b"S", b"X", b"Z"]


def tars() -> list[bytes]:
    """As programs write them, in tarfile's three formats, and one with all that headers may say."""
    found: list[bytes] = []
    for form in (tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT):
        whole = io.BytesIO()
        with tarfile.open(fileobj=whole, mode="w", format=form, pax_headers={"comment": "global"}) as tar:
            for number, image in enumerate(IMAGES):
                folder = "a" if form == tarfile.USTAR_FORMAT else "long/" * 40
                for suffix, data in (("png", image), ("json", json.dumps({"aesthetic": number}).encode())):
                    info = tarfile.TarInfo(f"{folder}/{number}.{suffix}")
                    info.size = len(data)
                    tar.addfile(info, io.BytesIO(data))
        found.append(whole.getvalue())
    rich = pax(path="b.png", size="5") + header("b.png") + bytes(BLOCK) + header("l.png", kind=b"2")
    return [*found, stored("g", b"13 comment=x\n", b"g") + rich + stored("s.png", b"x", b"S") + END]


def zips() -> list[bytes]:
    found = [raw_zip(*(Entry(b"%d.png" % n, image) for n, image in enumerate(IMAGES)), comment=b"a comment")]
    for method in (zipfile.ZIP_DEFLATED, zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA):
        whole = io.BytesIO()
        with zipfile.ZipFile(whole, "w", method) as archive:
            for number, image in enumerate(IMAGES):
                with archive.open(f"in/{number}.png", "w", force_zip64=number == 0) as member:
                    member.write(image)
        found.append(whole.getvalue())
    return found


def changed(content: bytes, rng: random.Random, numbers: list[bytes], places: list[int]) -> bytes:
    """The content with some bytes, numbers or whole parts replaced, near `places` more often than elsewhere."""
    data = bytearray(content)
    for _ in range(rng.choice((1, 1, 1, 2, 3, 6))):
        at = rng.choice(places) + rng.randrange(60) if rng.random() < 0.7 else rng.randrange(len(data) + 1)
        at, length = min(at, len(data)), rng.choice((1, 4, 30, BLOCK, 5000))
        kind = rng.random()
        if kind < 0.45:
            data[at : at + 1] = bytes([rng.choice((0, 1, 0x7F, 0x80, 0xFF, rng.randrange(256)))])
        elif kind < 0.75:
            number = rng.choice(numbers)
            data[at : at + len(number)] = number
        elif kind < 0.82:
            del data[at : at + length]
        elif kind < 0.9:
            data[at:at] = data[at : at + length] * rng.choice((1, 2, 50))
        elif kind < 0.95:
            data[at:at] = bytes(length)
        else:
            del data[at:]
        if not data:
            break
    return bytes(data)


def changed_tar(content: bytes, rng: random.Random) -> bytes:
    """A tar whose headers were changed; mostly their checksums are right again, so that they are believed."""
    data = bytearray(content)
    starts = [at for at in range(0, len(data) - BLOCK, BLOCK) if data[at + 257 : at + 262] == b"ustar"]
    for at in rng.sample(starts, min(len(starts), rng.choice((0, 1, 1, 2, 3)))):
        field = rng.choice(((124, rng.choice(SIZES)), (156, rng.choice(FLAGS)), (0, b"../"), (482, b"\1"), (345, b"x")))
        data[at + field[0] : at + field[0] + len(field[1])] = field[1]
        data[at + 148 : at + 156] = b" " * 8
        data[at + 148 : at + 156] = b"%06o\0 " % sum(data[at : at + BLOCK])
    if rng.random() < 0.1:
        data += rng.choice((content, b"more", bytes(9000)))
    return changed(bytes(data), rng, SIZES, starts) if rng.random() < 0.6 or not starts else bytes(data)


def changed_zip(content: bytes, rng: random.Random) -> bytes:
    places = [at for mark in (b"PK\x01\x02", b"PK\x05\x06", b"PK\x06\x06") if (at := content.find(mark)) >= 0]
    data = changed(content, rng, NUMBERS, [0, *places, *places])
    return data + content if rng.random() < 0.05 else data


def changed_parquet(content: bytes, rng: random.Random) -> bytes:
    return changed(content, rng, NUMBERS, [0, len(content) - 8 - int.from_bytes(content[-8:-4], "little")])


def parquets(folder: Path) -> list[bytes]:
    columns: Mapping[str, list[object]] = {
        "image": [{"bytes": image, "path": "a.png"} for image in IMAGES],
        "aesthetic": [4.0, 5.0, 6.0, None],
    }
    return [parquet(folder / "made.parquet", dict(columns)).read_bytes()]


KINDS: dict[str, tuple[Callable[[Path], list[bytes]], Callable[[bytes, random.Random], bytes]]] = {
    "tar": (lambda _: tars(), changed_tar),
    "zip": (lambda _: zips(), changed_zip),
    "parquet": (parquets, changed_parquet),
}


@pytest.mark.parametrize("kind", KINDS)
def test_a_damaged_archive_ends_in_our_own_errors_soon_and_in_little_memory(tmp_path: Path, kind: str) -> None:
    make, change = KINDS[kind]
    bases, tally, path = make(tmp_path), Tally(f"{kind} files"), tmp_path / f"set.{kind}"
    for base in bases:
        path.write_bytes(base)
        assert tally.check(lambda: read_all(path, None), ROOM) == "fine"

    @examples(small=150, large=400, whole=2000)
    @given(SEEDS)
    def check(seed: int) -> None:
        rng = random.Random(seed)
        content = change(rng.choice(bases), rng)
        path.write_bytes(content)
        score = rng.choice((None, 5.0)) if kind != "zip" else None
        tally.check(lambda: read_all(path, score), int(1.2 * len(content)) + ROOM)

    check()
    print(tally)


def read_all(path: Path, score: float | None) -> None:
    data = open_dataset(path, min_aesthetic=score)
    for item in data.items:
        data.read(item)


@pytest.mark.slow
def test_damaged_archives_end_the_command_with_documented_codes(tmp_path: Path) -> None:
    made = {kind: KINDS[kind][0](tmp_path) for kind in ("tar", "zip")}
    codes: Counter[tuple[str, int]] = Counter()
    for seed in range(commands()):
        kind, rng = ("tar", "zip")[seed % 2], random.Random(seed)
        path = tmp_path / f"set.{kind}"
        path.write_bytes(KINDS[kind][1](rng.choice(made[kind]), rng))
        options = ("--preset", "offline", "--take", 1, "--skip-bad", "--offline", "-o", f"out{seed}")
        codes[kind, run_command("evaluate", path, "--vae", "tiny-ft-mse", *options, cwd=tmp_path)] += 1
    print(f"archives through the command: {dict(codes)}")
