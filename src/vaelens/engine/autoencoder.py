"""Decode and encode: the plain network's values, computed within a budget of memory.

`network` is vaelens' AutoencoderKL or diffusers', in fp32, bf16 or fp16. `max_memory` is in bytes: by how much memory
may grow beyond the loaded network and the input, the result and packed weights included (of a GPU: memory there). None:
what is free. `dtype` is the precision of the products, by default that of the weights; for another one the weights have
to be in the dtype that `kernels.paths.map_dtype` gives for it. Each call raises UsageError for a network of another
kind, for an input that is too small for it, and where `max_memory` is less than the smallest plan takes.
"""

import torch
from torch import Tensor, nn

from vaelens.engine.architecture import Step, decoder_steps, encoder_steps
from vaelens.engine.execution import run
from vaelens.engine.plan import Direction, Plan
from vaelens.engine.planner import make_plan
from vaelens.errors import ResourceError
from vaelens.resources import free_memory, is_out_of_memory
from vaelens.runtime import Notify, log

SMALLER = 0.7  # of the memory of a plan that ran out of it: what the next one may take


def plan_decode(
    network: nn.Module,
    size: tuple[int, int],
    batch: int = 1,
    max_memory: int | None = None,
    dtype: torch.dtype | None = None,
) -> Plan:
    """How `decode` runs z of a size (height, width)."""
    return _Call("decode", network, dtype).plan(size, batch, max_memory)


def plan_encode(
    network: nn.Module,
    size: tuple[int, int],
    batch: int = 1,
    max_memory: int | None = None,
    dtype: torch.dtype | None = None,
) -> Plan:
    """How `encode` runs images of a size (height, width)."""
    return _Call("encode", network, dtype).plan(size, batch, max_memory)


def decode(
    network: nn.Module,
    z: Tensor,
    *,
    max_memory: int | None = None,
    plan: Plan | None = None,
    dtype: torch.dtype | None = None,
    notify: Notify = log,
) -> Tensor:
    """Raw z [b,c,h/f,w/f] to raw pixels [b,3,h,w], float32.

    By a plan of `plan_decode`, else by a new one. Where memory runs out, `notify` hears of it, and a smaller plan
    follows. Raises ResourceError where none is left.
    """
    return _Call("decode", network, dtype).run(z, plan, max_memory, notify)


def encode(
    network: nn.Module,
    pixels: Tensor,
    *,
    max_memory: int | None = None,
    plan: Plan | None = None,
    dtype: torch.dtype | None = None,
    notify: Notify = log,
) -> Tensor:
    """Raw pixels [b,3,h,w] to moments [b,2c,h/f,w/f], float32; h and w are multiples of f. Else as `decode`."""
    return _Call("encode", network, dtype).run(pixels, plan, max_memory, notify)


class _Call:
    """One half of a network, to be run."""

    def __init__(self, direction: Direction, network: nn.Module, dtype: torch.dtype | None) -> None:
        self._direction: Direction = direction
        self._steps: list[Step] = decoder_steps(network) if direction == "decode" else encoder_steps(network)
        parameter = next(network.parameters())
        self._dtype, self._device = dtype or parameter.dtype, parameter.device

    def plan(self, size: tuple[int, int], batch: int, max_memory: int | None) -> Plan:
        """The fastest plan within the memory."""
        return make_plan(
            self._direction, self._steps, size, batch, dtype=self._dtype, device=self._device, max_memory=max_memory
        )

    @torch.no_grad()
    def run(self, image: Tensor, plan: Plan | None, max_memory: int | None, notify: Notify) -> Tensor:
        """By a plan, and where memory runs out by smaller ones."""
        size = image.shape[2], image.shape[3]
        plan = plan or self.plan(size, len(image), max_memory)
        last = plan.steps[-1]
        shape = len(image), last.channels, last.height, last.width
        out = torch.empty(shape, dtype=torch.float32, device=self._device)
        first = 0
        while first < len(image):
            some = slice(first, first + plan.images)
            if self._attempt(plan, image[some], out[some]):
                first += plan.images
            else:
                plan = self._smaller(plan, size, len(image))
                notify(
                    f"Memory ran out while {self._direction[:-1]}ing {size[0]}x{size[1]}. It begins again with a plan "
                    f"that takes {plan.peak_bytes / 1e6:.0f} MB."
                )
        return out

    def _attempt(self, plan: Plan, image: Tensor, out: Tensor) -> bool:
        """Whether memory was enough. When this returns, all that the attempt held is free."""
        try:
            run(self._steps, plan, image, out, self._dtype)
        except (MemoryError, RuntimeError) as error:
            if not is_out_of_memory(error):
                raise
            return False
        return True

    def _smaller(self, plan: Plan, size: tuple[int, int], batch: int) -> Plan:
        """A plan for less than the one that failed, and for what is free now."""
        if self._device.type == "cuda":
            torch.cuda.empty_cache()
        free = free_memory(self._device)
        budget = int(plan.peak_bytes * SMALLER)
        budget = max(plan.smallest, budget if free is None else min(budget, free))
        if budget >= plan.peak_bytes:
            raise ResourceError(
                f"{self._direction[:-1]}ing {size[0]}x{size[1]} ran out of memory with the smallest plan, which takes "
                f"{plan.peak_bytes / 1e6:.0f} MB. Close other programs, or take a smaller image."
            )
        return self.plan(size, batch, budget)
