"""A zip's directory, read entry by entry and checked against the file, and the data of one member.

zipfile holds all entries in memory, takes what a damaged directory says, and unpacks what a member's bytes expand to.
"""

import re
import struct
from array import array
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

import numpy as np

from vaelens.images.datasets.archives.unpacking import unpacked
from vaelens.images.datasets.items import PIECE, check_count

END = struct.Struct(
    "<4s4H2LH"
)  # PK56, disks, entries here and in all, the directory's size and place, comment's length
ZIP64_LOCATOR = struct.Struct("<4sLQL")
ZIP64_END = struct.Struct("<4sQ2H2L4Q")
ENTRY = struct.Struct("<4s6H3L5H2L")
LOCAL = struct.Struct("<4s5H3L2H")
MAX_COMMENT = 2**16 - 1
IN_ZIP64 = 2**32 - 1  # in the place of a number that stands in a zip64 field
SPANNED = (b"PK00", b"PK\x07\x08")  # how a zip begins that might have been split, and wasn't
LOCKED, UTF8 = 1, 0x800  # flags


class WrongZipError(ValueError):
    """What is wrong with a zip, in words that follow its path."""


@dataclass(frozen=True, slots=True)
class Member:
    """One file in a zip: `packed` bytes behind its local header at `offset`, `size` bytes when unpacked by `method`."""

    name: str
    offset: int
    packed: int
    size: int
    crc: int
    method: int
    locked: bool


@dataclass(frozen=True)
class _End:
    """The directory's place: `count` entries in the `size` bytes from `start` on."""

    count: int
    start: int
    size: int


def members(path: Path) -> Iterator[Member]:
    """The members in the directory's order, folders left out; the checks of the whole come after the last.

    Raises WrongZipError for a directory that is damaged, hides or repeats parts of the file, or has a file before or
    after it; BadInputError for more members than there can be; OSError.
    """
    with path.open("rb") as file:
        total = file.seek(0, 2)
        end = _end(file, total)
        check_count(end.count, "members", total, str(path))
        file.seek(end.start)
        left, starts, ends = end.size, array("Q"), array("Q")
        while left > 0:
            if len(starts) == end.count:
                raise WrongZipError(f"its directory has more than the {end.count:,} members that it says")
            member, length, used = _entry(file, left)
            left -= used
            if member.offset + length > end.start:
                raise WrongZipError("it is incomplete, or a member isn't where the directory says")
            starts.append(member.offset)
            ends.append(member.offset + length)
            if not member.name.endswith("/"):
                yield member
        if len(starts) < end.count:
            raise WrongZipError(f"its directory has {len(starts):,} of the {end.count:,} members that it says")
        _check_places(file, np.array(starts), np.array(ends), end.start)


def data(path: Path, member: Member) -> Iterator[bytes]:
    """A member's data in pieces, checked against its size and CRC. Raises one of `unpacking.DAMAGE`."""
    with path.open("rb") as file:
        file.seek(member.offset)
        head = LOCAL.unpack(_exactly(file, LOCAL.size))
        signature, flags, method, name, extra = head[0], head[2], head[3], head[9], head[10]
        if signature != b"PK\x03\x04" or _name(_exactly(file, name), flags) != member.name or method != member.method:
            raise ValueError("its own header isn't what the directory says")
        file.seek(extra, 1)
        yield from unpacked(_packed(file, member.packed), method, member.size, member.crc)


def _packed(file: BinaryIO, size: int) -> Iterator[bytes]:
    while size > 0:
        piece = _exactly(file, min(size, PIECE))
        size -= len(piece)
        yield piece


def _exactly(file: BinaryIO, size: int) -> bytes:
    found = file.read(size)
    if len(found) < size:
        raise WrongZipError("it is incomplete")
    return found


