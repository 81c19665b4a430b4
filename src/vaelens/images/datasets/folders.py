"""A folder of images, searched through to the bottom."""

import os
from collections import Counter, deque
from collections.abc import Iterable, Iterator
from pathlib import Path

from vaelens.errors import BadInputError, UsageError
from vaelens.files import StrPath
from vaelens.images.datasets.items import MAX_BYTES, Source, by_id, bytes_at, clean_id, too_large
from vaelens.images.datasets.left_out import note_on_left_out
from vaelens.images.datasets.source_names import address_in, files_of
from vaelens.images.reading import SUFFIXES
from vaelens.text.paths import exists, is_folder, why_unreadable

PACKED = (".zip", ".tgz", ".gz", ".7z", ".rar", ".xz", ".zst", ".bz2")


def open_folder(folder: Path) -> Source:
    """The images below a folder, by their suffixes; ids are their paths in it, with forward slashes.

    Hidden files and folders are left out, and so are files with other suffixes, which a note counts. Links are
    followed, each real folder once, so that loops end.

    A broken link, pipe, device or socket with an image's name is an image that can't be read, as a damaged file is.
    Raises BadInputError for a folder without images and one that can't be read.
    """
    files, notes = _images_below(folder)
    title = folder.resolve().name or str(folder)
    return Source(title, "folder", tuple(files), lambda name: file_pieces(folder / files[name]), notes)


def _images_below(folder: Path) -> tuple[dict[str, str], tuple[str, ...]]:
    """The paths in the folder by their ids, which are the same but for characters that an id can't have; and notes."""
    found: list[str] = []
    left_out = Counter[str]()
    for name in names_below(folder):
        if (suffix := suffix_of(name)) in SUFFIXES:
            found.append(name)
        else:
            left_out[suffix] += 1
    files = by_id(((clean_id(name, str(folder)), name) for name in found), str(folder))
    notes = note_on_left_out(left_out)
    if not files:
        why = notes[0] if notes else "it is empty, or all in it is hidden"
        packed = sorted(left_out.keys() & set(PACKED))
        advice = f"It holds {' and '.join(packed)}: name such a .zip, or unpack it" if packed else "Name another folder"
        raise BadInputError(f"{folder} holds no images: {why}. {advice}.")
    return files, notes


def names_below(folder: Path) -> Iterator[str]:
    """The path in `folder` of everything below it but folders and hidden files, sorted, each real folder once."""
    waiting, seen = deque([""]), set[tuple[int, int]]()
    while waiting:
        below = waiting.pop()
        here = folder / below
        try:
            status = here.stat()
            if (status.st_dev, status.st_ino) in seen:
                continue
            seen.add((status.st_dev, status.st_ino))
            with os.scandir(here) as entries:
                shown = sorted((e.name, e.is_symlink(), _leads_to_folder(e)) for e in entries if e.name[0] != ".")
        except OSError as error:
            raise BadInputError(f"{here}: can't be read: {error.strerror}. Check the folder's permissions.") from error
        prefix = f"{below}/" if below else ""
        yield from (prefix + name for name, _, is_folder in shown if not is_folder)
        # Links wait until the last: a folder's own path names its images, where there is one.
        waiting.extendleft(prefix + name for name, is_link, is_folder in shown if is_folder and is_link)
        waiting.extend(prefix + name for name, is_link, is_folder in reversed(shown) if is_folder and not is_link)


def _leads_to_folder(entry: "os.DirEntry[str]") -> bool:
    try:
        return entry.is_dir()
    except OSError:  # a link to itself
        return False


def suffix_of(name: str) -> str:
    """A path's suffix in lower case, as pathlib has it: `.png`, or nothing."""
    stem, dot, suffix = name.rpartition("/")[2].rpartition(".")
    return f".{suffix.lower()}" if stem.strip(".") and dot and suffix else ""


def file_pieces(path: Path) -> Iterator[bytes]:
    """One image's file in pieces. Raises BadInputError where it can't be read or is too large for an image."""
    if what := why_unreadable(path):
        raise BadInputError(f"{path} is {what}, not an image. Take it out of the folder.")
    try:
        size = path.stat().st_size
    except OSError as error:
        raise BadInputError(f"{path}: can't be read: {error.strerror}. Check its permissions.") from error
    if size > MAX_BYTES:
        raise too_large(str(path), size)
    return bytes_at(path, 0, size)


def open_image(path: Path) -> Source:
    """One image file as a dataset; its id is its name."""
    return Source(path.name, "folder", (clean_id(path.name, str(path)),), lambda _: file_pieces(path))


def open_images(paths: Iterable[Path], root: Path, title: str) -> Source:
    """These image files as a dataset; ids are their paths below `root`. Raises BadInputError for two of one id."""
    files = by_id(((clean_id(str(path.relative_to(root)), title), path) for path in paths), title)
    return Source(title, "folder", tuple(files), lambda name: file_pieces(files[name]))


def image_files(paths: Iterable[StrPath]) -> list[Path]:
    """These files, with the images below a folder, and the files that a pattern stands for, in their place.

    Raises BadInputError for a folder without images, and as `files_of`; UsageError for a web address.
    """
    found: list[Path] = []
    for given in paths:
        for path in files_of(given) or [Path(given)]:
            if is_folder(path):
                found += [path / name for name in _images_below(path)[0].values()]
                continue
            if (address := address_in(path)) is not None and not exists(os.fspath(path)):
                raise UsageError(f"{address}: photos aren't downloaded. Download the image, and name its file.")
            found.append(path)
    return found
