"""Zips whose directories lie, whose members expand, and that other data surround: one sentence, in bounded memory."""

import bz2
import lzma
import zipfile
import zlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from support.images.stored_images import Entry, ids, raw_zip
from support.properties import MB, ROOM, Tally
from vaelens.errors import BadInputError
from vaelens.images.datasets import open_dataset

PIECE = 2**18  # what is unpacked at once
BOMB = bytes(60 * MB)


def deflate(data: bytes) -> bytes:
    packer = zlib.compressobj(1, zlib.DEFLATED, -15)
    return packer.compress(data) + packer.flush()


def zip_lzma(data: bytes, dictionary: int = 2**16) -> bytes:
    stream = lzma.compress(data, lzma.FORMAT_RAW, filters=[{"id": lzma.FILTER_LZMA1, "dict_size": 2**16, "preset": 0}])
    return b"\x09\x04\x05\x00" + bytes([93]) + dictionary.to_bytes(4, "little") + stream


PACKERS: dict[int, Callable[[bytes], bytes]] = {0: bytes, 8: deflate, 12: bz2.compress, 14: zip_lzma}


@pytest.mark.parametrize("method", [8, 12, 14])
def test_a_member_that_unpacks_to_more_than_it_says_takes_no_memory(tmp_path: Path, method: int) -> None:
    path = tmp_path / "a.zip"
    path.write_bytes(raw_zip(Entry(b"a.png", PACKERS[method](BOMB), method, size=100)))

    def opened() -> None:
        with pytest.raises(BadInputError, match=r"a\.zip: a\.png is damaged: it holds more than the 100 bytes"):
            open_dataset(path)

    Tally("zip").check(opened, ROOM)


def test_a_member_that_unpacks_to_a_thousand_times_its_size_is_refused_unread(tmp_path: Path) -> None:
    path = tmp_path / "a.zip"
    path.write_bytes(raw_zip(Entry(b"a.png", deflate(BOMB), 8, size=len(BOMB), crc=zlib.crc32(BOMB))))

    def opened() -> None:
        with pytest.raises(BadInputError, match=r"a\.png would unpack from .* to 60,000,000 bytes, as no image does"):
            open_dataset(path)

    Tally("zip").check(opened, ROOM)


def test_a_large_member_is_hashed_in_pieces(tmp_path: Path) -> None:
    """Its memory is that of some pieces, though it is intact and may be as large as it is."""
    data = np.random.default_rng(0).bytes(2 * MB) + bytes(37 * MB)
    path = tmp_path / "a.zip"
    path.write_bytes(raw_zip(Entry(b"a.png", deflate(data), 8, size=len(data), crc=zlib.crc32(data))))
    Tally("zip").check(lambda: open_dataset(path), 15 * MB)
    opened = open_dataset(path)
    assert opened.read(opened.items[0]) == data


def test_an_lzma_dictionary_is_no_larger_than_its_data(tmp_path: Path) -> None:
    path = tmp_path / "a.zip"
    data = b"some data" * 1000
    packed = zip_lzma(data, 2**32 - 1)
    path.write_bytes(raw_zip(Entry(b"a.png", packed, 14, size=len(data), crc=zlib.crc32(data))))
    Tally("zip").check(lambda: open_dataset(path), ROOM)
    path.write_bytes(raw_zip(Entry(b"a.png", packed[:4] + b"\xff" + packed[5:], 14, size=len(data))))
    with pytest.raises(BadInputError, match="its LZMA properties are wrong"):
        open_dataset(path)


@pytest.mark.parametrize("method", PACKERS)
@pytest.mark.parametrize("size", [0, PIECE, PIECE + 1])
def test_every_method_unpacks_at_the_edges_of_pieces(tmp_path: Path, method: int, size: int) -> None:
    noise = np.random.default_rng(0).bytes(size)
    with zipfile.ZipFile(tmp_path / "a.zip", "w", method) as archive:
        archive.writestr("noise.png", noise)
        archive.writestr("zeros.png", bytes(size))
    data = open_dataset(tmp_path / "a.zip")
    assert [data.read(item) for item in data.items] == [noise, bytes(size)]


