"""report.html: tables, plots and images of one evaluation on a page that opens from disk."""

from collections.abc import Mapping, Sequence

import numpy as np

from vaelens.evaluation.metric_table import METRICS, dataset_metrics, image_metrics
from vaelens.evaluation.report import blind_section, score_tables, wording
from vaelens.evaluation.results import Example, Results, Row
from vaelens.images.writing import encode_png
from vaelens.metrics.statistics import shared_images
from vaelens.report import plots
from vaelens.report.page import Section, render_report, wide_table
from vaelens.report.panels import Decoder, Layer, Panel
from vaelens.report.tables import escaped, number

PLOTTED_PAIRS = 6  # the pairs of four VAEs; of more VAEs, only those with the first one

Values = Mapping[tuple[str, str], np.ndarray]  # (VAE, metric) -> one value per image, NaN where there is none


def report_html(results: Results, examples: Sequence[Example]) -> str:
    """The page. The same results and examples give the same text."""
    values = _values(results)
    above = [Section("Scores", _scores(results))]
    above += [
        Section(heading, _lead(lead) + wide_table(table)) for heading, lead, table in wording.detail_tables(results)
    ]
    above += [
        Section(heading, content)
        for heading, content in (
            (blind_section.HEADING, blind_section.blind_html(results)),
            ("Distributions", _distributions(results, values)),
            ("Pairs", _pairs(results, values)),
        )
        if content
    ]
    meanings = "".join(
        f"<dt>{escaped(name)}</dt><dd>{escaped(text)}</dd>\n" for name, text in wording.column_meanings(results)
    )
    return render_report(
        wording.title(results),
        wording.shown(results),
        above=above,
        panels=_panels(results, examples),
        below=[Section("What the columns mean", f'<dl class="key">\n{meanings}</dl>')],
        facts=wording.facts(results),
        style=plots.palette_css(),
    )


def _scores(results: Results) -> str:
    warnings = "".join(f"<li>{escaped(warning)}</li>\n" for warning in results.warnings)
    lines = [wording.BOLD, wording.SPREAD]
    lines += [wording.DATASETS] * bool(dataset_metrics(results.metrics)) + [wording.PUBLISHED] * bool(results.published)
    return (
        (f'<ul class="warnings">\n{warnings}</ul>\n' if warnings else "")
        + wide_table(score_tables.summary_table(results))
        + _lead(" ".join(lines))
    )


def _distributions(results: Results, values: Values) -> str:
    figures: list[str] = []
    for metric in image_metrics(results.metrics):
        every = [values[vae, metric.key] for vae in results.vaes]
        shared = np.array(shared_images([one.tolist() for one in every]), dtype=bool)
        each = [one[np.isfinite(one) & shared] for one in every]  # as the means are
        if any(map(len, each)):
            figures.append(_figure(plots.distributions(each, metric.label), f"{metric.title} of each VAE", ""))
    if not figures:
        return ""
    left_out = any(spread.count < spread.total for spread in results.spreads.values())
    lead = _lead(
        "How many images have which value. The marks at the bottom are the means."
        + " Images without a finite value from every VAE are left out, as in the means." * left_out
    )
    return lead + _legend(results, results.vaes) + _grid(figures)


def _pairs(results: Results, values: Values) -> str:
    pairs = list(dict.fromkeys((first, second) for first, second, _ in results.differences))
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
        lead += f" Of {len(pairs)} pairs, only those with {results.vaes[0]} are plotted; the table has all."
    return _lead(lead) + "".join(parts)


def _pair(results: Results, values: Values, first: str, second: str) -> list[str]:
    numbers = (results.vaes.index(first), results.vaes.index(second))
    figures: list[str] = []
    for metric in image_metrics(results.metrics):
        a, b = values[first, metric.key], values[second, metric.key]
        both = np.isfinite(a) & np.isfinite(b)
        if both.any():
            label = metric.label
            figures.append(_figure(plots.scatter(a[both], b[both]), f"{label}: one VAE against the other", label))
            svg = plots.differences(a[both], b[both], metric.better or "higher", numbers)
            figures.append(_figure(svg, f"{label}: differences in order", f"{label}: differences"))
    return figures


def _panels(results: Results, examples: Sequence[Example]) -> list[Panel]:
    ids = {example.id for example in examples}
    rows = {(row.id, row.vae): row for row in results.rows if row.id in ids}
    decoders = {vae["name"]: Decoder.of(vae) for vae in results.record.get("vaes", ()) if "fingerprint" in vae}
    return [
        Panel(
            example.id,
            example.original.shape[1],
            example.original.shape[0],
            (
                Layer("original", encode_png(example.original), ""),
                *(
                    Layer(vae, encode_png(pixels), _note(rows.get((example.id, vae))), decoders.get(vae))
                    for vae, pixels in example.reconstructions.items()
                ),
            ),
            example.why,
            example.boxes,
        )
        for example in examples
    ]


def _note(row: Row | None) -> str:
    """The scores of one reconstruction, one per line."""
    if row is None:
        return ""
    if not row.finite:
        return "not finite"
    parts: list[str] = []
    for key, value in row.scores.items():
        metric = METRICS[key]
        unit = f" {metric.unit}" if metric.unit else ""
        text = "infinite" if value is None else number(value, metric.digits) + unit
        parts.append(f"{metric.title} {text}")
    if row.letters:
        read, ceiling, of = row.letters
        parts.append(f"{read} of {of} letters read, {ceiling} on the original")
    return "\n".join(parts)


def _values(results: Results) -> Values:
    number_of = {name: number for number, name in enumerate(dict.fromkeys(row.id for row in results.rows))}
    keys = [metric.key for metric in image_metrics(results.metrics)]
    values = {(vae, key): np.full(len(number_of), np.nan) for vae in results.vaes for key in keys}
    for row in results.rows:
        for key in keys:
            value = row.scores.get(key)
            if value is not None:
                values[row.vae, key][number_of[row.id]] = value
    return values


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
