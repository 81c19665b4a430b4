"""Datasets on the Hugging Face hub: parquet files with one image per row, or shards, zips or images as files."""

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import replace
from pathlib import Path, PurePosixPath

from vaelens.download import hub, hub_listing
from vaelens.download.hub_addresses import HubAddress
from vaelens.errors import BadInputError
from vaelens.images.datasets.folders import file_pieces
from vaelens.images.datasets.items import Source, by_id, clean_id
from vaelens.images.datasets.left_out import UNREAD, note_on_left_out
from vaelens.images.datasets.parquet import open_parquet, require_pyarrow
from vaelens.images.datasets.shards import open_shards
from vaelens.images.datasets.splits import choose_split
from vaelens.images.datasets.zips import open_zip
from vaelens.images.reading import SUFFIXES
from vaelens.runtime import DEFAULT, Runtime

FORMS = ({".tar"}, {".parquet"}, {".zip"}, SUFFIXES)  # tar first: beside it, parquet holds img2dataset's lists


def open_hub_dataset(
    address: HubAddress,
    *,
    split: str | None = None,
    scored: bool = False,
    runtime: Runtime = DEFAULT,
) -> Source:
    """The images of a dataset on the hub, at a revision or in one of its folders; its commit is in the notes.

    A split is the files with its name in theirs, between separators: validation, or en/validation where
    several folders have one. Without `split`: validation, else test, else train, else everything.
    In parquet, ids are the split and the row, validation/00000012; else the files' paths, and within shards
    and zips the names there. Shards, parquet and zips are downloaded when the dataset is opened, single images
    when they are read.

    Raises UsageError for a split that isn't there or lies in several folders, and without pyarrow where it is
    needed; BadInputError for a repository without images; and what downloads raise.
    """
    repo, path = address.repo, PurePosixPath(address.path)
    there = hub_listing.list_files(repo, repo_type="dataset", revision=address.revision, runtime=runtime)
    within = [file for file in there.files if PurePosixPath(file.filename).is_relative_to(path)]
    shown = [file for file in within if not any(p.startswith(".") for p in file.filename.split("/"))]
    form = next((form for form in FORMS if any(_suffix(file) in form for file in shown)), None)
    if form is None:
        where = f" in {address.path}" if address.path else ""
        raise BadInputError(f"The dataset {repo} holds no parquet, .tar, .zip or images{where}. Name another one.")
    named = {file.filename: file for file in shown if _suffix(file) in form}
    part, chosen = choose_split(f"The dataset {repo}", list(named), split)
    files = [named[each] for each in chosen]
    name, notes = f"{repo} {part}", (f"{repo} at commit {there.commit}",)
    if form is SUFFIXES:
        members = by_id(((clean_id(file.filename, repo), file) for file in files), repo)
        left_out = Counter(suffix for file in shown if (suffix := _suffix(file)) in UNREAD)
        return Source(
            name,
            "hub",
            tuple(members),
            lambda key: file_pieces(hub.fetch(members[key], runtime)),
            (*notes, *note_on_left_out(left_out)),
        )
    if form == {".parquet"}:
        require_pyarrow(repo)
    paths = _fetched(repo, files, runtime)
    if form == {".parquet"}:
        found = open_parquet({part: list(paths.values())}, repo, repo=repo, scored=scored)
    elif form == {".tar"}:
        filename, path = next(iter(paths.items()))
        root = path.parents[len(PurePosixPath(filename).parts) - 1]
        found = open_shards(list(paths.values()), root, name, scored=scored, runtime=runtime)
    else:
        found = _joined({filename: open_zip(path) for filename, path in paths.items()})
    return replace(found, name=name, origin="hub", notes=(*notes, *found.notes))


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

    def pieces(key: str) -> Iterable[bytes]:
        source, name = places[key]
        return source.pieces(name)

    notes = tuple(f"{where}: {note}" for where, source in sources.items() for note in source.notes)
    return Source("", "zip", tuple(sorted(places)), pieces, notes)


def _suffix(file: hub.RemoteFile) -> str:
    return PurePosixPath(file.filename).suffix.lower()
