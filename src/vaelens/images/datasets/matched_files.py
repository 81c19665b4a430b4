"""The files that a pattern stands for, as one dataset: by the rules of a folder that holds them."""

import os
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path, PurePath

from vaelens.errors import UsageError
from vaelens.images.datasets.folders import open_images, suffix_of
from vaelens.images.datasets.items import Source, clean_id
from vaelens.images.datasets.left_out import note_on_left_out
from vaelens.images.datasets.parquet import open_parquet
from vaelens.images.datasets.shards import open_shards
from vaelens.images.reading import SUFFIXES
from vaelens.runtime import Runtime
from vaelens.text.numbers import counted

KINDS = (frozenset(SUFFIXES), frozenset({".tar"}), frozenset({".parquet"}))  # the first that is there is read


@dataclass(frozen=True)
class MatchedFiles:
    """Files of one kind, those with one of these suffixes, and notes on what is left out."""

    suffixes: frozenset[str]
    files: tuple[Path, ...]
    notes: tuple[str, ...]


def choose_matched(paths: Sequence[Path], pattern: str) -> MatchedFiles:
    """Of what a pattern stands for, what is read: images, else shards, else parquet files, as of a folder.

    A note counts other files, and folders of which the pattern names no file. Raises UsageError for folders alone,
    images together with shards, and nothing of a kind that is read.
    """
    folders = [path for path in paths if path.is_dir()]
    files = [path for path in paths if not path.is_dir()]
    if not files:
        inner = f"{pattern.rstrip('/')}/*.png"
        raise UsageError(f"{pattern} stands for {counted(len(folders), 'folder')}. Name one folder, or '{inner}'.")
    counts = Counter(suffix_of(path.name) for path in files)
    kind = next((kind for kind in KINDS if kind & counts.keys()), None)
    if kind is None:
        suffixes = ", ".join(sorted(suffix or "none" for suffix in counts))
        raise UsageError(
            f"{pattern} stands for {counted(len(files), 'file')} with these suffixes: {suffixes}. Name images, .tar "
            "shards or .parquet files, or one archive at a time."
        )
    if kind is KINDS[0] and ".tar" in counts:
        raise UsageError(f"{pattern} stands for both images and .tar shards. Name one kind.")
    chosen = tuple(path for path in files if suffix_of(path.name) in kind)
    entered = {parent for path in files for parent in path.parents}
    unread = sum(path not in entered for path in folders)
    notes = note_on_left_out({suffix: count for suffix, count in counts.items() if suffix not in kind})
    if unread:
        notes = (*notes, f"{counted(unread, 'folder')} left out, of which {pattern} names no file")
    return MatchedFiles(kind, chosen, notes)


def open_matched(paths: Sequence[Path], pattern: str, *, scored: bool, runtime: Runtime) -> Source:
    """The chosen of these files as one dataset; ids are as if the folder that holds them all were named.

    Raises as `choose_matched` and what opening files of their kind raises.
    """
    matched = choose_matched(paths, pattern)
    (root, files), title = _below_root(matched.files), PurePath(pattern).name
    if ".tar" in matched.suffixes:
        found = open_shards(files, root, title, scored=scored, runtime=runtime)
    elif ".parquet" in matched.suffixes:
        parts = {clean_id(str(path.relative_to(root)), pattern): [path] for path in files}
        found = open_parquet(parts, title, scored=scored)
    else:
        found = open_images(files, root, title)
    return replace(found, notes=(*matched.notes, *found.notes))


def _below_root(files: Sequence[Path]) -> tuple[Path, Sequence[Path]]:
    """The folder that holds all of them, and their paths in it: resolved where `..` leads to it, as in {../a,b}.tar."""
    if len({path.is_absolute() for path in files}) == 1:
        root = Path(os.path.commonpath([path.parent for path in files]))
        if not any(".." in path.relative_to(root).parts for path in files):
            return root, files
    files = [path.parent.resolve() / path.name for path in files]
    return Path(os.path.commonpath([path.parent for path in files])), files
