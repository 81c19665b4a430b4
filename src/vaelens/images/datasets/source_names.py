"""Names of sources that aren't plain paths: patterns of several files, and web addresses.

shards-{000..004}.tar and {a,b}.tar as webdataset writes them; *, ? and [...] that no shell has expanded.
"""

import glob
import itertools
import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import cast

from vaelens.download.hub_addresses import is_address
from vaelens.errors import BadInputError, UsageError
from vaelens.files import StrPath
from vaelens.images.reading import SUFFIXES
from vaelens.json_reading import quoted
from vaelens.text.paths import user_path

MOST = 100_000  # names that braces may stand for
MOST_GROUPS = 20  # two choices in each of so many are more than MOST already
MOST_FILES = 10_000_000  # that * and the like may match
GROUP = re.compile(r"\{([^{}]*)\}")
RANGE = re.compile(r"(-?\d{1,9})\.\.(-?\d{1,9})(?:\.\.(-?\d{1,9}))?|([A-Za-z])\.\.([A-Za-z])", re.ASCII)
MAGIC = re.compile(r"[*?\[]")
ONE_SLASH = re.compile(r"([A-Za-z][A-Za-z0-9+.-]+):/(?!/)")  # what a path object makes of https://


def address_in(source: StrPath) -> str | None:
    """The web address that the name is, also where a path object has lost one of its slashes; None for a path."""
    text = ONE_SLASH.sub(r"\1://", os.fspath(source), count=1)
    return text if is_address(text) else None


def files_of(source: StrPath) -> list[Path] | None:
    """The files that a pattern stands for, in its order, those of * sorted; None for a name that is no pattern.

    Raises UsageError for more than MOST, MOST_GROUPS or MOST_FILES; BadInputError where one that braces name is
    missing, or nothing matches.
    """
    text = os.fspath(source)
    if not (MAGIC.search(text) or _group(text)) or address_in(text) is not None or user_path(text).exists():
        return None
    if (pairs := text.count("{")) > MOST_GROUPS:
        raise UsageError(
            f"{quoted(text)} has {pairs:,} pairs of braces; a pattern may have {MOST_GROUPS}. Name the folder."
        )
    names = list(itertools.islice(_expanded(text), MOST + 1))
    if len(names) > MOST:
        raise UsageError(f"{text} stands for more than {MOST:,} files. Name their folder.")
    found: dict[Path, None] = {}
    missing: list[str] = []
    for name in dict.fromkeys(names):
        path = user_path(name)
        matches = [str(path)] if path.exists() else _matches(str(path), MOST_FILES - len(found))
        found |= dict.fromkeys(map(Path, matches))
        if len(found) > MOST_FILES:
            raise UsageError(f"{text} stands for more than {MOST_FILES:,} files. Name their folder.")
        missing += [] if matches else [name]
    if not found:
        raise BadInputError(f"{text}: no file has such a name. Check the pattern and the folder.")
    if missing:
        count = f"{len(missing):,} of {len(missing) + len(found):,} files"
        raise BadInputError(
            f"{text}: {count} that the pattern names {'is' if len(missing) == 1 else 'are'} missing, "
            f"the first is {missing[0]}. Copy or download what is missing, or name fewer."
        )
    return list(found)


def _matches(pattern: str, most: int) -> list[str]:
    """What * and the like match, sorted, and of more than `most` one too many."""
    return sorted(itertools.islice(glob.iglob(pattern, recursive=True), most + 1))  # noqa: PTH207


def paths_of(source: object) -> list[Path]:
    """The folders and images here that a source names; none for other files and sources."""
    if not isinstance(source, str | os.PathLike):
        return []
    path = user_path(name := os.fspath(cast(StrPath, source)))
    named = [path] if path.exists() else files_of(name) or []
    return [one for one in named if one.is_dir() or one.suffix.lower() in SUFFIXES]


def _expanded(text: str) -> Iterator[str]:
    """The names that braces stand for, inner groups first."""
    group = _group(text)
    if group is None:
        yield text
        return
    for one in _choices(group[1]) or ():
        yield from _expanded(text[: group.start()] + one + text[group.end() :])


def _group(text: str) -> re.Match[str] | None:
    """The first group without another in it that stands for several names: others are plain characters."""
    return next((found for found in GROUP.finditer(text) if _choices(found[1]) is not None), None)


def _choices(inner: str) -> Iterator[str] | None:
    if "," in inner:
        return iter(inner.split(","))
    if (found := RANGE.fullmatch(inner)) is None:
        return None
    if found[4]:
        first, last = ord(found[4]), ord(found[5])
        return map(chr, range(first, last + (1 if first <= last else -1), 1 if first <= last else -1))
    first, last, step = int(found[1]), int(found[2]), abs(int(found[3] or 1)) or 1
    padded = any(re.match(r"-?0\d", end) for end in found.group(1, 2))
    width = max(map(len, found.group(1, 2))) if padded else 0
    numbers = range(first, last + 1, step) if first <= last else range(first, last - 1, -step)
    return (f"{number:0{width}d}" for number in numbers)
