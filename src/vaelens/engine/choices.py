"""The choices of each step: where its maps lie and how high its strips are, with what that takes."""

import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from vaelens.engine.architecture import Attend, Resnet, Step, reads_moments
from vaelens.engine.attention import attention_bytes, attention_operations, chunk_size, products
from vaelens.engine.costs import Computed, Cost, Form, Machine, Whole, pass_cost, passing_scratch
from vaelens.engine.maps import Shape
from vaelens.engine.plan import Place, StepPlan, early_shortcut
from vaelens.kernels.convolution import Kernel

WHOLE = 2**62  # rows of a strip that is the whole map
LOWER_HEIGHTS = (64, 32, 16, 8, 4)
PLACES: tuple[Place, ...] = ("memory", "parked", "recomputed")


@dataclass(frozen=True)
class Shapes:
    """A step without its weights: the kernels of its layers, in the order of `architecture`.

    `normalised`: the next step reads the moments of its output. `final`: its output is the result.
    """

    name: str
    kind: type[Step]
    kernels: tuple[Kernel, ...]
    normalised: bool
    final: bool


@dataclass(frozen=True)
class Choice:
    """One choice of a step, and the form of the map that it leaves."""

    form: Form
    plan: StepPlan


def step_shapes(steps: list[Step], machine: Machine) -> tuple[Shapes, ...]:
    """What the planner needs of the steps."""
    found = list[Shapes]()
    for step, following in zip(steps, [*steps[1:], None], strict=True):
        kernels = tuple(layer.kernel(machine.dtype, machine.device) for layer in step.layers)
        found.append(Shapes(step.name, type(step), kernels, reads_moments(following), following is None))
    return tuple(found)


def strip_heights(machine: Machine) -> tuple[int, ...]:
    """The heights of strips to choose from, in rows, the tallest first.

    On the CPU that isn't the whole map, however much memory there is: what a strip has read for the last time becomes
    what the next one writes, and memory that wasn't in use takes the system longer to provide than the strips cost.
    Each thread should get some rows of it.
    """
    if machine.device.type != "cpu":
        return (WHOLE, 128, *LOWER_HEIGHTS)
    return (max(128, 16 * machine.threads), *LOWER_HEIGHTS)


def output_size(steps: Sequence[Shapes], size: tuple[int, int]) -> tuple[int, int]:
    """Height and width of what the steps make of an input. Only a step's first kernel may change those of a map."""
    for step in steps:
        size = step.kernels[0].geometry.output_size(*size)
    return size


def kept_scratch(steps: Sequence[Shapes], size: tuple[int, int], machine: Machine) -> int:
    """What threads keep when the steps have run: the most scratch that a kernel of that kind takes."""
    found = [0]
    for number, step in enumerate(steps):
        height, width = output_size(steps[:number], size)
        kernels = step.kernels
        if step.kind is Attend:
            kernels = (*kernels, *products(height * width, kernels[0].in_channels, machine.device))
            width = chunk_size(height * width)
        found += [kernel.scratch_bytes(width) for kernel in kernels if kernel.keeps_scratch]
    return max(found)


def choices(
    step: Shapes,
    form: Form,
    machine: Machine,
    room: int,
    *,
    packed: bool,
    whole: bool = False,
    heights: Sequence[int],
) -> Iterator[Iterator[Choice]]:
    """The choices of a step whose input has a form: for each way to place its maps those of strips, the tallest first.

    The lower a strip, the less memory and the more time it takes. `room` bytes can be parked. `packed`: its packed
    weights count as its own. `whole`: only those with whole maps in memory.
    """
    task = _Task(step, form, machine, packed)
    if step.kind is Attend:
        yield task.attend()
    elif step.kind is Resnet:
        for hidden, place in itertools.product(PLACES[:1] if whole else PLACES, PLACES[: 1 if whole else 2]):
            if task.parked(hidden, place) <= room:
                yield (task.resnet(hidden, place, rows) for rows in heights)
    else:
        for place in task.places()[: 1 if whole else None]:
            if task.parked(None, place) <= room:
                yield (task.convolve(place, rows) for rows in heights)


