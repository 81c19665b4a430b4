"""Spread, intervals and paired differences against scipy and by hand."""

import math
import random
from dataclasses import replace

import numpy as np
import pytest
import scipy.stats

from vaelens.metrics.statistics import Interval, few_images_warning, paired, spread, student_t


def values(n: int, seed: int = 0) -> np.ndarray:
    return 25 + 4 * np.random.default_rng(seed).gamma(2.0, size=n)


def test_spread_against_numpy_and_scipy() -> None:
    x = values(57)
    result = spread(x)
    low, high = scipy.stats.t.interval(0.95, 56, x.mean(), scipy.stats.sem(x))
    found = [result.mean, result.std, result.low, result.high]
    assert np.allclose(found, [x.mean(), x.std(ddof=0), low, high], rtol=1e-12)
    assert (result.count, result.total) == (57, 57)


def test_spread_leaves_out_what_is_not_finite_and_counts_it() -> None:
    x = [20.0, math.inf, 22.0, math.nan, -math.inf, 27.0]
    result = spread(x)
    assert (result.count, result.exact, result.lost, result.mean) == (3, 1, 2, 23.0)
    assert replace(result, low=0, high=0) == replace(spread([20.0, 22.0, 27.0]), low=0, high=0, exact=1, lost=2)
    nothing, exact = spread([math.nan]), spread([math.inf])
    assert (nothing.count, nothing.lost, exact.count, exact.exact, exact.mean) == (0, 1, 0, 1, math.inf)
    assert math.isnan(nothing.mean)
    one = spread([3.0])
    assert (one.mean, one.std, one.count) == (3.0, 0.0, 1)
    assert math.isnan(one.low)
    few, enough = spread([0.0, 1.0] * 2 + [0.5]), spread([0.0, 1.0] * 3)
    assert (few.mean, math.isnan(few.low), math.isnan(few.high)) == (0.5, True, True), "five images have no interval"
    assert enough.low < 0.5 < enough.high


def test_spread_is_the_same_in_any_order_bit_for_bit() -> None:
    x = (values(1000) * 10.0 ** np.random.default_rng(1).integers(-8, 8, 1000)).tolist()
    first = spread(x)
    for seed in range(5):
        random.Random(seed).shuffle(x)
        assert spread(x) == first
    assert sum(x) != math.fsum(x)  # a plain sum would not have been


@pytest.mark.parametrize("degrees", [1, 2, 3, 4, 7, 19, 56, 199, 200, 201, 300, 4999, 10**12])
def test_student_t_against_scipy(degrees: int) -> None:
    assert math.isclose(student_t(degrees), scipy.stats.t.ppf(0.975, degrees), rel_tol=1e-10)


@pytest.mark.parametrize("n", [8, 40, 300])
def test_paired_interval_against_scipy(n: int) -> None:
    first, second = values(n), values(n, 1)
    result = paired(first.tolist(), second.tolist(), better="higher")
    expected = scipy.stats.bootstrap(
        (first - second,), np.mean, n_resamples=10_000, method="BCa", vectorized=True, rng=np.random.default_rng(5)
    )
    low, high = expected.confidence_interval
    assert math.isclose(result.difference, (first - second).mean(), rel_tol=1e-12)
    noise = 0.06 * (high - low)  # of 10,000 resamples, at each end
    assert abs(result.low - low) < noise
    assert abs(result.high - high) < noise


def test_lopsided_differences_move_the_interval() -> None:
    """Where BCa and plain percentiles part: an end is further away on the side of the long tail."""
    first = values(30)
    result = paired((first**4).tolist(), [0.0] * 30, better="lower")
    assert result.high - result.difference > 1.2 * (result.difference - result.low)


def test_paired_is_independent_of_what_both_share() -> None:
    easy = 1000 * values(200)
    gain = 0.1 + 0.2 * np.random.default_rng(3).normal(size=200)
    result = paired((easy + gain).tolist(), easy.tolist(), better="higher")
    assert result.decided
    assert 0.05 < result.low < result.difference < result.high < 0.15
    assert 0.6 < result.won < 0.8


