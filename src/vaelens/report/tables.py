"""Tables of results: rows of text, which of them are best, and their HTML."""

import html
import math
from dataclasses import dataclass
from typing import Literal

Better = Literal["higher", "lower"]


@dataclass(frozen=True)
class Column:
    """A column's name, and which of its values are the better ones, where that can be said."""

    name: str
    better: Better | None = None


@dataclass(frozen=True)
class Table:
    """Rows of texts, each as long as `columns`; rows with the same first cell are about the same picture."""

    columns: tuple[Column, ...]
    rows: tuple[tuple[str, ...], ...]


def best_cells(table: Table) -> set[tuple[int, int]]:
    """The (row, column) of the best value of each picture in each column that has a better side.

    Equal values are all best. Where fewer than two rows of a picture have a number, none is.
    """
    pictures: dict[str, list[int]] = {}
    for number, row in enumerate(table.rows):
        pictures.setdefault(row[0], []).append(number)
    best: set[tuple[int, int]] = set()
    for c, column in enumerate(table.columns):
        if column.better is None:
            continue
        for rows in pictures.values():
            values = {r: value for r in rows if not math.isnan(value := _number(table.rows[r][c]))}
            if len(values) > 1:
                top = max(values.values()) if column.better == "higher" else min(values.values())
                best |= {(r, c) for r, value in values.items() if value == top}
    return best


def table_html(table: Table) -> str:
    """The table as HTML: columns of numbers have the class "number", best values stand in <b>."""
    best = best_cells(table)
    classes = [' class="number"' if is_numeric(table, c) else "" for c in range(len(table.columns))]
    head = "".join(
        f'<th scope="col"{of}>{escaped(column.name)}{_arrow(column.better)}</th>'
        for of, column in zip(classes, table.columns, strict=True)
    )
    body = "".join(
        "<tr>"
        + "".join(
            f"<td{of}>" + (f"<b>{escaped(cell)}</b>" if (r, c) in best else escaped(cell)) + "</td>"
            for c, (of, cell) in enumerate(zip(classes, row, strict=True))
        )
        + "</tr>\n"
        for r, row in enumerate(table.rows)
    )
    return f"<table>\n<thead><tr>{head}</tr></thead>\n<tbody>\n{body}</tbody>\n</table>"


def escaped(text: str) -> str:
    """The text for HTML, between tags or in a quoted attribute; a lone surrogate, which UTF-8 lacks, as ?."""
    return html.escape(text.encode("utf-8", "replace").decode("utf-8"))


def _arrow(better: Better | None) -> str:
    if better is None:
        return ""
    return f' <span title="{better} is better">{"↑" if better == "higher" else "↓"}</span>'


def is_numeric(table: Table, column: int) -> bool:
    """Whether the column's cells, apart from empty ones, are numbers ("nan" and "inf" too)."""
    cells = [row[column] for row in table.rows if row[column]]
    return bool(cells) and all(cell == "nan" or not math.isnan(_number(cell)) for cell in cells)


def _number(cell: str) -> float:
    try:
        return float(cell)
    except ValueError:
        return math.nan
