"""Hits of trials against scipy.stats."""

import math
import time
from typing import Literal

import pytest
from scipy.stats import binom, binomtest

from vaelens.metrics.binomial import Proportion, fewest_hits, power, proportion

SMALL = [(hits, trials) for trials in range(1, 26) for hits in range(trials + 1)]
LARGE = [(0, 225), (225, 225), (1, 225), (112, 225), (140, 225), (300, 1000), (999, 1000), (1040, 2000), (1300, 2000)]


@pytest.mark.parametrize("alternative", ["greater", "two-sided"])
def test_a_proportion_is_scipys(alternative: Literal["greater", "two-sided"]) -> None:
    for hits, trials in (*SMALL, *LARGE):
        found = proportion(hits, trials, alternative)
        interval = binomtest(hits, trials).proportion_ci(0.95, "exact")
        assert found.p == pytest.approx(binomtest(hits, trials, 0.5, alternative).pvalue, rel=1e-12), found
        assert [found.low, found.high] == pytest.approx([interval.low, interval.high], abs=1e-10), found
        assert (found.hits, found.trials, found.rate) == (hits, trials, hits / trials)


def test_an_interval_ends_where_a_tail_is_one_fortieth() -> None:
    for hits, trials in (*SMALL, *LARGE):
        found = proportion(hits, trials, "greater")
        assert not hits or binom.sf(hits - 1, trials, found.low) == pytest.approx(0.025, rel=1e-10)
        assert hits == trials or binom.cdf(hits, trials, found.high) == pytest.approx(0.025, rel=1e-10)
        assert (found.low == 0, found.high == 1) == (hits == 0, hits == trials)


def test_without_trials_nothing_is_known() -> None:
    for alternative in ("greater", "two-sided"):
        found = proportion(0, 0, alternative)
        assert found == Proportion(0, 0, 0, 1, 1)
        assert math.isnan(found.rate)


@pytest.mark.parametrize("difference", [0, 1, 300, 1960, 10_000])
def test_of_a_million_trials_p_is_scipys_and_takes_no_time(difference: int) -> None:
    """With exact whole numbers, each of thousands of digits, it would take minutes."""
    hits = 500_000 + difference
    start = time.process_time()
    both, greater = proportion(hits, 1_000_000, "two-sided").p, proportion(hits, 1_000_000, "greater").p
    assert time.process_time() - start < 5
    assert both == pytest.approx(binomtest(hits, 1_000_000).pvalue, rel=1e-11)
    assert greater == pytest.approx(binom.sf(hits - 1, 1_000_000, 0.5), rel=1e-11)


@pytest.mark.parametrize("level", [0.05, 0.01, 2**-6, 1.0])
def test_the_fewest_hits_are_the_first_that_are_significant(level: float) -> None:
    for trials in (*range(1, 40), 225):
        p = [binomtest(hits, trials, alternative="greater").pvalue for hits in range(trials + 1)]
        assert fewest_hits(trials, level) == next((k for k in range(trials + 1) if p[k] <= level), None), trials
    assert fewest_hits(0, 0.05) is None


def test_the_fewest_hits_of_well_known_tests() -> None:
    """As tables of ABX tests have them: https://wiki.hydrogenaud.io/index.php?title=ABX (12 of 16, 9 of 10)."""
    assert (fewest_hits(16), fewest_hits(10), fewest_hits(5), fewest_hits(4)) == (12, 9, 5, None)


def test_power_is_the_probability_of_a_significant_count() -> None:
    for trials in range(60):
        significant = [
            k for k in range(trials + 1) if binomtest(k, max(trials, 1), alternative="greater").pvalue <= 0.05
        ]
        for rate in (0, 0.2, 0.5, 0.75, 0.9, 1):
            expected = math.fsum(binom.pmf(k, trials, rate) for k in significant)
            assert power(trials, rate) == pytest.approx(expected, rel=1e-11), (trials, rate)
    assert power(16, 0.75, level=0.01) == pytest.approx(binom.sf(13, 16, 0.75), rel=1e-12)


def test_counts_and_rates_that_cannot_be_are_refused() -> None:
    for hits, trials in ((3, 2), (-1, 2), (0, -1)):
        with pytest.raises(ValueError, match=f"not {hits} of {trials}"):
            proportion(hits, trials, "greater")
    with pytest.raises(ValueError, match="not -1"):
        fewest_hits(-1)
    for rate in (-0.1, 1.1, math.nan):
        with pytest.raises(ValueError, match="a rate of hits is 0 to 1"):
            power(16, rate)
