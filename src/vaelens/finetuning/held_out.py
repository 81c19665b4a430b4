"""The images kept back from training, and what a network makes of them."""

import dataclasses
import hashlib
import itertools
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from torch import Tensor

from vaelens.errors import BadInputError, UsageError
from vaelens.evaluation.images import read_chunk
from vaelens.evaluation.instruments import EXTRACTORS, Instruments
from vaelens.evaluation.measures import MEASURES
from vaelens.evaluation.measuring import measure, reconstruct_chunk
from vaelens.evaluation.preparation import saved_originals
from vaelens.images.datasets.items import Dataset, Item, Source
from vaelens.images.reading import decode_bytes
from vaelens.images.sheet import SheetRow, draw_sheet
from vaelens.metrics.frechet import Moments, frechet_distance
from vaelens.vae import VAE

STRIP = 4  # images of a strip
CHUNK = 4  # images measured at once
MOST = 0.5  # of a source that may be kept back
LEAST = 2  # images to measure on


@dataclass(frozen=True)
class Scores:
    """What a VAE reached on a set: the mean of each measure of an image, and each measure of the set, by key."""

    values: Mapping[str, float]
    finite: bool


def split(sources: Sequence[Dataset], count: int, seed: int) -> tuple[list[Dataset], Dataset]:
    """The sources without `count` images, shared evenly among them, and these as a set of their own.

    By content, so that the same images are kept back wherever they lie, and copies of one never stand on both sides;
    only images that can be read. Raises UsageError where more than half of a source would be kept back.
    """
    kept: list[tuple[int, Item]] = []
    for number, source in enumerate(sources):
        share = count // len(sources) + (number < count % len(sources))
        if share > MOST * len(source.items):
            fewer = len(sources) * int(MOST * min(len(one.items) for one in sources))
            lower = f" lower it with --set run.held_out={fewer}," if fewer >= LEAST else ""
            raise UsageError(
                f"{share} images of {source.name} would be kept back for measuring, more than half. Give at least "
                f"{math.ceil(share / MOST)} images,{lower} or name others with --held-out."
            )
        order = sorted(source.items, key=lambda item: hashlib.sha256(f"{seed} {item.sha256}".encode()).digest())
        sound = list(itertools.islice((item for item in order if _can_be_read(source, item)), share + 1))
        if len(sound) <= share:
            raise UsageError(
                f"{source.name}: only {len(sound)} of its images can be read, too few to train on some and keep "
                f"{share} back. Look at the others, lower run.held_out, or name others with --held-out."
            )
        kept += [(number, item) for item in sound[:share]]
    contents = {item.sha256 for _, item in kept}
    rest = [dataclasses.replace(s, items=tuple(i for i in s.items if i.sha256 not in contents)) for s in sources]
    for source in rest:
        if not source.items:
            raise UsageError(f"{source.name}: all its images are copies of ones kept back. Give more images.")
    return rest, _joined(sources, kept, "held out of")


def _can_be_read(source: Dataset, item: Item) -> bool:
    try:
        decode_bytes(source.read(item), item.id)
    except BadInputError:
        return False
    return True


def without(sources: Sequence[Dataset], held_out: Dataset) -> tuple[list[Dataset], int]:
    """The sources without copies of held-out images, and how many there were; UsageError where none is left."""
    contents = {item.sha256 for item in held_out.items}
    rest = [dataclasses.replace(s, items=tuple(i for i in s.items if i.sha256 not in contents)) for s in sources]
    for source in rest:
        if not source.items:
            raise UsageError(f"{source.name}: all its images stand in {held_out.name} too. Hold others out.")
    return rest, sum(len(a.items) - len(b.items) for a, b in zip(sources, rest, strict=True))


def _joined(sources: Sequence[Dataset], kept: Sequence[tuple[int, Item]], what: str) -> Dataset:
    """Images of several sources as one set; ids tell the source where there are several."""
    names = [f"{n}/" if len(sources) > 1 else "" for n in range(len(sources))]
    homes = {f"{names[n]}{item.id}": (sources[n], item) for n, item in kept}
    items = tuple(dataclasses.replace(homes[name][1], id=name) for name in sorted(homes))

    def read(name: str) -> bytes:
        source, item = homes[name]
        return source.source.read(item.id)

    title = f"{what} {' and '.join(source.name for source in sources)}"
    ids = tuple(item.id for item in items)
    return Dataset(f"{title} ({len(items)} images)", "held-out", items, (), Source(title, "held-out", ids, read))


def sample_of(sources: Sequence[Dataset], count: int, seed: int) -> Dataset:
    """At most `count` of their images, chosen by the seed, to see how a network does on what it was trained on."""
    chosen: list[tuple[int, Item]] = []
    for number, source in enumerate(sources):
        order = np.random.default_rng((seed, number)).permutation(len(source.items))
        share = count // len(sources) + (number < count % len(sources))
        chosen += [(number, source.items[int(i)]) for i in order[:share]]
    return _joined(sources, chosen, "some of")


def score(vae: VAE, dataset: Dataset, instruments: Instruments, seed: int) -> Scores:
    """Measure as `evaluate` does, in memory. Leaves out what can't be read; BadInputError where none is left."""
    columns: dict[str, list[float]] = {}
    features: dict[str, tuple[Moments, Moments]] = {}
    finite = True
    for number in range(-(-len(dataset.items) // CHUNK)):
        chunk = read_chunk(dataset, number, CHUNK, instruments.preset, skip_bad=True)
        if not chunk.items:
            continue
        originals = saved_originals(chunk.pixels, instruments.preset)
        made = reconstruct_chunk(vae, chunk, instruments.preset, seed)
        finite = finite and all(made.finite)
        rows, after = measure(made, chunk, vae.name, instruments, instruments.reference(originals))
        before = instruments.features(originals)
        for key in after:
            both = Moments.of(before[key]), Moments.of(after[key])
            held = features.get(key)
            features[key] = both if held is None else (held[0] + both[0], held[1] + both[1])
        for row in rows:
            for key, value in row.scores.items():
                if value is not None:
                    columns.setdefault(key, []).append(value)
    if not columns and finite:
        raise BadInputError(f"{dataset.name}: none of its images can be read. Hold others out.")
    values = {key: math.fsum(column) / len(column) for key, column in columns.items()}
    for key in instruments.measures:
        if MEASURES[key].of == "set" and key != "kid" and finite and features[EXTRACTORS[key]][0].count > 1:
            values[key] = frechet_distance(*features[EXTRACTORS[key]])
    return Scores({key: values[key] for key in instruments.measures if key in values}, finite)


def draw_strip(vaes: Mapping[str, VAE], dataset: Dataset, instruments: Instruments, seed: int) -> np.ndarray:
    """The first images that can be read, original | each VAE, uint8 [h,w,3]."""
    rows: list[SheetRow] = []
    for number in range(len(dataset.items)):
        chunk = read_chunk(dataset, number, 1, instruments.preset, skip_bad=True)
        if not chunk.items:
            continue
        made = [reconstruct_chunk(vae, chunk, instruments.preset, seed).pixels for vae in vaes.values()]
        cells = [_pixels(saved_originals(chunk.pixels, instruments.preset)), *(_pixels(one) for one in made)]
        rows.append(SheetRow(chunk.items[0].id, tuple(cells)))
        if len(rows) == STRIP:
            break
    return draw_sheet(rows, ["original", *vaes])


def _pixels(one: Tensor) -> np.ndarray:
    return one[0].permute(1, 2, 0).numpy()
