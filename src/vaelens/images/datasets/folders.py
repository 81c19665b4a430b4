"""A folder of images, searched through to the bottom."""

import os
from collections import deque
from collections.abc import Iterator
from pathlib import Path

from vaelens.errors import BadInputError, UsageError
from vaelens.images.datasets.items import MAX_BYTES, Source, by_id, clean_id
from vaelens.images.reading import SUFFIXES


def open_folder(folder: Path) -> Source:
    """The images below a folder, by their suffixes; ids are their paths in it, with forward slashes.

    Hidden files and folders are left out. Links are followed, each real folder once, so that loops end.

    Raises BadInputError for a folder without images, one that can't be read, and an image that is a
    broken link or no ordinary file.
    """
    files = by_id(
        ((clean_id(str(path.relative_to(folder)), str(folder)), path) for path in images(folder)), str(folder)
    )
    if not files:
        raise BadInputError(f"{folder} holds no images ({', '.join(sorted(SUFFIXES))}). {_advice(folder)}")
    return Source(folder.resolve().name or str(folder), "folder", tuple(files), lambda name: read_file(files[name]))


def images(folder: Path) -> Iterator[Path]:
    """Every image file below a folder; raises BadInputError as `open_folder` does."""
    for path in files_below(folder):
        if path.suffix.lower() not in SUFFIXES:
            continue
        if not path.is_file():
            what = "a device or pipe" if path.exists() else "a link that leads nowhere"
            raise BadInputError(f"{path} is {what}, not an image. Take it out of the folder.")
        yield path


def files_below(folder: Path) -> Iterator[Path]:
    """Everything below a folder that is no folder and not hidden, sorted, each real folder once."""
    waiting, seen = deque([folder]), set[tuple[int, int]]()
    while waiting:
        here = waiting.pop()
        try:
            status = here.stat()
            shown = sorted((e for e in os.scandir(here) if not e.name.startswith(".")), key=lambda e: e.name)
        except OSError as error:
            raise BadInputError(f"{here}: can't be read: {error.strerror}. Check the folder's permissions.") from error
        if (status.st_dev, status.st_ino) in seen:
            continue
        seen.add((status.st_dev, status.st_ino))
        inner = [here / entry.name for entry in shown if entry.is_dir(follow_symlinks=False)]
        linked = [here / entry.name for entry in shown if entry.is_symlink() and (here / entry.name).is_dir()]
        folders = {*inner, *linked}
        yield from (here / entry.name for entry in shown if here / entry.name not in folders)
        # Links wait until the last: a folder's own path names its images, where there is one.
        waiting.extendleft(linked)
        waiting.extend(reversed(inner))


def read_file(path: Path) -> bytes:
    """One image's file, whole. Raises BadInputError where it can't be read or is too large for an image."""
    try:
        with path.open("rb") as file:
            size = os.fstat(file.fileno()).st_size
            if size > MAX_BYTES:
                raise too_large(str(path), size)
            return file.read()
    except OSError as error:
        raise BadInputError(f"{path}: can't be read: {error.strerror}. Check its permissions.") from error


def too_large(name: str, size: int) -> BadInputError:
    """The error for a file beyond MAX_BYTES."""
    return BadInputError(f"{name} has {size:,} bytes; an image's file may have {MAX_BYTES:,}. Leave it out.")


def one_image(path: Path) -> UsageError:
    """The error for a single image where a dataset is expected."""
    return UsageError(f"{path} is a single file, not a dataset. Give the folder that contains it: '{path.parent}'")


def _advice(folder: Path) -> str:
    packed = sorted({path.suffix.lower() for path in files_below(folder)} & {".zip", ".parquet", ".tgz", ".gz", ".7z"})
    return f"It holds {' and '.join(packed)}: name such a .zip, or unpack it." if packed else "Name another folder."
