"""report.html: tables, plots and images of one evaluation on a page that opens from disk."""

from collections.abc import Mapping, Sequence

import numpy as np

from vaelens.evaluation import report_tables, report_words
from vaelens.evaluation.measures import MEASURES
from vaelens.evaluation.results import Example, Results, Row
from vaelens.images.writing import encode_png
from vaelens.report import plots
from vaelens.report.page import Layer, Panel, Section, render_report, wide_table
from vaelens.report.tables import escaped

PLOTTED_PAIRS = 6  # the pairs of four VAEs; of more VAEs, only those with the first one

Values = Mapping[tuple[str, str], np.ndarray]  # (VAE, measure) -> one value an image, nan where there is none


def report_html(results: Results, examples: Sequence[Example]) -> str:
    """The page. The same results and examples give the same text."""
    values = _values(results)
    above = [Section("Scores", _scores(results))]
    if results.pairs or results.set_pairs:
        content = _lead(report_words.PAIRED) + wide_table(report_tables.pairs_table(results))
        above.append(Section("Differences", content))
    if results.regions:
        content = _lead(report_words.REGIONS) + wide_table(report_tables.regions_table(results))
        above.append(Section("Regions", content))
    if results.letters:
        content = _lead(report_words.LETTERS) + wide_table(report_tables.letters_table(results))
        above.append(Section("Letters read", content))
    above += [
        Section(heading, content)
        for heading, content in (("Distributions", _distributions(results, values)), ("Pairs", _pairs(results, values)))
        if content
    ]
    meanings = "".join(
        f"<dt>{escaped(name)}</dt><dd>{escaped(text)}</dd>\n" for name, text in report_words.key(results)
    )
    return render_report(
        report_words.title(results),
        report_words.shown(results),
        above=above,
        panels=_panels(results, examples),
        below=[Section("What the columns mean", f'<dl class="key">\n{meanings}</dl>')],
        facts=report_words.facts(results),
        style=plots.palette_css(),
    )


def _scores(results: Results) -> str:
    warnings = "".join(f"<li>{escaped(warning)}</li>\n" for warning in results.warnings)
    sets = any(MEASURES[key].of == "set" for key in results.measures)
    lines = [report_words.BOLD, report_words.SPREAD]
    lines += [report_words.SETS] * sets + [report_words.PUBLISHED] * bool(results.published)
    return (
        (f'<ul class="warnings">\n{warnings}</ul>\n' if warnings else "")
        + wide_table(report_tables.summary_table(results))
        + _lead(" ".join(lines))
    )


def _distributions(results: Results, values: Values) -> str:
    figures: list[str] = []
    for key in _of_images(results):
        each = [one[np.isfinite(one)] for one in (values[vae, key] for vae in results.vaes)]
        if any(map(len, each)):
            figures.append(_figure(plots.distributions(each, _label(key)), f"{MEASURES[key].title} of each VAE", ""))
    if not figures:
        return ""
    lead = _lead("How many images have which value. The marks at the bottom are the means.")
    return lead + _legend(results, results.vaes) + _grid(figures)


def _pairs(results: Results, values: Values) -> str:
    pairs = list(dict.fromkeys((first, second) for first, second, _ in results.pairs))
    plotted = pairs if len(pairs) <= PLOTTED_PAIRS else [pair for pair in pairs if results.vaes[0] in pair]
    parts = [
        f"<details{' open' * (number == 0)}>\n<summary>{escaped(first)} <span>and</span> {escaped(second)}</summary>\n"
        f"{_legend(results, (first, second))}{_grid(figures, 'plots two')}</details>\n"
        for number, (first, second) in enumerate(plotted)
        if (figures := _pair(results, values, first, second))
    ]
    if not parts:
        return ""
    lead = (
        "Left: each image's value with the first VAE (to the right) against the second (upwards); on the diagonal "
        "they are equal. Right: the differences first − second in order, in the colour of the VAE that is better."  # noqa: RUF001
    )
    if len(plotted) < len(pairs):
        lead += f" Of {len(pairs)} pairs, those with {results.vaes[0]} are drawn; the table has all."
    return _lead(lead) + "".join(parts)


def _pair(results: Results, values: Values, first: str, second: str) -> list[str]:
    numbers = (results.vaes.index(first), results.vaes.index(second))
    figures: list[str] = []
    for key in _of_images(results):
        a, b = values[first, key], values[second, key]
        both = np.isfinite(a) & np.isfinite(b)
        if (first, second, key) in results.pairs and both.any():
            label = _label(key)
            figures.append(_figure(plots.scatter(a[both], b[both]), f"{label}: one VAE against the other", label))
            svg = plots.differences(a[both], b[both], MEASURES[key].better, numbers)
            figures.append(_figure(svg, f"{label}: differences in order", f"{label}: differences"))
    return figures


def _panels(results: Results, examples: Sequence[Example]) -> list[Panel]:
    wanted = {example.id for example in examples}
    rows = {(row.id, row.vae): row for row in results.rows if row.id in wanted}
    return [
        Panel(
            example.id,
            example.original.shape[1],
            example.original.shape[0],
            (
                Layer("original", encode_png(example.original), ""),
                *(
                    Layer(vae, encode_png(pixels), _note(rows.get((example.id, vae))))
                    for vae, pixels in example.reconstructions.items()
                ),
            ),
            example.why,
            example.boxes,
        )
        for example in examples
    ]


def _note(row: Row | None) -> str:
    """What was measured on one reconstruction, a line each."""
    if row is None:
        return ""
    if not row.finite:
        return "not finite"
    parts: list[str] = []
    for key, value in row.scores.items():
        if key in MEASURES:
            measure = MEASURES[key]
            unit = f" {measure.unit}" if measure.unit else ""
            text = "infinite" if value is None else report_tables.number(value, measure.digits) + unit
            parts.append(f"{measure.title} {text}")
    if row.letters:
        read, ceiling, of = row.letters
        parts.append(f"{read} of {of} letters read, {ceiling} on the original")
    return "\n".join(parts)


def _values(results: Results) -> Values:
    number_of = {name: number for number, name in enumerate(dict.fromkeys(row.id for row in results.rows))}
    keys = _of_images(results)
    values = {(vae, key): np.full(len(number_of), np.nan) for vae in results.vaes for key in keys}
    for row in results.rows:
        for key in keys:
            value = row.scores.get(key)
            if value is not None:
                values[row.vae, key][number_of[row.id]] = value
    return values


def _of_images(results: Results) -> list[str]:
    return [key for key in results.measures if MEASURES[key].of == "image"]


def _label(key: str) -> str:
    return f"{MEASURES[key].title}, {MEASURES[key].unit}" if MEASURES[key].unit else MEASURES[key].title


def _lead(text: str) -> str:
    return f'<p class="lead">{escaped(text)}</p>\n'


def _legend(results: Results, vaes: Sequence[str]) -> str:
    """The VAEs' names with their lines, in the order and colours of the whole report."""
    entries = "".join(
        f'<li><i class="{plots.key_class(results.vaes.index(vae))}"></i>{escaped(vae)}</li>\n' for vae in vaes
    )
    return f'<ul class="legend">\n{entries}</ul>\n'


def _figure(svg: str, alt: str, caption: str) -> str:
    words = f"<figcaption>{escaped(caption)}</figcaption>" if caption else ""
    return f"<figure>{plots.image_tag(svg, alt)}{words}</figure>\n"


def _grid(figures: Sequence[str], kind: str = "plots") -> str:
    return f'<div class="{kind}">\n{"".join(figures)}</div>\n'
