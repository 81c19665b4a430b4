"""Bradley-Terry scores against choix, their intervals against scipy.optimize and by coverage."""

import warnings
from collections.abc import Sequence

import choix
import numpy as np
import pytest
import scipy.optimize
from scipy.stats import binomtest, chi2

from vaelens.metrics.bradley_terry import BradleyTerry, bradley_terry
from vaelens.metrics.statistics import Interval

Wins = list[list[int]]


def drawn(scores: Sequence[float], trials: int, rng: np.random.Generator) -> Wins:
    """Wins of `trials` choices for each pair by the model."""
    wins = np.zeros((len(scores), len(scores)), dtype=int)
    for j in range(len(scores)):
        for i in range(j):
            wins[i, j] = rng.binomial(trials, 1 / (1 + np.exp(scores[j] - scores[i])))
            wins[j, i] = trials - wins[i, j]
    return wins.tolist()


def scored(wins: Sequence[Sequence[int]]) -> tuple[Interval, ...]:
    scores = bradley_terry(wins).scores
    assert scores is not None
    return scores


def pairs(wins: Wins) -> list[tuple[int, int]]:
    """Choices as choix takes them: the winner, the loser."""
    return [(i, j) for i, row in enumerate(wins) for j, won in enumerate(row) for _ in range(won)]


@pytest.mark.parametrize("items", range(2, 9))
def test_scores_are_those_of_choix(items: int) -> None:
    rng = np.random.default_rng(items)
    wins = drawn(rng.normal(size=items), 12, rng)
    wins[0][1] = wins[1][0] = 0 if items > 3 else 5  # a pair that was never shown
    found = np.array([score.value for score in scored(wins)])
    assert abs(found.sum()) < 1e-12
    assert np.abs(found - choix.ilsr_pairwise(items, pairs(wins), max_iter=10_000, tol=1e-12)).max() < 1e-6
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # Newton-CG says that it can't come closer than that
        by_newton = choix.opt_pairwise(items, pairs(wins), alpha=0, tol=1e-10)
    assert np.abs(found - (by_newton - by_newton.mean())).max() < 1e-6


def test_of_two_items_the_score_is_half_the_log_odds() -> None:
    first, second = scored([[0, 30], [10, 0]])
    assert first.value == pytest.approx(np.log(3) / 2, rel=1e-12)
    assert second == Interval(-first.value, pytest.approx(-first.high), pytest.approx(-first.low))


@pytest.mark.parametrize("items", [2, 3, 5])
def test_an_interval_ends_where_the_profile_likelihood_has_dropped(items: int) -> None:
    rng = np.random.default_rng(10 + items)
    check_ends(drawn(rng.normal(size=items), 9, rng))


def test_ends_are_found_where_whole_newton_steps_overshoot() -> None:
    check_ends([[0, 1, 9, 0], [0, 0, 0, 12], [19, 1, 0, 0], [0, 0, 10, 0]])


def check_ends(wins: Wins) -> None:
    """SciPy maximizes over the other scores; the ends lie where its likelihood ratio is chi-squared's 95 %."""
    counts, items = np.array(wins), len(wins)

    def lost(scores: np.ndarray) -> float:
        return float((counts * np.logaddexp(0, scores - scores[:, None])).sum())

    def profile(item: int, value: float) -> float:
        def whole(free: np.ndarray) -> np.ndarray:  # the scores, mean 0 and that of `item` given
            others = np.append(free, -value - free.sum())
            return np.insert(others, item, value)

        if items == 2:
            return lost(whole(np.array([])))
        start = np.full(items - 2, -value / (items - 1))
        return scipy.optimize.minimize(lambda free: lost(whole(free)), start, method="BFGS", tol=1e-9).fun

    scores = scored(wins)
    lowest = lost(np.array([score.value for score in scores]))
    for i, score in enumerate(scores):
        assert score.low < score.value < score.high
        for end in (score.low, score.high):
            assert 2 * (profile(i, end) - lowest) == pytest.approx(chi2.ppf(0.95, 1), abs=1e-5)


def test_95_percent_of_the_intervals_hold_the_true_score() -> None:
    rng, truth = np.random.default_rng(5), [0.6, 0.1, -0.7]
    held = [s.low <= t <= s.high for _ in range(120) for s, t in zip(scored(drawn(truth, 30, rng)), truth, strict=True)]
    assert binomtest(sum(held), len(held), 0.95).pvalue > 0.01, np.mean(held)


