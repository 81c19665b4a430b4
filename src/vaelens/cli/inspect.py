"""`vaelens inspect`: what a VAE file is, field by field, and who says so."""

from typing import Annotated

import typer

from vaelens.cli import options
from vaelens.cli.output import result, result_json, result_table, say, set_level


def inspect(
    source: Annotated[str, typer.Argument(metavar="FILE", help="A VAE: a file, a folder, a name or a hub id.")],
    space: options.Space = None,
    offline: options.Offline = False,
    json: options.Json = False,
    quiet: options.Quiet = False,
    verbose: options.Verbose = False,
) -> None:
    """Read a VAE strictly and show its layout, config, latent space and fingerprints."""
    set_level(quiet, verbose)
    from vaelens.loading import describe

    found = describe(source, space=space, offline=offline, announce=say)
    if json:
        result_json(found)
        return
    from vaelens.report.tables import Column, Table

    for label, value in found["file"].items():
        result(f"{label:<12} {value}")
    result("")
    rows = tuple((name, str(field["value"]), field["source"]) for name, field in found["spec"].items())
    result_table(Table((Column("field"), Column("value"), Column("says")), rows))
    result("")
    prints = found["fingerprint"]
    rows = tuple((half, kind, digest) for half, kinds in prints.items() for kind, digest in kinds.items())
    result_table(Table((Column("fingerprint"), Column("of"), Column("sha256")), rows))
