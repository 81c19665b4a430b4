"""The tables of a report as text: the VAEs' scores, their differences, regions and letters.

Each table is a list of columns, each a name with the function that writes a row's cell; a new column is one line.
"""

import itertools
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TypeVar

from vaelens.evaluation.metric_table import METRICS, REGION_METRICS, ImageMetric, Metric
from vaelens.evaluation.results import ALL_SIZES, Letters, Results
from vaelens.metrics.binomial import proportion
from vaelens.metrics.statistics import FEWEST, LEVEL, Interval, Paired, Spread
from vaelens.report.tables import MINUS, Column, Table, interval, number

NBSP = "\N{NO-BREAK SPACE}"
UNDECIDED = "not distinguishable"
TOO_FEW = "too few images"

T = TypeVar("T")
Cell = str | tuple[str, tuple[str, ...]]  # with notes under it
Columns = Sequence[tuple[Column, Callable[[T], Cell]]]


def summary_table(results: Results) -> Table:
    """One row per VAE as in the model cards: mean ± std of image metrics, the value of dataset metrics.

    Each cell's notes: the 95 % interval, or that images are too few for one; which images the mean leaves out; and the
    published score where there is one.
    """
    metrics = [METRICS[key] for key in results.metrics]
    columns: Columns[str] = [
        (Column("VAE"), lambda vae: vae),
        *((Column(metric.title, metric.better), _score_column(results, metric)) for metric in metrics),
    ]
    unranked: set[tuple[int, int]] = set()
    for c, metric in enumerate(metrics, 1):
        spreads = [results.spreads.get((vae, metric.key)) for vae in results.vaes]
        if not _means_decide(spreads, metric):
            unranked |= {(r, c) for r in range(len(spreads))}
    return _table(columns, results.vaes, shared=0, unranked=frozenset(unranked))


@dataclass(frozen=True)
class _Difference:
    """One row of `pairs_table`."""

    first: str
    second: str
    metric: Metric
    found: Paired | Interval


def pairs_table(results: Results) -> Table:
    """One row per pair of VAEs and metric: first - second with its 95 % interval, who wins how often, a verdict."""
    both = {**results.dataset_differences, **results.differences}
    pairs = dict.fromkeys((first, second) for first, second, _ in both)
    rows = [
        _Difference(first, second, METRICS[key], both[first, second, key])
        for (first, second), key in itertools.product(pairs, results.metrics)
        if (first, second, key) in both
    ]
    columns: Columns[_Difference] = [
        (Column("first"), lambda row: row.first),
        (Column("second"), lambda row: row.second),
        (Column("metric"), lambda row: row.metric.title),
        (Column(f"first {MINUS} second"), _difference),
        (
            Column("95 % interval"),
            lambda row: interval(row.found.low, row.found.high, row.metric.digits + 1, signed=True) or TOO_FEW,
        ),
        (Column("first wins, %"), _wins),
        (Column("verdict"), lambda row: verdict(row.found, row.first, row.second, row.metric)),
    ]
    return _table(columns, rows, shared=2)


@dataclass(frozen=True)
class _Region:
    """One row of `regions_table`; spreads by metric."""

    label: str
    stratum: str
    vae: str
    spreads: Mapping[str, Spread]


def regions_table(results: Results) -> Table:
    """One row per kind of region, size and VAE; the VAEs compete for each region and size."""
    labels = dict.fromkeys(region.label for region in results.regions)
    kinds = [(one, size) for one in labels for size in _sizes(r.stratum for r in results.regions if r.label == one)]
    spreads: dict[tuple[str, str, str], dict[str, Spread]] = {}
    for region in results.regions:
        spreads.setdefault((region.label, region.stratum, region.vae), {})[region.metric] = region.spread
    rows = [
        _Region(*kind, vae, spreads[*kind, vae])
        for kind, vae in itertools.product(kinds, results.vaes)
        if (*kind, vae) in spreads
    ]
    metrics = [metric for key, metric in REGION_METRICS.items() if any(key in row.spreads for row in rows)]
    unranked: set[tuple[int, int]] = set()
    for kind in kinds:
        places = [r for r, row in enumerate(rows) if (row.label, row.stratum) == kind]
        for c, metric in enumerate(metrics, 4):
            if not _means_decide([rows[r].spreads.get(metric.key) for r in places], metric):
                unranked |= {(r, c) for r in places}
    columns: Columns[_Region] = [
        (Column("region"), lambda row: row.label),
        (Column("size, px"), lambda row: row.stratum.replace(">=", "≥")),
        (Column("VAE"), lambda row: row.vae),
        (Column("regions"), lambda row: str(max(spread.total for spread in row.spreads.values()))),
        *((Column(metric.title, metric.better), _region_column(metric)) for metric in metrics),
    ]
    return _table(columns, rows, shared=2, unranked=frozenset(unranked))


def letters_table(results: Results) -> Table:
    """One row per size of letters and VAE: the share read on reconstructions, and on the originals as the ceiling."""
    sizes = _sizes(letters.stratum for letters in results.letters)
    shown = [letters for letters in results.letters if letters.stratum in sizes]
    rows = sorted(shown, key=lambda one: (sizes.index(one.stratum), results.vaes.index(one.vae)))
    columns: Columns[Letters] = [
        (Column("size, px"), lambda row: row.stratum.replace(">=", "≥")),
        (Column("VAE"), lambda row: row.vae),
        (Column("letters"), lambda row: str(row.count)),
        (Column("read, %", "higher"), lambda row: number(100 * row.read, 1)),
        (Column("ceiling, %"), lambda row: number(100 * row.ceiling, 1)),
        (
            Column("of the ceiling, %"),
            lambda row: number(100 * row.read / row.ceiling, 1) if row.ceiling > 0 else "",
        ),
    ]
    return _table(columns, rows, shared=1)


