"""The fastest plan within a budget of memory.

After each step the map is in memory, parked, or still to be computed. What a step takes depends on that form of its
input and on its own choices alone, and the budget must hold in each pass by itself: so the fastest plan is the shortest
way through the forms, found step by step.
"""

import functools
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch

from vaelens.engine.architecture import Step
from vaelens.engine.choices import Choice, Shapes, choices, kept_scratch, output_size, step_shapes, strip_heights
from vaelens.engine.costs import PACKING, Form, Machine, Whole
from vaelens.engine.maps import Shape, parking_room
from vaelens.engine.packed_weights import kept_bytes
from vaelens.engine.plan import Direction, Plan, StepPlan, sides
from vaelens.errors import UsageError
from vaelens.kernels.paths import choose_path
from vaelens.resources import free_memory

RESERVE = 0.1  # of the free memory, for what else the machine does
CACHED = 32  # plans of each kind that are remembered
ROOM_STEP = 2**28  # in which the room for parking is counted, so that a plan is found again while a disk fills
SLACK_BYTES, SLACK = 24 * 2**20, 0.03  # what the allocator keeps beyond what is in use, and what isn't counted
TORCH_SLACK = 0.15  # PyTorch's operations take blocks from the heap in each strip, and what is kept longer parts them


@dataclass(frozen=True)
class Problem:
    """What is to be planned: the steps on an input [b,h,w,c], of a batch of images; `room` bytes can be parked."""

    steps: tuple[Shapes, ...]
    input: Shape
    batch: int
    machine: Machine
    room: int
    counts_input: bool

    @property
    def packed_bytes(self) -> int:
        """Of all weights."""
        return sum(kernel.packed_bytes for step in self.steps for kernel in step.kernels)

    def with_slack(self, peak: int) -> int:
        """The estimated peak of a step, with what the allocator may keep beside it."""
        native = all(kernel.keeps_scratch for step in self.steps for kernel in step.kernels)
        slack = TORCH_SLACK if self.machine.device.type == "cpu" and not native else SLACK
        return math.ceil(peak * (1 + slack))


@dataclass(frozen=True)
class Way:
    """A plan as far as some step, and the form of the map that it leaves."""

    form: Form
    steps: tuple[StepPlan, ...] = ()
    peak: int = 0
    seconds: float = 0.0

    def extended(self, choice: Choice) -> "Way":
        """By one step."""
        step = choice.plan
        peak, seconds = max(self.peak, step.peak_bytes), self.seconds + step.seconds
        return Way(choice.form, (*self.steps, step), peak, seconds)


@dataclass(frozen=True)
class Candidate:
    """A whole way, with the peak of a run and the seconds for the batch."""

    way: Way
    images: int
    keep_weights: bool
    peak: int
    seconds: float


def make_plan(
    direction: Direction,
    steps: list[Step],
    size: tuple[int, int],
    batch: int,
    *,
    dtype: torch.dtype,
    device: torch.device,
    max_memory: int | None,
    counts_input: bool = False,
) -> Plan:
    """The plan of a network's steps for a batch of images of a size (height, width).

    Raises UsageError where `max_memory` is less than the smallest plan takes, or the input is too small.
    Where it is None and not even the smallest plan's memory is free, that plan is given all the same.
    """
    machine = Machine.of(dtype, device)
    shapes = step_shapes(steps, machine)
    made = output_size(shapes, size)
    if min(made) < 1:
        raise UsageError(f"an input of {size[1]}x{size[0]} is too small: the network makes nothing of it.")
    channels, room = shapes[0].kernels[0].in_channels, parking_room(device) // ROOM_STEP * ROOM_STEP
    problems = [
        Problem(shapes, (n, *size, channels), batch, machine, room, counts_input)
        for n in _images_at_once(batch, device)
    ]
    budget = free_budget(device) if max_memory is None else max_memory
    found = [one for problem in problems if (one := _fastest(problem, budget)) is not None]
    smallest = _smallest(problems[-1])
    if not found and max_memory is not None:
        image = sides(size if direction == "encode" else made)
        images = f"{batch} images of " if batch > 1 else ""
        least = shown_bytes(smallest.peak)
        raise UsageError(
            f"{direction[:-1]}ing {images}{image} needs at least {least} of memory, and max_memory (--max-memory) is "
            f"{max_memory / 1e6:.4g} MB. Allow {least} or more."
        )
    best = min(found, key=lambda one: one.seconds, default=smallest)
    return Plan(
        direction=direction,
        size=size,
        batch=batch,
        images=best.images,
        path=choose_path(dtype, device),
        dtype=str(dtype).removeprefix("torch."),
        max_memory=max_memory,
        smallest=smallest.peak,
        counts_input=counts_input,
        keep_weights=best.keep_weights,
        peak_bytes=best.peak,
        seconds=best.seconds,
        steps=best.way.steps,
    )


