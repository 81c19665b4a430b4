"""What a trainer's file is named after: an image before it became a square."""

from dataclasses import dataclass
from pathlib import PurePosixPath


@dataclass(frozen=True)
class Original:
    """An image of a cache: its path in the dataset, its size in pixels, and the side of the square that was encoded.

    space: the trainer's name of the latent space
    """

    path: PurePosixPath
    width: int
    height: int
    side: int
    space: str
