"""`vaelens replay`: make an image again from what its PNG says."""

from pathlib import Path
from typing import Annotated

import typer

from vaelens.cli import generating, options
from vaelens.cli.output import result, result_json, say, set_level


def replay(
    image: Annotated[Path, typer.Argument(metavar="FILE.png", help="An image by vaelens.", show_default=False)],
    model: generating.Model = None,
    vae: Annotated[
        str | None, typer.Option("--vae", metavar="VAE", help="Where its own isn't here.", show_default=False)
    ] = None,
    photo: Annotated[
        Path | None, typer.Option("--photo", metavar="FILE", help="The photo behind it.", show_default=False)
    ] = None,
    latents: Annotated[
        Path | None, typer.Option("--latents", metavar="FILE", help="The latents behind it.", show_default=False)
    ] = None,
    yes: Annotated[bool, typer.Option("--yes", help="Let what the image names be downloaded.")] = False,
    output: Annotated[
        Path | None,
        typer.Option("-o", "--output", metavar="PATH", help="Keep the new .png.", show_default=False),
    ] = None,
    device: Annotated[
        str | None, typer.Option("--device", metavar="DEVICE", help="By default as it was made.", show_default=False)
    ] = None,
    space: options.Space = None,
    json: options.Json = False,
    quiet: options.Quiet = False,
    verbose: options.Verbose = False,
) -> None:
    """Make FILE.png again from its own text, and print the largest difference from it.

    Nothing that the image names is downloaded unless you say --yes.
    """
    set_level(quiet, verbose)
    from vaelens.errors import UsageError
    from vaelens.files import writable_path, write_atomic
    from vaelens.images.writing import encode_png
    from vaelens.replay import replaying

    if output is not None:
        target = writable_path(output)
        if output.suffix.lower() != ".png":
            raise UsageError(f"-o {output}: the new image is a .png. Name one.")
        if any(given.exists() and target.exists() and target.samefile(given) for given in (image, photo) if given):
            raise UsageError(f"-o {output} is one of the inputs and would be lost. Choose another output.")
    made = replaying.replay(
        image, model=model, vae=vae, photo=photo, latents=latents, yes=yes, device=device, space=space, notify=say
    )
    for note in made.notes:
        say(note)
    if output is not None:
        write_atomic(output, encode_png(made.pixels, made.text))
    if json:
        result_json(
            {
                "largest_difference": made.largest,
                "mean_difference": made.mean,
                "same_latent": made.same_latent,
                "same_weights": made.same_weights,
                "notes": list(made.notes),
            }
        )
    else:
        result(made.sentence())