def free_budget(device: torch.device) -> float:
    """The bytes that a run may take where no budget is given: what is free, or is once kept weights are dropped."""
    free = free_memory(device)
    return math.inf if free is None else free * (1 - RESERVE) + kept_bytes(device)


def shown_bytes(size: int) -> str:
    """Rounded up, so that a budget of what is shown is enough."""
    return f"{math.ceil(size / 1e7) / 100:g} GB" if size > 999e6 else f"{math.ceil(size / 1e6)} MB"


def _images_at_once(batch: int, device: torch.device) -> list[int]:
    """On the CPU one, so that an image is the same alone and in company; else the batch, its half, and so on to one."""
    counts = [1 if device.type == "cpu" else batch]
    while counts[-1] > 1:
        counts.append(counts[-1] // 2)
    return counts


def _fastest(problem: Problem, budget: float) -> Candidate | None:
    """Maps in memory and kept weights where they fit, which nothing beats; else the best of what does."""
    ample = _ample(problem)
    return ample if ample.peak <= budget else _within(problem, budget)


@functools.lru_cache(maxsize=CACHED)
def _ample(problem: Problem) -> Candidate:
    """Maps in memory, computed in the tallest strips, and the packed weights kept."""
    way = _search(problem, math.inf, heights=strip_heights(problem.machine)[:1], whole=True, packed=False)
    return _candidate(problem, way, keep=True)


@functools.lru_cache(maxsize=CACHED)
def _within(problem: Problem, budget: float) -> Candidate | None:
    """The fastest that fits, with packed weights kept or not."""
    ways = list[Candidate]()
    for keep in (True, False):
        limit = budget - _fixed_bytes(problem, keep=keep)
        if (way := _search(problem, limit, packed=not keep)) is not None:
            ways.append(_candidate(problem, way, keep=keep))
    return min(ways, key=lambda one: one.seconds, default=None)


@functools.lru_cache(maxsize=CACHED)
def _smallest(problem: Problem) -> Candidate:
    """The one whose peak is the smallest: in the lowest strips, and nothing kept."""
    return _candidate(
        problem,
        _search(problem, math.inf, _by_peak, heights=strip_heights(problem.machine)[-1:], packed=True),
        keep=False,
    )


def _by_seconds(way: Way) -> tuple[float, float]:
    return way.seconds, way.peak


def _by_peak(way: Way) -> tuple[float, float]:
    return way.peak, way.seconds


def _search(
    problem: Problem,
    limit: float,
    rank: Callable[[Way], tuple[float, float]] = _by_seconds,
    *,
    packed: bool,
    whole: bool = False,
    heights: Sequence[int] | None = None,
) -> Way | None:
    """The first way by its rank whose every pass is within the limit, each step in its tallest strips that are.

    `heights` are those of strips, by default all of `strip_heights`.
    """
    heights = heights or strip_heights(problem.machine)
    start = Whole(problem.input, "given")
    ways: dict[Form, Way] = {start: Way(start)}
    for step in problem.steps:
        longer: dict[Form, Way] = {}
        for way in ways.values():
            for strips in choices(
                step, way.form, problem.machine, problem.room, packed=packed, whole=whole, heights=heights
            ):
                choice = next((one for one in strips if problem.with_slack(one.plan.peak_bytes) <= limit), None)
                if choice is not None:
                    one = way.extended(choice)
                    longer[one.form] = min(longer.get(one.form, one), one, key=rank)
        ways = longer
    return min(ways.values(), key=rank, default=None)


def _candidate(problem: Problem, way: Way | None, *, keep: bool) -> Candidate:
    assert way is not None
    images = problem.input[0]
    peak = _fixed_bytes(problem, keep=keep) + problem.with_slack(way.peak)
    seconds = way.seconds + (0.0 if keep else problem.packed_bytes / PACKING)
    return Candidate(way, images, keep, peak, -(-problem.batch // images) * seconds)


def _fixed_bytes(problem: Problem, *, keep: bool) -> int:
    """What is there throughout.

    The result in fp32, the input where it counts, kept weights and scratch, and what the allocator keeps.
    """
    _, h, w, channels = problem.input
    rows, columns = output_size(problem.steps, (h, w))
    result = problem.batch * rows * columns * problem.steps[-1].kernels[-1].out_channels * 4
    given = problem.batch * h * w * channels * problem.machine.itemsize if problem.counts_input else 0
    scratch = kept_scratch(problem.steps, (h, w), problem.machine)
    return result + given + scratch + (problem.packed_bytes if keep else 0) + SLACK_BYTES
