"""What one pass takes, in bytes and seconds: the planner's picture of `sources.Pass`.

A form is where a map's rows come from, as in `sources`, with sizes instead of values. Bytes must not be too low, or a
budget is broken; seconds only rank plans, so they come from constants and never from a measurement: the same machine
must always find the same plan.
"""

from collections.abc import Collection
from dataclasses import dataclass

import torch

from vaelens.engine.maps import Shape, can_release
from vaelens.engine.sources import SPARE_ROWS
from vaelens.kernels.convolution import Kernel
from vaelens.kernels.paths import map_dtype

# Operations a second: of a CPU, of each thread. Measured on layers of kl-f8; oneDNN 150, split bf16 on AMX 400 to 600.
ARITHMETIC = {"torch": 150e9, "amx": 450e9, "amx-bf16": 700e9, "avx512": 200e9, "avx2": 80e9}
PLAIN_CODE = 20e9  # of compiled code that uses no vector extension
DEVICE_ARITHMETIC = 50e12  # of a GPU, fp32 and 16 bit alike: a strip there is bound by memory
# Bytes a second, of an ordinary SSD through the system's cache, and of a GPU's connection to the machine's memory.
DISK_READ, DISK_WRITE, DEVICE_TRANSFER = 1.0e9, 0.5e9, 10e9
PACKING = 1e9  # bytes of packed weights a second
STRIP = 2e-4  # seconds for each strip: starting threads, filling caches, rows at its edges
ROW_BYTES = 16  # of a row's moments in float64, for each channel; twice while they are merged


@dataclass(frozen=True)
class Whole:
    """A whole map. `role` tells a step's input from the map between its convolutions."""

    shape: Shape
    place: str  # of `plan.Place`; "given" is the input image, which is no memory of the run
    role: str = "input"


@dataclass(frozen=True)
class Computed:
    """The output of a convolution, its rows computed when they are read."""

    shape: Shape
    kernel: Kernel
    source: "Form"
    residual: "Form | None" = None


Form = Whole | Computed


@dataclass(frozen=True)
class Machine:
    """What a run computes on: in the network's dtype, with maps whose values take `itemsize` bytes."""

    dtype: torch.dtype
    device: torch.device
    threads: int
    itemsize: int

    @classmethod
    def of(cls, dtype: torch.dtype, device: torch.device) -> "Machine":
        """With the threads that torch is set to."""
        return cls(dtype, device, torch.get_num_threads(), map_dtype(dtype, device).itemsize)

    def bytes(self, shape: Shape) -> int:
        """Of a map."""
        b, h, w, c = shape
        return b * h * w * c * self.itemsize

    def rate(self, path: str) -> float:
        """Operations a second."""
        if self.device.type != "cpu":
            return DEVICE_ARITHMETIC
        return ARITHMETIC.get(path, PLAIN_CODE) * self.threads


@dataclass(frozen=True)
class Cost:
    """Bytes at the peak and seconds, estimated."""

    peak: int
    seconds: float


def passing_scratch(kernel: Kernel, width: int, batch: int) -> int:
    """The scratch of one run of a kernel that is free after it; what threads keep counts once for all."""
    return 0 if kernel.keeps_scratch else kernel.scratch_bytes(width, batch)


def pass_cost(
    form: Computed,
    target: str | None,
    rows: int,
    machine: Machine,
    *,
    last: Collection[Form] = (),
    over: bool = False,
    also: Computed | None = None,
    packed: bool = True,
) -> Cost:
    """Computing all rows of a form, `rows` at a time, to a place ("output" for the result; None: only for the moments).

    `last` are read for the last time; `over`: the target's memory is there already; `also` is
    made beside it, in memory. `packed`: the weights of the pass count, else they are kept by the caller.
    """
    found: dict[Form, tuple[int, int]] = {}
    height = form.shape[1]
    align = form.kernel.row_alignment
    rows = min(height, max(align, rows // align * align))  # as `Pass` rounds them
    _touch(form, 0, rows, found)
    del found[form]
    made = [form]
    if also is not None:
        _touch(also, 0, rows, found)
        del found[also]
        made.append(also)
    windows = sum(_window(one, extent, machine) for one, extent in found.items())
    kernels = {one.kernel: one.source for one in [*made, *found] if isinstance(one, Computed)}
    scratch = max(passing_scratch(kernel, source.shape[2], source.shape[0]) for kernel, source in kernels.items())
    weights = sum(kernel.packed_bytes for kernel in kernels) if packed else 0
    moments = 2 * ROW_BYTES * height * form.shape[3] * form.shape[0]
    strip = 0 if target == "memory" else machine.bytes(form.shape) * rows // height
    resident = [one for one in found if isinstance(one, Whole) and one.place == "memory"]
    new = machine.bytes(form.shape) if target == "memory" and not over else 0
    new += 0 if also is None else machine.bytes(also.shape)
    dying = sum(machine.bytes(one.shape) for one in resident if one in last)
    living = sum(machine.bytes(one.shape) for one in resident if one not in last)
    if rows < height and can_release(machine.device) and form.shape[0] == 1:
        overlap = -(
            -(new + dying) * (rows + SPARE_ROWS) // height
        )  # what isn't released yet, of what is read and written
        maps = living + min(new + dying, max(new, dying) + overlap)
    else:
        maps = living + new + dying
    seconds = sum(_seconds(one, machine) for one in [*made, *found]) + STRIP * -(-height // rows)
    if target == "parked":
        write = DISK_WRITE if machine.device.type == "cpu" else DEVICE_TRANSFER
        seconds += machine.bytes(form.shape) / write
    return Cost(maps + windows + scratch + weights + moments + strip, seconds)


def _touch(form: Form, lo: int, hi: int, found: dict[Form, tuple[int, int]]) -> None:
    """Which rows of each source, relative to the strip, its window holds while rows [lo,hi) of a form are computed."""
    if isinstance(form, Computed):
        hi += form.kernel.row_alignment - 1
    before = found.get(form, (lo, hi))
    found[form] = lo, hi = min(before[0], lo), max(before[1], hi)
    if isinstance(form, Computed):
        geometry = form.kernel.geometry
        top = (lo * geometry.stride - geometry.padding[0]) // geometry.upsample
        bottom = -(-((hi - 1) * geometry.stride - geometry.padding[0] + geometry.kernel[0]) // geometry.upsample)
        _touch(form.source, top, bottom, found)
        if form.residual is not None:
            _touch(form.residual, lo, hi, found)


def _window(form: Form, extent: tuple[int, int], machine: Machine) -> int:
    if isinstance(form, Whole) and form.place == "memory":
        return 0
    height = form.shape[1]
    return machine.bytes(form.shape) * min(height, extent[1] - extent[0] + SPARE_ROWS) // height


def _seconds(form: Form, machine: Machine) -> float:
    """Reading a parked map once, or computing all rows of a form once."""
    if isinstance(form, Whole):
        read = DISK_READ if machine.device.type == "cpu" else DEVICE_TRANSFER
        return machine.bytes(form.shape) / read if form.place == "parked" else 0.0
    kernel, geometry = form.kernel, form.kernel.geometry
    taps = 4 if geometry.upsample > 1 else geometry.kernel[0] * geometry.kernel[1]
    b, h, w, c = form.shape
    return 2 * b * h * w * c * kernel.in_channels * taps / machine.rate(kernel.path)
