"""The counts against SciPy's exact tests and against cases counted by hand."""

import math
import statistics
from typing import Any

import pytest
from scipy.stats import binomtest

from support.blind_results import (
    NAMES,
    abx_trials,
    file_text,
    identical_trials,
    preference_trials,
    result,
    trial,
)
from vaelens.blind.counting import Outcome, between, count_answers
from vaelens.blind.result_file import BlindTest, parse_result
from vaelens.metrics.binomial import Proportion, proportion


def read(trials: list[dict[str, Any]], test: str = "abx", **changes: Any) -> BlindTest:
    return parse_result(file_text(result(trials, test, NAMES, **changes)))


def counted(*tests: BlindTest) -> Outcome:
    """The outcome of one test per person."""
    return count_answers(tests[0].test, {f"person {n}": [test] for n, test in enumerate(tests)}, len(NAMES))


def assert_like_scipy(count: Proportion, alternative: str) -> None:
    expected = binomtest(count.hits, count.trials, 0.5, alternative=alternative)
    interval = binomtest(count.hits, count.trials, 0.5).proportion_ci(0.95, "exact")
    assert count.p == pytest.approx(expected.pvalue, rel=1e-9)
    assert (count.low, count.high) == pytest.approx((interval.low, interval.high), rel=1e-9)


def test_hits_per_pair_and_together() -> None:
    outcome = counted(read([*abx_trials(11, 16), *abx_trials(4, 7, (1, 2))]))
    assert [(c.pair, c.total.hits, c.total.trials) for c in outcome.pairs] == [((0, 1), 11, 16), ((1, 2), 4, 7)]
    assert outcome.together is not None
    assert (outcome.together.total.hits, outcome.together.total.trials) == (15, 23)
    for counts in outcome.questions:
        assert_like_scipy(counts.total, "greater")
    assert counted(read(abx_trials(11, 16))).together is None, "one pair is all pairs"
    assert outcome.pairs[0].total.p == pytest.approx(0.105, abs=5e-4)


def test_preferences_count_the_earlier_decoder_whatever_its_side() -> None:
    outcome = counted(read([*preference_trials(7, 9), *preference_trials(1, 6, (0, 2))], "better"))
    assert [(c.pair, c.total.hits, c.total.trials) for c in outcome.pairs] == [((0, 1), 7, 9), ((0, 2), 1, 6)]
    assert outcome.together is None
    for counts in outcome.pairs:
        assert_like_scipy(counts.total, "two-sided")
    assert outcome.preference is not None
    assert outcome.preference.wins == ((0, 7, 1), (2, 0, 0), (5, 0, 0))


def test_people_and_kinds_of_region_add_up_to_the_total() -> None:
    first = read([*abx_trials(5, 8, kind="eye"), *abx_trials(2, 4, kind="random")])
    second = read(abx_trials(6, 10, kind="letters"), kinds=["letters", "eye"])
    (counts,) = counted(first, second).pairs
    assert {name: (one.hits, one.trials) for name, one in counts.people.items()} == {
        "person 0": (7, 12),
        "person 1": (6, 10),
    }
    assert {kind: (one.hits, one.trials) for kind, one in counts.kinds.items()} == {
        "eye": (5, 8),
        "random": (2, 4),
        "letters": (6, 10),
    }
    assert (counts.total.hits, counts.total.trials) == (13, 22)


def test_a_random_region_counts_where_none_of_the_chosen_kind_was_found() -> None:
    (counts,) = counted(read([*abx_trials(3, 4, kind="random"), *abx_trials(1, 2, kind="eye")], kinds=["eye"])).pairs
    assert {kind: one.trials for kind, one in counts.kinds.items()} == {"eye": 2, "random": 4}
    assert list(counts.kinds) == ["eye", "random"]


def test_a_person_without_a_trial_of_a_pair_is_not_in_its_spread() -> None:
    outcome = counted(read(abx_trials(5, 8)), read(abx_trials(5, 8, (1, 2))))
    assert [list(counts.people) for counts in outcome.pairs] == [["person 0"], ["person 1"]]
    assert [counts.between for counts in outcome.pairs] == [None, None]
    assert outcome.together is not None
    assert outcome.together.between is not None


