"""The report of an evaluation: report.html, .md, results.json, model-index/, rows.csv, regions.csv in one folder."""

from collections.abc import Sequence
from pathlib import Path

from vaelens.evaluation.report import wording
from vaelens.evaluation.report.blind_section import blind_markdown
from vaelens.evaluation.report.exports import model_indexes, regions_csv, results_dict, rows_csv
from vaelens.evaluation.report.html import report_html
from vaelens.evaluation.report.score_tables import summary_table
from vaelens.evaluation.results import Example, Results
from vaelens.files import json_text
from vaelens.report.tables import markdown_escaped, table_markdown
from vaelens.runs.outputs import RECORD_NAME, write_outputs


def write_report(results: Results, examples: Sequence[Example], folder: Path) -> list[Path]:
    """Write every file of the report, and run.json, in the place of those of an earlier one; gives the report's paths.

    `examples` are shown in their order, each with its scores. Raises what `write_outputs` does.
    """
    return write_outputs(folder / RECORD_NAME, results.record, report_files(results, examples))


def report_files(results: Results, examples: Sequence[Example]) -> dict[str, bytes]:
    """The report's files by their paths in its folder; the same arguments give the same bytes."""
    files = {
        "report.html": report_html(results, examples).encode(),
        "report.md": report_markdown(results).encode("utf-8", "replace"),
        "rows.csv": rows_csv(results),
        "results.json": json_text(results_dict(results)).encode(),
    }
    if regions := regions_csv(results):
        files["regions.csv"] = regions
    return files | {f"model-index/{name}": content for name, content in model_indexes(results).items()}


def report_markdown(results: Results) -> str:
    """The report's tables in GitHub's Markdown."""
    text = markdown_escaped
    parts = [f"# {text(wording.title(results))}", text(wording.shown(results))]
    parts += [f"> {text(warning)}" for warning in results.warnings]
    parts += [table_markdown(summary_table(results)).rstrip(), f"{wording.BOLD} {wording.SPREAD}"]
    if results.published:
        parts.append(wording.PUBLISHED)
    for heading, lead, table in wording.detail_tables(results):
        parts += [f"## {heading}", lead, table_markdown(table).rstrip()]
    parts += blind_markdown(results)
    meanings = "\n".join(f"- {text(name)}: {text(about)}" for name, about in wording.column_meanings(results))
    made = "\n".join(f"- {text(name)}: {text(value)}" for name, value in wording.facts(results).items())
    parts += ["## What the columns mean", meanings, "## How it was made", made]
    return "\n\n".join(parts) + "\n"
