"""`vaelens doctor`: what this machine can run, and whether its devices agree."""

from dataclasses import asdict

from vaelens.cli import options
from vaelens.cli.output import result, result_json, result_table
from vaelens.errors import CheckFailedError


def doctor(json: options.Json = False) -> None:
    """Show versions, devices and hub settings, and check that each device gives the same pixels as the CPU."""
    from vaelens.doctor import TOLERANCES, diagnose
    from vaelens.report.tables import Column, Table

    found = diagnose()
    if json:
        result_json(asdict(found) | {"healthy": found.healthy})
    else:
        facts = (
            found.versions | {"threads": found.threads} | {f"hub {name}": value for name, value in found.hub.items()}
        )
        width = max(map(len, facts))
        for name, value in facts.items():
            result(f"{name:<{width}} {'yes' if value is True else 'no' if value is False else value}")
        result()
        rows = tuple(
            (
                trip.device,
                trip.dtype,
                "-" if trip.difference is None else f"{trip.difference:.2e}",
                f"{TOLERANCES[trip.dtype]:.0e}",
                "yes" if trip.agrees else trip.problem or "no",
            )
            for trip in found.round_trips
        )
        names = ("device", "dtype", "largest difference", "tolerance", "agrees with the CPU in float32")
        result_table(Table(tuple(map(Column, names)), rows))
    if not found.healthy:
        raise CheckFailedError(
            "a device and the CPU give different pixels in float32 (see the table). Use --device cpu or another driver."
        )