WRONG = {
    "more-than-says": (raw_zip(Entry(b"a.png", b"12345", size=3)), "it holds more than the 3 bytes"),
    "less-than-says": (raw_zip(Entry(b"a.png", b"12345", size=9)), "it holds 5 of the 9 bytes"),
    "checksum": (raw_zip(Entry(b"a.png", b"12345", crc=1)), "its checksum is wrong"),
    "cut-deflate": (raw_zip(Entry(b"a.png", deflate(b"12345")[:-3], 8, size=5)), "it holds"),
    "damaged-deflate": (raw_zip(Entry(b"a.png", b"\xff" * 9, 8, size=5)), r"a\.png is damaged"),
    "damaged-bzip2": (raw_zip(Entry(b"a.png", b"\xff" * 9, 12, size=5)), r"a\.png is damaged"),
    "other-local-name": (raw_zip(Entry(b"a.png", local_name=b"b.png")), "its own header isn't what the directory says"),
    "other-local-method": (raw_zip(Entry(b"a.png", local_method=8)), "its own header isn't what the directory says"),
    "unknown-method": (raw_zip(Entry(b"a.png", method=93)), "compressed by a method that isn't supported"),
    "overlapping": (raw_zip(Entry(b"a.png", b"x" * 99), Entry(b"b.png", offset=0)), "its members overlap each other"),
    "behind-directory": (raw_zip(Entry(b"a.png", offset=10**6)), "a member isn't where the directory says"),
    "too-long": (raw_zip(Entry(b"a.png", packed=10**6)), "a member isn't where the directory says"),
    "more-members": (raw_zip(Entry(b"a.png"), count=0), "more than the 0 members that it says"),
    "fewer-members": (raw_zip(Entry(b"a.png"), Entry(b"b.png"), count=60), "too short for the 60 members"),
    "one-fewer-member": (raw_zip(Entry(b"a" * 99 + b".png"), count=2), "has 1 of the 2 members"),
    "directory-later": (raw_zip(Entry(b"a.png"), start=9), "bytes stand before the archive"),
    "directory-beyond": (raw_zip(Entry(b"a.png"), start=10**6), "its directory isn't where it says"),
    "no-zip64": (raw_zip(Entry(b"a.png", size=2**32 - 1)), "the zip64 numbers of a member are missing"),
    "short-zip64": (raw_zip(Entry(b"a.png", size=2**32 - 1, extra=b"\1\0\4\0abcd")), "zip64 numbers of a member"),
    "zip64-size": (raw_zip(Entry(b"a.png", size=2**32 - 1, extra=b"\1\0\x08\0" + b"\xff" * 8)), "an image's file may"),
    "part": (raw_zip(Entry(b"a.png"), disk=1), "one part of a split zip"),
    "followed": (raw_zip(Entry(b"a.png"), after=b"more"), "4 more bytes follow the archive's end"),
    "joined": (raw_zip(Entry(b"a.png")) + raw_zip(Entry(b"b.png")), "bytes stand before the archive, another file"),
    "preceded": (raw_zip(Entry(b"a.png"), before=raw_zip(Entry(b"b.png"))), "before the archive's first member"),
    "cut-comment": (raw_zip(Entry(b"a.png"), comment=b"hello")[:-2], "its comment is cut"),
    "no-zip": (b"<html>", "it isn't a zip, or is incomplete"),
    "gzip": (b"\x1f\x8b" + bytes(100), "it isn't a zip, or is incomplete"),
}


@pytest.mark.parametrize("name", WRONG)
def test_a_zip_that_lies_or_hides_something_is_refused(tmp_path: Path, name: str) -> None:
    whole, message = WRONG[name]
    (tmp_path / "a.zip").write_bytes(whole)
    with pytest.raises(BadInputError, match=message) as caught:
        open_dataset(tmp_path / "a.zip")
    assert "a.zip" in str(caught.value)


def test_a_comment_and_the_mark_of_a_split_that_was_none_are_no_other_data(tmp_path: Path) -> None:
    (tmp_path / "a.zip").write_bytes(raw_zip(Entry(b"a.png"), before=b"PK00", comment=b"PK\x05\x06 a comment"))
    assert ids(open_dataset(tmp_path / "a.zip")) == ["a.png"]


def test_more_members_than_images_could_be_are_refused_before_they_are_read(tmp_path: Path) -> None:
    count = 60_001
    part = raw_zip(Entry(b""))
    directory = part[part.index(b"PK\x01\x02") : part.index(b"PK\x05\x06")] * count
    end = b"PK\x06\x06" + (44).to_bytes(8, "little") + bytes(12) + count.to_bytes(8, "little") * 2
    end += len(directory).to_bytes(8, "little") + bytes(8) + b"PK\x06\x07" + bytes(16)
    end += b"PK\x05\x06" + bytes(4) + b"\xff" * 12 + bytes(2)
    (tmp_path / "a.zip").write_bytes(directory + end)

    def opened() -> None:
        with pytest.raises(BadInputError, match=r"holds 60,001 members in .* bytes, too few bytes"):
            open_dataset(tmp_path / "a.zip")

    Tally("zip").check(opened, 20 * MB)


def test_zip64_is_read_as_zipfile_writes_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(zipfile, "ZIP64_LIMIT", 10)
    monkeypatch.setattr(zipfile, "ZIP_FILECOUNT_LIMIT", 1)
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as archive:
        for name in "ab":
            archive.writestr(f"{name}.png", name.encode() * 99)
    data = open_dataset(tmp_path / "a.zip")
    assert [data.read(item) for item in data.items] == [b"a" * 99, b"b" * 99]


def test_names_with_control_characters_are_spelled_out(tmp_path: Path) -> None:
    names = [b"a\0.png", b"a\n.png", b"\x1b[31mred.png", "\u202egnp.png".encode(), b"\xff.png"]
    (tmp_path / "a.zip").write_bytes(raw_zip(*(Entry(name, flags=0x800) for name in names)))
    expected = ["a\\x00.png", "a\\n.png", "\\x1b[31mred.png", "\\u202egnp.png", "\\xff.png"]
    assert ids(open_dataset(tmp_path / "a.zip")) == sorted(expected)


def test_a_zip_tells_what_it_leaves_out(tmp_path: Path) -> None:
    names = ("a.png", "b.heic", "c.jxl", "d.jxl", "e.txt", "readme", ".hidden.png", "__MACOSX/._a.png", "in/")
    (tmp_path / "a.zip").write_bytes(raw_zip(*(Entry(name.encode()) for name in names)))
    assert open_dataset(tmp_path / "a.zip").notes == (
        "5 files left out: 2 .jxl, 1 .heic (formats that aren't read: convert them to PNG or JPEG); 1 .txt, "
        "1 without a suffix (not images)",
    )


def test_a_comment_may_hold_the_mark_of_an_archives_end_anywhere(tmp_path: Path) -> None:
    (tmp_path / "a.zip").write_bytes(
        raw_zip(Entry(b"a.png"), comment=b"PK\x05\x06" + b"a comment longer than a record")
    )
    assert ids(open_dataset(tmp_path / "a.zip")) == ["a.png"]
