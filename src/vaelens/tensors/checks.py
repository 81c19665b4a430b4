"""Checks of tensors against what a network needs: names and shapes, and finite values."""

import math
from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor

from vaelens.errors import BadInputError, CheckFailedError
from vaelens.text.numbers import counted

Shapes = Mapping[str, tuple[int, ...]]
LISTED = 6
PIECE = 2**18  # elements
UNSHARED = 2**15  # elements, of which torch gives none to other threads: they would wait for each other


def check_shapes(shapes: Shapes, expected: Shapes, where: str | Path, network: str, advice: str) -> None:
    """Raises BadInputError unless exactly the expected tensors are there, with lists of those that differ."""
    misshapen = [f"{n} {list(shapes[n])} instead of {list(s)}" for n, s in expected.items() if shapes.get(n, s) != s]
    differences = (
        ("missing", [n for n in expected if n not in shapes]),
        ("unexpected", [n for n in shapes if n not in expected]),
        ("misshapen", misshapen),
    )
    problems = [
        f"{len(names)} {label} ({', '.join(names[:LISTED])}{', ...' if len(names) > LISTED else ''})"
        for label, names in differences
        if names
    ]
    if problems:
        raise BadInputError(f"{where}: tensors don't fit {network}: {'; '.join(problems)}. {advice}")


def check_finite(name: str, tensor: Tensor, where: str | Path) -> None:
    """Raises CheckFailedError for a NaN or infinity."""
    flat = tensor.reshape(-1)
    extremes = (one for piece in torch.split(flat, UNSHARED) for one in torch.aminmax(piece))  # NaN where a value is
    if all(math.isfinite(float(one)) for one in extremes):
        return
    # In pieces: what isfinite makes on its way is larger than the tensor.
    bad = sum(int((~torch.isfinite(piece)).sum()) for piece in torch.split(flat, PIECE))
    if bad:
        raise CheckFailedError(
            f"{where}: {name} holds {counted(bad, 'value')} that {'are' if bad > 1 else 'is'} NaN or infinite. "
            "The file is damaged: download it again."
        )
