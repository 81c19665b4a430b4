"""`vaelens blind`: result files of the blind test, pooled."""

from pathlib import Path
from typing import Annotated

import typer

from vaelens.cli import options
from vaelens.cli.output import result, result_json, result_table, written_line


def blind(
    results: Annotated[
        list[Path], typer.Argument(metavar="RESULT.json", help="Result files that a page's blind test saved.")
    ],
    output: Annotated[Path, typer.Option("-o", "--output", metavar="FILE.html", help="The page to write.")] = Path(
        "blind.html"
    ),
    json: options.Json = False,
) -> None:
    """Pool the results of blind tests on one page: hits and preferences with exact intervals, per person and together.

    Files with the same name of a person count as one person. Files of other pages or VAEs are refused, and so are
    edited files and the same test twice.

    Example: vaelens blind anna.json ben.json -o blind.html
    """
    from vaelens.blind.pooling import check_output, pool_blind_results

    check_output(output, results)
    pooled = pool_blind_results(results)
    written = pooled.save(output)
    if json:
        result_json(pooled.as_dict() | {"written": [str(path) for path in written]})
        return
    for part in pooled.parts():
        for line in (part.heading, *part.findings):
            result(line)
        if part.table.rows:
            result_table(part.table)
        for line in part.notes:
            result(line)
        result()
    result(written_line(written))
