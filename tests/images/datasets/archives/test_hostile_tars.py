"""Tars whose headers lie, chain or never end, and that other data follow; and all that honest writers produce."""

import io
import tarfile
from pathlib import Path

import pytest

from support.images.stored_images import END, header, ids, padded, pax, stored, tarred
from support.properties import ROOM, Tally
from vaelens.errors import BadInputError
from vaelens.images.datasets import open_dataset

IMAGE = stored("b.jpg", b"image")


def base256(number: int) -> bytes:
    """A size as it is written where it doesn't fit into octal digits."""
    return (b"\x80" if number >= 0 else b"\xff") + number.to_bytes(11, "big", signed=True)


def long_name(name: str, kind: bytes = b"L") -> bytes:
    return stored("././@LongLink", name.encode() + b"\0", kind)


WRONG = {
    "negative-size": (header("a.txt", raw_size=base256(-512)) + IMAGE, "gives a size of -512 bytes"),
    "negative-image": (header("a.jpg", raw_size=base256(-512)) + IMAGE, "gives a size of -512 bytes"),
    "negative-extended": (header("a", raw_size=base256(-512), kind=b"x") + IMAGE, "gives a size of -512 bytes"),
    "huge-size": (header("a.jpg", raw_size=base256(2**80)) + IMAGE, "an image's file may have"),
    "no-size": (header("a.jpg", raw_size=b"12z45678901\0") + IMAGE, "no header at byte 0"),
    "pax-digits": (stored("p", b"9" * 200_000, b"x") + IMAGE, "the extended header before byte 200,704 is damaged"),
    "pax-size-digits": (pax(size="9" * 5000) + IMAGE, "gives a size that isn't a number"),
    "pax-size-negative": (pax(size="-512") + IMAGE, "gives a size that isn't a number"),
    "pax-size-word": (pax(size="²") + IMAGE, "gives a size that isn't a number"),
    "beyond-the-end": (header("a.txt", 10**6) + IMAGE, r"it is incomplete: 'a\.txt' should end at byte 1,000,960"),
    "pax-size-beyond": (pax(size="999999999999") + IMAGE, "an image's file may have"),
    "pax-without-equals": (stored("p", b"8 path1\n", b"x") + IMAGE, "is damaged"),
    "pax-of-other-length": (stored("p", b"99 path=a\n", b"x") + IMAGE, "is damaged"),
    "pax-of-no-length": (stored("p", b"0 path=a\n", b"x") + IMAGE, "is damaged"),
    "chained-names": (long_name("n") * 3000 + IMAGE, "more than 8 extended headers follow each other"),
    "chained-links": (long_name("n", b"K") * 3000 + IMAGE, "more than 8 extended headers follow each other"),
    "chained-pax": (pax(comment="n") * 3000 + IMAGE, "more than 8 extended headers follow each other"),
    "chained-global": (stored("p", b"10 path=a\n", b"g") * 3000 + IMAGE, "more than 8 extended headers"),
    "long-name": (long_name("n" * 2**20) + IMAGE, "have more than 1,048,576 bytes"),
    "claimed-name": (header("a", raw_size=base256(2**40), kind=b"L") + IMAGE, "have more than 1,048,576 bytes"),
    "cut-name": (header("a", 9000, kind=b"L") + IMAGE, "ends within an extended header"),
    "name-of-nothing": (long_name("n"), "ends with the name of a member that isn't there"),
    "sparse-map": (header("a.jpg", kind=b"S")[:482] + b"\1" + bytes(29) + b"\1" * 3_000_000, "no header at byte 0"),
    "joined": (IMAGE + END + stored("c.jpg", b"more") + END, "data follows its end at byte 1,024, another tar perhaps"),
    "followed": (IMAGE + END + bytes(9000) + b"x", "data follows its end"),
}


