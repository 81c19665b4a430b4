"""The images of a dataset in chunks, decoded ahead of what measures them."""

from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch
from torch import Tensor

from vaelens.errors import BadInputError
from vaelens.evaluation.preparation import Prepared, prepare
from vaelens.evaluation.presets import Preset
from vaelens.images.datasets.items import Dataset, Item

LOADERS = 2  # threads: Pillow decodes outside the interpreter's lock
AHEAD = 4  # chunks


@dataclass(frozen=True)
class Chunk:
    """The images of one chunk that could be read, and those that couldn't (id, reason)."""

    number: int
    items: tuple[Item, ...]
    images: tuple[Prepared, ...]
    bad: tuple[tuple[str, str], ...]

    @cached_property
    def pixels(self) -> Tensor:
        """uint8 [b,3,side,side]."""
        pixels = torch.as_tensor(np.stack([image.pixels for image in self.images]))
        # Made contiguous: on channels-last input torch's group norm on the CPU loses three digits, some levels of 255.
        return pixels.permute(0, 3, 1, 2).contiguous()


def read_chunk(dataset: Dataset, number: int, batch: int, preset: Preset, skip_bad: bool) -> Chunk:
    """The `number`th `batch` consecutive images, prepared.

    Raises BadInputError for one that can't be read, unless `skip_bad`.
    """
    good: list[tuple[Item, Prepared]] = []
    bad: list[tuple[str, str]] = []
    for item in dataset.items[number * batch : (number + 1) * batch]:
        try:
            good.append((item, prepare(dataset.read(item), item.id, item.boxes, preset)))
        except BadInputError as error:
            if not skip_bad:
                raise BadInputError(
                    f"{error} Nothing measured so far is lost; --skip-bad leaves such images out and lists them."
                ) from error
            bad.append((item.id, str(error)))
    return Chunk(number, tuple(item for item, _ in good), tuple(image for _, image in good), tuple(bad))


def read_ahead(dataset: Dataset, numbers: Sequence[int], batch: int, preset: Preset, skip_bad: bool) -> Iterator[Chunk]:
    """These chunks in this order, each decoded by a thread while earlier ones are measured. Raises as `read_chunk`."""
    with ThreadPoolExecutor(LOADERS) as pool:
        ahead: list[Future[Chunk]] = []
        try:
            for number in numbers:
                ahead.append(pool.submit(read_chunk, dataset, number, batch, preset, skip_bad))
                if len(ahead) > AHEAD:
                    yield ahead.pop(0).result()
            while ahead:
                yield ahead.pop(0).result()
        finally:
            for future in ahead:
                future.cancel()
