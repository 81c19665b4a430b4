"""A tar's members from its headers, in one bounded pass.

tarfile goes on for ever where a size is negative, calls itself for each extended header, holds all that such a header
claims, takes a damaged header for the end, and doesn't look behind the end.
"""

import tarfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

BLOCK = 512  # a tar's unit
MAX_EXTENDED = 2**20  # bytes of the extended headers of one member: names, and what file systems note beside
MAX_CHAINED = 8  # extended headers of one member; writers use three at most
MAX_DIGITS = 20  # of a number in an extended header
PIECE = 2**20
GNU_NAME, GNU_LINK, PAX, SOLARIS_PAX, PAX_GLOBAL = b"L", b"K", b"x", b"X", b"g"
EXTENDED = {GNU_NAME, GNU_LINK, PAX, SOLARIS_PAX, PAX_GLOBAL}
NO_DATA = {tarfile.LNKTYPE, tarfile.SYMTYPE, tarfile.CHRTYPE, tarfile.BLKTYPE, tarfile.DIRTYPE, tarfile.FIFOTYPE}
REGULAR = {tarfile.REGTYPE, tarfile.AREGTYPE, tarfile.CONTTYPE}
SPARSE = "GNU.sparse."
USED = {"path", "size", "GNU.sparse.name"}  # of what an extended header may say
LONGER, MORE = 482, 504  # where a sparse member's header says that a further block of its map follows


class WrongTarError(ValueError):
    """What is wrong with a tar, in words that follow its path."""


@dataclass(frozen=True, slots=True)
class TarMember:
    """`size` stored bytes from `offset` on. kind: file, folder, link, sparse file, or device."""

    name: str
    offset: int
    size: int
    kind: str


def members(path: Path) -> Iterator[TarMember]:
    """The members in order; what follows the last is checked after it.

    Raises WrongTarError for a damaged or incomplete tar, for extended headers beyond MAX_EXTENDED and MAX_CHAINED,
    and where anything but zeros follows the archive's end; OSError.
    """
    with path.open("rb") as file:
        total = file.seek(0, 2)
        at, everywhere = 0, dict[str, str]()
        while (found := _next(file, at, total, everywhere)) is not None:
            member, at = found
            yield member
            if at > total:
                raise WrongTarError(
                    f"it is incomplete: {member.name!r} should end at byte {at:,}, and the file at {total:,}"
                )
        if total - at < BLOCK:
            raise WrongTarError("it doesn't end as a tar does")
        _check_rest(file, at, total)


def _next(file: BinaryIO, at: int, total: int, everywhere: dict[str, str]) -> tuple[TarMember, int] | None:
    """The member whose headers begin at `at`, and where the next ones begin; None at the end.

    `everywhere` are the global extended headers up to here, to which this adds.
    """
    own, gnu_name, extended = dict[str, str](), None, 0
    for _ in range(MAX_CHAINED + 1):
        file.seek(at)
        block = file.read(BLOCK)
        if not block.strip(b"\0"):
            if own or gnu_name:
                raise WrongTarError("it ends with the name of a member that isn't there")
            return None
        header = _header(block, at)
        at += BLOCK
        if header.type not in EXTENDED:
            return _member(file, header, {**everywhere, **own}, gnu_name, at)
        extended += header.size
        if extended > MAX_EXTENDED:
            raise WrongTarError(f"the extended headers before byte {at:,} have more than {MAX_EXTENDED:,} bytes")
        content = file.read(header.size)
        if len(content) < header.size:
            raise WrongTarError("it ends within an extended header")
        at += _padded(header.size)
        if header.type == GNU_NAME:
            gnu_name = content.partition(b"\0")[0].decode("utf-8", "surrogateescape")
        elif header.type in {PAX, SOLARIS_PAX, PAX_GLOBAL}:
            (everywhere if header.type == PAX_GLOBAL else own).update(_pax(content, at))
    raise WrongTarError(f"more than {MAX_CHAINED} extended headers follow each other before byte {at:,}")


def _header(block: bytes, at: int) -> tarfile.TarInfo:
    try:
        header = tarfile.TarInfo.frombuf(block, "utf-8", "surrogateescape")
    except (tarfile.HeaderError, ValueError, OverflowError) as error:
        raise WrongTarError(f"no header at byte {at:,} ({error})") from error
    if header.size < 0:
        raise WrongTarError(f"the header at byte {at:,} gives a size of {header.size} bytes")
    return header


def _member(
    file: BinaryIO, header: tarfile.TarInfo, pax: dict[str, str], gnu_name: str | None, at: int
) -> tuple[TarMember, int]:
    sparse = header.type == tarfile.GNUTYPE_SPARSE
    if sparse:
        at = _behind_map(file, at)
    size = header.size
    if "size" in pax:
        if not (pax["size"].isascii() and pax["size"].isdigit() and len(pax["size"]) <= MAX_DIGITS):
            raise WrongTarError(f"an extended header before byte {at:,} gives a size that isn't a number")
        size = int(pax["size"])
    name = pax.get("path") or gnu_name or header.name
    if header.type in NO_DATA:
        size = 0
    if header.type in {tarfile.LNKTYPE, tarfile.SYMTYPE}:
        kind = "link"
    elif header.type == tarfile.DIRTYPE:
        kind = "folder"
    elif sparse or SPARSE in pax:
        name, kind = pax.get("GNU.sparse.name") or name, "sparse file"
    else:
        kind = "file" if header.type in REGULAR else "device"
    return TarMember(name, at, size, kind), at + _padded(size)


def _behind_map(file: BinaryIO, at: int) -> int:
    """Where a sparse member's data begins: behind the blocks of its map, each of which says whether one follows."""
    file.seek(at - BLOCK + LONGER)
    more, begins = file.read(1), at
    while more not in {b"", b"\0"}:
        if at - begins >= MAX_EXTENDED:
            raise WrongTarError(f"the map of a sparse member before byte {at:,} has more than {MAX_EXTENDED:,} bytes")
        file.seek(at + MORE)
        more = file.read(1)
        at += BLOCK
    return at


def _pax(content: bytes, at: int) -> dict[str, str]:
    """What is used of records "LENGTH KEY=VALUE\\n", the length in bytes of all of it."""
    found, place = dict[str, str](), 0
    while place < len(content) and content[place]:
        digits, space, _ = content[place : place + MAX_DIGITS].partition(b" ")
        length = int(digits) if space and digits.isdigit() else 0
        record = content[place + len(digits) + 1 : place + length]
        key, equals, value = record.partition(b"=")
        if not equals or not record.endswith(b"\n") or place + length > len(content):
            raise WrongTarError(f"the extended header before byte {at:,} is damaged")
        name = key.decode("utf-8", "surrogateescape")
        if name in USED:
            found[name] = value[:-1].decode("utf-8", "surrogateescape")
        if name.startswith(SPARSE):
            found[SPARSE] = ""
        place += length
    return found


def _check_rest(file: BinaryIO, at: int, total: int) -> None:
    """Raises WrongTarError where anything but zeros follows the end."""
    file.seek(at)
    while piece := file.read(PIECE):
        if piece.strip(b"\0"):
            raise WrongTarError(f"data follows its end at byte {at:,}, another tar perhaps")


def _padded(size: int) -> int:
    return -(-size // BLOCK) * BLOCK
