"""What the counts of a blind test mean, in plain sentences."""

import math
from collections.abc import Sequence

from vaelens.blind.counting import Between, Counts, Outcome, Preference
from vaelens.blind.result_file import ABX, BETTER, CLOSER, RANDOM
from vaelens.metrics.binomial import CHANCE, SIGNIFICANT, Proportion, fewest_hits, power
from vaelens.metrics.statistics import FEWEST
from vaelens.report.tables import number
from vaelens.text.display import escaped, shortened
from vaelens.text.numbers import counted

TITLES = {ABX: "ABX", BETTER: "Looks better", CLOSER: "Closer to the original"}
HOW = {
    ABX: "X is one of two decoders, drawn anew for each trial, and the question is which; p is the probability of so "
    "many right answers, or more, by guessing.",
    BETTER: "Two unnamed images of one region: which looks better? p is the probability of a count at least as "
    "lopsided where neither is preferred.",
    CLOSER: "Two unnamed images of one region: which is closer to the original? p is the probability of a count at "
    "least as lopsided where neither is preferred.",
}
PREFERRED = {BETTER: "preferred to", CLOSER: "found closer to the original than"}
KINDS = {  # of regions, as the page calls them; the others are users' labels
    "eye": "eyes",
    "iris": "irises",
    "mouth": "mouths",
    "face": "faces",
    "letters": "letters",
    "difference": "largest differences",
    RANDOM: "random regions",
}
NOTICED = 0.75  # the true rate whose power a sentence gives: 3 times out of 4
LONGEST_NAME = 60
ALIKE = (
    "Every trial counts alike, whoever answered it: one person's answers alone can make p small, and the intervals "
    "don't say how other people would do."
)
BY_CHANCE = "Of twenty rows that are mere guesses, about one has a p of 0.05 or less."
BETWEEN = (
    "The standard deviation of people's rates, beside the one that chance alone would give on average if all had the "
    f"same true rate. The mean over people has an interval (Student's t) from {FEWEST} people on."
)
SCORES = (
    "Bradley-Terry scores in log-odds, their mean set to 0, with 95 % profile likelihood intervals. A difference of "
    "1.1 means that one is preferred to the other 3 times out of 4."
)
CHECKS = (
    "Where one decoder is shown twice there is nothing to prefer, so the left or first image should be chosen in about "
    "half of these trials. Of guesses about half agree with the time before."
)


def answered(outcome: Outcome) -> str:
    """How many trials were planned and answered, how many tests stopped early, and how long an answer took."""
    text = (
        f"{counted(outcome.tests, 'test')}: {outcome.answered} of {counted(outcome.planned, 'planned trial')} answered"
    )
    if outcome.stopped_early:
        text += f", {outcome.stopped_early} stopped early"
    if math.isfinite(outcome.seconds):
        took = "less than 0.1 s" if outcome.seconds < 0.1 else f"no longer than {outcome.seconds:.1f} s"
        text += f"; half of the answers took {took}"
    return f"{text}."


def result(outcome: Outcome, counts: Counts, names: Sequence[str]) -> str:
    """What was found about one pair of decoders, or about all together, and how sure it is."""
    if counts.pair is None:
        return _abx(counts.total, "All pairs together: ", "the decoders")
    first, second = (shown(names[place]) for place in counts.pair)
    if outcome.test == ABX:
        lead = f"{first} and {second}: " if len(outcome.pairs) > 1 else ""
        return _abx(counts.total, lead, f"{first} and {second}")
    return _preference(counts.total, first, second, PREFERRED[outcome.test])