def test_the_spread_between_people() -> None:
    people = [(4, 8), (6, 8), (16, 16)]
    found = between([proportion(hits, trials, "greater") for hits, trials in people])
    assert found is not None
    rates = [hits / trials for hits, trials in people]
    assert (found.people, found.lowest, found.highest) == (3, 0.5, 1.0)
    assert found.std == pytest.approx(statistics.stdev(rates))
    together = 26 / 32
    assert found.by_chance == pytest.approx(math.sqrt(together * (1 - together) * (1 / 8 + 1 / 8 + 1 / 16) / 3))
    assert found.mean.value == pytest.approx(statistics.mean(rates))
    assert math.isnan(found.mean.low), "three people are too few"


def test_the_standard_deviation_by_chance_is_that_of_guesses() -> None:
    import numpy as np

    rng = np.random.default_rng(0)
    trials = np.array([8, 16, 40])
    variances = (rng.binomial(trials, 0.7, (20_000, 3)) / trials).var(axis=1, ddof=1)
    found = between([proportion(round(0.7 * 10 * n), 10 * n, "greater") for n in (8, 16, 40)])
    assert found is not None
    assert found.by_chance**2 * 10 == pytest.approx(variances.mean(), rel=0.03)


def test_from_six_people_on_their_mean_has_an_interval() -> None:
    from scipy import stats

    hits = [10, 11, 12, 9, 14, 11]
    found = between([proportion(one, 16, "greater") for one in hits])
    assert found is not None
    rates = [one / 16 for one in hits]
    error = statistics.stdev(rates) / math.sqrt(6)
    expected = stats.t.interval(0.95, 5, statistics.mean(rates), error)
    assert (found.mean.low, found.mean.high) == pytest.approx(expected)


def test_identical_pairs_and_sides_by_hand() -> None:
    trials = [
        *identical_trials(3, 4),
        trial(0, 1, "a", left=1),
        trial(1, 0, "b", left=2),
        trial(0, 1, "a", left=3),
    ]
    outcome = counted(read(trials, "better"))
    (counts,) = outcome.pairs
    assert (counts.total.hits, counts.total.trials) == (3, 3), "identical pairs are no comparison"
    found = outcome.preference
    assert found is not None
    assert (found.identical.hits, found.identical.trials) == (3, 4)
    assert (found.left.hits, found.left.trials) == (5, 7)
    assert_like_scipy(found.left, "two-sided")
    assert outcome.answered == 7


def test_repeats_are_of_one_pair_at_one_region_of_one_test() -> None:
    trials = [
        trial(0, 1, "a"),  # 0 is preferred
        trial(1, 0, "b"),  # again
        trial(0, 1, "b"),  # no longer
        trial(1, 0, "a"),  # as the time before
        trial(0, 1, "a", left=1),  # another region
        trial(0, 2, "a"),  # another pair
        trial(0, 0, "a"),
        trial(0, 0, "a"),  # nothing to prefer
    ]
    one = read(trials, "closer")
    found = counted(one, read([trial(0, 1, "a")], "closer")).preference
    assert found is not None
    assert (found.repeats.hits, found.repeats.trials) == (2, 3)


def test_bradley_terry_scores_come_with_three_decoders() -> None:
    every = [trial for pair in ((0, 1), (0, 2), (1, 2)) for trial in preference_trials(7, 10, pair)]
    outcome = counted(read(every, "better"))
    assert outcome.preference is not None
    found = outcome.preference.scores
    assert found is not None
    assert found.scores is not None
    assert [score.value for score in found.scores] == sorted((s.value for s in found.scores), reverse=True)
    two = parse_result(file_text(result(preference_trials(3, 5), "better")))
    only = count_answers("better", {"": [two]}, 2).preference
    assert only is not None
    assert only.scores is None, "of two decoders the share says it all"


def test_the_numbers_of_tests_and_trials() -> None:
    whole, half = read(abx_trials(3, 4, ms=1000)), read(abx_trials(1, 2, ms=4000), planned=9)
    outcome = counted(whole, half)
    assert (outcome.tests, outcome.stopped_early, outcome.planned, outcome.answered) == (2, 1, 13, 6)
    assert outcome.seconds == 1.0
    none = counted(read([], planned=9))
    assert (none.answered, none.pairs, none.together) == (0, (), None)
    assert math.isnan(none.seconds)
