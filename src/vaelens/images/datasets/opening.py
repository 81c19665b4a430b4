"""Opening a dataset by the name that the user gives: its origin, which images are taken, and their hashes."""

import difflib
import os
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import numpy as np

from vaelens.download.hub import HUB_ID
from vaelens.download.hub_addresses import HubAddress, parse_hub_address
from vaelens.errors import BadInputError, UsageError
from vaelens.files import StrPath
from vaelens.images.boxes import matching, read_boxes
from vaelens.images.datasets import coco, synthetic
from vaelens.images.datasets.folders import PACKED, names_below, open_folder, open_image, suffix_of
from vaelens.images.datasets.hub_datasets import open_hub_dataset
from vaelens.images.datasets.items import UNREADABLE, Dataset, Item, Source, clean_id
from vaelens.images.datasets.matched_files import choose_matched, open_matched
from vaelens.images.datasets.parquet import open_parquet
from vaelens.images.datasets.shards import SCORES, open_shards
from vaelens.images.datasets.source_names import address_in, files_of
from vaelens.images.datasets.splits import choose_split, splits_in
from vaelens.images.datasets.zips import open_zip
from vaelens.images.drawing import Box
from vaelens.images.reading import SUFFIXES
from vaelens.runtime import DEFAULT, Runtime
from vaelens.text.numbers import counted
from vaelens.text.paths import user_path

FIELDS_SHOWN = 20
NAMES = (coco.NAME, *synthetic.SETS)
KNOWN = (
    "an image, a folder of images, of .tar shards or of .parquet files, a .zip, a .tar, a .parquet, "
    f"owner/name on the hub, {', '.join(NAMES)}"
)
FILES = {".zip", ".tar", ".parquet", *SUFFIXES}  # suffixes of files, never of repositories
THREADS = 4
PORTION = 4096  # images handed to the threads at once


def open_dataset(
    source: StrPath,
    *,
    take: int | None = None,
    seed: int = 0,
    min_aesthetic: float | None = None,
    split: str | None = None,
    boxes: StrPath | None = None,
    skip_bad: bool = False,
    training: bool = False,
    runtime: Runtime = DEFAULT,
) -> Dataset:
    """The images of `source`, chosen, hashed and sorted by id; a path wins over a pattern, an address and a hub id.

    take: so many, chosen by `seed` without replacement (synthetic datasets: so many are generated, 200 without it)
    min_aesthetic: of shards and parquet files, only images with at least this aesthetic score
    split: of a hub dataset (without it validation, else test, else train) or of a folder of parquet files
    boxes: a CSV or JSONL file of labelled boxes (`read_boxes`), in place of those that the set itself has
    training: of a synthetic dataset, images that are never measured on
    skip_bad: files that can't be read stay in the dataset with UNREADABLE for a hash; reading them raises again

    Each chosen image's file is read once, whole; whether it is an image shows when it is decoded. Where
    files lie and in which order doesn't matter: the same images under the same names make the same dataset.

    Raises UsageError for an unknown dataset, more images than there are, or an option that doesn't apply;
    BadInputError for what is missing, empty or damaged; and what downloads raise.
    """
    _check_options(source, take, min_aesthetic, split)
    own = read_boxes(boxes) if boxes is not None else None
    found = find_source(
        source,
        count=take,
        seed=seed,
        scored=min_aesthetic is not None,
        split=split,
        eyes=own is None,
        training=training,
        runtime=runtime,
    )
    notes = list(found.notes)
    if own is not None:
        found, note = _with_boxes(found, own, str(boxes))
        notes += [note] if note else []
    ids = found.ids
    if min_aesthetic is not None:
        ids, note = _by_aesthetic_score(found, min_aesthetic)
        notes += [note] if note else []
    chosen = choose(ids, take, seed, found.name)
    if len(chosen) < len(ids):
        notes.append(f"{len(chosen):,} of {len(ids):,} images, chosen with seed {seed}")
    items = _hashed(found, chosen, skip_bad, runtime)
    return Dataset(_title(found, len(items), len(ids), min_aesthetic), found.origin, items, tuple(notes), found)


def _check_options(source: StrPath, take: int | None, min_aesthetic: float | None, split: str | None) -> None:
    if take is not None and take < 1:
        raise UsageError(f"take (--take) must be 1 or more, not {take}.")
    if (name := name_in(source)) and (min_aesthetic is not None or split is not None):
        raise UsageError(f"{name} has neither aesthetic scores nor splits. Leave --min-aesthetic and --split out.")


def name_in(source: StrPath) -> str | None:
    """The one of NAMES that a source is, if it is one: a path object, ./synthetic and synthetic/ are paths."""
    return source if isinstance(source, str) and source in NAMES else None


