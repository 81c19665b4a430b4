"""Datasets on the Hugging Face hub: parquet files with one image per row, or shards, zips or images as files."""

import re
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path, PurePosixPath

from vaelens.download import hub, hub_listing
from vaelens.errors import BadInputError, UsageError
from vaelens.images.datasets.folders import read_file
from vaelens.images.datasets.items import Source, by_id, clean_id
from vaelens.images.datasets.parquet import open_parquet, require_pyarrow
from vaelens.images.datasets.shards import open_shards
from vaelens.images.datasets.zips import open_zip
from vaelens.images.reading import SUFFIXES
from vaelens.runtime import DEFAULT, Runtime

# What splits are called, in the order in which they are tried when none is named.
SPLITS = {
    "validation": ("validation", "valid", "val", "dev"),
    "test": ("test", "testing"),
    "train": ("train", "training"),
}
FORMS = ({".tar"}, {".parquet"}, {".zip"}, SUFFIXES)  # tar first: beside it, parquet holds img2dataset's lists
SHOWN = 5  # file names in a message


def open_hub_dataset(
    repo: str,
    *,
    split: str | None = None,
    scored: bool = False,
    runtime: Runtime = DEFAULT,
) -> Source:
    """The images of a dataset on the hub, as it is now; its commit is in the notes.

    A split is the files with its name in theirs, between separators: validation, or en/validation where
    several folders have one. Without `split`: validation, else test, else train, else everything.
    In parquet, ids are the split and the row, validation/00000012; else the files' paths, and within shards
    and zips the names there. Shards, parquet and zips are downloaded when the dataset is opened, single images
    when they are read.

    Raises UsageError for a split that isn't there or lies in several folders, and without pyarrow where it is
    needed; BadInputError for a repository without images; and what downloads raise.
    """
    there = hub_listing.list_files(repo, repo_type="dataset", runtime=runtime)
    shown = [file for file in there.files if not any(p.startswith(".") for p in file.filename.split("/"))]
    form = next((form for form in FORMS if any(_suffix(file) in form for file in shown)), None)
    if form is None:
        raise BadInputError(f"The dataset {repo} holds no parquet, .tar, .zip or images. Name another one.")
    part, files = choose_split(repo, [file for file in shown if _suffix(file) in form], split)
    name, notes = f"{repo} {part}", (f"{repo} at commit {there.commit}",)
    if form is SUFFIXES:
        members = by_id(((clean_id(file.filename, repo), file) for file in files), repo)
        return Source(
            name,
            "hub",
            tuple(members),
            lambda key: read_file(hub.fetch(members[key], runtime)),
            notes,
        )
    if form == {".parquet"}:
        require_pyarrow(repo)
    paths = _fetched(repo, files, runtime)
    if form == {".parquet"}:
        found = open_parquet(list(paths.values()), part, repo, scored=scored)
    elif form == {".tar"}:
        filename, path = next(iter(paths.items()))
        root = path.parents[len(PurePosixPath(filename).parts) - 1]
        found = open_shards(list(paths.values()), root, name, scored=scored, runtime=runtime)
    else:
        found = _joined({filename: open_zip(path) for filename, path in paths.items()})
    return replace(found, name=name, origin="hub", notes=notes)


def choose_split(
    repo: str, files: Sequence[hub.RemoteFile], split: str | None
) -> tuple[str, tuple[hub.RemoteFile, ...]]:
    """The split's name and its files, sorted by name; raises UsageError as `open_hub_dataset` does."""
    named = [next((name for name, others in SPLITS.items() if split in others), split)] if split else [*SPLITS]
    for part in named:
        names = "|".join(re.escape(name.strip("/")) for name in SPLITS.get(part, (part,)))
        pattern = re.compile(rf"(?:^|[-._ /0-9])(?:{names})(?:[-._ /0-9]|$)", re.IGNORECASE)
        found = [file for file in files if pattern.search(str(PurePosixPath(file.filename).with_suffix("")))]
        if found:
            return part, _in_one_folder(repo, part, found)
    names = sorted(file.filename for file in files)
    if split:
        more = ", ..." if len(names) > SHOWN else ""
        raise UsageError(f"The dataset {repo} has no split {split!r}. Its files: {', '.join(names[:SHOWN])}{more}.")
    return "train", _in_one_folder(repo, "train", files)  # as the hub itself calls what has no splits


def _in_one_folder(repo: str, part: str, files: Sequence[hub.RemoteFile]) -> tuple[hub.RemoteFile, ...]:
    """The files by name; parquet in two folders is two configurations, often of the same images."""
    folders = sorted({str(PurePosixPath(file.filename).parent) for file in files if _suffix(file) == ".parquet"})
    if len(folders) > 1:
        first = folders[0] if part in PurePosixPath(folders[0]).parts else f"{folders[0]}/{part}"
        raise UsageError(
            f"The dataset {repo} has {part} in {len(folders)} folders ({', '.join(folders[:SHOWN])}). "
            f"Name one with --split, as {first}."
        )
    return tuple(sorted(files, key=lambda file: file.filename))


def _fetched(repo: str, files: Sequence[hub.RemoteFile], runtime: Runtime) -> dict[str, Path]:
    sizes = [file.size for file in files]
    if len(files) > 1 and not all(hub.cached(file) for file in files):
        total = f", {sum(size or 0 for size in sizes) / 1e6:,.0f} MB" if all(sizes) else ""
        runtime.notify(f"{repo}: {len(files)} files{total}, those that aren't in the cache are downloaded")
    paths: dict[str, Path] = {}
    for done, file in enumerate(files):
        runtime.progress(done, len(files), "fetching files")
        paths[file.filename] = hub.fetch(file, runtime)
    return paths


def _joined(sources: dict[str, Source]) -> Source:
    """Several zips as one source, each member under its zip's name."""
    places = {f"{where}/{name}": (source, name) for where, source in sources.items() for name in source.ids}

    def read(key: str) -> bytes:
        source, name = places[key]
        return source.read(name)

    return Source("", "zip", tuple(sorted(places)), read)


def _suffix(file: hub.RemoteFile) -> str:
    return PurePosixPath(file.filename).suffix.lower()
