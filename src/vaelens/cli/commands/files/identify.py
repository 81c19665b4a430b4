"""`vaelens identify`: what files of weights are, by their content, and which of a folder's to keep."""

from typing import Annotated

import typer

from vaelens.cli import options
from vaelens.cli.output import notice, progress, result, result_json, result_table


def identify(
    sources: Annotated[
        list[str],
        typer.Argument(
            metavar="FILE...",
            help="Files of weights, or folders of them: VAEs and whole checkpoints.",
        ),
    ],
    against: Annotated[
        list[str] | None,
        typer.Option(
            "--against",
            metavar="VAE",
            help="Compare with this VAE too: a name of `vaelens list`, a file, folder or hub id. Repeatable. "
            "Default: the known VAEs that are on this machine.",
        ),
    ] = None,
    offline: options.Offline = False,
    json: options.Json = False,
) -> None:
    """Say what files are by their content: which known VAE, in which precision and layout, or a mixture of which.

    The exit code is that of the worst file: 7 for NaN in a weight, 4 for an unsafe file, 3 for a damaged one or one
    without a VAE. Example: vaelens identify models/VAE/
    """
    from vaelens.identification.identifying import identify as identify_files
    from vaelens.identification.weights import tables

    with progress() as step:
        found = identify_files(sources, against=against or (), offline=offline, notify=notice, progress=step)
    if json:
        result_json(found.as_dict())
    elif len(found) == 1:
        rows = tables.details(found.files[0])
        width = max(len(label) for label, _ in rows)
        for label, value in rows:
            result(f"{label:<{width}} {value}")
    else:
        result_table(tables.summary(found))
    if not json:
        remarks = [*tables.remarks(found)]
        if remarks:
            result()
        for sentence in remarks:
            result(sentence)
    if found.exit_code:
        raise typer.Exit(found.exit_code)
