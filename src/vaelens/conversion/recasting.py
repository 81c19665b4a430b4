"""Tensors in another precision, and whether a file holds exactly them."""

from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor

from vaelens.errors import CheckFailedError, UsageError
from vaelens.runtime import dtype_name


def recast(tensors: Mapping[str, Tensor], dtype: torch.dtype | None, name: str) -> dict[str, Tensor]:
    """The tensors in a precision, rounded to the nearest value; as they are for None.

    Raises UsageError, naming the tensor, where a value is too large for the precision.
    """
    found: dict[str, Tensor] = {}
    for key, tensor in tensors.items():
        cast = tensor if dtype is None else tensor.to(dtype)
        narrower = torch.finfo(cast.dtype).max < torch.finfo(tensor.dtype).max
        if narrower and not bool(torch.isfinite(cast).all()):
            raise UsageError(
                f"{name}: {key} has values up to {float(tensor.abs().max()):.3g}, and {dtype_name(cast.dtype)} ends at "
                f"{torch.finfo(cast.dtype).max:.5g}. Choose --dtype bfloat16 or float32."
            )
        found[key] = cast
    return found


def check_same(written: Mapping[str, Tensor], intended: Mapping[str, Tensor], path: Path) -> None:
    """Raises CheckFailedError unless names, dtypes, shapes and bits are the same: what was read back of a file."""
    for key, tensor in intended.items():
        other = written.get(key)
        if other is None or other.dtype != tensor.dtype or not torch.equal(_bits(other), _bits(tensor)):
            raise CheckFailedError(f"{path}: {key} was read back otherwise than it was written; nothing is left there.")
    if more := written.keys() - intended.keys():
        raise CheckFailedError(f"{path}: {min(more)} was read back and never written; nothing is left there.")


def _bits(tensor: Tensor) -> Tensor:
    return tensor.contiguous().view(torch.uint8) if tensor.dim() else tensor[None].view(torch.uint8)
