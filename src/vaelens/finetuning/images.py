"""The images of an update: crops of a dataset's images, each a function of the seed, the epoch and the image.

An image that can't be read is left out, with the next one of its source in its place, and listed.
"""

from collections.abc import Generator, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from vaelens.errors import BadInputError
from vaelens.finetuning.order import Order
from vaelens.finetuning.recipe import Data
from vaelens.images.crops import Crops, random_square
from vaelens.images.datasets.items import Dataset, Item
from vaelens.images.drawing import Box
from vaelens.images.reading import decode_bytes
from vaelens.images.writing import to_pixels

LOADERS = 2  # threads
AHEAD = 2  # batches
KEPT_BYTES = 2**29  # of decoded images; decoding one anew takes as long as half a small network's update


@dataclass(frozen=True)
class Sample:
    """One image as it is trained on: uint8 [size,size,3], the boxes left in it, and where it came from."""

    pixels: np.ndarray
    boxes: tuple[Box, ...]
    id: str
    sha256: str


@dataclass(frozen=True)
class Batch:
    """Consecutive images of a training: image [b,3,s,s] in [0,1], boxes and the numbers their noise is seeded by."""

    image: Tensor
    boxes: tuple[tuple[Box, ...], ...]
    numbers: tuple[int, ...]
    samples: tuple[Sample, ...]


class Images:
    """The images of a training by number. `bad` lists those that couldn't be read, with the reason."""

    def __init__(self, sources: Sequence[Dataset], weights: Sequence[float], data: Data, seed: int) -> None:
        self._sources = tuple(sources)
        self._crops = Crops(data.size, data.crop, data.flip, data.recolour)
        self._seed = seed
        self._order = Order([len(source.items) for source in sources], weights, seed)
        self.bad: dict[str, str] = {}
        self._kept: dict[str, np.ndarray] = {}

    def sample(self, number: int) -> Sample:
        """The image with this number. Raises BadInputError where no image of its source can be read."""
        seen = self._order.at(number)
        source, why = self._sources[seen.source], ""
        for step in range(len(source.items)):
            item = source.items[(seen.index + step) % len(source.items)]
            where = f"{source.name}: {item.id}"
            if where in self.bad:
                why = self.bad[where]
                continue
            try:
                pixels = self._pixels(source, item)
            except BadInputError as error:
                why = self.bad[where] = str(error)
                continue
            rng = np.random.default_rng((self._seed, seen.epoch, number))
            square, boxes = random_square(pixels, item.boxes, self._crops, rng)
            return Sample(square, boxes, item.id, item.sha256)
        raise BadInputError(f"{source.name}: none of its {len(source.items)} images can be read. The last: {why}")

    def _pixels(self, source: Dataset, item: Item) -> np.ndarray:
        """An image, uint8 [h,w,3]; those that came first stay in memory by their sha256, up to KEPT_BYTES of them."""
        found = self._kept.get(item.sha256)
        if found is None:
            found = to_pixels(decode_bytes(source.read(item), item.id).image)
            if sum(pixels.nbytes for pixels in list(self._kept.values())) + found.nbytes <= KEPT_BYTES:
                self._kept[item.sha256] = found
        return found

    def batch(self, numbers: Sequence[int]) -> Batch:
        """The images with these numbers."""
        samples = [self.sample(number) for number in numbers]
        pixels = torch.as_tensor(np.stack([sample.pixels for sample in samples]))
        image = pixels.permute(0, 3, 1, 2).contiguous().float() / 255
        return Batch(image, tuple(s.boxes for s in samples), tuple(numbers), tuple(samples))

    def ahead(self, portions: Iterator[Sequence[int]]) -> Generator[Batch]:
        """These batches in this order, each read by a thread while earlier ones are trained on."""
        with ThreadPoolExecutor(LOADERS) as pool:
            waiting: list[Future[Batch]] = []
            try:
                for numbers in portions:
                    waiting.append(pool.submit(self.batch, numbers))
                    if len(waiting) > AHEAD:
                        yield waiting.pop(0).result()
                while waiting:
                    yield waiting.pop(0).result()
            finally:
                for future in waiting:
                    future.cancel()
