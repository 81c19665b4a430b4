"""One shard of a cache: images read and cropped ahead of their use, encoded in batches, rounded to float16.

A shard is a pure function of its images, the encoder, the size rule and the batch size.
"""

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from vaelens.errors import BadInputError, CheckFailedError
from vaelens.images.datasets.items import Dataset, Item
from vaelens.images.size_rules import SizeRule
from vaelens.images.writing import encode_png, from_uint8
from vaelens.latent_cache.shards import DTYPE, Bad, ShardContent
from vaelens.resources import full_precision, out_of_memory
from vaelens.runs.prefetching import read_ahead
from vaelens.text.numbers import counted
from vaelens.text.private_paths import without_folders
from vaelens.vae import VAE

AHEAD = 3  # batches


@dataclass(frozen=True)
class Job:
    """A dataset and the encoder that it goes through, into a folder.

    key: of the plan, once that is known
    """

    path: Path
    dataset: Dataset
    vae: VAE
    rule: SizeRule
    shard_size: int
    batch: int
    images: bool
    skip_bad: bool
    key: str = ""

    @property
    def shards(self) -> int:
        """How many."""
        return -(-len(self.dataset.items) // self.shard_size)

    @property
    def latent(self) -> tuple[int, int, int]:
        """The shape of an image's mean: channels, height, width."""
        spec = self.vae.spec
        side = -(-self.rule.side // spec.factor)
        return spec.latent_channels, side, side

    def key_of(self, shard: int) -> str:
        """By which the shard with this number is known from another cache's, or one of another number."""
        return hashlib.sha256(f"{self.key} {shard}".encode()).hexdigest()

    def items_of(self, shard: int) -> tuple[Item, ...]:
        """In order."""
        return self.dataset.items[shard * self.shard_size : (shard + 1) * self.shard_size]


@dataclass(frozen=True)
class _Batch:
    """Squares uint8 [b,3,side,side] of readable images, as PNG files too where those are kept."""

    items: tuple[Item, ...]
    sizes: tuple[tuple[int, int], ...]  # of the originals
    bad: tuple[Bad, ...]
    pixels: Tensor
    files: tuple[bytes, ...]


def make_shard(job: Job, number: int, step: Callable[[int, str], object]) -> ShardContent:
    """The shard with this number. Its batches, on which the last bits depend, always hold the same images.

    step: called with how many of its images are done, and the id of the next
    Raises what reading and running raise.
    """
    items = job.items_of(number)
    good: list[Item] = []
    sizes: list[tuple[int, int]] = []
    bad: list[Bad] = []
    files: list[bytes] = []
    means: list[Tensor] = []
    logvars: list[Tensor] = []
    portions = [items[start : start + job.batch] for start in range(0, len(items), job.batch)]
    for batch in read_ahead(partial(_read, job), portions, AHEAD):
        step(len(good) + len(bad), batch.items[0].id if batch.items else batch.bad[0][0])
        good += batch.items
        sizes += batch.sizes
        bad += batch.bad
        files += batch.files
        if batch.items:
            mean, logvar = _moments(job, batch)
            means.append(mean)
            logvars += [] if logvar is None else [logvar]
    if not means:
        means = [torch.zeros((0, *job.latent), dtype=DTYPE)]
    logvar = torch.cat(logvars) if logvars else None
    kept = files if job.images else None
    return ShardContent(job.key_of(number), good, sizes, bad, torch.cat(means), logvar, kept)


def _moments(job: Job, batch: _Batch) -> tuple[Tensor, Tensor | None]:
    """Mean and logvar on the CPU, rounded to float16. Raises CheckFailedError where they aren't finite, or then."""
    where = f"in the images from {batch.items[0].id} to {batch.items[-1].id}"
    message = (
        f"out of memory on {job.vae.device} with a batch of {counted(len(batch.items), 'image')} through "
        f"{job.vae.name}. Choose a smaller --batch and another folder, or --dtype bfloat16."
    )
    with out_of_memory(message), full_precision(job.vae.device):
        try:
            posterior = job.vae.encode(from_uint8(batch.pixels)).posterior
        except CheckFailedError as error:
            raise CheckFailedError(f"{error} It was {where}.") from error
    mean = posterior.mean.cpu().to(DTYPE)
    if not bool(torch.isfinite(mean).all()):
        largest = float(posterior.mean.abs().max())
        raise CheckFailedError(
            f"{job.vae.name}: z reaches {largest:.3g} {where}, beyond the range of 16 bits. Latents of a working VAE "
            "stay below 100: look at it with `vaelens inspect --health`."
        )
    return mean, None if posterior.logvar is None else posterior.logvar.cpu().to(DTYPE)


def _read(job: Job, items: Sequence[Item]) -> _Batch:
    """Raises BadInputError for an unreadable image, unless those are skipped."""
    good: list[Item] = []
    sizes: list[tuple[int, int]] = []
    bad: list[Bad] = []
    pixels: list[np.ndarray] = []
    files: list[bytes] = []
    for item in items:
        try:
            square = job.rule.square(job.dataset.read(item), item.id, item.boxes)
        except BadInputError as error:
            if not job.skip_bad:
                raise BadInputError(f"{error} --skip-bad leaves such images out and lists them.") from error
            bad.append((item.id, without_folders(str(error))))
            continue
        pixels.append(square.pixels)
        sizes.append(square.of)
        good.append(Item(item.id, item.sha256, square.boxes) if job.images else item)
        files += [encode_png(square.pixels)] if job.images else []
    # Made contiguous: on channels-last input torch's group norm on the CPU loses three digits.
    stacked = torch.as_tensor(np.stack(pixels)).permute(0, 3, 1, 2).contiguous() if pixels else torch.zeros(0)
    return _Batch(tuple(good), tuple(sizes), tuple(bad), stacked, tuple(files))
