"""What a report says as tables of text: the VAEs' scores, their differences, regions and letters."""

import itertools
import math

from vaelens.evaluation.measures import MEASURES, Measure
from vaelens.evaluation.results import Results
from vaelens.metrics.statistics import Interval, Paired
from vaelens.report.tables import MINUS, Better, Column, Table

NBSP = "\N{NO-BREAK SPACE}"
GRADIENT = "gradient"  # of regions only, so that measures.py doesn't have it
GRADIENT_DIGITS = 3
UNDECIDED = "not distinguishable"


def summary_table(results: Results) -> Table:
    """One row a VAE as in the model cards: mean ± std of an image's measures, the value of a set's.

    Each cell's notes: the 95 % interval, how many images have no value, and the published one where there is one.
    """
    measures = [MEASURES[key] for key in results.measures]
    notes: dict[tuple[int, int], tuple[str, ...]] = {}
    rows: list[tuple[str, ...]] = []
    for r, vae in enumerate(results.vaes):
        cells = [vae]
        for c, measure in enumerate(measures, start=1):
            cell, below = _score(results, vae, measure)
            if card := results.published.get((vae, measure.key)):
                below = (*below, f"published {card}".replace(" ", NBSP))
            if below:
                notes[r, c] = below
            cells.append(cell)
        rows.append(tuple(cells))
    columns = (Column("VAE"), *(Column(measure.title, measure.better) for measure in measures))
    return Table(columns, tuple(rows), shared=0, notes=notes)


def pairs_table(results: Results) -> Table:
    """One row a pair of VAEs and measure: first - second with its 95 % interval, who wins how often, in plain words."""
    pairs = list(dict.fromkeys((first, second) for first, second, _ in (*results.set_pairs, *results.pairs)))
    rows: list[tuple[str, ...]] = []
    notes: dict[tuple[int, int], tuple[str, ...]] = {}
    for first, second in pairs:
        for key in results.measures:
            found = results.pairs.get((first, second, key)) or results.set_pairs.get((first, second, key))
            if found is None:
                continue
            measure, won = MEASURES[key], ""
            value = found.difference if isinstance(found, Paired) else found.value
            if isinstance(found, Paired):
                won = number(100 * found.won, 1)
                if found.ties > 0:
                    notes[len(rows), 5] = (f"{number(100 * found.ties, 1)} equal",)
            rows.append(
                (
                    first,
                    second,
                    measure.title,
                    number(value, measure.digits + 1, signed=True),
                    interval(found.low, found.high, measure.digits + 1, signed=True),
                    won,
                    verdict(found, first, second, measure),
                )
            )
    names = ("first", "second", "measure", f"first {MINUS} second", "95 % interval", "first wins, %", "in words")
    return Table(tuple(map(Column, names)), tuple(rows), shared=2, notes=notes)


def regions_table(results: Results) -> Table:
    """One row a kind of region, size and VAE; the VAEs compete for each region and size.

    The perceptual distance has the name of the network that it is of.
    """
    keys = list(dict.fromkeys(region.measure for region in results.regions))
    found = {(region.label, region.stratum, region.vae, region.measure): region.spread for region in results.regions}
    kinds = dict.fromkeys((region.label, region.stratum) for region in results.regions)
    rows: list[tuple[str, ...]] = []
    for (label, stratum), vae in itertools.product(kinds, results.vaes):
        spreads = {key: found[label, stratum, vae, key] for key in keys if (label, stratum, vae, key) in found}
        if not spreads:
            continue
        count = max(spread.count for spread in spreads.values())
        cells = [_mean_std(spreads[key].mean, spreads[key].std, _digits(key)) if key in spreads else "" for key in keys]
        rows.append((label, stratum, vae, str(count), *cells))
    columns = (
        *map(Column, ("region", "size, px", "VAE", "regions")),
        *(Column(*_titled(_measured(results, key))) for key in keys),
    )
    return Table(columns, tuple(rows), shared=2)


def letters_table(results: Results) -> Table:
    """One row a size of letters and VAE: the share read on the reconstructions, and on the originals as the ceiling."""
    sizes = list(dict.fromkeys(letters.stratum for letters in results.letters))
    rows = [
        (
            letters.stratum,
            letters.vae,
            str(letters.count),
            number(100 * letters.read, 1),
            number(100 * letters.ceiling, 1),
            number(100 * letters.read / letters.ceiling, 1) if letters.ceiling > 0 else "",
        )
        for letters in sorted(results.letters, key=lambda one: (sizes.index(one.stratum), results.vaes.index(one.vae)))
    ]
    names = ("size, px", "VAE", "letters")
    columns = (*map(Column, names), Column("read, %", "higher"), *map(Column, ("ceiling, %", "of the ceiling, %")))
    return Table(columns, tuple(rows))


def verdict(found: Paired | Interval, first: str, second: str, measure: Measure) -> str:
    """Which of the two is better, where 0 lies outside the interval."""
    if not (math.isfinite(found.low) and math.isfinite(found.high)):
        return "too few images to say"
    if not (found.decided if isinstance(found, Paired) else found.excludes_zero):
        return UNDECIDED
    return f"{first if (found.low > 0) == (measure.better == 'higher') else second} is better"


def number(value: float, digits: int, signed: bool = False) -> str:
    """The value with a true minus sign, "" where it isn't finite; never a negative zero."""
    if not math.isfinite(value):
        return ""
    text = f"{round(value, digits) + 0.0:{'+' if signed else ''}.{digits}f}"
    return text.replace("-", MINUS)


def interval(low: float, high: float, digits: int, signed: bool = False) -> str:
    """ "[low, high]", or "" where it can't be had."""
    if not (math.isfinite(low) and math.isfinite(high)):
        return ""
    return f"[{number(low, digits, signed)}, {number(high, digits, signed)}]"


def _score(results: Results, vae: str, measure: Measure) -> tuple[str, tuple[str, ...]]:
    if measure.of == "image":
        spread = results.spreads.get((vae, measure.key))
        if spread is None:
            return "", ()
        low, high, note = spread.low, spread.high, f"{spread.dropped} without a value" if spread.dropped else ""
        cell = _mean_std(spread.mean, spread.std, measure.digits)
    else:
        score = results.sets.get((vae, measure.key))
        if score is None:
            return "", ()
        low, high = (score.interval.low, score.interval.high) if score.interval else (math.nan, math.nan)
        cell, note = "" if score.value is None else number(score.value, measure.digits), score.note
    return cell, tuple(filter(None, (interval(low, high, measure.digits).replace(" ", NBSP), note)))


def _mean_std(mean: float, std: float, digits: int) -> str:
    if not math.isfinite(mean):
        return ""
    return f"{number(mean, digits)} ± {number(std, digits)}" if math.isfinite(std) else number(mean, digits)


def _measured(results: Results, key: str) -> str:
    """A region's measure by its name in measures.py: what regions call psim may be of psim-small's network."""
    return "psim_small" if key == "psim" and "psim" not in results.measures else key


def _titled(key: str) -> tuple[str, Better | None]:
    if key == GRADIENT:
        return "gradient energy", None
    return MEASURES[key].title, MEASURES[key].better


def _digits(key: str) -> int:
    return GRADIENT_DIGITS if key == GRADIENT else MEASURES[key].digits
