"""Whether two sets of weights are the same but for the precisions that they were rounded to, tensor by tensor."""

from collections.abc import Collection, Mapping

import torch
from torch import Tensor

Weights = Mapping[str, Tensor]

# Half of the distance between neighbours, relative to a value: what rounding to a precision changes at most.
UNIT = {"float32": 2.0**-24, "float16": 2.0**-11, "bfloat16": 2.0**-8}
FLOAT32_SUMS = 4.0  # units: sums as 0.7 a + 0.3 a differ by some from a
SLACK = 1.05
BLOCK = 1 << 15  # values at a time
SMALLEST = {"float32": 0.0, "float16": 2.0**-25, "bfloat16": 0.0}  # half of float16's smallest step, for tiny values
# The typical relative error of rounding, over many values.
NOTHING_UNDONE: Mapping[str, int] = {}
TYPICAL = {"float32": 1e-7, "float16": 2.0e-4, "bfloat16": 1.6e-3}


def precision_of(exact_in: Collection[str]) -> str:
    """The coarsest precision of those that hold the values: float32 where no half precision does."""
    return next((p for p in ("bfloat16", "float16") if p in exact_in), "float32")


def differing_tensors(
    a: Weights, b: Weights, precisions: tuple[str, ...], undone: Mapping[str, int] = NOTHING_UNDONE
) -> list[str]:
    """The tensors in which some value differs by more than rounding from two such precisions explains, by name.

    What is in bfloat16 may have been in float16 before. `undone` names tensors that were stored multiplied by 2^-n:
    the smallest steps of their precision were multiplied by 2^n with them.
    """
    if "bfloat16" in precisions:
        precisions = (*precisions, "float16")
    relative = SLACK * sum(UNIT[p] * (FLOAT32_SUMS if p == "float32" else 1) for p in precisions)
    absolute = SLACK * sum(SMALLEST[p] for p in precisions)
    coarser = {name: 2.0**n for name, n in undone.items() if n > 0}
    return [name for name in sorted(a) if not _is_close(a[name], b[name], relative, absolute * coarser.get(name, 1.0))]


def _is_close(a: Tensor, b: Tensor, relative: float, absolute: float) -> bool:
    a, b = a.reshape(-1), b.reshape(-1)
    for start in range(0, a.numel(), BLOCK):
        if (
            start == BLOCK and a.dtype == b.dtype and torch.equal(a, b)
        ):  # if they differ, the first block mostly shows it
            return True
        x, y = a[start : start + BLOCK].double(), b[start : start + BLOCK].double()
        if bool(((x - y).abs() > torch.maximum(x.abs(), y.abs()) * relative + absolute).any()):
            return False
    return True