def _abx(count: Proportion, lead: str, both: str) -> str:
    n, text = count.trials, f"{lead}{count.hits} of {count.trials} right: {p_text(count.p)}."
    interval = f"The 95 % interval of the true hit rate is {percent(count.low)} to {percent(count.high)}."
    if count.p <= SIGNIFICANT:
        interval += " It reaches below 50 % as it has two sides, where p has one." * (count.low < CHANCE)
        return f"{text} Guesses would rarely give so many: {both} were told apart here. {interval}"
    if (fewest := fewest_hits(n)) is None:
        return f"{text} So few trials show nothing: guessing may well get all of them right. {interval}"
    if count.high < CHANCE:
        interval += " Guesses would rarely give so few: the answers may have been the wrong way round."
    return (
        f"{text} Not shown that {both} can be told apart here. With {n} trials, {fewest} right would have shown it; "
        f"someone who is right 3 times out of 4 reaches that with a probability of {power(n, NOTICED):.2f}. {interval}"
    )


def _preference(count: Proportion, first: str, second: str, verb: str) -> str:
    n, hits, low, high = count.trials, count.hits, count.low, count.high
    if 2 * hits < n:  # the one preferred more often comes first
        first, second, hits, low, high = second, first, n - hits, 1 - high, 1 - low
    text = f"{first} was {verb} {second} in {hits} of {counted(n, 'trial')}: {p_text(count.p)}."
    interval = f"The 95 % interval of the true share is {percent(low)} to {percent(high)}."
    if count.p <= SIGNIFICANT:
        return f"{text} Without a preference, counts are rarely so lopsided: there is one for {first} here. {interval}"
    if (fewest := fewest_hits(n, SIGNIFICANT / 2)) is None:
        return f"{text} So few trials can't show a preference, even where all answers agree. {interval}"
    return (
        f"{text} No preference is shown. With {n} trials, {fewest} for one of them would have shown it; a true share "
        f"of 3 in 4 reaches that with a probability of {power(n, NOTICED, SIGNIFICANT / 2):.2f}. {interval}"
    )


def difference(found: Between, test: str) -> str:
    """How people differ in one question."""
    what = "hit rates" if test == ABX else "shares"
    if found.lowest == found.highest:
        same = f"The {found.people} people's {what} are the same: {percent(found.lowest)}."
        if found.by_chance == 0:
            return same
        return f"{same} By chance alone, their standard deviation would be about {points(found.by_chance)}."
    text = (
        f"The {found.people} people's {what} range from {percent(found.lowest)} to {percent(found.highest)}. Their "
        f"standard deviation is {points(found.std)}; if all had the same true rate, chance alone would make it about "
        f"{points(found.by_chance)}."
    )
    if not math.isfinite(found.mean.low):
        return text
    low, high = percent(found.mean.low), percent(found.mean.high)
    return f"{text} The mean over people is {percent(found.mean.value)}, with a 95 % interval of {low} to {high}."


def no_scores(preference: Preference, names: Sequence[str]) -> str | None:
    """Why there are no Bradley-Terry scores, where there are none."""
    found = preference.scores
    if found is None or found.separated is None:
        return None
    group, rest = ([shown(names[preference.compared[one]]) for one in part] for part in found.separated)
    if found.never_met:
        return f"No scores: no trial compares {_listed(group, 'or')} with {_listed(rest, 'or')}."
    return (
        f"No scores: {_listed(group, 'and')} never lost to {_listed(rest, 'and')}, so their difference has no finite "
        "best estimate. Do more trials."
    )


def shown(name: str) -> str:
    """A name in a sentence, which nothing in it may turn round or break."""
    return shortened(escaped(name), LONGEST_NAME)


def percent(rate: float) -> str:
    """A rate, 0 to 1, in whole percent."""
    return f"{number(100 * rate, 0)} %"


def points(difference: float) -> str:
    """A difference of rates, 0 to 1, in percentage points."""
    return f"{number(100 * difference, 0)} percentage points"


def p_text(p: float) -> str:
    """A p-value in a sentence."""
    return f"p = {p:.3f}" if p >= 0.001 else "p < 0.001"


def _listed(names: Sequence[str], word: str) -> str:
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} {word} {names[-1]}"
