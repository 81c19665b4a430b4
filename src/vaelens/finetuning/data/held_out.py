"""Holding images out of the sources of a training: by content, evenly, and never a copy on both sides."""

import dataclasses
import hashlib
import itertools
import math
from collections.abc import Iterable, Iterator, Sequence

import numpy as np

from vaelens.errors import BadInputError, UsageError
from vaelens.finetuning.recipe import HELD_OUT
from vaelens.images.datasets.items import Dataset, Item, Source
from vaelens.images.reading import decode_bytes
from vaelens.text.numbers import counted

MAX_SHARE = 0.5  # of a source that may be held out
USUAL_SHARE = 0.25  # of a source that is held out at most, where the recipe's number isn't the user's


def hold_out(
    sources: Sequence[Dataset], count: int, seed: int, at_most: float | None = None
) -> tuple[list[Dataset], Dataset]:
    """The sources without `count` images, taken evenly from them, and these images as a dataset.

    at_most: take fewer, this share of each source, or one image of a source that has two
    Chosen by content, so that the same images are held out wherever they lie, and copies of one never end up on both
    sides; only readable images. Raises UsageError where more than half of a source would be held out, or nothing.
    """
    if at_most is None:
        check_counts([source.source.name for source in sources], [len(source.items) for source in sources], count)
    held_out: list[tuple[int, Item]] = []
    for number, source in enumerate(sources):
        share = share_of(count, number, len(sources))
        if at_most is not None:
            share = _fewer(share, len({item.sha256 for item in source.items}), at_most)
        order = sorted(source.items, key=lambda item: hashlib.sha256(f"{seed} {item.sha256}".encode()).digest())
        readable = list(itertools.islice((item for item in order if _is_readable(source, item)), share + 1))
        if at_most is not None and len(readable) <= share:
            share = _fewer(share, len({item.sha256 for item in readable}), at_most)
        if len(readable) <= share:
            raise UsageError(
                f"{source.name}: only {len(readable)} of its images can be read, too few to train on some and hold "
                f"{share} out. Check the others, lower run.held_out, or name others with --held-out."
            )
        held_out += [(number, item) for item in readable[:share]]
    if not held_out:
        names = " and ".join(source.source.name for source in sources)
        raise UsageError(
            f"{names}: a training needs an image to train on and another one to evaluate on. Give at least 2 different "
            "images that can be read, or name others with --held-out."
        )
    rest = _without(sources, {item.sha256 for _, item in held_out}, "are copies of held-out ones. Give more images.")
    return rest, joined(sources, held_out, "held-out")


def without(sources: Sequence[Dataset], held_out: Dataset) -> tuple[list[Dataset], int]:
    """The sources without copies of held-out images, and the number of copies. Raises UsageError where none is left."""
    contents = {item.sha256 for item in held_out.items}
    rest = _without(sources, contents, f"are in {held_out.name} too. Name other images with --held-out.")
    return rest, sum(len(a.items) - len(b.items) for a, b in zip(sources, rest, strict=True))


def check_counts(names: Sequence[str], counts: Sequence[int | None], held_out: int) -> None:
    """Raises UsageError where more than MAX_SHARE of a source would be held out; a count of None isn't known yet."""
    for number, (name, count) in enumerate(zip(names, counts, strict=True)):
        share = share_of(held_out, number, len(names))
        if count is not None and share > MAX_SHARE * count:
            fewer = len(names) * int(MAX_SHARE * min(one for one in counts if one is not None))
            lower = f"lower it with --set {HELD_OUT}={fewer}, " if fewer else ""
            raise UsageError(
                f"The recipe holds out {counted(share, 'image')} of {name}, but at most half of its {count} can be "
                f"held out. Give at least {counted(math.ceil(share / MAX_SHARE), 'image')}, {lower}or name others with "
                "--held-out."
            )


def share_of(count: int, number: int, sources: int) -> int:
    """How many of `count` images come from one of the sources."""
    return count // sources + (number < count % sources)


def _fewer(count: int, images: int, share: float) -> int:
    """At most so many images, and at most this share of the images; one of two or three all the same."""
    return min(count, max(int(share * images), min(1, images - 1), 0))


def _without(sources: Sequence[Dataset], contents: set[str], otherwise: str) -> list[Dataset]:
    rest = [dataclasses.replace(s, items=tuple(i for i in s.items if i.sha256 not in contents)) for s in sources]
    for source in rest:
        if not source.items:
            raise UsageError(f"{source.name}: all its images {otherwise}")
    return rest


def shuffled(source: Dataset, number: int, seed: int) -> Iterator[Item]:
    """The items of the `number`th source in an order that follows from the seed."""
    order = np.random.default_rng((seed, number)).permutation(len(source.items))
    return (source.items[int(i)] for i in order)


def joined(sources: Sequence[Dataset], chosen: Sequence[tuple[int, Item]], what: str) -> Dataset:
    """Images of several sources as one dataset; ids name the source where there are several."""
    prefixes = [f"{n}/" if len(sources) > 1 else "" for n in range(len(sources))]
    origins = {f"{prefixes[n]}{item.id}": (sources[n], item) for n, item in chosen}
    items = tuple(dataclasses.replace(origins[name][1], id=name) for name in sorted(origins))

    def pieces(name: str) -> Iterable[bytes]:
        source, item = origins[name]
        return (source.read(item),)

    names = " and ".join(f'"{source.source.name}"' for source in sources)
    title = f"{what} images of {names}"
    ids = tuple(item.id for item in items)
    name = f"{counted(len(items), f'{what} image')} of {names}"
    source = Source(title, "held-out", ids, pieces, originals={item.id: item.sha256 for item in items})
    return Dataset(name, "held-out", items, (), source)


def _is_readable(source: Dataset, item: Item) -> bool:
    try:
        decode_bytes(source.read(item), item.id)
    except BadInputError:
        return False
    return True
