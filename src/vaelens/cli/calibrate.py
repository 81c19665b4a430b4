"""`vaelens calibrate`: which way of measuring gives a published table."""

from pathlib import Path
from typing import Annotated

import typer

from vaelens.cli import options
from vaelens.cli.output import notice, progress, result, result_json, result_table, set_level


def calibrate(
    source: Annotated[
        str,
        typer.Argument(
            metavar="SOURCE", help="The images that the figures are of: coco-val2017, or any that `evaluate` takes."
        ),
    ] = "coco-val2017",
    vae: Annotated[
        list[str] | None,
        typer.Option(
            "--vae",
            metavar="VAE",
            help="One that figures are published for: a name, a file, a folder. Repeatable.",
            show_default=False,
        ),
    ] = None,
    table: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE.toml",
            help="Published figures: [VAE], and under it psnr, psnr_std, ssim, ssim_std, psim, psim_std, rfid, as "
            "printed. By default the model cards' for coco-val2017.",
            show_default=False,
        ),
    ] = None,
    output: Annotated[
        Path, typer.Option("-o", "--output", metavar="FOLDER", help="For an evaluation each way; goes on from there.")
    ] = Path("calibration"),
    take: Annotated[
        int | None, typer.Option(min=1, metavar="N", help="Only so many images.", show_default=False)
    ] = None,
    skip_bad: options.SkipBad = False,
    batch: options.Batch = None,
    threads: options.Threads = None,
    network: options.Networks = None,
    device: options.Device = "auto",
    dtype: options.Dtype = "float32",
    space: options.Space = None,
    offline: options.Offline = False,
    json: options.Json = False,
    quiet: options.Quiet = False,
    verbose: options.Verbose = False,
) -> None:
    """Find out how a published table was measured: every likely way, ranked by the figures that it gives again.

    Examples:

    vaelens calibrate coco-val2017 --vae kl-f8 --vae ft-mse -o calibration

    vaelens calibrate photos/ --vae mine.safetensors --table published.toml
    """
    set_level(quiet, verbose)
    from vaelens.errors import UsageError
    from vaelens.evaluation.calibration import calibrate as run

    if not vae:
        raise UsageError("calibrate needs the VAEs of the published table. Name them, as in --vae kl-f8 --vae ft-mse.")
    paths = options.network_paths(network)
    with progress() as step:
        found = run(
            list(vae),
            source,
            published=table,
            output=output,
            take=take,
            skip_bad=skip_bad,
            batch=batch,
            threads=threads,
            networks=paths,
            device=device,
            dtype=dtype,
            space=space,
            offline=offline,
            notify=notice,
            progress=step,
        )
    if json:
        result_json(found.as_dict())
        return
    result_table(found.ranking())
    result(f"\n{found.verdict}")
    if found.skipped:
        result(f"\n{found.left_out}")
    result(f"\n{found.combinations[0].name}, beside the published figures:")
    result_table(found.figures())
