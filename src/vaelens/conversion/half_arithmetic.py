"""What a network computes in float16, on any device: weights and every layer's input and output are rounded to it.

Sums inside a layer keep float32, as on GPUs. PyTorch's own float16 takes hundreds of times as long on most CPUs.
"""

import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, cast

import torch
from torch import Tensor, nn

from vaelens.vae import VAE

SMALLEST_NORMAL = torch.finfo(torch.float16).tiny  # below it, float16 loses digits


@dataclass(frozen=True)
class WeightRounding:
    """What float16 does to weights: how many become subnormal or zero, and the tensor that changes most.

    `error` is that tensor's relative RMS change; normal numbers alone give 0.0002 to 0.0003.
    """

    subnormal: int
    total: int
    worst: str
    error: float


def weight_rounding(vae: VAE) -> WeightRounding:
    """Of a VAE's weights in float32."""
    subnormal, total, worst, error = 0, 0, "", -1.0
    for name, tensor in vae.tensors().items():
        wide = tensor.float()
        subnormal += int(((wide != 0) & (wide.abs() < SMALLEST_NORMAL)).sum())
        total += wide.numel()
        squares = float(wide.double().square().sum())
        change = math.sqrt(float((wide.half().double() - wide).square().sum()) / squares) if squares else 0.0
        if change > error:
            worst, error = name, change
    return WeightRounding(subnormal, total, worst, error)


def as_in_half(vae: VAE) -> VAE:
    """A copy that gives float16's values: infinite or NaN where float16's are."""
    rounded = {name: _rounded(tensor.float()) for name, tensor in vae.tensors().items()}
    copy = VAE.from_tensors(rounded, vae.spec, vae.name, device=vae.device, dtype=torch.float32)
    sums = vae.spec.family.residual_blocks
    for module in cast(Iterable[nn.Module], copy.network.modules()):
        if type(module).__name__ in sums or not any(True for _ in module.children()):
            module.register_forward_pre_hook(_round_input)
            module.register_forward_hook(_round_output)
    return copy


def _rounded(values: Tensor) -> Tensor:
    return values.half().float()


def _round_input(_module: nn.Module, inputs: tuple[Any, ...]) -> tuple[Any, ...]:
    return tuple(_rounded(one) if isinstance(one, Tensor) else one for one in inputs)


def _round_output(_module: nn.Module, _inputs: Any, output: Tensor) -> Tensor:
    return _rounded(output)
