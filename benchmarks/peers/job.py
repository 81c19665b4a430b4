"""What a peer is asked to do, and what it gives back."""

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from torch import Tensor

# Raw z [b,4,h,w] to raw pixels [b,3,8h,8w], or raw pixels in [-1,1] to moments [b,8,h/8,w/8]; fp32, in host memory.
Call = Callable[[Tensor], Tensor]


@dataclass(frozen=True)
class Job:
    """One peer's work in a process of its own."""

    peer: str  # a key of peers.table.PEERS
    task: str  # "decode" or "encode"
    height: int  # of the image
    width: int
    batch: int
    threads: int
    work: str  # the folder of VAE, latents and conversions
    max_memory: int | None = None  # bytes; vaelens only

    @property
    def folder(self) -> Path:
        return Path(self.work)

    @property
    def input_shape(self) -> tuple[int, int, int, int]:
        if self.task == "encode":
            return self.batch, 3, self.height, self.width
        return self.batch, 4, self.height // 8, self.width // 8


@dataclass
class Loaded:
    """A peer that is ready to compute."""

    call: Call
    notes: dict[str, str] = field(default_factory=dict[str, str])  # what it says of itself: paths, precision