def _sizes(strata: Iterable[str]) -> list[str]:
    """Each size once; not "all" beside a single size, whose numbers are the same."""
    sizes = list(dict.fromkeys(strata))
    return [size for size in sizes if size != ALL_SIZES or len(sizes) != 2]


def _means_decide(spreads: Iterable[Spread | None], metric: Metric) -> bool:
    """Whether the best mean is also that of the VAE with most exact and fewest lost images, which it leaves out."""
    there = [spread for spread in spreads if spread and not math.isnan(spread.mean)]
    if not there or metric.better is None:
        return True
    best = (max if metric.better == "higher" else min)(there, key=lambda spread: spread.mean)
    return best.exact == max(spread.exact for spread in there) and best.lost == min(spread.lost for spread in there)


def _table(
    columns: Columns[T], rows: Sequence[T], shared: int, unranked: frozenset[tuple[int, int]] = frozenset()
) -> Table:
    texts: list[tuple[str, ...]] = []
    notes: dict[tuple[int, int], tuple[str, ...]] = {}
    for r, row in enumerate(rows):
        cells = [cell if isinstance(cell, tuple) else (cell, ()) for cell in (write(row) for _, write in columns)]
        texts.append(tuple(text for text, _ in cells))
        notes |= {(r, c): below for c, (_, below) in enumerate(cells) if below}
    return Table(tuple(column for column, _ in columns), tuple(texts), shared=shared, notes=notes, unranked=unranked)


def verdict(found: Paired | Interval, first: str, second: str, metric: Metric) -> str:
    """Which of the two is better, where 0 lies outside the interval."""
    if isinstance(found, Paired) and found.exact_first + found.exact_second:
        return _verdict_by_wins(found, first, second, metric)
    if not (math.isfinite(found.low) and math.isfinite(found.high)):
        return f"{TOO_FEW} to say"
    if not (found.decided if isinstance(found, Paired) else found.excludes_zero):
        return UNDECIDED
    return f"{first if (found.low > 0) == (metric.better == 'higher') else second} is better"


def _verdict_by_wins(found: Paired, first: str, second: str, metric: Metric) -> str:
    """Where one VAE alone reproduces images exactly, their infinite differences are in no mean.

    Better is then who wins significantly more images, unless the mean of the rest speaks for the other.
    """
    wins, losses = found.wins
    if wins + losses < FEWEST:
        return f"{TOO_FEW} to say"
    if proportion(wins, wins + losses, "two-sided").p > 1 - LEVEL:  # the sign test
        return UNDECIDED
    winner, other = (first, second) if wins > losses else (second, first)
    if found.decided and ((found.low > 0) == (metric.better == "higher")) != (wins > losses):
        return f"mixed: {winner} wins more images, {other} is better on those that neither reproduces exactly"
    return f"{winner} is better"


def _score_column(results: Results, metric: Metric) -> Callable[[str], Cell]:
    def write(vae: str) -> Cell:
        if isinstance(metric, ImageMetric):
            spread = results.spreads[vae, metric.key]
            text, low, high = _mean_std(spread, metric.digits), spread.low, spread.high
            few, notes = math.isfinite(spread.mean), _left_out(spread)
        else:
            score = results.dataset_scores[vae, metric.key]
            low, high = (score.interval.low, score.interval.high) if score.interval else (math.nan, math.nan)
            text, notes = "" if score.value is None else number(score.value, metric.digits), (score.note,)
            few = bool(text and not score.note)
        card = results.published.get((vae, metric.key))
        below = (interval(low, high, metric.digits).replace(" ", NBSP) or TOO_FEW * few, *notes)
        return text, tuple(filter(None, (*below, card and f"published {card}".replace(" ", NBSP))))

    return write


def _region_column(metric: Metric) -> Callable[[_Region], Cell]:
    key = metric.key

    def write(row: _Region) -> Cell:
        spread = row.spreads.get(key)
        return (_mean_std(spread, metric.digits), _left_out(spread)) if spread else ""

    return write


def _left_out(spread: Spread) -> tuple[str, ...]:
    """Which values the mean leaves out, as lines."""
    lines = (
        ("all exact" if spread.exact == spread.total else f"{spread.exact} of {spread.total} exact")
        * bool(spread.exact),
        f"{spread.lost} not finite" * bool(spread.lost),
        f"mean of {spread.count} of {spread.total}" if 0 < spread.count < spread.total else "",
        "none with a value from every VAE" if spread.unshared and not spread.count else "",
    )
    return tuple(filter(None, lines))


def _difference(row: _Difference) -> str:
    value = row.found.difference if isinstance(row.found, Paired) else row.found.value
    return number(value, row.metric.digits + 1, signed=True)


def _wins(row: _Difference) -> Cell:
    if isinstance(row.found, Interval):
        return ""
    equal = (f"{number(100 * row.found.ties, 1)} equal",) if row.found.ties > 0 else ()
    return number(100 * row.found.won, 1), equal + _exact(row)


def _exact(row: _Difference) -> tuple[str, ...]:
    """How many images one VAE reproduces exactly and the other doesn't, which is in no difference."""
    if isinstance(row.found, Interval):
        return ()
    counts = ((row.found.exact_first, "first"), (row.found.exact_second, "second"))
    return tuple(f"{count} exact with the {which} only" for count, which in counts if count)


def _mean_std(spread: Spread, digits: int) -> str:
    if not math.isfinite(spread.mean):
        return "" if math.isnan(spread.mean) else "inf"
    std = f" ± {number(spread.std, digits)}" if spread.count > 1 else ""  # one image has no spread
    return f"{number(spread.mean, digits)}{std}"
