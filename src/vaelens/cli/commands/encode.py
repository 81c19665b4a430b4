"""`vaelens encode`: the posteriors of a dataset, encoded once for any number of trainings and evaluations."""

from pathlib import Path
from typing import Annotated, Unpack

import typer

from vaelens.cli import options
from vaelens.cli.output import notice, progress, result, result_json, when_interrupted
from vaelens.latent_cache.formats.known import FORMATS
from vaelens.text.numbers import counted


@options.with_pixel_limit
@options.with_runtime_options
def encode(
    source: Annotated[
        str, typer.Argument(metavar="SOURCE", help="The images: any source that `evaluate` takes, but a cache.")
    ],
    vae: Annotated[
        str | None,
        typer.Option(
            "--vae",
            metavar="VAE",
            help="The VAE whose encoder is used: a name of `vaelens list`, a file, folder, hub id or address. Default: "
            "the small embedded one.",
        ),
    ] = None,
    output: Annotated[
        Path,
        typer.Option("-o", "--output", metavar="FOLDER", help="The cache's folder. An interrupted run resumes here."),
    ] = Path("latents"),
    size: Annotated[int, typer.Option(min=1, metavar="PIXELS", help="Side of the squares that are encoded.")] = 256,
    rule: Annotated[
        str,
        typer.Option(
            metavar="RULE",
            help="How an image becomes a square: area (as in `finetune`), bicubic (as in `evaluate` with the presets "
            "modern and offline) or opencv (as with card-2022).",
        ),
    ] = "area",
    no_images: Annotated[
        bool,
        typer.Option(
            "--no-images", help="Don't keep the squares: whoever reads the cache needs the images where they are now."
        ),
    ] = False,
    shard_size: Annotated[
        int | None,
        typer.Option(min=1, metavar="N", help="Images per file. A kill loses at most one file's work. Default: 128."),
    ] = None,
    take: Annotated[
        int | None, typer.Option(min=1, metavar="N", help="Encode only N images, chosen by --seed.")
    ] = None,
    seed: Annotated[
        int, typer.Option("--seed", metavar="N", help="Seed for --take, synthetic images and --format.")
    ] = 0,
    min_aesthetic: options.MinAesthetic = None,
    split: options.Split = None,
    boxes: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE", help="Labelled boxes to keep: a CSV or JSONL file with id,label,left,top,right,bottom."
        ),
    ] = None,
    training: Annotated[
        bool, typer.Option("--training", help="Of a synthetic dataset, the images for training, never measured on.")
    ] = False,
    skip_bad: options.SkipBad = False,
    trainer: Annotated[
        str | None,
        typer.Option(
            "--format",
            metavar="TRAINER",
            help=f"Also write the latents as files of another trainer: {' or '.join(map(str, FORMATS.values()))}.",
        ),
    ] = None,
    batch: options.Batch = None,
    threads: options.Threads = None,
    json: options.Json = False,
    **runtime: Unpack[options.RuntimeOptions],
) -> None:
    """Encode a dataset once: keep each image's posterior in a cache that `finetune` and `evaluate` take as a dataset.

    The cache serves every VAE with the same encoder. Run the same command again to resume an interrupted run.

    Examples:

    vaelens encode photos/ --vae ft-ema -o latents

    vaelens finetune latents --from ft-ema --recipe ft-mse --set data.crop=[1,1] -o runs/mine

    vaelens encode photos/ --vae ft-ema --rule bicubic -o measured

    vaelens evaluate measured --vae ft-ema --vae ft-mse -o report
    """
    from vaelens.evaluation.report.wording import list_skipped
    from vaelens.latent_cache.encoding import encode_dataset

    with when_interrupted(output, "The files so far are"), progress() as step:
        cache = encode_dataset(
            vae or options.embedded_encoder(),
            source,
            output=output,
            size=size,
            rule=rule,
            shard_size=shard_size,
            images=not no_images,
            take=take,
            seed=seed,
            min_aesthetic=min_aesthetic,
            split=split,
            boxes=boxes,
            training=training,
            skip_bad=skip_bad,
            trainer=trainer,
            batch=batch,
            threads=threads,
            notify=notice,
            progress=step,
            **runtime,
        )
    if cache is None:  # another rank reports
        return
    if json:
        result_json(cache.summary())
        return
    for label, value in cache.summary().items():
        shown = list_skipped(value) if value and label == "skipped" else value or "none"
        result(f"{label:<10} {f'{value:,}' if isinstance(value, int) else shown}")
    if cache.was_complete:
        result(f"{output} is already complete.")
    else:
        result(f"Wrote {counted(len(cache), 'image')} to {output}.")
