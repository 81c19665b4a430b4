"""Reading a cache: posteriors and images by sample id, and the whole as a dataset.

cache = open_cache("latents")
latents = vae.encoded(cache.posterior(cache.ids[:4], vae.device, vae.dtype), cache.size).sample(seed=0)
"""

import hashlib
import threading
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from vaelens.errors import BadInputError, CheckFailedError, UsageError
from vaelens.files import StrPath
from vaelens.images.datasets.items import Dataset, Item, Source, boxes_sha256, manifest_sha256
from vaelens.images.datasets.opening import choose, find_source, open_dataset
from vaelens.images.datasets.synthetic import is_for_training
from vaelens.images.reading import decode_bytes
from vaelens.images.size_rules import SizeRule
from vaelens.latent_cache.index import MAKE_AGAIN, Index, is_cache, read_index, refuse_other_encoder
from vaelens.latent_cache.shards import Shard, read_items, read_sizes, shard_path
from vaelens.networks.autoencoder_kl import DiagonalGaussian
from vaelens.runtime import DEFAULT, Runtime
from vaelens.text.numbers import counted
from vaelens.text.paths import user_path
from vaelens.vae import VAE

OPEN = 64  # shards at once


class LatentCache:
    """A finished cache. Its items are sorted by id, with the sha256 of the images' files; threads may share it.

    Each shard is verified by its checksum when it is first read. Raises what `read_index` raises; BadInputError where
    a shard is missing; CheckFailedError where one has changed.
    """

    def __init__(self, path: StrPath) -> None:
        self.path = user_path(path)
        self.index: Index = read_index(self.path)
        self.was_complete = True  # before `encode_dataset` gave it
        self._open_shards: OrderedDict[int, Shard] = OrderedDict()
        self._verified: set[int] = set()
        self._lock = threading.Lock()
        found: list[Item] = []
        self._places: dict[str, tuple[int, int]] = {}  # shard and row by id
        for number, record in enumerate(self.index.shards):
            items, _ = read_items(shard_path(self.path, number))
            if len(items) != record.images:
                self._open(number)  # says that its checksum is wrong
            self._places |= {item.id: (number, row) for row, item in enumerate(items)}
            found += items
        self.items = tuple(found)
        of = self.index.dataset
        if (manifest_sha256(found), boxes_sha256(found)) != (of.manifest_sha256, of.boxes_sha256):
            self.verify()
            raise CheckFailedError(f"{self.path}: its shards aren't those of its cache.json. {MAKE_AGAIN}")

    def __len__(self) -> int:
        return len(self.items)

    def __repr__(self) -> str:
        return f"LatentCache({str(self.path)!r}, {counted(len(self), 'image')}, {self.index.rule})"

    @property
    def ids(self) -> tuple[str, ...]:
        """The sample ids, sorted."""
        return tuple(item.id for item in self.items)

    @property
    def size(self) -> tuple[int, int]:
        """Height and width of the encoded squares."""
        return self.index.rule.side, self.index.rule.side

    @property
    def identity(self) -> dict[str, Any]:
        """What results depend on that come from these posteriors."""
        content = hashlib.sha256("".join(shard.sha256 for shard in self.index.shards).encode()).hexdigest()
        rule = self.index.rule.as_dict()
        return {"encoder": self.index.encoder.fingerprint.stored, "rule": rule, "shards_sha256": content}

    @property
    def holds_images(self) -> bool:
        """Whether the squares are in the cache; else they are read where they were."""
        return self.index.dataset.call is None

    @property
    def is_for_training(self) -> bool:
        """Whether these are synthetic images that are never measured on."""
        return self.index.dataset.origin == "synthetic" and is_for_training(self.items[0].id)

    def summary(self) -> dict[str, Any]:
        """What it is, by label, for people and as JSON."""
        of, encoder = self.index.dataset, self.index.encoder
        return {
            "dataset": of.name,
            "images": len(self),
            "skipped": dict(of.skipped),
            "size rule": str(self.index.rule),
            "latents": f"{' x '.join(map(str, self.index.latent))}, {self.index.posterior}, float16",
            "encoder": f"{encoder.fingerprint.stored} (of {encoder.vae}, run in {self.index.precision})",
            "squares": "kept" if self.holds_images else "not kept: the images are read where they were",
            "bytes": sum(shard_path(self.path, number).stat().st_size for number in range(len(self.index.shards))),
        }

    def verify(self) -> None:
        """Read every shard and compare its checksum. Raises what reading raises."""
        for number in range(len(self.index.shards)):
            self._open(number)

    def posterior(
        self, ids: Sequence[str], device: torch.device | str = "cpu", dtype: torch.dtype = torch.float32
    ) -> DiagonalGaussian:
        """Of these images, over raw z [b,c,h,w]. Raises UsageError for an id that isn't in the cache."""
        rows = [self._row(name) for name in ids]
        moments = [self._open(number).moments(row) for number, row in rows]
        mean = torch.cat([mean for mean, _ in moments]).to(device, dtype)
        logvars = [logvar for _, logvar in moments if logvar is not None]
        return DiagonalGaussian(mean, torch.cat(logvars).to(device, dtype) if logvars else None)

    def image(self, name: str) -> Tensor:
        """The square that was encoded, [1,3,h,w] in [0,1]. Raises UsageError where the cache holds no images."""
        if not self.holds_images:
            raise UsageError(f"{self.path} holds no images. Read them with `dataset()`, where they were.")
        number, row = self._row(name)
        return decode_bytes(self._open(number).image(row), name).image

    def original_sizes(self) -> dict[str, tuple[int, int]]:
        """Height and width of the original images, by id."""
        paths = [shard_path(self.path, number) for number in range(len(self.index.shards))]
        return {name: size for path in paths for name, size in read_sizes(path).items()}

    def check_encoder(self, vae: VAE) -> None:
        """Raises UsageError, naming both, where the VAE has another encoder than the one that made the cache."""
        refuse_other_encoder(self.path, self.index.encoder, vae)

    def check_rule(self, rule: SizeRule) -> None:
        """Raises UsageError where squares are needed that were made by another rule than the cache's."""
        if self.index.rule != rule:
            raise UsageError(
                f"{self.path} was encoded by the size rule {self.index.rule}, but {rule} is needed here. Encode the "
                f"images again with --rule {rule.name} --size {rule.side}, or name them instead of the cache."
            )

    def dataset(self, *, take: int | None = None, seed: int = 0, runtime: Runtime = DEFAULT) -> Dataset:
        """The images: squares from the cache, or files where they were, which must be as they were.

        take: so many, chosen by `seed` as `open_dataset` chooses. Raises UsageError for more than there are, and what
        opening the images raises where the cache holds none.
        """
        of = self.index.dataset
        source = self._source() if self.holds_images else self._elsewhere(runtime)
        chosen = set(choose(self.ids, take, seed, of.name))
        items = tuple(item for item in self.items if item.id in chosen)
        precision = f" in {self.index.precision}" * (self.index.precision != "float32")
        notes = [
            *of.notes,
            f"encoded before{precision}, by the size rule {self.index.rule}, with {self.index.encoder}",
        ]
        name = of.name
        if of.skipped:
            notes.append(f"{counted(len(of.skipped), 'unreadable image')} left out when they were encoded")
        if len(items) < len(self.items):
            name = f"{len(items):,} of {name}"
            notes.append(f"{len(items):,} of {len(self.items):,} images, chosen with seed {seed}")
        since = f"since it was encoded for {self.path}. Encode the images again, into another folder."
        return Dataset(name, of.origin, items, tuple(notes), source, since)

    def _source(self) -> Source:
        def pieces(name: str) -> tuple[bytes]:
            number, row = self._row(name)
            return (self._open(number).image(row),)

        originals = {item.id: item.sha256 for item in self.items}
        boxes = {item.id: item.boxes for item in self.items}
        of = self.index.dataset
        return Source(of.name, of.origin, self.ids, pieces, boxes=boxes.__getitem__, originals=originals)

    def _elsewhere(self, runtime: Runtime) -> Source:
        """The source that was encoded, opened again; `Dataset.read` then compares each file with its sha256."""
        call = dict(self.index.dataset.call or {})
        try:
            source = find_source(
                call["source"], count=call["take"], seed=call["seed"], scored=False, split=call["split"], eyes=False,
                training=call["training"], runtime=runtime,
            )  # fmt: skip
        except BadInputError as error:
            raise BadInputError(f"{self.path} holds no images, and they aren't where they were. {error}") from error
        missing = set(self.ids) - set(source.ids)
        if missing:
            raise BadInputError(
                f"{self.path} holds no images, and {call['source']} lacks {counted(len(missing), 'image')} of it now, "
                f"the first is {min(missing)}. Bring them back, or encode what is there."
            )
        return replace(source, boxes={item.id: item.boxes for item in self.items}.__getitem__)

    def _row(self, name: str) -> tuple[int, int]:
        try:
            return self._places[name]
        except KeyError:
            raise UsageError(f"{self.path} has no image called {name!r}.") from None

    def _open(self, number: int) -> Shard:
        with self._lock:
            shard = self._open_shards.get(number)
            if shard is None:
                sha256 = None if number in self._verified else self.index.shards[number].sha256
                shard = Shard(shard_path(self.path, number), sha256)
                self._verified.add(number)
                self._open_shards[number] = shard
                if len(self._open_shards) > OPEN:
                    self._open_shards.popitem(last=False)
            self._open_shards.move_to_end(number)
            return shard