def _end(file: BinaryIO, total: int) -> _End:
    """The record at the very end of the file, which says where the directory is."""
    file.seek(max(0, total - END.size - MAX_COMMENT))
    tail = file.read()
    places = [place for place in _places(tail, b"PK\x05\x06") if len(tail) - place >= END.size]
    if not places:
        raise WrongZipError("it isn't a zip, or is incomplete: the directory at its end is missing")
    # A comment may hold the four bytes too: then what follows them isn't the length of what is left.
    fitting = (place for place in places if place + END.size + END.unpack_from(tail, place)[-1] == len(tail))
    place = next(fitting, places[0])
    _, disk, first_disk, here, count, size, start, comment = END.unpack_from(tail, place)
    extra = len(tail) - place - END.size - comment
    if extra > 0:
        raise WrongZipError(f"{extra:,} more bytes follow the archive's end, another file perhaps")
    if extra < 0:
        raise WrongZipError("it is incomplete: its comment is cut")
    at = total - len(tail) + place
    if disk or first_disk or here != count:
        raise WrongZipError("it is one part of a split zip: join the parts first")
    if at >= ZIP64_LOCATOR.size + ZIP64_END.size:
        file.seek(at - ZIP64_LOCATOR.size - ZIP64_END.size)
        large = ZIP64_END.unpack(file.read(ZIP64_END.size))
        if file.read(4) == b"PK\x06\x07":
            if large[0] != b"PK\x06\x06":
                raise WrongZipError("its zip64 record is missing")
            at -= ZIP64_LOCATOR.size + ZIP64_END.size
            count, size, start = large[7], large[8], large[9]
    if start + size > at:
        raise WrongZipError("its directory isn't where it says")
    if start + size < at:
        raise WrongZipError(f"{at - start - size:,} bytes stand before the archive, another file perhaps")
    if count * ENTRY.size > size:
        raise WrongZipError(f"its directory is too short for the {count:,} members that it says")
    return _End(count, start, size)


def _places(tail: bytes, signature: bytes) -> list[int]:
    """Where the signature stands, the last place first."""
    return [match.start() for match in re.finditer(re.escape(signature), tail)][::-1]


def _entry(file: BinaryIO, left: int) -> tuple[Member, int, int]:
    """The next member, the least that it takes in the file, and the bytes of its entry."""
    if left < ENTRY.size:
        raise WrongZipError("its directory ends within an entry")
    found = ENTRY.unpack(_exactly(file, ENTRY.size))
    flags, method, crc, packed, size, disk, offset = (found[i] for i in (3, 4, 7, 8, 9, 13, 16))
    lengths = found[10:13]
    used = ENTRY.size + sum(lengths)
    if found[0] != b"PK\x01\x02" or used > left:
        raise WrongZipError("its directory is damaged")
    raw, extra, _ = (_exactly(file, length) for length in lengths)
    large = _zip64(extra, [size, packed, offset])
    size, packed, offset = large
    if disk:
        raise WrongZipError("it is one part of a split zip: join the parts first")
    member = Member(_name(raw, flags), offset, packed, size, crc, method, bool(flags & LOCKED))
    return member, LOCAL.size + len(raw) + packed, used


def _zip64(extra: bytes, numbers: list[int]) -> list[int]:
    """The numbers, those that don't fit into 32 bits from the entry's zip64 field."""
    places = [i for i, number in enumerate(numbers) if number == IN_ZIP64]
    at = 0
    while places and at + 4 <= len(extra):
        kind, length = struct.unpack_from("<2H", extra, at)
        if kind == 1:
            if length < 8 * len(places) or at + 4 + 8 * len(places) > len(extra):
                break
            for i, number in zip(places, struct.unpack_from(f"<{len(places)}Q", extra, at + 4), strict=True):
                numbers[i] = number
            return numbers
        at += 4 + length
    if places:
        raise WrongZipError("the zip64 numbers of a member are missing")
    return numbers


def _name(raw: bytes, flags: int) -> str:
    """A member's name; bytes that aren't of its character set stay as surrogates, for `clean_id` to spell out."""
    return raw.decode("utf-8", "surrogateescape") if flags & UTF8 else raw.decode("cp437")


def _check_places(file: BinaryIO, starts: np.ndarray, ends: np.ndarray, directory: int) -> None:
    """Raises WrongZipError where members overlap, or something stands before the first."""
    order = np.argsort(starts, kind="stable")
    starts, ends = starts[order], ends[order]
    if (ends[:-1] > starts[1:]).any():
        raise WrongZipError("its members overlap each other")
    first = int(starts[0]) if len(starts) else directory
    file.seek(0)
    if first > len(SPANNED[0]) or (first and file.read(first) not in SPANNED):
        raise WrongZipError(f"{first:,} bytes stand before the archive's first member, another file perhaps")
