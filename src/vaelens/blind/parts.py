"""The parts of a report on blind tests: for each a heading, sentences and a table."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType

from vaelens.blind import sentences
from vaelens.blind.counting import Counts, Outcome, Preference
from vaelens.blind.result_file import ABX
from vaelens.blind.sentences import TITLES
from vaelens.metrics.binomial import Proportion
from vaelens.report.tables import Column, Table, interval, number

TOGETHER = "all pairs"
Cells = tuple[str, ...]


@dataclass(frozen=True)
class Part:
    """A heading, what was found in sentences, a table that may have no rows, and how to read them.

    All texts are plain, and may hold markup.
    """

    heading: str
    findings: tuple[str, ...]
    table: Table
    notes: tuple[str, ...] = ()


def parts(outcomes: Sequence[Outcome], names: Sequence[str]) -> list[Part]:
    """Everything that the tests say, each kind of test with parts of its own; `names` are the decoders'."""
    return [part for outcome in outcomes for part in _parts(outcome, names)]


def main_table(outcome: Outcome, names: Sequence[str]) -> Table:
    """One row per pair of decoders: the count with its interval and p-value."""
    rows = [(*_pair(counts, names), *_count(counts.total)) for counts in outcome.questions]
    return Table((*_pair_columns(), *_count_columns(outcome)), tuple(rows), shared=0)


def _parts(outcome: Outcome, names: Sequence[str]) -> Iterator[Part]:
    title, questions = TITLES[outcome.test], outcome.questions
    people = max((len(counts.people) for counts in questions), default=0)
    found = [sentences.result(outcome, counts, names) for counts in questions]
    notes = [sentences.HOW[outcome.test]] + [sentences.ALIKE] * (people > 1)
    yield Part(title, (sentences.answered(outcome), *found), main_table(outcome, names), tuple(notes))
    if people > 1:
        yield _people(outcome, names)
        if len(questions) > 1:
            yield _between(outcome, names)
    if any(len(counts.kinds) > 1 for counts in questions):
        rows = _broken_down(outcome, names, "kind of region", lambda counts: counts.kinds, sentences.KINDS)
        yield Part(f"{title}: by kind of region", (), rows, (sentences.BY_CHANCE,))
    if outcome.preference:
        if outcome.preference.scores:
            yield _scores(title, outcome.preference, names)
        yield _checks(title, outcome.preference)


def _people(outcome: Outcome, names: Sequence[str]) -> Part:
    """Each person's counts, and how people differ in the only question or in all together."""
    main = outcome.together or (outcome.pairs[0] if len(outcome.pairs) == 1 else None)
    found = (sentences.difference(main.between, outcome.test),) if main and main.between else ()
    rows = _broken_down(outcome, names, "person", lambda counts: counts.people)
    return Part(f"{TITLES[outcome.test]}: by person", found, rows, (sentences.BY_CHANCE,))


def _between(outcome: Outcome, names: Sequence[str]) -> Part:
    """How people differ, one row per question."""
    rows: list[Cells] = []
    for counts in outcome.questions:
        if found := counts.between:
            spread = [number(100 * rate, 1) for rate in (found.lowest, found.highest, found.std, found.by_chance)]
            mean = number(100 * found.mean.value, 1), interval(100 * found.mean.low, 100 * found.mean.high, 1)
            rows.append((*_pair(counts, names), str(found.people), *spread, *mean))
    heads = ("people", "lowest, %", "highest, %", "std, %", "std by chance, %", "mean, %", "95 % interval, %")
    table = Table((*_pair_columns(), *map(Column, heads)), tuple(rows), shared=0)
    return Part(f"{TITLES[outcome.test]}: between people", (), table, (sentences.BETWEEN,))


def _broken_down(
    outcome: Outcome,
    names: Sequence[str],
    what: str,
    of: Callable[[Counts], Mapping[str, Proportion]],
    shown: Mapping[str, str] = MappingProxyType({}),
) -> Table:
    """One row per pair and person, or kind of region; what isn't in `shown` is shown as it is."""
    rows = [
        (*_pair(counts, names), shown.get(name, name), *_count(count))
        for counts in outcome.questions
        for name, count in of(counts).items()
    ]
    return Table((*_pair_columns(), Column(what), *_count_columns(outcome)), tuple(rows), shared=2)


def _scores(title: str, preference: Preference, names: Sequence[str]) -> Part:
    found = preference.scores.scores if preference.scores else None
    rows: list[Cells] = []
    for number_of, place in enumerate(preference.compared):
        won, lost = sum(preference.wins[place]), sum(row[place] for row in preference.wins)
        score = found[number_of] if found else None
        cells = (number(score.value, 2, True), interval(score.low, score.high, 2, True)) if score else ("", "")
        rows.append((names[place], *cells, str(won), str(lost)))
    columns = tuple(map(Column, ("decoder", "score", "95 % interval", "preferred", "not preferred")))
    why = sentences.no_scores(preference, names)
    table = Table(columns, tuple(rows), shared=0)
    return Part(f"{title}: scores", (why,) if why else (), table, () if why else (sentences.SCORES,))


def _checks(title: str, preference: Preference) -> Part:
    rows = (
        ("one decoder twice: left or first chosen", preference.identical),
        ("all trials: left or first chosen", preference.left),
        ("same pair and region again: same choice", preference.repeats),
    )
    columns = tuple(map(Column, ("what", "count", "trials", "share, %", "95 % interval, %")))
    table = Table(columns, tuple((name, *_count(count)[:-1]) for name, count in rows), shared=0)
    return Part(f"{title}: checks", (), table, (sentences.CHECKS,))


def _pair_columns() -> tuple[Column, Column]:
    return Column("first"), Column("second")


def _pair(counts: Counts, names: Sequence[str]) -> tuple[str, str]:
    return (names[counts.pair[0]], names[counts.pair[1]]) if counts.pair else (TOGETHER, "")


def _count_columns(outcome: Outcome) -> tuple[Column, ...]:
    heads = ("correct", "trials", "hit rate, %") if outcome.test == ABX else ("first preferred", "trials", "share, %")
    return tuple(map(Column, (*heads, "95 % interval, %", "p")))


def _count(count: Proportion) -> Cells:
    """Count, trials, rate, interval and p; nothing is said of no trials."""
    if not count.trials:
        return "0", "0", "", "", ""
    p = f"{count.p:.3f}" if count.p >= 0.001 else f"{count.p:.0e}"
    spread = interval(100 * count.low, 100 * count.high, 1)
    return str(count.hits), str(count.trials), number(100 * count.rate, 1), spread, p