Images = StrPath | Dataset | LatentCache  # what may be measured on


def open_cache(path: StrPath) -> LatentCache:
    """The cache in a folder that `vaelens encode` wrote. Raises as `LatentCache` does."""
    return LatentCache(path)


def check_images(source: Images, rule: SizeRule) -> Images:
    """The source, opened where it is a cache; cheap, so call it before anything is loaded.

    Raises UsageError for a cache that can't be measured on: made by another rule than `rule`, or of images that are
    for training; and what opening a cache raises.
    """
    if not isinstance(source, LatentCache) and not is_cache(source):
        return source
    cache = source if isinstance(source, LatentCache) else open_cache(source)
    cache.check_rule(rule)
    if cache.is_for_training:
        raise UsageError(f"{cache.path} holds synthetic images for training, which are never measured on.")
    return cache


def open_images(
    source: Images,
    *,
    take: int | None = None,
    seed: int = 0,
    min_aesthetic: float | None = None,
    split: str | None = None,
    boxes: StrPath | None = None,
    skip_bad: bool = False,
    rule: SizeRule,
    runtime: Runtime = DEFAULT,
) -> tuple[Dataset, LatentCache | None]:
    """A dataset from any source, a cache included; options and errors are those of `open_dataset`.

    Also gives the cache, if it is one. Raises as `check_images`, and UsageError for options that choose images when a
    cache is made.
    """
    source = check_images(source, rule)
    if isinstance(source, Dataset):
        return source, None
    if isinstance(source, LatentCache):
        cache = source
        given = {"--min-aesthetic": min_aesthetic, "--split": split, "--boxes": boxes}
        if named := [name for name, value in given.items() if value is not None]:
            raise UsageError(
                f"{cache.path} is a latent cache: {named[0]} is an option of `vaelens encode`, which made it."
            )
        return cache.dataset(take=take, seed=seed, runtime=runtime), cache
    opened = open_dataset(
        source, take=take, seed=seed, min_aesthetic=min_aesthetic, split=split, boxes=boxes, skip_bad=skip_bad,
        runtime=runtime,
    )  # fmt: skip
    return opened, None
