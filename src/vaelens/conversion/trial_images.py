"""The images on which a converted VAE is compared with its source: the user's photos, else synthetic ones."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from vaelens.errors import UsageError
from vaelens.files import StrPath
from vaelens.images.datasets.folders import image_files
from vaelens.images.datasets.synthetic import EVALUATION_FIRST
from vaelens.images.faces import draw_face
from vaelens.images.letters import draw_letters
from vaelens.images.reading import decode_file, read_size
from vaelens.images.writing import from_uint8
from vaelens.text.numbers import counted
from vaelens.text.paths import user_path

MAX_SIDE = 512  # of a photo: what differs shows in a part of it too
SYNTHETIC_SIDE = 256
SYNTHETIC_IMAGES = 4  # faces and letters in turn


@dataclass(frozen=True)
class TrialImages:
    """Where the images come from, in words, and their files; none for the synthetic ones."""

    title: str
    files: tuple[Path, ...]
    max_side: int = MAX_SIDE

    @classmethod
    def of(cls, photos: Sequence[StrPath] | None, max_side: int = MAX_SIDE) -> "TrialImages":
        """Photos, or folders of them, each header checked; synthetic images where none is named.

        Raises UsageError for folders without images, and as reading an image's header does.
        """
        if not photos:
            side = SYNTHETIC_SIDE
            return cls(f"{SYNTHETIC_IMAGES} synthetic images of {side}x{side} (--photo names your own)", ())
        files = image_files([user_path(photo) for photo in photos])
        if not files:
            raise UsageError("no image is in the folder named. Name photos with --photo, or none for synthetic images.")
        for file in files:
            read_size(file, max_side)
        return cls(counted(len(files), "photo"), tuple(files), max_side)

    def read(self) -> list[Tensor]:
        """The images, each [1,3,h,w] in [0,1]."""
        if self.files:
            return [decode_file(file, max_side=self.max_side).image for file in self.files]
        drawings = (
            (draw_letters if number % 2 else draw_face)(EVALUATION_FIRST + number // 2, SYNTHETIC_SIDE)
            for number in range(SYNTHETIC_IMAGES)
        )
        return [from_uint8(torch.as_tensor(drawing.pixels).permute(2, 0, 1)[None]) for drawing in drawings]
