"""Which picture is seen when: a function of the seed and a counter, so there is nothing to restore after a stop.

The n-th picture of a training (counted over all processes) comes from a source by a fixed pattern of the sources'
weights, and from within it by a permutation that each epoch draws anew.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction
from functools import lru_cache

import numpy as np

from vaelens.errors import UsageError

FINEST = 100  # weights are rounded to fractions with at most this denominator


@dataclass(frozen=True)
class Seen:
    """One look at a picture: which source, which of its pictures, in which round through it."""

    source: int
    index: int
    epoch: int


class Order:
    """The order over sources of these sizes, mixed by these weights; UsageError for weights that aren't above 0."""

    def __init__(self, sizes: Sequence[int], weights: Sequence[float], seed: int) -> None:
        self._sizes = tuple(sizes)
        self._seed = seed
        self._pattern = _pattern(weights)
        self._before = [[self._pattern[:i].count(s) for i in range(len(self._pattern))] for s in range(len(sizes))]

    def at(self, count: int) -> Seen:
        """The picture seen after so many others."""
        whole, place = divmod(count, len(self._pattern))
        source = self._pattern[place]
        position = whole * self._pattern.count(source) + self._before[source][place]
        epoch, place = divmod(position, self._sizes[source])
        return Seen(source, int(_permutation(self._sizes[source], self._seed, source, epoch)[place]), epoch)


def _pattern(weights: Sequence[float]) -> tuple[int, ...]:
    """The shortest sequence with each source as often as its weight asks, spread as evenly as it can be."""
    if not all(math.isfinite(weight) and weight > 0 for weight in weights):
        raise UsageError(f"the weights of sources are above 0, not {', '.join(f'{w:g}' for w in weights)}.")
    total = sum(weights)
    shares = [Fraction(weight / total).limit_denominator(FINEST) for weight in weights]
    if not all(shares):
        raise UsageError(f"a source can't be seen less often than every {FINEST}th time. Raise its weight.")
    length = math.lcm(*(share.denominator for share in shares))
    counts = [int(share * length) for share in shares]
    # Each source's k-th turn is due at (k + 1/2) / its count; ties go to the first source.
    turns = sorted((Fraction(2 * k + 1, 2 * n), s) for s, n in enumerate(counts) for k in range(n))
    return tuple(source for _, source in turns)


@lru_cache(maxsize=8)
def _permutation(size: int, seed: int, source: int, epoch: int) -> np.ndarray:
    return np.random.default_rng((seed, source, epoch)).permutation(size)
