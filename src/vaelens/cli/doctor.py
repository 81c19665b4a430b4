"""`vaelens doctor`: what this machine can run, and whether its devices agree."""

from dataclasses import asdict

from vaelens.cli import options
from vaelens.cli.output import result, result_json, result_table, set_level
from vaelens.errors import CheckFailedError


def doctor(json: options.Json = False, quiet: options.Quiet = False, verbose: options.Verbose = False) -> None:
    """Show versions, devices and the hub's settings; check that each device makes the CPU's pixels."""
    set_level(quiet, verbose)
    from vaelens.doctor import TOLERANCES, examine
    from vaelens.report.tables import Column, Table

    found = examine()
    if json:
        result_json(asdict(found) | {"healthy": found.healthy})
    else:
        for name, value in found.versions.items():
            result(f"{name:<16} {value}")
        result(f"{'threads':<16} {found.threads}")
        for name, value in found.hub.items():
            shown = {True: "yes", False: "no"}.get(value, value) if isinstance(value, bool) else value
            result(f"{'hub ' + name:<16} {shown}")
        result("")
        rows = tuple(
            (
                trip.device,
                trip.dtype,
                "-" if trip.difference is None else f"{trip.difference:.2e}",
                f"{TOLERANCES[trip.dtype]:.0e}",
                "yes" if trip.agrees else trip.problem or "no",
            )
            for trip in found.trips
        )
        names = ("device", "dtype", "largest difference", "allowed", "agrees with the CPU in float32")
        result_table(Table(tuple(map(Column, names)), rows))
    if not found.healthy:
        raise CheckFailedError("a device doesn't make the CPU's pixels in float32 (see the table). Use --device cpu.")
