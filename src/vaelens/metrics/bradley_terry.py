"""Scores from choices between two: the Bradley-Terry model by maximum likelihood, with profile likelihood intervals.

i is preferred to j with the probability 1 / (1 + exp(score j - score i)) (Bradley and Terry 1952,
https://doi.org/10.1093/biomet/39.3-4.324). Only differences of scores count, so their mean is set to 0. The page's
script computes the same numbers (report/viewer/blind/bradley_terry.js).
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import count
from typing import Any

import numpy as np
import scipy.optimize  # pyright: ignore[reportMissingTypeStubs]
import scipy.sparse.csgraph  # pyright: ignore[reportMissingTypeStubs]
import scipy.special  # pyright: ignore[reportMissingTypeStubs]
from numpy.typing import NDArray

from vaelens.metrics.statistics import LEVEL, Interval

optimize: Any = scipy.optimize  # these have no types
csgraph: Any = scipy.sparse.csgraph
special: Any = scipy.special

Array = NDArray[np.float64]

DROP = float(special.chdtri(1, 1 - LEVEL))  # of twice the log-likelihood at the ends of an interval: chi-squared(1)
CLOSE = 1e-9  # a Newton step after which the error, about its square, is below what float64 holds
STEPS = 1000  # a bound that only rounding can reach: every step raises the likelihood


@dataclass(frozen=True)
class BradleyTerry:
    """The scores in log-odds, mean 0, with their 95 % intervals; or why there are none.

    scores: one for each item, or None where the likelihood has no finite maximum. Then `separated` holds the items of
    a group that never lost to the rest, and the rest. never_met: nor did that group ever win, so it was never
    compared with the rest.
    """

    scores: tuple[Interval, ...] | None
    separated: tuple[tuple[int, ...], tuple[int, ...]] | None
    never_met: bool = False


def bradley_terry(wins: Sequence[Sequence[int]]) -> BradleyTerry:
    """The scores of two items or more; wins[i][j] is how often i was preferred to j, and wins[i][i] changes nothing.

    A finite maximum exists exactly if every item is linked to every other by a chain of wins (Ford 1957,
    https://doi.org/10.2307/2308513). The ends of an interval are where twice the log-likelihood,
    maximized over all other contrasts, lies 3.84 below its maximum. Raises ValueError unless `wins` is square with
    counts of 0 or more.
    """
    counts = _counts(wins)
    group, never_met = _separated(counts)
    if len(group) < len(counts):
        rest = tuple(i for i in range(len(counts)) if i not in group)
        return BradleyTerry(None, (group, rest), never_met)
    best = _most_likely(counts, np.zeros(len(counts)))
    return BradleyTerry(tuple(_interval(counts, best, i) for i in range(len(counts))), None)


def _counts(wins: Sequence[Sequence[int]]) -> Array:
    n = len(wins)
    if n < 2 or any(len(row) != n for row in wins):
        raise ValueError(f"wins are a square of 2 x 2 or more, not {n} rows of {sorted({len(row) for row in wins})}")
    counts = np.array(wins, dtype=np.float64)
    if not (counts >= 0).all():
        raise ValueError(f"wins are 0 or more, not {counts.min():g}")
    return counts


def _separated(counts: Array) -> tuple[tuple[int, ...], bool]:
    """A group that never lost to the rest, and whether it never met it; all items where a finite maximum exists."""
    parts, label = csgraph.connected_components(counts, connection="weak")
    if parts > 1:
        return _members(label == label[0]), True
    label = csgraph.connected_components(counts, connection="strong")[1]
    groups = (label == own for own in label)
    return next(_members(group) for group in groups if not counts[np.ix_(~group, group)].any()), False


def _members(mask: NDArray[np.bool_]) -> tuple[int, ...]:
    return tuple(int(i) for i in np.flatnonzero(mask))


def _most_likely(counts: Array, start: Array, fixed: int | None = None) -> Array:
    """The scores [n] of the highest likelihood among those with the start's sum and, if given, its score `fixed`.

    Newton's method. A step that changes a difference of scores by up to s goes log(1 + s) / s of its way: that always
    raises the likelihood, since a third derivative of the logistic function is never larger than the second (the
    argument of Bach 2010, https://doi.org/10.1214/09-EJS521).
    """
    scores, n = start, len(start)
    held = np.ones((1, n)) if fixed is None else np.vstack([np.ones(n), np.eye(n)[fixed]])
    system = np.zeros((n + len(held), n + len(held)))  # a Lagrange multiplier for each row of `held`
    system[n:, :n], system[:n, n:] = held, held.T
    met = counts + counts.T
    for _ in range(STEPS):
        preferred = special.expit(scores[:, None] - scores)
        weights = met * preferred * preferred.T
        system[:n, :n] = np.diag(weights.sum(axis=1)) - weights
        slope = (counts - met * preferred).sum(axis=1)
        step = np.linalg.solve(system, np.append(slope, np.zeros(len(held))))[:n]
        size = float(np.ptp(step))
        if size < CLOSE:
            return scores + step
        scores = scores + step * (np.log1p(size) / size)
    return scores


def _log_likelihood(counts: Array, scores: Array) -> float:
    return -float((counts * np.logaddexp(0, scores - scores[:, None])).sum())


def _interval(counts: Array, best: Array, i: int) -> Interval:
    """The profile likelihood interval of one score."""
    n, highest = len(best), _log_likelihood(counts, best)
    direction = np.full(n, -1 / (n - 1))
    direction[i] = 1

    def beyond(distance: float) -> float:
        scores = _most_likely(counts, best + distance * direction, fixed=i)
        return 2 * (highest - _log_likelihood(counts, scores)) - DROP

    value = float(best[i])
    return Interval(value, value - _root(lambda distance: beyond(-distance)), value + _root(beyond))


def _root(rising: Callable[[float], float]) -> float:
    """Where a function that is negative at 0 and grows without bound becomes 0."""
    far = next(2.0**k for k in count() if rising(2.0**k) > 0)
    return float(optimize.brentq(rising, 0.0, far, xtol=1e-12))
