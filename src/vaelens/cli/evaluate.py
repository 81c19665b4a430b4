"""`vaelens evaluate`: VAEs measured on a dataset, to a report."""

from pathlib import Path
from typing import Annotated

import typer

from vaelens.cli import options
from vaelens.cli.output import notice, progress, result, result_json, result_table, set_level


def evaluate(
    source: Annotated[
        str,
        typer.Argument(
            metavar="SOURCE",
            help="A folder, a zip, webdataset shards, a Hugging Face dataset (owner/name), coco-val2017, or drawn.",
            show_default=False,
        ),
    ],
    vae: options.Vaes = None,
    preset: Annotated[
        str, typer.Option(metavar="NAME", help="card-2022 (the published tables), modern, or offline (no download).")
    ] = "modern",
    output: Annotated[
        Path, typer.Option("-o", "--output", metavar="FOLDER", help="Of rows, features and report; goes on there.")
    ] = Path("evaluation"),
    take: Annotated[
        int | None, typer.Option(min=1, metavar="N", help="Only so many, chosen by --seed.", show_default=False)
    ] = None,
    seed: Annotated[int, typer.Option("--seed", metavar="N", help="Of --take and of the posterior's noise.")] = 0,
    min_aesthetic: Annotated[
        float | None,
        typer.Option(metavar="SCORE", help="Only images whose shard gives them at least this.", show_default=False),
    ] = None,
    split: Annotated[
        str | None, typer.Option(metavar="NAME", help="Of a Hugging Face dataset.", show_default=False)
    ] = None,
    boxes: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            help="Regions to measure: a CSV or JSONL of id,label,left,top,right,bottom.",
            show_default=False,
        ),
    ] = None,
    skip_bad: options.SkipBad = False,
    shard: Annotated[
        str | None,
        typer.Option(metavar="I/N", help="Do only this part: 1/3, 2/3, 3/3 into one folder.", show_default=False),
    ] = None,
    batch: options.Batch = None,
    threads: options.Threads = None,
    network: options.Networks = None,
    fd_dinov2: Annotated[
        bool, typer.Option("--fd-dinov2", help="Also the Frechet distance on DINOv2 features (1.2 GB download).")
    ] = False,
    device: options.Device = "auto",
    dtype: options.Dtype = "float32",
    space: options.Space = None,
    offline: options.Offline = False,
    json: options.Json = False,
    quiet: options.Quiet = False,
    verbose: options.Verbose = False,
) -> None:
    """Measure VAEs on a dataset: rFID, PSNR, SSIM, PSIM, LPIPS, with a report. The same command again goes on.

    Examples:

    vaelens evaluate coco-val2017 --vae kl-f8 --vae ft-mse --preset card-2022 -o coco

    vaelens evaluate photos/ --vae ft-mse --preset offline -o photos-report
    """
    set_level(quiet, verbose)
    from vaelens.evaluation.reporting import pairs_table, results_dict, summary_table
    from vaelens.evaluation.running import evaluate as run

    vaes = options.or_embedded(vae)
    paths = options.network_paths(network)
    try:
        with progress() as step:
            results = run(
                vaes,
                source,
                preset=preset,
                output=output,
                take=take,
                seed=seed,
                min_aesthetic=min_aesthetic,
                split=split,
                boxes=boxes,
                skip_bad=skip_bad,
                shard=shard,
                batch=batch,
                threads=threads,
                networks=paths,
                fd_dinov2=fd_dinov2,
                device=device,
                dtype=dtype,
                space=space,
                offline=offline,
                notify=notice,
                progress=step,
                unfinished=(lambda left: result_json({"unfinished": left})) if json else None,
            )
    except KeyboardInterrupt:
        notice("What was measured is kept; the same command goes on from there.")
        raise
    if results is None:
        return
    if json:
        result_json(results_dict(results) | {"run": results.record})
        return
    result_table(summary_table(results))
    if len(results.vaes) > 1:
        result("")
        result_table(pairs_table(results))
    for warning in results.warnings:
        notice(f"Mind: {warning}")
    result(f"\nwrote {output / 'report.html'}, beside it report.md, results.json, rows.csv, model-index/, run.json")