def find_source(
    source: StrPath,
    *,
    count: int | None,
    seed: int,
    scored: bool,
    split: str | None,
    eyes: bool,
    training: bool,
    runtime: Runtime,
) -> Source:
    """The source that a name or path means, before images are chosen and hashed; options as `open_dataset`'s.

    count: of synthetic images; scored: whether aesthetic scores are needed; eyes: whether COCO's boxes of eyes are
    """
    match name_in(source):
        case None:
            pass
        case coco.NAME:
            return coco.open_coco(eyes=eyes, runtime=runtime)
        case name:
            return synthetic.open_synthetic(name, count, seed, training)
    path, name = user_path(source), os.fspath(source)
    if path.exists():
        return _path(path, scored, split, runtime)
    if (address := address_in(source)) is not None:
        return open_hub_dataset(parse_hub_address(address, "dataset"), split=split, scored=scored, runtime=runtime)
    if (files := files_of(source)) is not None:
        return _matched(files, name, scored, split, runtime)
    if _may_be_on_hub(name):
        runtime.notify(f"{name} isn't a path here: asking the hub for a dataset of that name")
        return open_hub_dataset(HubAddress(name), split=split, scored=scored, runtime=runtime)
    raise _unknown(name, path)


def _path(path: Path, scored: bool, split: str | None, runtime: Runtime) -> Source:
    return _folder(path, scored, split, runtime) if path.is_dir() else _file(path, scored, split, runtime)


def _matched(files: list[Path], pattern: str, scored: bool, split: str | None, runtime: Runtime) -> Source:
    if len(files) == 1:
        return _path(files[0], scored, split, runtime)
    if split is not None:
        raise _no_splits(Path(pattern))
    return open_matched(files, pattern, scored=scored, runtime=runtime)


def check_name(source: StrPath | Dataset) -> None:
    """Raises, before anything is opened, for what can't be a dataset: a missing file, a web address that isn't a
    dataset of the hub, and a pattern, as `files_of` and `choose_matched` do.
    """
    if isinstance(source, Dataset) or name_in(source) or (path := user_path(source)).exists():
        return
    if (address := address_in(source)) is not None:
        parse_hub_address(address, "dataset")
    elif (files := files_of(source)) is not None:
        if len(files) > 1:
            choose_matched(files, os.fspath(source))
    elif not _may_be_on_hub(os.fspath(source)):
        raise _unknown(os.fspath(source), path)


def _may_be_on_hub(name: str) -> bool:
    return HUB_ID.fullmatch(name) is not None and Path(name).suffix.lower() not in FILES


def _folder(path: Path, scored: bool, split: str | None, runtime: Runtime) -> Source:
    """A folder's images, else its shards, else its parquet files (beside shards, those hold img2dataset's lists)."""
    names = {suffix: list[str]() for suffix in (".tar", ".parquet")}
    has_images = False
    for name in names_below(path):
        suffix = suffix_of(name)
        has_images |= suffix in SUFFIXES
        if suffix in names:
            names[suffix].append(name)
    title = f"{path.resolve().name}/"
    if has_images and names[".tar"]:
        raise UsageError(f"{path} holds both images and .tar shards. Name a folder that holds one kind.")
    if names[".parquet"] and not has_images and not names[".tar"]:
        return _parquet(path, names[".parquet"], title, split, scored)
    if split is not None:
        raise _no_splits(path)
    if names[".tar"]:
        return open_shards([path / name for name in names[".tar"]], path, title, scored=scored, runtime=runtime)
    return open_folder(path)


def _parquet(folder: Path, names: list[str], title: str, split: str | None, scored: bool) -> Source:
    """Parquet files below a folder, all of them or those of a split; ids are their paths and rows."""
    if split is not None:
        part, names = choose_split(str(folder), names, split)
        title = f"{title} {part}"
    elif len(parts := splits_in(names)) > 1:
        raise UsageError(
            f"{folder} holds several splits: {', '.join(parts)}. Name one of the files; `evaluate` also takes --split."
        )
    return open_parquet({clean_id(name, str(folder)): [folder / name] for name in names}, title, scored=scored)


