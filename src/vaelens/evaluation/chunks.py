"""A dataset in chunks of 8-bit squares: files decoded, resized and cropped as a preset has it."""

import itertools
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch
from torch import Tensor

from vaelens.errors import BadInputError
from vaelens.evaluation.presets import Preset
from vaelens.images.datasets.items import Dataset, Item
from vaelens.images.size_rules import SizeRule, Square
from vaelens.text.private_paths import without_folders


@dataclass(frozen=True)
class Chunk:
    """The readable images of one chunk, and the unreadable ones (id, reason)."""

    number: int
    items: tuple[Item, ...]
    images: tuple[Square, ...]
    bad: tuple[tuple[str, str], ...]

    @cached_property
    def pixels(self) -> Tensor:
        """uint8 [b,3,side,side]."""
        pixels = torch.as_tensor(np.stack([image.pixels for image in self.images]))
        # Made contiguous: on channels-last input torch's group norm on the CPU loses three digits, some levels of 255.
        return pixels.permute(0, 3, 1, 2).contiguous()


def read_chunk(dataset: Dataset, number: int, batch: int, preset: Preset, skip_bad: bool) -> Chunk:
    """The `number`th `batch` consecutive images.

    Raises BadInputError for an unreadable one, unless `skip_bad`.
    """
    rule = size_rule(preset)
    good: list[tuple[Item, Square]] = []
    bad: list[tuple[str, str]] = []
    for item in dataset.items[number * batch : (number + 1) * batch]:
        try:
            good.append((item, rule.square(dataset.read(item), item.id, item.boxes)))
        except BadInputError as error:
            if not skip_bad:
                raise BadInputError(f"{error} --skip-bad leaves such images out and lists them.") from error
            bad.append((item.id, without_folders(str(error))))
    return Chunk(number, tuple(item for item, _ in good), tuple(image for _, image in good), tuple(bad))


def joined_chunks(chunks: Iterable[Chunk], size: int) -> Iterator[Chunk]:
    """The images of these chunks in chunks of `size`, numbered from 0; the last may be smaller, none is empty."""
    images = ((item, image) for chunk in chunks for item, image in zip(chunk.items, chunk.images, strict=True))
    for number in itertools.count():
        some = tuple(itertools.islice(images, size))
        if not some:
            return
        yield Chunk(number, tuple(item for item, _ in some), tuple(image for _, image in some), ())


def size_rule(preset: Preset) -> SizeRule:
    """How the preset reads, resizes and crops images."""
    return SizeRule(preset.reading, preset.resize, preset.side)


def quantize_originals(pixels: Tensor, preset: Preset) -> Tensor:
    """The originals, uint8 [b,3,h,w], as the preset compares reconstructions with them.

    Where the preset truncates, originals go through x/127.5 - 1 and back like everything else, which lowers some
    values by one. The way there is in float64, cast to fp32, and the way back in fp32, as in the published code.
    """
    if preset.rounding == "half-up":
        return pixels
    levels = (torch.arange(256, dtype=torch.float64) / 127.5 - 1).float()
    table = ((levels + 1) / 2 * 255).to(torch.uint8).to(pixels.device)
    return table[pixels.long()]


def quantize(image: Tensor, preset: Preset) -> Tensor:
    """Reconstructions [b,3,h,w] in [0,1] as the preset saves them: uint8, truncated or rounded half up."""
    levels = image.clamp(0, 1) * 255
    return (levels if preset.rounding == "truncate" else (levels + 0.5).floor()).to(torch.uint8)
