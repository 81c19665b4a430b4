"""Which files belong to a dataset's split, by their names."""

import re
from collections.abc import Sequence
from pathlib import PurePosixPath

from vaelens.errors import UsageError

# What splits are called, in the order in which they are tried when none is named.
SPLITS = {
    "validation": ("validation", "valid", "val", "dev"),
    "test": ("test", "testing"),
    "train": ("train", "training"),
}
SHOWN = 5  # file names in a message


def choose_split(what: str, names: Sequence[str], split: str | None) -> tuple[str, list[str]]:
    """A split's name and the files whose names have it in theirs, between separators, sorted.

    Without `split`: validation, else test, else train, else everything. Raises UsageError for a split that isn't there,
    and for parquet files in two folders, which are two configurations, often of the same images.
    """
    named = [next((part for part, others in SPLITS.items() if split in others), split)] if split else [*SPLITS]
    for part in named:
        if found := [name for name in names if _is_in(part, name)]:
            return part, _in_one_folder(what, part, found)
    if split:
        shown = sorted(names)[:SHOWN]
        more = ", ..." if len(names) > SHOWN else ""
        raise UsageError(f"{what} has no split {split!r}. Its files: {', '.join(shown)}{more}.")
    return "train", _in_one_folder(what, "train", names)  # as the hub itself calls what has no splits


def splits_in(names: Sequence[str]) -> list[str]:
    """The splits that the files' names tell of."""
    return [part for part in SPLITS if any(_is_in(part, name) for name in names)]


def _is_in(part: str, name: str) -> bool:
    called = "|".join(re.escape(other.strip("/")) for other in SPLITS.get(part, (part,)))
    stem = str(PurePosixPath(name).with_suffix(""))
    return re.search(rf"(?:^|[-._ /0-9])(?:{called})(?:[-._ /0-9]|$)", stem, re.IGNORECASE) is not None


def _in_one_folder(what: str, part: str, names: Sequence[str]) -> list[str]:
    paths = [PurePosixPath(name) for name in names]
    folders = sorted({str(path.parent) for path in paths if path.suffix.lower() == ".parquet"})
    if len(folders) > 1:
        first = folders[0] if part in PurePosixPath(folders[0]).parts else f"{folders[0]}/{part}"
        raise UsageError(
            f"{what} has {part} in {len(folders)} folders ({', '.join(folders[:SHOWN])}). "
            f"Name one with --split, as {first}."
        )
    return sorted(names)
