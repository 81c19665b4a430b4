"""Decode and encode: the plain network's values, computed within a budget of memory.

`network` is vaelens' AutoencoderKL or diffusers'. `max_memory` is in bytes: by how much memory may grow beyond the
loaded network and the input, the result and packed weights included (of a GPU: memory there). None: what is free.
"""

from typing import TypedDict

import torch
from torch import Tensor, nn

from vaelens.engine.architecture import Step, decoder_steps, encoder_steps
from vaelens.engine.execution import run
from vaelens.engine.plan import Plan
from vaelens.engine.planner import make_plan


def plan_decode(network: nn.Module, size: tuple[int, int], batch: int = 1, max_memory: int | None = None) -> Plan:
    """How `decode` runs z of a size (height, width). Raises as `decode` does."""
    return make_plan("decode", decoder_steps(network), size, batch, max_memory=max_memory, **_where(network))


def plan_encode(network: nn.Module, size: tuple[int, int], batch: int = 1, max_memory: int | None = None) -> Plan:
    """How `encode` runs images of a size (height, width). Raises as `encode` does."""
    return make_plan("encode", encoder_steps(network), size, batch, max_memory=max_memory, **_where(network))


@torch.no_grad()
def decode(network: nn.Module, z: Tensor, *, max_memory: int | None = None, plan: Plan | None = None) -> Tensor:
    """Raw z [b,c,h/f,w/f] to raw pixels [b,3,h,w], float32; by a plan of `plan_decode`, else by a new one."""
    plan = plan or plan_decode(network, (z.shape[2], z.shape[3]), len(z), max_memory)
    return _run(decoder_steps(network), plan, z, **_where(network))


@torch.no_grad()
def encode(network: nn.Module, pixels: Tensor, *, max_memory: int | None = None, plan: Plan | None = None) -> Tensor:
    """Raw pixels [b,3,h,w] to moments [b,2c,h/f,w/f], float32; h and w are multiples of f."""
    plan = plan or plan_encode(network, (pixels.shape[2], pixels.shape[3]), len(pixels), max_memory)
    return _run(encoder_steps(network), plan, pixels, **_where(network))


def _run(steps: list[Step], plan: Plan, image: Tensor, *, dtype: torch.dtype, device: torch.device) -> Tensor:
    last = plan.steps[-1]
    out = torch.empty((len(image), last.channels, last.height, last.width), dtype=torch.float32, device=device)
    for first in range(0, len(image), plan.images):
        some = slice(first, first + plan.images)
        run(steps, plan.steps, image[some], out[some], dtype=dtype, keep=plan.keep_weights)
    return out


class _Where(TypedDict):
    dtype: torch.dtype
    device: torch.device


def _where(network: nn.Module) -> _Where:
    parameter = next(network.parameters())
    return {"dtype": parameter.dtype, "device": parameter.device}
