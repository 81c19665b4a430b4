"""Batches of training images. Which image comes when, and its crop, are functions of the seed and of a counter.

So a resumed training needs no state of a shuffle, and any number of processes sees the same images in the same order.
An image that can't be read is replaced by the next one of its source, and listed.
"""

import math
from collections.abc import Generator, Iterator, Sequence
from dataclasses import dataclass
from fractions import Fraction
from functools import lru_cache

import numpy as np
import torch
from torch import Tensor

from vaelens.errors import BadInputError, UsageError
from vaelens.finetuning.recipe import Data
from vaelens.images.crops import Crops, random_square
from vaelens.images.datasets.items import Dataset, Item
from vaelens.images.drawing import Box
from vaelens.images.reading import decode_bytes
from vaelens.images.writing import to_pixels
from vaelens.runs.prefetching import read_ahead
from vaelens.text.numbers import counted

PREFETCHED = 2  # batches
CACHE_BYTES = 2**29  # of decoded images; decoding one takes as long as half a step of a small network
MAX_PATTERN = 1000  # images after which the pattern of sources repeats, at most
CPU_PIXELS = 4 * 256 * 256  # pixels of a process' micro-batch on the CPU, unless the user says otherwise
DEVICE_PIXELS = 12 * 256 * 256


@dataclass(frozen=True)
class Draw:
    """One image of the training order: its source, its index there, and the epoch of that source."""

    source: int
    index: int
    epoch: int


class TrainingOrder:
    """The order of images from sources of these sizes, mixed by weights. Raises UsageError for weights not above 0.

    Sources alternate in a fixed pattern; within one, each epoch is a new permutation.
    """

    def __init__(self, sizes: Sequence[int], weights: Sequence[float], seed: int) -> None:
        self._sizes = tuple(sizes)
        self._seed = seed
        self._pattern = _pattern(weights)
        self._counts = [self._pattern.count(source) for source in range(len(sizes))]
        counted = [0] * len(sizes)
        self._earlier: list[int] = []  # how often each position's source occurs earlier in the pattern
        for source in self._pattern:
            self._earlier.append(counted[source])
            counted[source] += 1

    def at(self, number: int) -> Draw:
        """The image with this number, counted over all processes from 0."""
        repeats, place = divmod(number, len(self._pattern))
        source = self._pattern[place]
        position = repeats * self._counts[source] + self._earlier[place]
        epoch, place = divmod(position, self._sizes[source])
        return Draw(source, int(_permutation(self._sizes[source], self._seed, source, epoch)[place]), epoch)


def _pattern(weights: Sequence[float]) -> tuple[int, ...]:
    """A short sequence of sources, each as often as its weight says, spread as evenly as possible."""
    if not all(math.isfinite(weight) and weight > 0 for weight in weights):
        raise UsageError(f"the weights of sources must be above 0, not {', '.join(f'{w:g}' for w in weights)}.")
    counts = _counts(weights)
    # Each source's k-th turn is due at (k + 1/2) / its count; ties go to the first source.
    turns = sorted((Fraction(2 * k + 1, 2 * n), s) for s, n in enumerate(counts) for k in range(n))
    return tuple(source for _, source in turns)


