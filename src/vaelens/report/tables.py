"""Tables of results: rows of text, their best values, and their HTML and Markdown."""

import html
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

Better = Literal["higher", "lower"]

MINUS = "\N{MINUS SIGN}"  # as wide as + and a digit; read as a sign, like the hyphen

_PART = rf"[+\-{MINUS}]?(?:\d+(?:\.\d+)?(?:e[+-]?\d+)?|nan|inf)"
_MEASURED = re.compile(rf"({_PART}) ± {_PART}|\[{_PART}, {_PART}\]")
_CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\ud800-\udfff]")
_MARKDOWN = re.compile(r"([\\`*_{}\[\]<>&|~#$!])")


@dataclass(frozen=True)
class Column:
    """A column's name, and whether higher or lower values are better, if either."""

    name: str
    better: Better | None = None


@dataclass(frozen=True)
class Table:
    """Rows of texts, each as long as `columns`; rows whose first `shared` cells are equal compete for the best value.

    By default the first cell, the image, is shared; with 0 all rows compete. A cell may be a number, or mean ± std,
    which is ranked by its mean. `notes` are further lines of a cell, by (row, column), in small type. The cells
    `unranked` compete with none: their numbers alone don't say which is best.
    """

    columns: tuple[Column, ...]
    rows: tuple[tuple[str, ...], ...]
    shared: int = 1
    notes: Mapping[tuple[int, int], tuple[str, ...]] = field(default_factory=dict[tuple[int, int], tuple[str, ...]])
    unranked: frozenset[tuple[int, int]] = frozenset()


def best_cells(table: Table) -> set[tuple[int, int]]:
    """The (row, column) of the best value among competing rows, in each column with `better` set.

    Equal values are all best. If fewer than two competing rows have a number, there is no best.
    """
    competing: dict[tuple[str, ...], list[int]] = {}
    for number, row in enumerate(table.rows):
        competing.setdefault(row[: table.shared], []).append(number)
    best: set[tuple[int, int]] = set()
    for c, column in enumerate(table.columns):
        if column.better is None:
            continue
        for rows in competing.values():
            ranked = [r for r in rows if (r, c) not in table.unranked]
            values = {r: value for r in ranked if not math.isnan(value := _number(table.rows[r][c]))}
            if len(values) > 1:
                top = max(values.values()) if column.better == "higher" else min(values.values())
                best |= {(r, c) for r, value in values.items() if value == top}
    return best


def table_html(table: Table, merged: bool = False) -> str:
    """The table as HTML: columns of numbers have the class "number", best values stand in <b>, notes in <small>.

    `merged` shows the `shared` first cells once for the rows below each other that have the same; the class "first"
    marks where such rows begin.
    """
    best = best_cells(table)
    spans = _spans(table) if merged and table.shared else {}
    starts = {r for (r, c), span in spans.items() if span and c == table.shared - 1}
    classes = [' class="number"' if is_numeric(table, c) else "" for c in range(len(table.columns))]
    head = "".join(
        f'<th scope="col"{of}>{escaped(column.name)}{_arrow_html(column.better)}</th>'
        for of, column in zip(classes, table.columns, strict=True)
    )
    body = "".join(
        ('<tr class="first">' if r in starts else "<tr>")
        + "".join(
            f"<td{of}{_rowspan(spans.get((r, c), 1))}>"
            + (f"<b>{escaped(cell)}</b>" if (r, c) in best else escaped(cell))
            + "".join(f"<small>{escaped(note)}</small>" for note in table.notes.get((r, c), ()))
            + "</td>"
            for c, (of, cell) in enumerate(zip(classes, row, strict=True))
            if spans.get((r, c)) != 0
        )
        + "</tr>\n"
        for r, row in enumerate(table.rows)
    )
    kind = ' class="merged"' if spans else ""
    return f"<table{kind}>\n<thead><tr>{head}</tr></thead>\n<tbody>\n{body}</tbody>\n</table>"


def table_markdown(table: Table) -> str:
    """The table in GitHub's Markdown: best values bold, notes as smaller lines of their cells."""
    best = best_cells(table)
    head = [markdown_escaped(column.name) + _arrow(column.better) for column in table.columns]
    rule = ["---:" if is_numeric(table, c) else "---" for c in range(len(table.columns))]
    body = [
        [
            (f"**{markdown_escaped(cell)}**" if (r, c) in best else markdown_escaped(cell))
            + "".join(f"<br><sub>{markdown_escaped(note)}</sub>" for note in table.notes.get((r, c), ()))
            for c, cell in enumerate(row)
        ]
        for r, row in enumerate(table.rows)
    ]
    return "".join(f"| {' | '.join(line)} |\n" for line in (head, rule, *body))


def escaped(text: str) -> str:
    """The text for HTML, between tags or in a quoted attribute; a lone surrogate, which UTF-8 lacks, as ?."""
    return html.escape(text.encode("utf-8", "replace").decode("utf-8"))


def markdown_escaped(text: str) -> str:
    """The text on one line of Markdown, where no character of it has a meaning; what can't be shown as a ?."""
    return _MARKDOWN.sub(r"\\\1", _CONTROL.sub("?", " ".join(text.split())))


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


def is_numeric(table: Table, column: int) -> bool:
    """Whether the column's cells, apart from empty ones, are numbers ("nan" and "inf" too), with ± or in [from, to]."""
    cells = [row[column] for row in table.rows if row[column]]
    return bool(cells) and all(
        cell == "nan" or not math.isnan(_number(cell)) or _MEASURED.fullmatch(cell) for cell in cells
    )


def _spans(table: Table) -> dict[tuple[int, int], int]:
    """For the shared first cells, how many rows each stands for; 0 where one above it does."""
    spans: dict[tuple[int, int], int] = {}
    for c in range(table.shared):
        start = 0
        for r, row in enumerate(table.rows):
            start = start if row[: c + 1] == table.rows[start][: c + 1] else r
            spans[r, c] = 0
            spans[start, c] += 1
    return spans


def _rowspan(rows: int) -> str:
    return f' rowspan="{rows}"' if rows > 1 else ""


def _arrow(better: Better | None) -> str:
    return "" if better is None else " ↑" if better == "higher" else " ↓"


def _arrow_html(better: Better | None) -> str:
    return f' <span title="{better} is better">{_arrow(better).strip()}</span>' if better else ""


def _number(cell: str) -> float:
    """The cell's number, a mean without its ± std; nan where it isn't one."""
    match = _MEASURED.fullmatch(cell)
    try:
        return float((match[1] or "nan" if match else cell).replace(MINUS, "-"))
    except ValueError:
        return math.nan
