"""Whether weights are a mixture of others': the weighted averages and difference merges that people make VAEs by.

The weights of a mixture w₁ a + w₂ b + ... with a sum of 1 are found by least squares over all values, from inner
products alone (`distances.py`); it counts where almost nothing of the difference from the nearest part is left.
"""

import itertools
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor

from vaelens.identification.weights.closeness.distances import Distances

linalg: Any = torch.linalg  # untyped

LARGEST = 3  # parts of a mixture
MOST_CANDIDATES = 16  # 120 pairs and 560 triples
LEFT = 0.02  # of the distance from the nearest part, beside what rounding explains
ROUNDINGS = 2.0  # times the typical error of rounding, which parts and mixture may both have
SMALLEST_WEIGHT = 0.01
FULL = 0.01  # how far the first weight of a difference merge may be from 1

Kind = Literal["average", "difference", "sum"]


@dataclass(frozen=True)
class Mixture:
    """Candidates by number with their weights, which sum up to 1, the largest first; and what they leave unexplained.

    `residual` is ‖t - mixture‖ / ‖t‖. An average has positive weights only; a difference merge is a + m (b - c).
    """

    kind: Kind
    parts: tuple[tuple[int, float], ...]
    residual: float


def find_mixture(
    found: Distances, target: int, candidates: Sequence[int], rounding: float, *, only_averages: Callable[[int], bool]
) -> Mixture | None:
    """The mixture of fewest candidates that the target is, if it is one.

    `rounding` is the typical relative error of the target's precision; closer than some of these, nothing can be
    told. `only_averages` says which candidates count in averages alone: any weights of a, b and c that make a out of b
    and c also make c out of a and b, so a difference is believed of VAEs only that can't be the merge.
    """
    nearest = min((found.between(candidate, target) for candidate in candidates), default=0.0)
    if nearest < 5 * rounding:
        return None
    accepted = min(LEFT * nearest + ROUNDINGS * rounding, nearest / 3)
    near = sorted(candidates, key=lambda candidate: found.between(candidate, target))[:MOST_CANDIDATES]
    for size in range(2, LARGEST + 1):
        fits = [_fit(found, target, parts) for parts in itertools.combinations(near, size)]
        fitting = [one for one in fits if one is not None and one.residual <= accepted]
        fitting = [one for one in fitting if one.kind == "average" or not any(only_averages(n) for n, _ in one.parts)]
        if fitting:
            best = min(one.residual for one in fitting)
            # of those that fit equally well: the plainest
            equal = [one for one in fitting if one.residual <= 2 * best + rounding / 10]
            return min(equal, key=lambda one: (one.kind != "average", one.residual))
    return None


def _fit(found: Distances, target: int, parts: tuple[int, ...]) -> Mixture | None:
    """The least squares fit; None where the parts are too much alike for weights, or one of them counts for nothing."""
    origin, *others = parts
    normal = torch.tensor([[found.product(a, b, origin) for b in others] for a in others], dtype=torch.float64)
    right = torch.tensor([found.product(a, target, origin) for a in others], dtype=torch.float64)
    scale = normal.diagonal().clamp(min=0).sqrt()
    if bool((scale <= 0).any()):
        return None
    scaled = normal / scale[:, None] / scale[None, :]
    if linalg.eigvalsh(scaled)[0] < 1e-6:
        return None
    solved = _floats(linalg.solve(scaled, right / scale) / scale)
    weights = dict(zip(parts, [1 - math.fsum(solved), *solved], strict=True))
    if any(abs(weight) < SMALLEST_WEIGHT for weight in weights.values()):
        return None
    squared = found.product(target, target, origin) - math.fsum(
        weight * product for weight, product in zip(solved, _floats(right), strict=True)
    )
    residual = math.sqrt(max(0.0, squared) / max(found.squares[target].item(), 1e-300))
    ordered = tuple(sorted(weights.items(), key=lambda part: -part[1]))
    return Mixture(_kind([weight for _, weight in ordered]), ordered, residual)


def _floats(vector: Tensor) -> list[float]:
    return [float(value) for value in vector]


def _kind(weights: Sequence[float]) -> Kind:
    if weights[-1] > 0:
        return "average"
    is_difference = len(weights) == 3 and any(abs(weight - 1) <= FULL for weight in weights)
    return "difference" if is_difference else "sum"