def _counts(weights: Sequence[float]) -> list[int]:
    """How often each source occurs in a pattern: exactly by its weight where that is short, else to 1 in 1000."""
    fractions = [Fraction(weight).limit_denominator(MAX_PATTERN) for weight in weights]
    whole = math.lcm(*(fraction.denominator for fraction in fractions))
    counts = [int(fraction * whole) for fraction in fractions]
    if sum(counts) // math.gcd(*counts) > MAX_PATTERN or not all(counts):
        counts = [round(weight / sum(weights) * MAX_PATTERN) for weight in weights]
    if not all(counts):
        raise UsageError(f"a source's weight must be at least 1/{MAX_PATTERN} of all weights. Raise it.")
    return [count // math.gcd(*counts) for count in counts]


@lru_cache(maxsize=8)
def _permutation(size: int, seed: int, source: int, epoch: int) -> np.ndarray:
    return np.random.default_rng((seed, source, epoch)).permutation(size)


@dataclass(frozen=True)
class Sample:
    """One training image: uint8 [size,size,3], the boxes left in the crop, and the image's id and hash."""

    pixels: np.ndarray
    boxes: tuple[Box, ...]
    id: str
    sha256: str


@dataclass(frozen=True)
class Batch:
    """Images [b,3,s,s] in [0,1] with their boxes, and their numbers in the training order, which seed their noise."""

    image: Tensor
    boxes: tuple[tuple[Box, ...], ...]
    numbers: tuple[int, ...]
    samples: tuple[Sample, ...]


class TrainingImages:
    """The images of a training by their number. `unreadable` maps those that were replaced to the reason."""

    def __init__(self, sources: Sequence[Dataset], weights: Sequence[float], data: Data, seed: int) -> None:
        self._sources = tuple(sources)
        self._crops = Crops(data.size, data.crop, data.flip, data.color_jitter)
        self._seed = seed
        self._order = TrainingOrder([len(source.items) for source in sources], weights, seed)
        self.unreadable: dict[str, str] = {}
        self._decoded: dict[str, np.ndarray] = {}

    def sample(self, number: int) -> Sample:
        """The image with this number. Raises BadInputError where its source has no readable image."""
        draw = self._order.at(number)
        source, why = self._sources[draw.source], ""
        for offset in range(len(source.items)):
            item = source.items[(draw.index + offset) % len(source.items)]
            label = f"{source.name}: {item.id}"
            if label in self.unreadable:
                why = self.unreadable[label]
                continue
            try:
                pixels = self._pixels(source, item)
            except BadInputError as error:
                why = self.unreadable[label] = str(error)
                continue
            rng = np.random.default_rng((self._seed, draw.epoch, number))
            square, boxes = random_square(pixels, item.boxes, self._crops, rng)
            return Sample(square, boxes, item.id, item.sha256)
        raise BadInputError(
            f"{source.name}: none of its {counted(len(source.items), 'image')} can be read. The last: {why}"
        )

    def _pixels(self, source: Dataset, item: Item) -> np.ndarray:
        """A decoded image, uint8 [h,w,3]. The first ones stay in memory, up to CACHE_BYTES."""
        found = self._decoded.get(item.sha256)
        if found is None:
            found = to_pixels(decode_bytes(source.read(item), item.id).image)
            if sum(pixels.nbytes for pixels in list(self._decoded.values())) + found.nbytes <= CACHE_BYTES:
                self._decoded[item.sha256] = found
        return found

    def batch(self, numbers: Sequence[int]) -> Batch:
        """The images with these numbers."""
        samples = [self.sample(number) for number in numbers]
        pixels = torch.as_tensor(np.stack([sample.pixels for sample in samples]))
        image = pixels.permute(0, 3, 1, 2).contiguous().float() / 255
        return Batch(image, tuple(s.boxes for s in samples), tuple(numbers), tuple(samples))

    def prefetch(self, batches: Iterator[Sequence[int]]) -> Generator[Batch]:
        """These batches in order, read by threads while earlier ones are trained on."""
        return read_ahead(self.batch, batches, PREFETCHED)


def micro_batch_size(requested: int | None, previous: int | None, data: Data, device: str, ranks: int) -> int:
    """Images per forward and backward pass over all processes: divides the batch size, and is divisible by `ranks`.

    As requested, else as in the `previous` run that is resumed, else the largest that a device should have memory for.
    Raises UsageError where none fits.
    """
    batch = data.batch_size
    processes = counted(ranks, "process", "processes")
    fitting = [n for n in range(1, batch + 1) if batch % n == 0 and n % ranks == 0]
    if requested is not None:
        if requested not in fitting:
            raise UsageError(
                f"a micro-batch size of {requested} doesn't divide the batch size {batch} evenly over {processes}. "
                "Choose another --micro-batch-size, or another batch size with --set data.batch_size=N."
            )
        return requested
    if previous is not None:
        if previous not in fitting:
            raise UsageError(
                f"this run has a micro-batch size of {previous}, which {processes} can't share. Resume it with a "
                f"number of processes that divides {previous}."
            )
        return previous
    if not fitting:
        raise UsageError(
            f"a batch size of {batch} can't be shared by {processes}. Set another one: --set data.batch_size=N."
        )
    largest = max(1, (CPU_PIXELS if device == "cpu" else DEVICE_PIXELS) // data.size**2) * ranks
    return max((n for n in fitting if n <= largest), default=fitting[0])
