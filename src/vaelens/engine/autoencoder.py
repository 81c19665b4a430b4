"""Decode and encode: the plain network's values, computed within a budget of memory.

`network` is vaelens' AutoencoderKL or diffusers', in fp32, bf16 or fp16. `max_memory` is in bytes: by how much memory
may grow beyond the loaded network, the result and all packed weights included (of a GPU: memory there). None: what is
free. `counts_input`: so does the input, where it is a copy that was made for the call. `dtype` is the precision of the
products, by default that of the weights; for another one the weights have to be in the dtype that
`kernels.paths.map_dtype` gives for it. Each call raises UsageError for a network of another kind, for an input that is
too small for it, has other channels or isn't what a plan was made for, and where `max_memory` is less than the smallest
plan takes.
"""

import contextlib
from collections.abc import Callable

import torch
from torch import Tensor, nn

from vaelens.engine.architecture import Step, decoder_steps, encoder_steps
from vaelens.engine.execution import run
from vaelens.engine.packed_weights import make_room
from vaelens.engine.plan import Direction, Plan
from vaelens.engine.planner import free_budget, make_plan, shown_bytes
from vaelens.errors import ResourceError, UsageError
from vaelens.resources import free_memory, is_out_of_memory, out_of_memory
from vaelens.runtime import Notify, log, silent

Replanned = Callable[[Plan], object]
Share = Callable[[float], object]  # gets how much of a call is done, of 1

SMALLER = 0.7  # of the memory of a plan that ran out of it: what the next one may take


def plan_decode(
    network: nn.Module,
    size: tuple[int, int],
    batch: int = 1,
    max_memory: int | None = None,
    dtype: torch.dtype | None = None,
    *,
    counts_input: bool = False,
) -> Plan:
    """How `decode` runs z of a size (height, width)."""
    return _Call("decode", network, dtype).plan(size, batch, max_memory, counts_input)


def plan_encode(
    network: nn.Module,
    size: tuple[int, int],
    batch: int = 1,
    max_memory: int | None = None,
    dtype: torch.dtype | None = None,
    *,
    counts_input: bool = False,
) -> Plan:
    """How `encode` runs images of a size (height, width)."""
    return _Call("encode", network, dtype).plan(size, batch, max_memory, counts_input)


def decode(
    network: nn.Module,
    z: Tensor,
    *,
    max_memory: int | None = None,
    plan: Plan | None = None,
    dtype: torch.dtype | None = None,
    notify: Notify = log,
    replanned: Replanned = silent,
    progress: Share = silent,
) -> Tensor:
    """Raw z [b,c,h/f,w/f] to raw pixels [b,3,h,w], float32.

    By a plan of `plan_decode`, else by a new one. Where memory runs out, a smaller plan follows: `notify` hears of it,
    and `replanned` gets it. `progress` gets the share that is done, by the plan's estimates, before each step; what it
    raises ends the call. Raises ResourceError where no smaller plan is left.
    """
    return _Call("decode", network, dtype).run(
        z, plan, max_memory, notify=notify, replanned=replanned, progress=progress
    )


def encode(
    network: nn.Module,
    pixels: Tensor,
    *,
    max_memory: int | None = None,
    plan: Plan | None = None,
    dtype: torch.dtype | None = None,
    notify: Notify = log,
    replanned: Replanned = silent,
    progress: Share = silent,
) -> Tensor:
    """Raw pixels [b,3,h,w] to moments [b,2c,h/f,w/f], float32; h and w are multiples of f. Else as `decode`."""
    return _Call("encode", network, dtype).run(
        pixels, plan, max_memory, notify=notify, replanned=replanned, progress=progress
    )