def test_share_won_and_ties_by_hand() -> None:
    first, second = [1.0, 2.0, 3.0, 4.0, math.inf, math.nan, math.inf], [0.5, 2.0, 2.0, 5.0, 1.0, 1.0, math.inf]
    higher, lower = paired(first, second, better="higher"), paired(first, second, better="lower")
    assert (higher.won, higher.ties, higher.count, higher.dropped) == (3 / 6, 2 / 6, 4, 3)
    assert (lower.won, lower.ties) == (1 / 6, 2 / 6)
    assert higher.difference == 0.125
    assert not higher.decided


def test_of_infinite_values_alone_it_is_known_who_won() -> None:
    equal = [math.inf] * 4
    found = paired(equal, [25.0, 30.0, math.inf, math.nan], "higher")
    assert (found.won, found.ties, found.count, found.dropped) == (2 / 3, 1 / 3, 0, 4)
    assert math.isnan(found.difference)
    assert not found.decided
    assert paired([25.0, 30.0], equal[:2], "higher").won == 0
    nothing = paired([math.nan], [1.0], "higher")
    assert math.isnan(nothing.won)
    assert math.isnan(nothing.ties)


def test_paired_is_the_same_with_the_same_seed_only() -> None:
    first, second = values(50).tolist(), values(50, 1).tolist()
    assert paired(first, second, "higher") == paired(first, second, "higher", seed=0)
    assert paired(first, second, "higher") != paired(first, second, "higher", seed=1)


def test_many_images_are_drawn_in_blocks() -> None:
    """4 million positions at a time: with 3000 images, several blocks, the last one smaller."""
    first, second = values(3000), values(3000, 1)
    result = paired(first.tolist(), second.tolist(), "higher")
    half = 1.96 * (first - second).std() / math.sqrt(3000)
    assert math.isclose(result.high - result.low, 2 * half, rel_tol=0.03)


def test_equal_differences_have_no_interval_and_nothing_has_none() -> None:
    same = paired([3.1, 4.1, 5.1] * 2, [3.0, 4.0, 5.0] * 2, "higher")
    assert math.isclose(same.low, 0.1, rel_tol=1e-9)
    assert math.isclose(same.high, 0.1, rel_tol=1e-9)
    equal = paired([1.0, 2.0] * 3, [1.0, 2.0] * 3, "higher")
    assert (equal.low, equal.high, equal.ties, equal.decided) == (0, 0, 1, False)
    few = paired([2.0] * 5, [1.0] * 5, "higher")
    assert math.isnan(few.low)
    assert (few.difference, few.won, few.decided) == (1, 1, False), "five images decide nothing"
    nothing = paired([math.nan], [1.0], "higher")
    assert (nothing.count, nothing.dropped, nothing.decided) == (0, 1, False)
    assert math.isnan(nothing.difference)


def test_student_t_needs_a_degree_of_freedom_and_paired_the_same_images() -> None:
    with pytest.raises(ValueError, match="at least 1"):
        student_t(0)
    with pytest.raises(ValueError, match="not from 2 and 1"):
        paired([1.0, 2.0], [1.0], "higher")


def test_interval_excludes_zero() -> None:
    assert Interval(1, 0.5, 2).excludes_zero
    assert Interval(-1, -2, -0.5).excludes_zero
    assert not Interval(1, -0.1, 2).excludes_zero


def test_few_images_are_warned_of() -> None:
    assert few_images_warning(50_000, 1900) is None
    facts = {10_650: "about 6 %", 5_330: "about 11 %", 5000: "more than 11 %", 200: "biased upwards"}
    warnings = {count: few_images_warning(count, 2048) or "" for count in facts}
    for count, warning in warnings.items():
        assert facts[count] in warning
    assert "10,240" in warnings[200]
