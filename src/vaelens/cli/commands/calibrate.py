"""`vaelens calibrate`: find the protocol behind a published table."""

from pathlib import Path
from typing import Annotated, Unpack

import typer

from vaelens.cli import options
from vaelens.cli.output import notice, progress, result, result_json, result_table


@options.with_pixel_limit
@options.with_runtime_options
def calibrate(
    source: Annotated[
        str,
        typer.Argument(
            metavar="SOURCE",
            help="The table's images: coco-val2017, or any dataset that `evaluate` takes.",
        ),
    ] = "coco-val2017",
    vae: Annotated[
        list[str] | None,
        typer.Option("--vae", metavar="VAE", help="Required: a VAE of the table, by name, file or folder. Repeatable."),
    ] = None,
    table: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE.toml",
            help="The published table: a TOML file with one table per VAE and the keys psnr, psnr_std, ssim, ssim_std, "
            "psim, psim_std and rfid, as printed. Default: the model cards' table for coco-val2017.",
        ),
    ] = None,
    output: Annotated[
        Path, typer.Option("-o", "--output", metavar="FOLDER", help="Output folder. An interrupted run resumes here.")
    ] = Path("calibration"),
    take: Annotated[int | None, typer.Option(min=1, metavar="N", help="Measure only N images.")] = None,
    skip_bad: options.SkipBad = False,
    batch: options.Batch = None,
    threads: options.Threads = None,
    network: options.Networks = None,
    json: options.Json = False,
    **runtime: Unpack[options.RuntimeOptions],
) -> None:
    """Find out how a published table was measured.

    Measures by every likely protocol, and ranks them by the published figures that they reproduce.

    Examples:

    vaelens calibrate coco-val2017 --vae kl-f8 --vae ft-mse -o calibration

    vaelens calibrate photos/ --vae mine.safetensors --table published.toml
    """
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
            notify=notice,
            progress=step,
            **runtime,
        )
    if json:
        result_json(found.as_dict())
        return
    result_table(found.ranking())
    result()
    result(found.verdict)
    if found.skipped:
        result()
        result(found.left_out)
    result()
    result(f"{found.combinations[0].name}, beside the published figures:")
    result_table(found.figures())