@pytest.mark.parametrize("name", WRONG)
def test_a_tar_that_lies_or_is_followed_by_data_is_refused_soon(tmp_path: Path, name: str) -> None:
    whole, message = WRONG[name]
    path = tmp_path / "a.tar"
    path.write_bytes(whole + END)

    def opened() -> None:
        with pytest.raises(BadInputError, match=message) as caught:
            open_dataset(path)
        assert "a.tar" in str(caught.value)

    Tally("tar").check(opened, ROOM)


@pytest.mark.parametrize("form", [tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])
def test_headers_are_read_as_tarfile_reads_them(tmp_path: Path, form: int) -> None:
    from vaelens.images.datasets.archives import tar_headers

    names = ["a.jpg", f"{'d' * 90}/{'e' * 60}.jpg"]
    names += [] if form == tarfile.USTAR_FORMAT else ["ü 🎉/" + "n" * 400 + ".png", "x" * 101]
    with tarfile.open(tmp_path / "a.tar", "w", format=form, pax_headers={"comment": "c"}) as tar:
        for number, name in enumerate(names):
            info = tarfile.TarInfo(name)
            info.size = 300 * number
            tar.addfile(info, io.BytesIO(b"x" * info.size))
            info = tarfile.TarInfo(f"{number}.link")
            info.type, info.linkname = tarfile.SYMTYPE, "l" * (90 if form == tarfile.USTAR_FORMAT else 300)
            tar.addfile(info)
    with tarfile.open(tmp_path / "a.tar") as tar:
        expected = [(m.name, m.offset_data, m.size) for m in tar if m.isreg()]
    found = [(m.name, m.offset, m.size) for m in tar_headers.members(tmp_path / "a.tar") if m.kind == "file"]
    assert found == expected


def test_sizes_in_base_256_and_in_extended_headers_are_read(tmp_path: Path) -> None:
    whole = header("a.jpg", raw_size=base256(5)) + padded(b"first")
    whole += pax(size="6", path="c/b.jpg") + header("b.jpg", 0) + padded(b"second")
    whole += long_name("d.jpg") + stored("cut", b"third")
    (tmp_path / "a.tar").write_bytes(whole + END)
    data = open_dataset(tmp_path / "a.tar")
    assert ids(data) == ["a.tar/a", "a.tar/c/b", "a.tar/d"]
    assert [data.read(item) for item in data.items] == [b"first", b"second", b"third"]


def test_images_that_are_links_or_sparse_are_left_out_and_counted(tmp_path: Path) -> None:
    sparse = header("s.jpg", 512, b"S")
    more = bytearray(sparse)
    more[482] = 1
    more[148:156] = b" " * 8
    more[148:156] = b"%06o\0 " % sum(more)
    whole = stored("a.jpg", b"image") + header("b.jpg", kind=b"2") + header("c.jpg", kind=b"1") + sparse + bytes(512)
    whole += bytes(more) + bytes(504) + b"\1" + bytes(7) + bytes(512) + bytes(512)
    whole += pax(GNU__sparse__major="1", GNU__sparse__name="real.jpg") + stored("t.jpg", b"map")
    whole += stored("e.heic", b"x") + stored("e.txt", b"x") + stored("last.jpg", b"image")
    (tmp_path / "a.tar").write_bytes(whole + END)
    data = open_dataset(tmp_path / "a.tar")
    assert ids(data) == ["a.tar/a", "a.tar/last"]
    assert data.notes == (
        "6 files left out: 2 stored as a link; 3 stored as a sparse file; 1 .heic (formats that aren't read: convert "
        "them to PNG or JPEG)",
    )


def test_control_characters_in_names_are_spelled_out(tmp_path: Path) -> None:
    tarred(tmp_path / "a.tar", {"a\n.jpg": b"1", "\x1b[31m.jpg": b"2", "\x7f\u2028.jpg": b"3"})
    assert ids(open_dataset(tmp_path / "a.tar")) == ["a.tar/\\x1b[31m", "a.tar/\\x7f\\u2028", "a.tar/a\\n"]
