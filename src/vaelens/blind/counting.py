"""The answers of tests of one kind, counted: per pair of decoders, per person, per kind of region."""

import math
import statistics
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from vaelens.blind.result_file import ABX, RANDOM, BlindTest, Trial
from vaelens.metrics.binomial import Proportion, proportion
from vaelens.metrics.bradley_terry import BradleyTerry, bradley_terry
from vaelens.metrics.statistics import Interval, spread

FEWEST_DECODERS = 3  # for Bradley-Terry scores: of two decoders the share says it all

Pair = tuple[int, int]  # indices of two decoders, the earlier one first
People = Mapping[str, Sequence[BlindTest]]  # by name
Alternative = Literal["greater", "two-sided"]


@dataclass(frozen=True)
class Between:
    """How the rates of two or more people differ: the lowest, the highest and their standard deviation (ddof 1).

    by_chance: the standard deviation to expect if all had the same true rate, which is that of all trials together.
    mean: the mean over people with its 95 % interval by Student's t, NaN where people are too few for one. All are
    rates, 0 to 1.
    """

    people: int
    lowest: float
    highest: float
    std: float
    by_chance: float
    mean: Interval


@dataclass(frozen=True)
class Counts:
    """One question's answers: in all, by person and by kind of region, in the order of the files.

    pair: the decoders in question, None for all pairs together. Counted are hits in an ABX test, else how often the
    pair's earlier decoder was preferred.
    """

    pair: Pair | None
    total: Proportion
    people: Mapping[str, Proportion]
    kinds: Mapping[str, Proportion]
    between: Between | None


@dataclass(frozen=True)
class Preference:
    """What else the trials of a preference test say.

    wins[i][j]: how often decoder i was preferred to j. identical: how often the left or first was chosen of trials that
    show one decoder twice; left: of all trials. repeats: of the trials that show a pair at a region again in the same
    test, in how many the same decoder was preferred as the time before. scores: of `compared`, the decoders that were
    shown beside another one; None if these are fewer than three.
    """

    wins: tuple[tuple[int, ...], ...]
    compared: tuple[int, ...]
    scores: BradleyTerry | None
    identical: Proportion
    left: Proportion
    repeats: Proportion


@dataclass(frozen=True)
class Outcome:
    """All tests of one kind.

    pairs: one for each pair of decoders that was shown; together: of all pairs, in an ABX test of several. seconds: the
    median time to an answer, NaN where there is none.
    """

    test: str
    tests: int
    stopped_early: int
    planned: int
    answered: int
    seconds: float
    pairs: tuple[Counts, ...]
    together: Counts | None
    preference: Preference | None

    @property
    def questions(self) -> list[Counts]:
        """The pairs, and all together where there are several."""
        return [*self.pairs, *filter(None, [self.together])]


def count_answers(kind: str, people: People, decoders: int) -> Outcome:
    """The answers of tests that are all of this kind, of so many decoders."""
    tests = [test for of_person in people.values() for test in of_person]
    trials = [trial for test in tests for trial in test.trials]
    pairs = sorted({trial.pair for trial in trials if not trial.is_identical})
    several = kind == ABX and len(pairs) > 1
    return Outcome(
        kind,
        len(tests),
        sum(test.stopped_early for test in tests),
        sum(test.planned for test in tests),
        len(trials),
        statistics.median(trial.ms for trial in trials) / 1000 if trials else math.nan,
        tuple(_counts(kind, pair, people) for pair in pairs),
        _counts(kind, None, people) if several else None,
        None if kind == ABX else _preference(tests, decoders),
    )


def _counts(kind: str, pair: Pair | None, people: People) -> Counts:
    of_person = {
        name: [trial for test in tests for trial in test.trials if pair in {None, trial.pair}]
        for name, tests in people.items()
    }
    by_person = {name: _proportion(kind, trials) for name, trials in of_person.items() if trials}
    trials = [trial for found in of_person.values() for trial in found]
    chosen = [region for tests in people.values() for test in tests for region in test.kinds]
    regions = dict.fromkeys([*chosen, RANDOM])
    of_region = {region: [trial for trial in trials if trial.kind == region] for region in regions}
    by_kind = {region: _proportion(kind, found) for region, found in of_region.items() if found}
    return Counts(pair, _proportion(kind, trials), by_person, by_kind, between(list(by_person.values())))


def _proportion(kind: str, trials: Sequence[Trial]) -> Proportion:
    if kind == ABX:
        return proportion(sum(trial.is_hit for trial in trials), len(trials), "greater")
    return proportion(sum(trial.preferred == trial.pair[0] for trial in trials), len(trials), "two-sided")


def between(people: Sequence[Proportion]) -> Between | None:
    """How the rates of people differ, each with at least one trial; None below two people.

    Of k people with n trials each and the same true rate p, the variance of the rates (ddof 1) is expected to be the
    mean of p (1 - p) / n.
    """
    if len(people) < 2:
        return None
    rates = [one.rate for one in people]
    together = sum(one.hits for one in people) / sum(one.trials for one in people)
    variance = math.fsum(together * (1 - together) / one.trials for one in people) / len(people)
    over_people = spread(rates, bounds=(0, 1))
    return Between(
        len(people),
        min(rates),
        max(rates),
        statistics.stdev(rates),
        math.sqrt(variance),
        Interval(over_people.mean, over_people.low, over_people.high),
    )


def _preference(tests: Sequence[BlindTest], decoders: int) -> Preference:
    wins = [[0] * decoders for _ in range(decoders)]
    trials = [trial for test in tests for trial in test.trials]
    for trial in trials:
        if not trial.is_identical:
            wins[trial.preferred][sum(trial.pair) - trial.preferred] += 1
    compared = sorted({place for trial in trials if not trial.is_identical for place in trial.pair})
    among = [[wins[i][j] for j in compared] for i in compared]
    return Preference(
        tuple(tuple(row) for row in wins),
        tuple(compared),
        bradley_terry(among) if len(compared) >= FEWEST_DECODERS else None,
        _share(trials, lambda trial: trial.answer == "a", lambda trial: trial.is_identical),
        _share(trials, lambda trial: trial.answer == "a", lambda _: True),
        _repeats(tests),
    )


def _share(trials: Iterable[Trial], is_hit: Callable[[Trial], bool], is_counted: Callable[[Trial], bool]) -> Proportion:
    counted = [is_hit(trial) for trial in trials if is_counted(trial)]
    return proportion(sum(counted), len(counted), "two-sided")


def _repeats(tests: Iterable[BlindTest]) -> Proportion:
    agreed = repeats = 0
    for test in tests:
        before: dict[tuple[Pair, tuple[int, ...]], int] = {}
        for trial in test.trials:
            if trial.is_identical:
                continue
            place = trial.pair, trial.region
            if place in before:
                repeats += 1
                agreed += before[place] == trial.preferred
            before[place] = trial.preferred
    return proportion(agreed, repeats, "two-sided")
