"""The records of PyTorch's zip format: where the bytes of each lie, checked; nothing is unpacked.

PyTorch writes a plain zip whose members aren't compressed (caffe2/serialize/inline_container.h): NAME/data.pkl, the
storages NAME/data/KEY, and some notes. Whatever such a file never has, and tricks need, is refused: compression,
encryption, repeated names, members that overlap or whose own headers say something else than the directory, and bytes
before the first member or after the end.
"""

import re
import struct
import zlib
from collections.abc import Mapping
from dataclasses import dataclass

from vaelens.tensors.pickles.budget import Budget
from vaelens.tensors.pickles.byte_source import Mapped
from vaelens.tensors.pickles.refusals import UnsafePickleError, WrongPickleError

END = struct.Struct("<4s4H2LH")
ZIP64_LOCATOR = struct.Struct("<4sLQL")
ZIP64_END = struct.Struct("<4sQ2H2L4Q")
ENTRY = struct.Struct("<4s6H3L5H2L")
LOCAL = struct.Struct("<4s5H3L2H")
ZIP64_FIELD = 1
ENCRYPTED, SIZES_FOLLOW = 1, 8  # flags; PyTorch writes the sizes behind a member's bytes
IN_ZIP64 = 2**32 - 1
DATA, BYTE_ORDER = "data.pkl", "byteorder"
TORCHSCRIPT = re.compile(r"(?:.*/)?(?:constants\.pkl|code/.*)")
NO_ARCHIVE = "it isn't a whole zip archive: its directory is missing or cut"


@dataclass(frozen=True, slots=True)
class Record:
    """A member's bytes: `size` of them at `place`; their CRC-32, None in an archive written without."""

    place: int
    size: int
    crc: int | None


@dataclass(frozen=True, slots=True)
class Archive:
    """PyTorch's archive: its records by their names without the folder that they all lie in."""

    records: Mapping[str, Record]

    @property
    def data(self) -> Record:
        """The pickled table of tensors."""
        return self.records[DATA]


def read_archive(data: Mapped, budget: Budget) -> Archive:
    """The records of a mapped file.

    Raises WrongPickleError for a damaged one, or one that holds no pickle; UnsafePickleError for a TorchScript program.
    """
    found: dict[str, Record] = {}
    places: list[tuple[int, int]] = []
    begin, end, count = _directory(data)
    at = begin
    for _ in range(count):
        budget.spend(600)
        name, record, start, at = _entry(data, at, end)
        if name in found:
            raise WrongPickleError(f"its archive has two members called {name}")
        found[name] = record
        places.append((start, record.place + record.size))
    if at != end:
        raise WrongPickleError("its archive's directory is longer than its members")
    _check_places(sorted(places), begin)
    pickles = [name for name in found if name.rpartition("/")[2] == DATA]
    if len(pickles) != 1:
        held = f"with {len(pickles)} members called {DATA}" if pickles else f"without PyTorch's {DATA}: unpack it"
        raise WrongPickleError(f"it is a zip archive {held}")
    folder = pickles[0].removesuffix(DATA)
    if all(record.crc == 0 for record in found.values()):
        found = {name: Record(record.place, record.size, None) for name, record in found.items()}
    inner = {name.removeprefix(folder): record for name, record in found.items() if name.startswith(folder)}
    archive = Archive(inner)
    check_crc(data, archive.data, DATA)
    if BYTE_ORDER in inner and _bytes(data, inner[BYTE_ORDER], 16) != b"little":
        raise WrongPickleError("its numbers are in big-endian byte order")
    return archive


def check_crc(data: Mapped, record: Record, name: str) -> None:
    """Raises WrongPickleError where a record's bytes aren't those of its checksum."""
    if record.crc is None:
        return
    found, piece = 0, 2**20
    for at in range(record.place, record.place + record.size, piece):
        found = zlib.crc32(data[at : min(at + piece, record.place + record.size)], found)
    if found != record.crc:
        raise WrongPickleError(f"its checksum of {name} is wrong")


def _bytes(data: Mapped, record: Record, most: int) -> bytes:
    return data[record.place : record.place + min(record.size, most)]


def _directory(data: Mapped) -> tuple[int, int, int]:
    """Where the directory begins and ends, and the number of its entries, by the records at the file's very end."""
    at = data.rfind(b"PK\x05\x06", max(0, len(data) - END.size - 2**16))
    if at < 0 or at + END.size > len(data):
        raise WrongPickleError(NO_ARCHIVE)
    _, disk, first_disk, here, count, size, start, comment = END.unpack(data[at : at + END.size])
    if at + END.size + comment != len(data):
        raise WrongPickleError("bytes follow its archive's end, another file perhaps, or it is cut")
    locator = at - ZIP64_LOCATOR.size
    if locator >= ZIP64_END.size and data[locator : locator + 4] == b"PK\x06\x07":
        at = locator - ZIP64_END.size
        large = ZIP64_END.unpack(data[at:locator])
        if large[0] != b"PK\x06\x06":
            raise WrongPickleError("its archive's zip64 record is missing")
        disk, first_disk, here, count, size, start = large[4:]
    if disk or first_disk or here != count:
        raise WrongPickleError("it is one part of a split archive")
    if start + size != at or count * ENTRY.size > size:
        raise WrongPickleError("its archive's directory isn't where it says")
    return start, at, count


