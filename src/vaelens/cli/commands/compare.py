"""`vaelens compare`: one latent through many decoders, to a page, a sheet or a folder."""

from pathlib import Path
from typing import Annotated, Any

import typer

from vaelens.cli import options
from vaelens.cli.output import (
    exit_if_interrupted,
    notice,
    progress,
    result,
    result_json,
    result_table,
    written_line,
)


@options.with_pixel_limit
@options.with_runtime_options
@options.with_sampling_options
def compare(
    context: typer.Context,
    prompt: Annotated[str | None, typer.Argument(metavar="PROMPT", help="What the image should show.")] = None,
    vae: Annotated[
        list[str] | None,
        typer.Option(
            "--vae",
            metavar="VAE",
            help="A name of `vaelens list`, a file, folder, hub id or address. Repeatable. Default: those known for "
            "the model's latent space.",
        ),
    ] = None,
    seed: options.Seeds = None,
    model: options.Model = None,
    latents: Annotated[
        Path | None,
        typer.Option("--latents", metavar="FILE", help="Decode saved latents (.safetensors, or ComfyUI's .latent)."),
    ] = None,
    photo: Annotated[
        list[Path] | None,
        typer.Option(
            "--photo", metavar="PATH", help="Encode photos, a file or a folder, with the first VAE. Repeatable."
        ),
    ] = None,
    max_side: options.MaxSide = None,
    boxes: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            help="Labelled boxes that the page can jump to: a CSV or JSONL file of id,label,left,top,right,bottom. An "
            "id is a photo's file name, or `seed 0`.",
        ),
    ] = None,
    output: Annotated[
        Path, typer.Option("-o", "--output", metavar="PATH", help="An .html page, a .png sheet, or a folder.")
    ] = Path("comparison.html"),
    blind: options.Blind = False,
    json: options.Json = False,
    **shared: Any,
) -> None:
    """Generate one latent per seed from PROMPT, decode it with every VAE, and show the images side by side.

    Example: vaelens compare "a photo of an astronaut" --seed 0 --vae kl-f8 --vae ft-mse -o astronaut.html
    """
    from vaelens.comparison import results, workflow
    from vaelens.errors import UsageError
    from vaelens.images.datasets.folders import image_files
    from vaelens.report.gallery import check_blind, check_output
    from vaelens.text.paths import is_file

    if prompt is not None and not photo and is_file(prompt):
        raise UsageError(f"PROMPT {prompt} is a file. To compare a photo: --photo {prompt}")
    if context.params["max_pixels"] is not None and not photo:
        raise UsageError("--max-pixels is for photos, but none is named. Leave it out.")
    if vae:
        check_blind(vae, blind=blind)
    inputs = [*image_files(photo or ()), *(path for path in (latents, boxes) if path)]
    check_output(output, "compare", results.SHEET_NAME, inputs, folders=photo or (), blind=blind)
    with progress() as step:
        done = workflow.compare(
            prompt,
            vae or None,
            seeds=options.seeds_of(seed),
            model=model,
            latents=latents,
            photos=photo or (),
            max_side=max_side,
            boxes=boxes,
            notify=notice,
            progress=step,
            **shared,
        )
    for warning in done.warnings():
        notice(f"Warning: {warning}")
    if blind and not done.shows_two_decoders:
        notice("Warning: no image was decoded by two VAEs, so the page is no blind test.")
        blind = False
    written = done.save(output, inputs, blind=blind)
    if json:
        result_json(dict(done.record) | {"written": [str(path) for path in written]})
    elif blind:  # the table names the decoders beside their scores
        result(written_line(written))
    else:
        result_table(done.table())
        for image in done.images:
            result(f"{image.title}: latent sha256 {image.latent.sha256}")
        result()
        result(written_line(written))
    exit_if_interrupted(done.interrupted, done.failure)
