"""`vaelens inspect`: a VAE's layout and config, each field with its source; with --health, checks of its state."""

from typing import TYPE_CHECKING, Annotated, Any

import typer

from vaelens.cli import options
from vaelens.cli.output import notice, progress, result, result_json, result_table
from vaelens.errors import CheckFailedError, UsageError
from vaelens.text.numbers import counted

if TYPE_CHECKING:
    from vaelens.health import Health

FOR_HEALTH = ("photo", "max_side", "round_trips", "time_at", "device", "dtype", "max_pixels")


@options.with_pixel_limit
def inspect(
    context: typer.Context,
    source: options.SourceVAE,
    health: Annotated[
        bool,
        typer.Option(
            "--health",
            help="Run the VAE and check latents, colours, detail, grid patterns, drift, float16 range, time.",
        ),
    ] = False,
    photo: Annotated[
        list[str] | None,
        typer.Option(
            "--photo",
            metavar="PATH",
            help="With --health: an image or a folder of images. Repeatable. Default: synthetic faces and letters.",
        ),
    ] = None,
    max_side: Annotated[
        int, typer.Option(min=1, metavar="PIXELS", help="With --health: longest side; larger photos are shrunk to it.")
    ] = 512,
    round_trips: Annotated[
        int, typer.Option(min=1, metavar="N", help="With --health: number of round trips in the drift check.")
    ] = 8,
    time_at: Annotated[
        list[int] | None,
        typer.Option(
            min=1,
            metavar="PIXELS",
            help="With --health: image side in the time check. Repeatable. Default: 256.",
        ),
    ] = None,
    device: options.Device = "auto",
    dtype: options.Dtype = "float32",
    space: options.Space = None,
    subfolder: Annotated[
        str | None,
        typer.Option("--subfolder", metavar="NAME", help="Folder of the VAE in a folder or a hub repository."),
    ] = None,
    offline: options.Offline = False,
    json: options.Json = False,
) -> None:
    """Read a VAE strictly and show its layout, config, latent space and fingerprints; --health also runs and checks it.

    Example: vaelens inspect ft-mse --health --photo my-photos/
    """
    if not health:
        _check_unused(context)
    from vaelens.loading import describe
    from vaelens.runtime import Runtime

    if not health:
        found = describe(source, Runtime(offline=offline, notify=notice), space=space, subfolder=subfolder)
        result_json(found) if json else _show(found)
        return
    from vaelens.health import examine
    from vaelens.loading import load
    from vaelens.runtime import dtype_name

    vae = load(source, device=device, dtype=dtype, space=space, subfolder=subfolder, offline=offline, notify=notice)
    if not photo:
        notice("Note: no --photo given, so synthetic faces and letters are used. They are simpler than photos.")
    with progress() as step:
        examined = examine(
            vae, photo or None, max_side=max_side, round_trips=round_trips, time_at=time_at or (256,), progress=step
        )
    if json:
        found = describe(source, Runtime(offline=offline), space=space, subfolder=subfolder)
        result_json(found | {"health": examined.as_dict()})
    else:
        _show_health(examined)
    if not examined.finite:
        raise CheckFailedError(
            f"{vae.name} gave NaN or infinite values in {counted(len(examined.measured.failures), 'pass', 'passes')}. "
            + (
                "Its weights are damaged: download the file again."
                if dtype_name(vae.dtype) == "float32"
                else "Try --dtype float32."
            )
        )


def _check_unused(context: typer.Context) -> None:
    """Raises UsageError for options that have an effect with --health only."""
    sources = {name: context.get_parameter_source(name) for name in FOR_HEALTH}
    given = [f"--{name.replace('_', '-')}" for name, of in sources.items() if of is not None and of.name != "DEFAULT"]
    if given:
        named = ", ".join(given)
        raise UsageError(
            f"{named}: no effect without --health, which runs the VAE. Add --health, or leave {named} out."
        )


def _show(found: dict[str, Any]) -> None:
    from vaelens.report.tables import Column, Table

    for label, value in found["file"].items():
        result(f"{label:<12} {value}")
    result()
    rows = tuple((name, str(field["value"]), field["source"]) for name, field in found["spec"].items())
    result_table(Table((Column("field"), Column("value"), Column("source")), rows))
    result()
    if found["other_fields"]:
        kept = tuple((name, str(field["value"]), field["source"]) for name, field in found["other_fields"].items())
        result_table(Table((Column("kept for diffusers"), Column("value"), Column("source")), kept))
        result()
    prints = found["fingerprint"]
    rows = tuple((half, kind, digest) for half, kinds in prints.items() for kind, digest in kinds.items())
    result_table(Table((Column("fingerprint"), Column("of"), Column("sha256")), rows))


def _show_health(examined: "Health") -> None:
    from vaelens.health import formatting

    for line in formatting.header(examined):
        result(line)
    result()
    result_table(formatting.summary(examined))
    for lines in formatting.reasons(examined):
        result()
        for line in lines:
            result(line)
    for title, table in formatting.details(examined):
        result()
        result(title)
        result_table(table)
