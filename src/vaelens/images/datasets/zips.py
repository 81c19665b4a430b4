"""Images inside a zip, read at random without unpacking it."""

import os
import zipfile
import zlib
from pathlib import Path, PurePosixPath

from vaelens.errors import BadInputError
from vaelens.images.datasets.folders import too_large
from vaelens.images.datasets.items import MAX_BYTES, Source, by_id, clean_id
from vaelens.images.reading import SUFFIXES

METHODS = {zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED, zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA}
DAMAGE = (zipfile.BadZipFile, zlib.error, EOFError, OSError, ValueError, NotImplementedError)


def open_zip(path: Path) -> Source:
    """The images inside a zip, by their suffixes; ids are the members' names. Hidden members are left out.

    Raises BadInputError for a damaged or locked zip, one without images, a member that says it is larger
    than an image can be, or a name that leads out of the archive. Never more than a member's stated size is
    unpacked, one member at a time.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            listed = [member for member in archive.infolist() if _is_image(member)]
    except DAMAGE as error:
        raise BadInputError(f"{path}: a damaged or incomplete zip: {error}. Copy or download it anew.") from error
    members = by_id(((clean_id(member.filename, str(path)), member) for member in listed), str(path))
    if not members:
        raise BadInputError(f"{path} holds no images ({', '.join(sorted(SUFFIXES))}). Name another file.")
    for name, member in members.items():
        if member.flag_bits & 1 or member.compress_type not in METHODS:
            why = "locked with a password" if member.flag_bits & 1 else "packed in a way that can't be read here"
            raise BadInputError(f"{path}: {name} is {why}. Unpack it, and name the folder.")
        if member.file_size > MAX_BYTES:
            raise too_large(f"{path}: {name}", member.file_size)
    reader = _Reader(path)
    return Source(path.name, "zip", tuple(members), lambda name: reader.read(members[name]))


def _is_image(member: zipfile.ZipInfo) -> bool:
    name = PurePosixPath(member.filename.replace("\\", "/"))
    hidden = any(part.startswith(".") and part != ".." for part in name.parts) or "__MACOSX" in name.parts
    return not member.is_dir() and not hidden and name.suffix.lower() in SUFFIXES


class _Reader:
    """An archive kept open: reading its directory anew for each image would take longer than the image."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._opened: tuple[int, zipfile.ZipFile] | None = None

    def read(self, member: zipfile.ZipInfo) -> bytes:
        """One member's bytes, checked against its CRC; zipfile itself lets threads take turns."""
        try:
            return self._archive().read(member)
        except DAMAGE as error:
            raise BadInputError(
                f"{self._path}: {member.filename} is damaged: {error}. Copy or download the zip anew."
            ) from error

    def _archive(self) -> zipfile.ZipFile:
        """Open in this process: after a fork, parent and child would move each other's place in the file."""
        if self._opened is None or self._opened[0] != os.getpid():
            self._opened = os.getpid(), zipfile.ZipFile(self._path)
        return self._opened[1]