def test_lopsided_wins_have_finite_scores_of_any_size() -> None:
    """The slowest of Newton's ways: one choice in a million holds a chain of ten items together."""
    wins = [[0] * 10 for _ in range(10)]
    for i in range(9):
        wins[i][i + 1], wins[i + 1][i] = 999_999, 1
    scores = scored(wins)
    steps = -np.diff([score.value for score in scores])
    assert steps == pytest.approx(np.full(9, np.log(999_999)), rel=1e-9)
    assert all(np.isfinite([score.low, score.high]).all() for score in scores)


def test_more_choices_give_the_same_scores_and_shorter_intervals() -> None:
    wins = drawn([0.5, 0, -0.5, 0.2], 10, np.random.default_rng(3))
    few, many = scored(wins), scored([[100 * won for won in row] for row in wins])
    for a, b in zip(few, many, strict=True):
        assert a.value == pytest.approx(b.value, abs=1e-9)
        assert (b.high - b.low) * 10 == pytest.approx(a.high - a.low, rel=0.1)


def test_identical_pairs_say_nothing() -> None:
    with_them, without = scored([[7, 3, 2], [1, 9, 4], [2, 2, 5]]), scored([[0, 3, 2], [1, 0, 4], [2, 2, 0]])
    for a, b in zip(with_them, without, strict=True):
        assert (a.value, a.low, a.high) == pytest.approx((b.value, b.low, b.high), abs=1e-9)


@pytest.mark.parametrize(
    ("wins", "separated", "never_met"),
    [
        ([[0, 5], [0, 0]], ((0,), (1,)), False),
        ([[0, 0], [5, 0]], ((1,), (0,)), False),
        ([[0, 0], [0, 0]], ((0,), (1,)), True),
        ([[0, 2, 3], [1, 0, 4], [0, 0, 0]], ((0, 1), (2,)), False),  # 2 never won
        ([[0, 0, 0], [2, 0, 2], [3, 1, 0]], ((1, 2), (0,)), False),  # 0 never won
        ([[0, 1, 0, 0], [0, 0, 1, 0], [0, 0, 0, 1], [0, 0, 0, 0]], ((0,), (1, 2, 3)), False),  # each beats the next
        ([[0, 0, 2, 0], [0, 0, 0, 3], [1, 0, 0, 0], [0, 1, 0, 0]], ((0, 2), (1, 3)), True),
        ([[0, 0, 0], [0, 0, 2], [0, 1, 0]], ((0,), (1, 2)), True),  # 0 was never shown
        ([[0, 0, 1], [0, 0, 1], [0, 0, 0]], ((0,), (1, 2)), False),  # neither 0 nor 1 ever lost
        ([[9, 0], [5, 0]], ((1,), (0,)), False),  # identical pairs link nothing
    ],
)
def test_without_a_finite_maximum_two_groups_are_named(
    wins: Wins, separated: tuple[tuple[int, ...], tuple[int, ...]], never_met: bool
) -> None:
    assert bradley_terry(wins) == BradleyTerry(None, separated, never_met)


def test_sparse_choices_have_a_maximum_or_a_group_that_never_lost() -> None:
    """Either the slope is 0, or moving the group up raises the likelihood for ever: there is no third way."""
    rng, outcomes = np.random.default_rng(0), []
    for _ in range(100):
        counts = rng.integers(0, 2, (4, 4))
        np.fill_diagonal(counts, 0)
        found = bradley_terry(counts.tolist())
        outcomes.append((found.scores is None, found.never_met))
        if found.scores:
            slope = counts - (counts + counts.T) / (
                1 + np.exp(-np.subtract.outer(*2 * [[s.value for s in found.scores]]))
            )
            assert np.abs(slope.sum(axis=1)).max() < 1e-9
        else:
            group, rest = found.separated
            assert sorted(group + rest) == [0, 1, 2, 3]
            assert counts[np.ix_(rest, group)].sum() == 0
            assert found.never_met == (counts[np.ix_(group, rest)].sum() == 0)
    assert set(outcomes) == {(False, False), (True, False), (True, True)}


def test_wins_that_cannot_be_are_refused() -> None:
    for wins in ([], [[0]], [[0, 1]], [[0, 1], [2]]):
        with pytest.raises(ValueError, match="square of 2 x 2 or more"):
            bradley_terry(wins)
    with pytest.raises(ValueError, match="0 or more, not -3"):
        bradley_terry([[0, -3], [1, 0]])