def _entry(data: Mapped, at: int, end: int) -> tuple[str, Record, int, int]:
    """The member at a place of the directory: its name and record, where it begins, where the next entry does."""
    if at + ENTRY.size > end:
        raise WrongPickleError("its archive's directory ends within an entry")
    held = ENTRY.unpack(data[at : at + ENTRY.size])
    signature, flags, method, crc, packed, size = held[0], held[3], held[4], *held[7:10]
    name_length, extra_length, comment_length, disk, start = *held[10:14], held[16]
    after_name = at + ENTRY.size + name_length
    following = after_name + extra_length + comment_length
    if signature != b"PK\x01\x02" or following > end or disk not in {0, 0xFFFF}:
        raise WrongPickleError("its archive's directory is damaged")
    raw = data[after_name - name_length : after_name]
    size, packed, start = _large(data[after_name : after_name + extra_length], (size, packed, start))
    name = _name(raw)
    if TORCHSCRIPT.fullmatch(name):
        raise UnsafePickleError("is a TorchScript program")
    if flags & ENCRYPTED or method or packed != size:
        what = "encrypted" if flags & ENCRYPTED else "compressed"
        raise WrongPickleError(f"its member {name} is {what}, which PyTorch's files never are (unpack an ordinary zip)")
    return name, _record(data, start, (raw, flags, crc, size)), start, following


def _record(data: Mapped, start: int, stated: tuple[bytes, int, int, int]) -> Record:
    """A member's bytes, by its own header, which must say the same as its directory."""
    raw, flags, crc, size = stated
    if start + LOCAL.size > len(data):
        raise WrongPickleError("a member of its archive isn't where the directory says")
    held = LOCAL.unpack(data[start : start + LOCAL.size])
    own_crc, own_packed, own_size = _large_local(data, start, held)
    place = start + LOCAL.size + held[9] + held[10]
    same = (own_crc, own_packed, own_size) == (crc, size, size) or (
        flags & SIZES_FOLLOW and (own_crc, own_packed, own_size) in {(0, 0, 0), (0, size, size)}
    )
    own_name = data[start + LOCAL.size : start + LOCAL.size + held[9]]
    if held[0] != b"PK\x03\x04" or held[2] != flags or held[3] != 0 or own_name != raw or not same:
        raise WrongPickleError(f"the own header of its member {_name(raw)} says something else than its directory")
    return Record(place, size, crc)


def _large_local(data: Mapped, start: int, held: tuple[int, ...]) -> tuple[int, int, int]:
    begin = start + LOCAL.size + held[9]
    size, packed, _ = _large(data[begin : begin + held[10]], (held[8], held[7], 0))
    return held[6], packed, size


def _large(extra: bytes, numbers: tuple[int, int, int]) -> tuple[int, int, int]:
    """The numbers size, packed size and place, those that don't fit into 32 bits from the zip64 field."""
    missing = [i for i, number in enumerate(numbers) if number == IN_ZIP64]
    found, at = list(numbers), 0
    while missing and at + 4 <= len(extra):
        kind, length = struct.unpack_from("<2H", extra, at)
        if kind == ZIP64_FIELD and length >= 8 * len(missing) and at + 4 + length <= len(extra):
            for i, number in zip(missing, struct.unpack_from(f"<{len(missing)}Q", extra, at + 4), strict=True):
                found[i] = number
            return found[0], found[1], found[2]
        at += 4 + length
    if missing:
        raise WrongPickleError("the zip64 numbers of a member of its archive are missing")
    return numbers


def _name(raw: bytes) -> str:
    try:
        return raw.decode("utf-8")
    except UnicodeDecodeError:
        raise WrongPickleError("the name of a member of its archive isn't UTF-8") from None


def _check_places(places: list[tuple[int, int]], end_of_members: int) -> None:
    """Raises WrongPickleError where members overlap each other or the directory, or something stands before them."""
    covered = 0
    for number, (start, end) in enumerate(places):
        if start < covered or end > end_of_members:
            raise WrongPickleError("members of its archive overlap, or it is incomplete")
        if not number and start:
            raise WrongPickleError(f"{start:,} bytes stand before its archive's first member, another file perhaps")
        covered = end
