"""`vaelens replay`: make an image again from the metadata of its PNG."""

from pathlib import Path
from typing import Annotated

import typer

from vaelens.cli import options
from vaelens.cli.output import notice, progress, result, result_json


@options.with_pixel_limit
def replay(
    image: Annotated[Path, typer.Argument(metavar="FILE.png", help="An image made by vaelens.")],
    model: Annotated[
        str | None, typer.Option("--model", metavar="MODEL", help="Use this copy of the image's model.")
    ] = None,
    vae: Annotated[str | None, typer.Option("--vae", metavar="VAE", help="Use this copy of the image's VAE.")] = None,
    photo: Annotated[
        Path | None, typer.Option("--photo", metavar="FILE", help="The photo that the image was made from.")
    ] = None,
    latents: Annotated[
        Path | None, typer.Option("--latents", metavar="FILE", help="The latents that the image was made from.")
    ] = None,
    download: Annotated[
        bool, typer.Option("--download", help="Download the model and VAE if they are missing.")
    ] = False,
    output: Annotated[
        Path | None,
        typer.Option("-o", "--output", metavar="PATH", help="Write the new image to a .png file, with its record."),
    ] = None,
    device: Annotated[
        str | None,
        typer.Option("--device", metavar="DEVICE", help="auto, cpu, cuda or mps. Default: as the image was made."),
    ] = None,
    space: options.Space = None,
    max_memory: options.MaxMemory = None,
    json: options.Json = False,
) -> None:
    """Make FILE.png again from its metadata, and print the largest difference between the two images.

    Nothing is downloaded without --download.
    """
    from vaelens.errors import UsageError
    from vaelens.images.writing import encode_png
    from vaelens.replay import reproduction
    from vaelens.report import gallery

    if output is not None:
        if output.suffix.lower() != ".png":
            raise UsageError(f"-o {output}: the new image is written as .png. Name a .png file.")
        gallery.check_single(output, [one for one in (image, photo, latents) if one])
    with progress() as step:
        done = reproduction.replay(
            image,
            model=model,
            vae=vae,
            photo=photo,
            latents=latents,
            download=download,
            device=device,
            space=space,
            max_memory=max_memory,
            notify=notice,
            progress=step,
        )
    for note in done.notes:
        notice(f"Note: {note}")
    if output is not None:
        gallery.write_single(output, done.record, encode_png(done.pixels, done.text))
    if json:
        result_json(
            {
                "largest_difference": done.largest,
                "mean_difference": done.mean,
                "same_latent": done.same_latent,
                "same_weights": done.same_weights,
                "notes": list(done.notes),
            }
        )
    else:
        result(done.sentence())