def _file(path: Path, scored: bool, split: str | None, runtime: Runtime) -> Source:
    suffix = path.suffix.lower()
    if not path.is_file():
        raise BadInputError(f"{path} is a device, pipe or socket. A dataset is {KNOWN}.")
    if split is not None:
        raise _no_splits(path)
    if suffix == ".parquet":
        return open_parquet({clean_id(path.name, str(path)): [path]}, path.name, scored=scored)
    if suffix == ".zip":
        return open_zip(path)
    if suffix == ".tar":
        return open_shards([path], path.parent, path.name, scored=scored, runtime=runtime)
    if suffix in SUFFIXES:
        return open_image(path)
    if suffix in PACKED:
        raise UsageError(f"{path} is a compressed archive. Unpack it, and name the folder or the plain .tar.")
    raise UsageError(f"{path} isn't a dataset. A dataset is {KNOWN}.")


def _no_splits(path: Path) -> UsageError:
    return UsageError(
        f"{path} lies here and has no splits; --split is for datasets on the hub and folders of parquet files. "
        "Leave it out."
    )


def _unknown(name: str, path: Path) -> UsageError | BadInputError:
    near = difflib.get_close_matches(name, NAMES, 1, 0.7)
    if near:
        return UsageError(f"There is no dataset {name!r}. Did you mean {near[0]}?")
    if path.is_symlink():
        return BadInputError(f"{path} is a link that leads nowhere. Repair it, or name its target.")
    return BadInputError(f"{path}: there is no such file or folder. A dataset is {KNOWN}.")


def _with_boxes(source: Source, boxes: dict[str, tuple[Box, ...]], where: str) -> tuple[Source, str | None]:
    known, note = matching(boxes, frozenset(source.ids), where)

    def of(name: str) -> tuple[Box, ...]:
        return known.get(name, ())

    return replace(source, boxes=of), note


def _by_aesthetic_score(source: Source, least: float) -> tuple[tuple[str, ...], str | None]:
    """The ids with a score of `least` or more, and a note on images without any."""
    if not source.scores:
        beside = (
            f"the data beside them has {', '.join(source.fields[:FIELDS_SHOWN])}"
            if source.fields
            else "there is no data beside them"
        )
        raise UsageError(
            f"The images of {source.name} have no aesthetic score ({beside}; looked for: {', '.join(SCORES)}). "
            "Leave --min-aesthetic out."
        )
    scores = source.scores
    ids = tuple(name for name in source.ids if name in scores and scores[name] >= least)
    if not ids:
        raise UsageError(
            f"No image of {source.name} has an aesthetic score of {least:g} or more; "
            f"the highest is {max(scores.values()):g}. Lower --min-aesthetic."
        )
    missing = len(source.ids) - len(scores)
    return ids, f"{counted(missing, 'image')} without an aesthetic score left out" if missing else None


def choose(ids: tuple[str, ...], take: int | None, seed: int, name: str) -> tuple[str, ...]:
    """`take` of the ids of a source called `name`, chosen by `seed` without replacement; all where it is None.

    Raises UsageError for more than there are, and a seed below 0.
    """
    if take is None or take == len(ids):
        return ids
    if take > len(ids):
        raise UsageError(f"{name} has {counted(len(ids), 'image')}, fewer than the {take:,} to take. Lower --take.")
    if seed < 0:
        raise UsageError(f"the seed that chooses images must be 0 or more, not {seed}.")
    places = np.random.default_rng(seed).choice(len(ids), take, replace=False)
    return tuple(ids[int(place)] for place in np.sort(places))


def _hashed(source: Source, ids: Iterable[str], skip_bad: bool, runtime: Runtime) -> tuple[Item, ...]:
    """Each image read once for its sha256, by some threads."""
    names = list(ids)
    items: list[Item] = []
    what = "generating images" if source.origin == "synthetic" else "reading images"

    def item(name: str) -> Item:
        try:
            digest = source.sha256(name)
        except BadInputError as error:
            if not skip_bad:
                raise BadInputError(f"{error} Or leave such images out with --skip-bad, which lists them.") from error
            digest = UNREADABLE
        return Item(name, digest, source.boxes(name))

    with ThreadPoolExecutor(THREADS) as pool:
        try:
            for start in range(0, len(names), PORTION):  # so that no million of results is waiting
                for found in pool.map(item, names[start : start + PORTION]):
                    runtime.progress(len(items), len(names), what)
                    items.append(found)
        except BaseException:
            pool.shutdown(cancel_futures=True)
            raise
    return tuple(items)


def _title(source: Source, count: int, of: int, min_aesthetic: float | None) -> str:
    """What a report calls the dataset."""
    if min_aesthetic is not None:
        which = f"seeded {count:,}" if count < of else f"all {count:,}"
        return f"LAION-like: {which} with aesthetic >= {min_aesthetic:g} from {source.name}"
    return (
        f"{source.name} (seeded {count:,} of {of:,} images)"
        if count < of
        else f"{source.name} ({counted(count, 'image')})"
    )
