"""A plan: where each map of a run lies, how high its strips are, and what memory and time that is estimated to take."""

from dataclasses import dataclass
from typing import Literal

Direction = Literal["decode", "encode"]
# In memory; in a temporary file, of a GPU in the machine's memory; never whole: its rows are computed each time they
# are read; the result.
Place = Literal["memory", "parked", "recomputed", "output"]


def sides(size: tuple[int, int]) -> str:
    """Height and width in pixels as people write them."""
    return f"{size[1]}x{size[0]} pixels"


def early_shortcut(hidden: Place | None, place: Place) -> bool:
    """Whether a block that changes the width makes its shortcut beside its hidden map, where its output will be.

    Its input is read no more then, and the second convolution is added in place.
    """
    return hidden in ("memory", "parked") and place == "memory"


@dataclass(frozen=True)
class StepPlan:
    """One step: the place of its output and, of a residual block, that of the map between its two convolutions.

    `rows` is the height of a strip of the output; `peak_bytes` and `seconds` are estimates.
    """

    name: str
    channels: int
    height: int
    width: int
    place: Place
    hidden: Place | None
    rows: int
    peak_bytes: int
    seconds: float


@dataclass(frozen=True)
class Plan:
    """How a network is run on images of one size.

    `size` is (height, width) of the input, latents or pixels. `images` of the batch are run at once. `max_memory` is
    the budget in bytes, None for what is free; `smallest` is the smallest one that can be met. `counts_input`: the
    input is a copy made for the call, so its bytes count. `keep_weights`: packed weights stay for the next call; else
    each is packed when it is used. `path` names the kernels.
    """

    direction: Direction
    size: tuple[int, int]
    batch: int
    images: int
    path: str
    dtype: str
    max_memory: int | None
    smallest: int
    counts_input: bool
    keep_weights: bool
    peak_bytes: int
    seconds: float
    steps: tuple[StepPlan, ...]

    @property
    def pixels(self) -> str:
        """The image's size in words: of the input where it is encoded, of the result where it is decoded."""
        return sides(self.size if self.direction == "encode" else (self.steps[-1].height, self.steps[-1].width))

    @property
    def gives_back(self) -> bool:
        """Whether memory that a step has freed is given back to the system before the next one, which takes time."""
        return self.max_memory is not None or not self.keep_weights

    def table(self) -> str:
        """For people: one line for each step."""
        head = f"{'step':<34}{'map':>17}  {'place':<11}{'hidden map':<12}{'rows':>6}{'peak MB':>9}{'seconds':>9}"
        lines = [head]
        for step in self.steps:
            size = f"{step.height}x{step.width}x{step.channels}"
            lines.append(
                f"{step.name:<34}{size:>17}  {step.place:<11}{step.hidden or '':<12}{step.rows:>6}"
                f"{step.peak_bytes / 1e6:>9.0f}{step.seconds:>9.2f}"
            )
        budget = "what is free" if self.max_memory is None else f"{self.max_memory / 1e6:.0f} MB"
        weights = "kept" if self.keep_weights else "packed for each use"
        lines.append(
            f"Peak {self.peak_bytes / 1e6:.0f} MB of {budget}; smallest possible {self.smallest / 1e6:.0f} MB. "
            f"Packed weights are {weights}; path {self.path}; {self.images} of {self.batch} images at once."
        )
        return "\n".join(lines)
