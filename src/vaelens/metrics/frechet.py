"""The Frechet distance between two sets of features, each taken for a Gaussian (https://arxiv.org/abs/1706.08500).

|mean1 - mean2|^2 + tr S1 + tr S2 - 2 tr (S1 S2)^(1/2), in float64; 0 is equal, lower is better. With S = F F'
the last trace is the sum of the singular values of F1' F2: no square root of a matrix is taken, nothing turns
complex, and factors of low rank (fewer images than features) are as good as any.

Moments are sums, so sets merge by adding. The jackknife leaves out one group of images at a time, which tells
how much a distance, or the difference between two, hangs on which images were measured. A distance from n
images is too high by about 1/n, so an interval is one for this many images, not for the limit of many.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from vaelens.metrics.statistics import Interval, student_t

linalg: Any = torch.linalg  # which declares no types
EPS = torch.finfo(torch.float64).eps


@dataclass(frozen=True, eq=False)
class Moments:
    """The count, sum [d] and sum of outer products [d,d] of features, float64.

    The covariance takes n m m' from the outer products, which costs digits where means are far from 0: with a
    mean of k standard deviations its relative error is about k^2 1e-16 (Inception's features have k below 10).
    """

    count: int
    total: Tensor
    outer: Tensor

    @staticmethod
    def of(features: Tensor) -> "Moments":
        """features: [n,d], any float type; n may be 0."""
        x = features.double()
        return Moments(len(x), x.sum(dim=0), x.T @ x)

    def __add__(self, other: "Moments") -> "Moments":
        return Moments(self.count + other.count, self.total + other.total, self.outer + other.outer)

    def __sub__(self, other: "Moments") -> "Moments":
        """What is left when a part is taken out again."""
        return Moments(self.count - other.count, self.total - other.total, self.outer - other.outer)

    @property
    def mean(self) -> Tensor:
        return self.total / self.count

    @property
    def covariance(self) -> Tensor:
        """Over n - 1, as pytorch-fid and torch-fidelity take it. Raises ValueError for fewer than two images."""
        if self.count < 2:
            raise ValueError(f"a covariance needs at least 2 images, not {self.count}")
        return (self.outer - torch.outer(self.total, self.mean)) / (self.count - 1)


def frechet_distance(a: Moments, b: Moments) -> float:
    """Never negative. Raises ValueError for fewer than two images and for features that aren't finite."""
    return _distance(_Gaussian.of(a), _Gaussian.of(b))


@dataclass(frozen=True)
class Jackknife:
    """A distance, or a difference of two, and what it is with each group of images left out in turn."""

    value: float
    left_out: tuple[float, ...]

    def minus(self, other: "Jackknife") -> "Jackknife":
        """The difference, group by group: what both VAEs owe to the images drops out."""
        pairs = zip(self.left_out, other.left_out, strict=True)
        return Jackknife(self.value - other.value, tuple(a - b for a, b in pairs))

    def interval(self) -> Interval:
        """95 %, by Student's t with one degree of freedom less than groups (Tukey 1958)."""
        groups = len(self.left_out)
        mean = math.fsum(self.left_out) / groups
        variance = (groups - 1) / groups * math.fsum((value - mean) ** 2 for value in self.left_out)
        half = student_t(groups - 1) * math.sqrt(variance)
        return Interval(self.value, self.value - half, self.value + half)


def jackknife(
    reference: Sequence[Moments],
    sets: Mapping[str, Sequence[Moments]],
    progress: Callable[[int, int], object] | None = None,
) -> dict[str, Jackknife]:
    """The Frechet distance of each named set from the reference, whole and with each group left out.

    reference, sets[name]: the moments of the same groups of images, of about equal size (20 are usual).
    Groups without images are passed over. progress(done, all) is called before each distance. Raises
    ValueError where the groups of a set aren't the reference's, where fewer than two groups hold images,
    or where fewer than two images are left.
    """
    counts = [group.count for group in reference]
    for name, groups in sets.items():
        if [group.count for group in groups] != counts:
            raise ValueError(f"the groups of {name} don't hold the same images as the reference's")
    filled = [i for i, count in enumerate(counts) if count]
    if len(filled) < 2:
        raise ValueError(f"a jackknife leaves out one group of several, and only {len(filled)} holds images")
    whole, wholes = _sum(reference), {name: _sum(groups) for name, groups in sets.items()}
    values: dict[str, list[float]] = {name: [] for name in sets}
    for step, out in enumerate([None, *filled]):
        # The reference is factored once for all VAEs.
        origin = _Gaussian.of(whole if out is None else whole - reference[out])
        for at, (name, groups) in enumerate(sets.items()):
            if progress:
                progress(step * len(sets) + at, (len(filled) + 1) * len(sets))
            values[name].append(
                _distance(_Gaussian.of(wholes[name] if out is None else wholes[name] - groups[out]), origin)
            )
    return {name: Jackknife(each[0], tuple(each[1:])) for name, each in values.items()}


def _sum(groups: Sequence[Moments]) -> Moments:
    total = groups[0]
    for group in groups[1:]:
        total = total + group
    return total


@dataclass(frozen=True)
class _Gaussian:
    """Mean [d], the trace of the covariance, and a factor [d,r] of it."""

    mean: Tensor
    trace: float
    factor: Tensor

    @staticmethod
    def of(moments: Moments) -> "_Gaussian":
        covariance = moments.covariance
        if not covariance.isfinite().all():
            raise ValueError("features that aren't finite have no Frechet distance")
        return _Gaussian(moments.mean, float(covariance.trace()), _factor(covariance))


def _distance(a: _Gaussian, b: _Gaussian) -> float:
    apart = float((a.mean - b.mean).square().sum())
    return max(0.0, apart + a.trace + b.trace - 2 * _sum_of_singular_values(a.factor.T @ b.factor))


def _factor(covariance: Tensor) -> Tensor:
    """F [d,r] with F F' = covariance [d,d]; Cholesky's, and where that is singular, with pivots."""
    factored: tuple[Tensor, Tensor] = linalg.cholesky_ex(covariance)
    lower, failed = factored
    if not failed:
        return lower
    return _pivoted_cholesky(covariance)


def _pivoted_cholesky(covariance: Tensor) -> Tensor:
    """Row by row from the largest pivot left, up to the rank (Higham 1990): [d,r], exact to rounding."""
    size = len(covariance)
    left = covariance.diagonal().clone()
    noise = size * EPS * float(left.max())
    rows = torch.zeros_like(covariance)
    for rank in range(size):
        pivot = int(left.argmax())
        height = float(left[pivot])
        if height <= noise:
            return rows[:rank].T
        rows[rank] = (covariance[pivot] - rows[:rank, pivot] @ rows[:rank]) / math.sqrt(height)
        left -= rows[rank].square()
    return rows.T


def _sum_of_singular_values(product: Tensor) -> float:
    """Through the eigenvalues of the square where that is exact to 1e-10, 2 to 3 times as fast as without."""
    if product.shape[0] > product.shape[1]:
        product = product.T
    if not product.numel():
        return 0.0
    squares: Tensor = linalg.eigvalsh(product @ product.T)
    if squares[0] > 0:
        roots = squares.sqrt()
        error = 8 * EPS * float(squares[-1]) * float((0.5 / roots).sum())  # each square is known to EPS of the largest
        if error < 1e-10 * float(roots.sum()):
            return float(roots.sum())
    values: Tensor = linalg.svdvals(product)
    return float(values.sum())