class _Call:
    """One half of a network, to be run."""

    def __init__(self, direction: Direction, network: nn.Module, dtype: torch.dtype | None) -> None:
        self._direction: Direction = direction
        self._steps: list[Step] = decoder_steps(network) if direction == "decode" else encoder_steps(network)
        parameter = next(network.parameters())
        self._dtype, self._device = dtype or parameter.dtype, parameter.device

    def plan(self, size: tuple[int, int], batch: int, max_memory: int | None, counts_input: bool = False) -> Plan:
        """The fastest plan within the memory."""
        return make_plan(
            self._direction, self._steps, size, batch,
            dtype=self._dtype, device=self._device, max_memory=max_memory, counts_input=counts_input,
        )  # fmt: skip

    @torch.no_grad()
    def run(
        self,
        image: Tensor,
        plan: Plan | None,
        max_memory: int | None,
        *,
        notify: Notify,
        replanned: Replanned,
        progress: Share,
    ) -> Tensor:
        """By a plan, and where memory runs out by smaller ones."""
        self._check(image, plan)
        size = image.shape[2], image.shape[3]
        plan = plan or self.plan(size, len(image), max_memory)
        last = plan.steps[-1]
        self._make_room(plan)
        with out_of_memory(self._out_of_memory(plan, "for the result")):
            shape = len(image), last.channels, last.height, last.width
            out = torch.empty(shape, dtype=torch.float32, device=self._device)
        first = 0
        while first < len(image):
            some = slice(first, first + plan.images)
            share = image[some].shape[0] / len(image)

            def report(done: float, before: float = first / len(image), share: float = share) -> None:
                progress(before + done * share)

            if self._attempt(plan, image[some], out[some], report):
                first += plan.images
            else:
                plan = self._smaller(plan, size, len(image))
                replanned(plan)
                notify(
                    f"Memory ran out while {self._direction[:-1]}ing {plan.pixels}. It begins again with a plan that "
                    f"takes {shown_bytes(plan.peak_bytes)}."
                )
        return out

    def _check(self, image: Tensor, plan: Plan | None) -> None:
        """Raises UsageError for what the network or the plan isn't made for: it would be read as something else."""
        channels, shape = self._steps[0].layers[0].in_channels, list(image.shape)
        if image.dim() != 4 or shape[1] != channels:
            raise UsageError(f"this network {self._direction}s [b,{channels},h,w], not {shape}.")
        if plan is not None:
            dtype = str(self._dtype).removeprefix("torch.")
            planned = plan.direction, *plan.size, plan.dtype
            if planned != (self._direction, *shape[2:], dtype) or len(image) > plan.batch:
                raise UsageError(
                    f"the plan is to {plan.direction} [{plan.batch},c,{plan.size[0]},{plan.size[1]}] in {plan.dtype}, "
                    f"not to {self._direction} {shape} in {dtype}. Make one for this input."
                )

    def _make_room(self, plan: Plan) -> None:
        """Packed weights of earlier calls stay as far as they fit beside the plan; it counts its own alone."""
        if plan.keep_weights:
            budget = free_budget(self._device) if plan.max_memory is None else plan.max_memory
            used = [(layer, layer.kernel(self._dtype, self._device)) for step in self._steps for layer in step.layers]
            make_room(used, self._device, budget - plan.peak_bytes)
        else:
            make_room((), self._device, 0)

    def _attempt(self, plan: Plan, image: Tensor, out: Tensor, progress: Share) -> bool:
        """Whether memory was enough. When this returns, all that the attempt held is free."""
        try:
            run(self._steps, plan, image, out, self._dtype, progress=progress)
        except (MemoryError, RuntimeError) as error:
            if not is_out_of_memory(error):
                raise
            return False
        return True

    def _smaller(self, plan: Plan, size: tuple[int, int], batch: int) -> Plan:
        """A plan for less than the one that failed, and for what is free now."""
        make_room((), self._device, 0)
        if self._device.type == "cuda":
            torch.cuda.empty_cache()
        free = free_memory(self._device)
        budget = int(plan.peak_bytes * SMALLER)
        budget = max(plan.smallest, budget if free is None else min(budget, free))
        if budget < plan.peak_bytes:
            with contextlib.suppress(UsageError):  # less can be parked now than before
                return self.plan(size, batch, budget, plan.counts_input)
        raise ResourceError(self._out_of_memory(plan, f"with the smallest plan, of {shown_bytes(plan.peak_bytes)}"))

    def _out_of_memory(self, plan: Plan, what: str) -> str:
        return (
            f"{self._direction[:-1]}ing {plan.pixels} ran out of memory {what}. Close other programs, or take a "
            "smaller image."
        )
