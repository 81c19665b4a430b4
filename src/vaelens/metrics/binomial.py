"""Hits of trials: exact binomial tests against chance, exact intervals, and how many trials it takes.

Trials are independent and of one true rate. Chance is a rate of 1/2: a forced choice between two. The page's script
computes the same numbers (report/viewer/blind/statistics.js).
"""

import math
from bisect import bisect_left
from dataclasses import dataclass
from typing import Any, Literal

import scipy.special  # pyright: ignore[reportMissingTypeStubs]

from vaelens.metrics.statistics import LEVEL

special: Any = scipy.special  # which has no types; scipy.stats would take 1 s to load

CHANCE = 0.5
SIGNIFICANT = 0.05  # the largest p that counts as evidence


@dataclass(frozen=True)
class Proportion:
    """`hits` of `trials`: the 95 % interval of the true rate, and the p-value against chance, all 0 to 1."""

    hits: int
    trials: int
    low: float
    high: float
    p: float

    @property
    def rate(self) -> float:
        """The share of hits, 0 to 1; NaN without trials."""
        return self.hits / self.trials if self.trials else math.nan


def proportion(hits: int, trials: int, alternative: Literal["greater", "two-sided"]) -> Proportion:
    """How sure a share of hits is; without trials the interval is 0 to 1 and p is 1.

    The interval is exact and two-sided (Clopper and Pearson 1934, https://doi.org/10.1093/biomet/26.4.404): it holds
    the true rate at least 95 % of the times. p is the probability of so many hits or more by chance ("greater"), or
    of a count at least as lopsided ("two-sided", the sign test). Relative errors are below 1e-12 up to 1,000 trials
    and below 1e-11 up to a million. Raises ValueError unless 0 <= hits <= trials.
    """
    if not 0 <= hits <= trials:
        raise ValueError(f"hits are 0 to the number of trials, not {hits} of {trials}")
    outside, misses = (1 - LEVEL) / 2, trials - hits
    low = float(special.betaincinv(float(hits), misses + 1.0, outside)) if hits else 0.0
    high = float(special.betaincinv(hits + 1.0, float(misses), 1 - outside)) if misses else 1.0
    if alternative == "greater":
        return Proportion(hits, trials, low, high, _at_least(hits, trials, CHANCE))
    return Proportion(hits, trials, low, high, min(1.0, 2 * _at_least(max(hits, misses), trials, CHANCE)))


def fewest_hits(trials: int, level: float = SIGNIFICANT) -> int | None:
    """The fewest hits whose one-sided p is at most `level`; None where even hits alone aren't enough.

    Raises ValueError for a negative number of trials.
    """
    if trials < 0:
        raise ValueError(f"the number of trials is 0 or more, not {trials}")
    counts = range(trials + 1)
    fewest = bisect_left(counts, True, key=lambda hits: _at_least(hits, trials, CHANCE) <= level)
    return fewest if fewest in counts else None


def power(trials: int, rate: float, level: float = SIGNIFICANT) -> float:
    """The probability, 0 to 1, that so many trials at this true rate of hits end with a one-sided p of at most `level`.

    Raises ValueError for a negative number of trials and for a rate outside 0 to 1.
    """
    if not 0 <= rate <= 1:
        raise ValueError(f"a rate of hits is 0 to 1, not {rate}")
    fewest = fewest_hits(trials, level)
    return 0.0 if fewest is None else _at_least(fewest, trials, rate)


def _at_least(hits: int, trials: int, rate: float) -> float:
    """The probability of so many hits or more, as an incomplete beta function (Abramowitz and Stegun 26.5.24)."""
    if not hits:
        return 1.0  # older versions of SciPy say NaN
    return float(special.betainc(float(hits), trials - hits + 1.0, rate))