@dataclass(frozen=True)
class _Task:
    """A step and the form of its input."""

    step: Shapes
    x: Form
    machine: Machine
    packed: bool

    def places(self) -> tuple[Place, ...]:
        """Of a single convolution's output. What is computed from a map that is itself computed is stored."""
        if self.step.final:
            return ("output",)
        return PLACES if isinstance(self.x, Whole) else PLACES[:2]

    def parked(self, hidden: Place | None, place: Place) -> int:
        """Bytes that are parked at once, at most: the input or what it is computed from, and the maps made."""
        root = _root(self.x)
        stays = self.machine.bytes(root.shape) if root.place == "parked" else 0
        made = self.machine.bytes(_shape(self.x.shape, self.step.kernels[0]))
        return stays + made * ((hidden == "parked") + (place == "parked"))

    def convolve(self, place: Place, rows: int) -> Choice:
        made = self._computed(self.step.kernels[0], self.x)
        if place == "recomputed":
            cost = self._pass(made, None, rows) if self.step.normalised else Cost(0, 0.0)
            return self._choice(made, place, None, rows, cost)
        cost = self._pass(made, place, rows, last=[_root(self.x)])
        return self._choice(Whole(made.shape, place), place, None, rows, cost)

    def resnet(self, hidden: Place, place: Place, rows: int) -> Choice:
        conv1, conv2, *shortcuts = self.step.kernels
        shortcut = shortcuts[0] if shortcuts else None
        first = self._computed(conv1, self.x)
        residual: Form = self.x if shortcut is None else self._computed(shortcut, self.x)
        source = first if hidden == "recomputed" else Whole(first.shape, hidden, "hidden")
        over = shortcut is None and isinstance(self.x, Whole) and self.x.place == place
        if isinstance(residual, Computed) and shortcut is not None and early_shortcut(hidden, place):
            cost = self._pass(first, hidden, rows, last=[_root(self.x)], also=residual)
            residual, over = Whole(residual.shape, place, "output"), True
        else:
            cost = self._pass(first, None if hidden == "recomputed" else hidden, rows)
        last = [source] if over else [source, _root(self.x)]
        made = self._computed(conv2, source, residual)
        second = self._pass(made, place, rows, last=last, over=over)
        cost = Cost(max(cost.peak, second.peak), cost.seconds + second.seconds)
        return self._choice(Whole(made.shape, place), place, hidden, rows, cost)

    def attend(self) -> Iterator[Choice]:
        """Attention reads and writes a map in memory."""
        if not isinstance(self.x, Whole) or self.x.place != "memory":
            return
        b, h, w, c = self.x.shape
        kernels = self.step.kernels
        used = (*kernels, *products(h * w, c, self.machine.device))
        scratch = max(passing_scratch(kernel, chunk_size(h * w), 1) for kernel in used)
        weights = sum(kernel.packed_bytes for kernel in kernels) if self.packed else 0
        seconds = b * attention_operations(h * w, c) / self.machine.rate(kernels[0].path)
        peak = self.machine.bytes(self.x.shape) + attention_bytes(h * w, c, self.machine.device) + scratch + weights
        yield self._choice(self.x, "memory", None, h, Cost(peak, seconds))

    def _pass(
        self,
        made: Computed,
        place: Place | None,
        rows: int,
        last: Sequence[Form] = (),
        *,
        over: bool = False,
        also: Computed | None = None,
    ) -> Cost:
        return pass_cost(made, place, rows, self.machine, last=last, over=over, also=also, packed=self.packed)

    def _computed(self, kernel: Kernel, source: Form, residual: Form | None = None) -> Computed:
        return Computed(_shape(source.shape, kernel), kernel, source, residual)

    def _choice(self, form: Form, place: Place, hidden: Place | None, rows: int, cost: Cost) -> Choice:
        _, h, w, c = form.shape
        plan = StepPlan(self.step.name, c, h, w, place, hidden, min(rows, h), cost.peak, cost.seconds)
        return Choice(form, plan)


def _root(form: Form) -> Whole:
    """The map that a form is computed from, itself included."""
    return form if isinstance(form, Whole) else _root(form.source)


def _shape(shape: Shape, kernel: Kernel) -> Shape:
    b, h, w, _ = shape
    return b, *kernel.geometry.output_size(h, w), kernel.out_channels
