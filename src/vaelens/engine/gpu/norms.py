"""Normalisation and SiLU of whole maps [b,h,w,c], by Triton's kernels or by PyTorch's operations."""

import importlib.util
from collections.abc import Callable

from torch import Tensor

from vaelens.engine.architecture import Group, Norm
from vaelens.kernels.moments import merge_rows, row_moments
from vaelens.kernels.torch_convolution import loaded

Normalise = Callable[[Tensor, Norm, bool], Tensor]  # contiguous maps, the norm, whether SiLU follows: new maps


def has_triton() -> bool:
    """Whether Triton is installed: PyTorch's CUDA wheels for Linux bring it."""
    return importlib.util.find_spec("triton") is not None


def by_torch(maps: Tensor, norm: Norm, silu: bool) -> Tensor:
    """Any norm, on any device."""
    affine = norm.affine(merge_rows(row_moments(maps), maps.shape[2]))
    return loaded(maps, affine, "silu" if silu else None)


def by_triton(maps: Tensor, norm: Norm, silu: bool) -> Tensor:
    """Group normalisation on a GPU; another norm by PyTorch."""
    if not isinstance(norm, Group):
        return by_torch(maps, norm, silu)
    from vaelens.kernels.triton_group_norm import norm_affine, normalise  # noqa: PLC0415  (it isn't everywhere)

    group = norm.module
    affine = norm_affine(maps, group.num_groups, group.eps, group.weight, group.bias)
    return normalise(maps, affine, silu=silu)
