"""The blind test in a report: what people see, beside the differences that are measured."""

import dataclasses
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from vaelens.blind.counting import Counts, Outcome
from vaelens.blind.pooling import PooledResults, part_html
from vaelens.blind.result_file import ABX
from vaelens.blind.sentences import TITLES, p_text
from vaelens.errors import UsageError
from vaelens.evaluation.metric_table import METRICS
from vaelens.evaluation.report.score_tables import TOO_FEW, verdict
from vaelens.evaluation.results import Results
from vaelens.metrics.binomial import SIGNIFICANT, proportion
from vaelens.metrics.statistics import Paired
from vaelens.report.page import wide_table
from vaelens.report.tables import MINUS, Column, Table, escaped, interval, markdown_escaped, number, table_markdown
from vaelens.text.numbers import counted
from vaelens.weights.names import distinct_names

HEADING = "Blind test results"
LEAD = (
    "What people saw without knowing which decoder is which, beside what was measured. The metrics are of this "
    "dataset, the answers of the images and regions of the blind test's page. A difference that is measured need not "
    "be seen, and one that nobody was shown to see may still be there. A metric's value is its difference, "
    f"first {MINUS} second."
)
NOT_SHOWN = "not shown"
HALVES = ("encoder", "decoder")


@dataclass(frozen=True)
class _Row:
    """One row of `blind_table`; the note is a line under what was asked."""

    cells: tuple[str, ...]
    note: str = ""


def evaluated(pooled: PooledResults, records: Mapping[str, Mapping[str, Any]]) -> PooledResults:
    """The results with their decoders under the names of an evaluation's VAEs, by fingerprint.

    records: of the VAEs, by name. Raises UsageError where a decoder isn't one of them.
    """
    prints = {name: tuple(record["fingerprint"][half]["stored"] for half in HALVES) for name, record in records.items()}
    names: list[str] = []
    for decoder in pooled.decoders:
        found = [name for name, of in prints.items() if of == (decoder.encoder, decoder.decoder)]
        if not found:
            raise UsageError(
                f"{pooled.paths[0]}: its decoder {decoder.name!r} has other weights than each evaluated VAE "
                f"({', '.join(records)}). Name the page's VAEs with --vae, or leave this file out."
            )
        names.append(next((name for name in found if name not in names), found[0]))
    renamed = [
        decoder.model_copy(update={"name": name})
        for decoder, name in zip(pooled.decoders, distinct_names(names), strict=True)
    ]
    return dataclasses.replace(pooled, decoders=tuple(renamed))


def blind_table(results: Results) -> Table:
    """One row per pair and question of the blind test, and one per metric that differs: value, interval, verdict."""
    pooled = results.blind
    rows = [] if pooled is None else [row for pair in _pairs(pooled) for row in _rows(results, pooled, pair)]
    columns = ("first", "second", "what", "value", "95 % interval", "verdict")
    notes = {(number, 2): (row.note,) for number, row in enumerate(rows) if row.note}
    return Table(tuple(map(Column, columns)), tuple(row.cells for row in rows), shared=2, notes=notes)


def blind_html(results: Results) -> str:
    """The section for the page; "" without a blind test."""
    if results.blind is None:
        return ""
    parts = "".join(f"<h3>{escaped(part.heading)}</h3>\n{part_html(part)}" for part in results.blind.parts())
    return f'<p class="lead">{escaped(_lead(results.blind))}</p>\n{wide_table(blind_table(results))}{parts}'


def blind_markdown(results: Results) -> list[str]:
    """The section's blocks in Markdown; none without a blind test."""
    if results.blind is None:
        return []
    text = markdown_escaped
    blocks = [f"## {HEADING}", text(_lead(results.blind)), table_markdown(blind_table(results)).rstrip()]
    for part in results.blind.parts():
        blocks += [f"### {text(part.heading)}", *map(text, part.findings)]
        blocks += [table_markdown(part.table).rstrip()] * bool(part.table.rows) + [*map(text, part.notes)]
    return blocks


def _lead(pooled: PooledResults) -> str:
    people, tests = counted(len(pooled.people), "person", "people"), counted(len(pooled.files), "test")
    return f"{tests} by {people}. {LEAD}"


def _pairs(pooled: PooledResults) -> list[tuple[int, int]]:
    return sorted({counts.pair for outcome in pooled.outcomes for counts in outcome.pairs if counts.pair})


def _rows(results: Results, pooled: PooledResults, pair: tuple[int, int]) -> Iterator[_Row]:
    """The pair's rows, its VAEs in the order of the measured difference: the one named later first."""
    names = pooled.names[pair[0]], pooled.names[pair[1]]
    differences = {**results.dataset_differences, **results.differences}
    turned = any((names[1], names[0], key) in differences for key in results.metrics)
    first, second = names[::-1] if turned else names
    for outcome in pooled.outcomes:
        for counts in outcome.pairs:
            if counts.pair == pair:
                yield _seen(outcome, counts, first, second, turned=turned)
    for key in results.metrics:
        if (found := differences.get((first, second, key))) is not None:
            metric = METRICS[key]
            value = found.difference if isinstance(found, Paired) else found.value
            digits = metric.digits + 1
            limits = interval(found.low, found.high, digits, signed=True) or TOO_FEW
            says = verdict(found, first, second, metric)
            yield _Row((first, second, metric.title, number(value, digits, signed=True), limits, says))


def _seen(outcome: Outcome, counts: Counts, first: str, second: str, *, turned: bool) -> _Row:
    """What was asked, the rate in percent with its interval, and what that shows."""
    count = counts.total
    if outcome.test == ABX:
        what, shows = "right", "told apart"
    else:
        if turned:
            count = proportion(count.trials - count.hits, count.trials, "two-sided")
        what, shows = "first chosen", f"{first if 2 * count.hits > count.trials else second} is chosen more often"
    shown = f"{shows if count.p <= SIGNIFICANT else NOT_SHOWN}, {p_text(count.p)}"
    limits = interval(100 * count.low, 100 * count.high, 1)
    cells = (first, second, f"{TITLES[outcome.test]}: {what}, %", number(100 * count.rate, 1), limits, shown)
    return _Row(cells, f"{count.hits} of {count.trials}")
