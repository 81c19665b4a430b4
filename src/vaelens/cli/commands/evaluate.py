"""`vaelens evaluate`: measure VAEs on a dataset and write a report."""

from pathlib import Path
from typing import Annotated, Unpack

import typer

from vaelens.cli import options
from vaelens.cli.output import notice, progress, result, result_json, result_table, when_interrupted


@options.with_pixel_limit
@options.with_runtime_options
def evaluate(
    source: Annotated[
        str,
        typer.Argument(
            metavar="SOURCE",
            help="An image, a folder, a zip, webdataset shards, parquet files, a Hugging Face dataset (owner/name), "
            "coco-val2017, synthetic, or a cache of `vaelens encode`.",
        ),
    ],
    vae: options.Vaes = None,
    preset: Annotated[
        str | None,
        typer.Option(
            metavar="NAME",
            help="Protocol: card-2022 (the published tables), modern, or offline (no download). Default: modern, or "
            "offline for the small embedded VAEs where no --vae is named.",
        ),
    ] = None,
    output: Annotated[
        Path, typer.Option("-o", "--output", metavar="FOLDER", help="Output folder. An interrupted run resumes here.")
    ] = Path("evaluation"),
    take: Annotated[
        int | None,
        typer.Option(min=1, metavar="N", help="Measure only N images, chosen by --seed."),
    ] = None,
    seed: Annotated[int, typer.Option("--seed", metavar="N", help="Seed for --take and the posterior's noise.")] = 0,
    min_aesthetic: options.MinAesthetic = None,
    split: options.Split = None,
    boxes: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE", help="Regions to measure: a CSV or JSONL file with id,label,left,top,right,bottom."
        ),
    ] = None,
    blind_results: Annotated[
        list[Path] | None,
        typer.Option(
            "--blind-results",
            metavar="FILE",
            help="A result file of a blind test of these VAEs, for the report. Repeatable.",
        ),
    ] = None,
    skip_bad: options.SkipBad = False,
    shard: Annotated[
        str | None,
        typer.Option(metavar="I/N", help="Measure one part: 1/3, 2/3 and 3/3 into one folder."),
    ] = None,
    batch: options.Batch = None,
    threads: options.Threads = None,
    network: options.Networks = None,
    metric: Annotated[
        list[str] | None,
        typer.Option(
            "--metric",
            metavar="NAME",
            help="Add a metric to the preset, such as fd_dinov2 (1.2 GB download) or fd_small. Repeatable.",
        ),
    ] = None,
    json: options.Json = False,
    **runtime: Unpack[options.RuntimeOptions],
) -> None:
    """Measure VAEs on a dataset and write a report: rFID, PSNR, SSIM, PSIM, LPIPS.

    Run the same command again to resume an interrupted run.

    Examples:

    vaelens evaluate coco-val2017 --vae kl-f8 --vae ft-mse --preset card-2022 -o coco

    vaelens evaluate photos/ --vae ft-mse --preset offline -o photos-report

    vaelens evaluate photos/
    """
    from vaelens.evaluation.loaded_preset import with_metrics
    from vaelens.evaluation.presets import find_preset
    from vaelens.evaluation.report.blind_section import HEADING, blind_table
    from vaelens.evaluation.report.exports import results_dict
    from vaelens.evaluation.report.score_tables import summary_table
    from vaelens.evaluation.report.wording import detail_tables
    from vaelens.evaluation.run import evaluate as run

    protocol = with_metrics(find_preset(preset or ("modern" if vae else "offline")), metric or ())
    vaes = options.or_embedded(vae)
    paths = options.network_paths(network)
    with when_interrupted(output, "The scores so far are"), progress() as step:
        results = run(
            vaes,
            source,
            preset=protocol,
            output=output,
            take=take,
            seed=seed,
            min_aesthetic=min_aesthetic,
            split=split,
            boxes=boxes,
            blind_results=blind_results or (),
            skip_bad=skip_bad,
            shard=shard,
            batch=batch,
            threads=threads,
            networks=paths,
            notify=notice,
            progress=step,
            **runtime,
            on_unfinished=(lambda left: result_json({"unfinished": left})) if json else None,
        )
    if results is None:
        return
    if json:
        result_json(results_dict(results) | {"run": results.record})
        return
    result_table(summary_table(results))
    for heading, _, table in detail_tables(results):
        result()
        result_table(table, title=heading)
    if results.blind:
        result()
        result_table(blind_table(results), title=HEADING)
    for warning in results.warnings:
        notice(f"Warning: {warning}")
    result()
    result(f"Wrote {output / 'report.html'}, report.md, results.json, rows.csv, model-index/ and run.json.")
