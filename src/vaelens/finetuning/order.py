"""Which image is seen when: a function of the seed and a counter, so there is nothing to restore after a stop.

The n-th image of a training (counted over all processes) comes from a source by a fixed pattern of the sources'
weights, and from within it by a permutation that each epoch draws anew.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction
from functools import lru_cache

import numpy as np

from vaelens.errors import UsageError

LONGEST = 1000  # looks after which the pattern of the sources begins again, at most


@dataclass(frozen=True)
class Seen:
    """One look at an image: which source, which of its images, in which round through it."""

    source: int
    index: int
    epoch: int


class Order:
    """The order over sources of these sizes, mixed by these weights; UsageError for weights that aren't above 0."""

    def __init__(self, sizes: Sequence[int], weights: Sequence[float], seed: int) -> None:
        self._sizes = tuple(sizes)
        self._seed = seed
        self._pattern = _pattern(weights)
        self._counts = [self._pattern.count(source) for source in range(len(sizes))]
        seen = [0] * len(sizes)
        self._before: list[int] = []  # how often each place's source came earlier in the pattern
        for source in self._pattern:
            self._before.append(seen[source])
            seen[source] += 1

    def at(self, count: int) -> Seen:
        """The image seen after so many others."""
        whole, place = divmod(count, len(self._pattern))
        source = self._pattern[place]
        position = whole * self._counts[source] + self._before[place]
        epoch, place = divmod(position, self._sizes[source])
        return Seen(source, int(_permutation(self._sizes[source], self._seed, source, epoch)[place]), epoch)


def _pattern(weights: Sequence[float]) -> tuple[int, ...]:
    """A short sequence with each source as often as its weight asks, spread as evenly as it can be."""
    if not all(math.isfinite(weight) and weight > 0 for weight in weights):
        raise UsageError(f"the weights of sources are above 0, not {', '.join(f'{w:g}' for w in weights)}.")
    counts = _counts(weights)
    # Each source's k-th turn is due at (k + 1/2) / its count; ties go to the first source.
    turns = sorted((Fraction(2 * k + 1, 2 * n), s) for s, n in enumerate(counts) for k in range(n))
    return tuple(source for _, source in turns)


def _counts(weights: Sequence[float]) -> list[int]:
    """How often each source comes in a pattern: exactly by its weight where that is short, else to 1 in 1000."""
    fractions = [Fraction(weight).limit_denominator(LONGEST) for weight in weights]
    whole = math.lcm(*(fraction.denominator for fraction in fractions))
    counts = [int(fraction * whole) for fraction in fractions]
    if sum(counts) // math.gcd(*counts) > LONGEST or not all(counts):
        counts = [round(weight / sum(weights) * LONGEST) for weight in weights]
    if not all(counts):
        raise UsageError(f"a source can't be seen less often than every {LONGEST}th time. Raise its weight.")
    return [count // math.gcd(*counts) for count in counts]


@lru_cache(maxsize=8)
def _permutation(size: int, seed: int, source: int, epoch: int) -> np.ndarray:
    return np.random.default_rng((seed, source, epoch)).permutation(size)
