"""The layers' combinations that training computes in less memory and time: the same values and gradients.

Inside `memory_saving()` they are single functions with a backward pass of their own
(`kernels.trained_convolution`); outside, and where a module isn't the usual one or someone listens to it, the modules
are called one after the other.
"""

from collections.abc import Callable, Generator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint  # pyright: ignore[reportUnknownVariableType]

from vaelens.kernels.convolution import Geometry
from vaelens.kernels.trained_convolution import GroupNormSilu, trained_convolution

HOOKS = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks")

_active: ContextVar[bool] = ContextVar("memory_saving", default=False)


@contextmanager
def memory_saving() -> Generator[None]:
    """In this context networks run so that a backward pass needs less memory; also one that starts after it."""
    before = _active.set(True)
    try:
        yield
    finally:
        _active.reset(before)


def norm_silu_conv(x: Tensor, norm: nn.GroupNorm, conv: nn.Conv2d, residual: Tensor | None = None) -> Tensor:
    """conv(silu(norm(x))), plus the residual: [b,c,h,w]."""
    if not (_active.get() and _is_usual(conv) and _is_usual(norm) and norm.affine):
        out = conv(F.silu(norm(x)))
        return out if residual is None else out + residual
    normalised = GroupNormSilu(norm.num_groups, norm.eps, norm.weight, norm.bias)
    return trained_convolution(x, conv.weight, conv.bias, geometry_of(conv), norm=normalised, residual=residual)


def convolve(x: Tensor, conv: nn.Conv2d, pad_after: int = 0) -> Tensor:
    """conv(x), with so many zeros more below and right: [b,c,h,w]."""
    if not (_active.get() and _is_usual(conv)):
        return conv(F.pad(x, (0, pad_after, 0, pad_after)) if pad_after else x)
    return trained_convolution(x, conv.weight, conv.bias, geometry_of(conv, pad_after=pad_after))


def upsample_conv(x: Tensor, conv: nn.Conv2d) -> Tensor:
    """conv of x enlarged by nearest x2: [b,c,2h,2w]. The convolution is 3x3 with padding 1."""
    if not (_active.get() and _is_usual(conv)):
        return conv(F.interpolate(x, scale_factor=2.0, mode="nearest"))
    return trained_convolution(x, conv.weight, conv.bias, geometry_of(conv, upsample=2))


def geometry_of(conv: nn.Conv2d, *, upsample: int = 1, pad_after: int = 0) -> Geometry:
    """What a convolution reads, where its map is enlarged first or zeros are added below and right."""
    (height, width), (top, left) = conv.kernel_size, cast(tuple[int, int], conv.padding)
    after = (top + pad_after, left + pad_after)
    return Geometry((height, width), conv.stride[0], upsample, (top, left), after)


def recomputed(function: Callable[[Tensor], Tensor], x: Tensor) -> Tensor:
    """function(x), which is called again in the backward pass. It draws no random numbers."""
    if not (_active.get() and torch.is_grad_enabled()):
        return function(x)

    def in_the_same_way(x: Tensor) -> Tensor:
        with memory_saving():  # the backward pass may start after the context
            return function(x)

    once_more = cast(Callable[..., Tensor], checkpoint)
    return once_more(in_the_same_way, x, use_reentrant=False, preserve_rng_state=False)


def _is_usual(module: nn.Module) -> bool:
    """Whether a module is torch's own, and calling it does nothing but its forward pass."""
    own = vars(module)
    if any(own[kind] for kind in HOOKS) or "forward" in own:
        return False
    if type(module) is nn.Conv2d:
        return (
            module.groups == 1
            and module.padding_mode == "zeros"
            and not isinstance(module.padding, str)
            and module.dilation == (1, 1)
            and module.stride[0] == module.stride[1]
        )
    return type(module) is nn.GroupNorm
