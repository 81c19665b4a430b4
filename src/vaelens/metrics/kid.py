"""The kernel inception distance (https://arxiv.org/abs/1801.01401): an unbiased squared MMD of two sets of features.

The kernel is (x.y / d + 1)^3. The mean over random subsets, sampled as torch-fidelity 0.3.0 samples them, computed
in float64. 0 is equal (and as it is unbiased, values around 0 may be negative); lower is better. Unlike the
Frechet distance it doesn't grow when images are few.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

SUBSETS = 100
SUBSET_SIZE = 1000
SEED = 2020
ROWS = 1024  # of a kernel matrix at a time


@dataclass(frozen=True)
class Kid:
    """mean and std (ddof 0) over the subsets' `values`.

    subset_size: how many images a subset has: the requested size, or all images where there are fewer. Then every
    subset is the whole set, and std is None: there is nothing to spread.
    """

    mean: float
    std: float | None
    subset_size: int
    values: tuple[float, ...]

    def minus(self, other: "Kid") -> "Kid":
        """The difference, subset by subset. Raises ValueError where subsets differ in number or size."""
        if (len(self.values), self.subset_size) != (len(other.values), other.subset_size):
            raise ValueError("KID is compared on the same subsets")
        return _kid(np.subtract(self.values, other.values), self.subset_size, whole=self.std is None)


def kid_each(
    sets: Mapping[str, Tensor],
    features_y: Tensor,
    subsets: int = SUBSETS,
    subset_size: int = SUBSET_SIZE,
    seed: int = SEED,
) -> dict[str, Kid]:
    """The KID of each named set [n,d] from features_y [m,d], all on the same subsets of images.

    Raises ValueError for sets of different sizes, and for fewer than two images.
    """
    sizes = {tuple(features.shape) for features in sets.values()}
    if len(sizes) != 1:
        raise ValueError(f"the sets come from the same images, not from {sorted(sizes)}")
    n, m = sizes.pop()[0], len(features_y)
    size = min(subset_size, n, m)
    if size < 2:
        raise ValueError(f"KID needs at least 2 images, not {size}")
    whole = size == n == m
    rng = np.random.RandomState(seed)
    drawn = [
        (torch.as_tensor(rng.choice(n, size, replace=False)), torch.as_tensor(rng.choice(m, size, replace=False)))
        for _ in range(1 if whole else subsets)
    ]
    # One kernel of all images costs n^2, one per subset costs subsets x size^2.
    batches = [drawn] if max(n, m) ** 2 <= len(drawn) * size**2 else [[pair] for pair in drawn]
    values: dict[str, list[Tensor]] = {name: [] for name in sets}
    for batch in batches:
        rows_x, in_x = _members([pair[0] for pair in batch], n)
        rows_y, in_y = _members([pair[1] for pair in batch], m)
        y = features_y[rows_y].double()
        yy = _pairs(y, y, in_y, in_y) - _selves(y, in_y)
        for name, features in sets.items():
            x = features[rows_x].double()
            xx = _pairs(x, x, in_x, in_x) - _selves(x, in_x)
            values[name].append((xx + yy) / (size * (size - 1)) - 2 * _pairs(x, y, in_x, in_y) / size**2)
    return {name: _kid(torch.cat(each).numpy(), size, whole) for name, each in values.items()}


def _kid(values: np.ndarray, size: int, whole: bool) -> Kid:
    each = tuple(float(value) for value in values)
    mean = math.fsum(each) / len(each)
    std = math.sqrt(math.fsum((value - mean) ** 2 for value in each) / len(each))
    return Kid(mean, None if whole else std, size, each)


def _members(subsets: list[Tensor], count: int) -> tuple[Tensor, Tensor]:
    """The rows that any subset uses [k], and for each subset which of them are in it, 0 or 1 [s,k] float64."""
    member = torch.zeros(len(subsets), count, dtype=torch.float64)
    for i, subset in enumerate(subsets):
        member[i, subset] = 1
    rows = member.any(dim=0).nonzero().squeeze(1)
    return rows, member[:, rows]


def _kernel(dot: Tensor, dimension: int) -> Tensor:
    base = dot / dimension + 1
    return base * base * base


def _pairs(x: Tensor, y: Tensor, in_x: Tensor, in_y: Tensor) -> Tensor:
    """For each subset, the kernel summed over all pairs of its members: [s]."""
    total = torch.zeros(len(in_x), dtype=torch.float64)
    for start in range(0, len(x), ROWS):
        rows = slice(start, start + ROWS)
        total += ((in_x[:, rows] @ _kernel(x[rows] @ y.T, x.shape[1])) * in_y).sum(dim=1)
    return total


def _selves(x: Tensor, in_x: Tensor) -> Tensor:
    """For each subset, the kernel of each member with itself, summed: [s]."""
    return in_x @ _kernel(x.square().sum(dim=1), x.shape[1])
