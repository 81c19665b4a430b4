"""Images inside a zip, read at random without unpacking it."""

from collections import Counter
from collections.abc import Iterator
from pathlib import Path, PurePosixPath

from vaelens.errors import BadInputError
from vaelens.images.datasets.archives import zip_directory
from vaelens.images.datasets.archives.unpacking import DAMAGE, METHODS
from vaelens.images.datasets.archives.zip_directory import Member, WrongZipError
from vaelens.images.datasets.items import MAX_BYTES, Source, by_id, clean_id, too_large
from vaelens.images.datasets.left_out import note_on_left_out
from vaelens.images.reading import SUFFIXES

# An image is compressed already: what becomes far larger when it is unpacked is none, or wants to fill the memory.
FREE_SIZE = 2**25  # bytes that a member may always have
MAX_RATIO = 20


def open_zip(path: Path) -> Source:
    """The images inside a zip, by their suffixes; ids are the members' names. Hidden members are left out.

    Raises BadInputError for a damaged or locked zip, one with another file before or after it, one without
    images, a member that says it is larger than an image can be, or a name that leads out of the archive. Members are
    unpacked in pieces, and never more than their stated size.
    """
    found: list[tuple[str, Member]] = []
    left_out = Counter[str]()
    try:
        for member in zip_directory.members(path):
            name = PurePosixPath(member.name.replace("\\", "/"))
            if any(part.startswith(".") and part != ".." for part in name.parts) or "__MACOSX" in name.parts:
                continue
            if (suffix := name.suffix.lower()) in SUFFIXES:
                found.append((clean_id(member.name, str(path)), member))
            else:
                left_out[suffix] += 1
    except WrongZipError as error:
        raise BadInputError(f"{path}: a damaged or incomplete zip: {error}. Copy or make it again.") from error
    except OSError as error:
        raise BadInputError(f"{path}: can't be read: {error.strerror}. Check its permissions.") from error
    members = by_id(found, str(path))
    notes = note_on_left_out(left_out)
    if not members:
        raise BadInputError(f"{path} holds no images: {notes[0] if notes else 'it is empty'}. Name another file.")
    for name, member in members.items():
        _check(path, name, member)
    return Source(path.name, "zip", tuple(members), lambda name: _pieces(path, members[name], name), notes)


def _check(path: Path, name: str, member: Member) -> None:
    if member.locked or member.method not in METHODS:
        why = "locked with a password" if member.locked else "compressed by a method that isn't supported"
        raise BadInputError(f"{path}: {name} is {why}. Unpack it, and name the folder.")
    if member.size > MAX_BYTES:
        raise too_large(f"{path}: {name}", member.size)
    if member.size > max(FREE_SIZE, MAX_RATIO * member.packed):
        raise BadInputError(
            f"{path}: {name} would unpack from {member.packed:,} to {member.size:,} bytes, as no image does. "
            "If it is one all the same, unpack it, and name the folder."
        )


def _pieces(path: Path, member: Member, name: str) -> Iterator[bytes]:
    try:
        yield from zip_directory.data(path, member)
    except DAMAGE as error:
        raise BadInputError(f"{path}: {name} is damaged: {error}. Copy or download the zip again.") from error
