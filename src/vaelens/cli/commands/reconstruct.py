"""`vaelens reconstruct`: photos through VAEs, to a strip, a page or a folder."""

from pathlib import Path
from typing import Annotated, Unpack

import typer

from vaelens.cli import options
from vaelens.cli.output import notice, progress, result, result_json, result_table, written_line


@options.with_pixel_limit
@options.with_runtime_options
def reconstruct(
    photos: Annotated[list[Path], typer.Argument(metavar="PHOTO", help="Image files, or folders of them.")],
    vae: options.Vaes = None,
    output: Annotated[
        Path,
        typer.Option(
            "-o", "--output", metavar="PATH", help="A .png strip, an .html page with slider and zoom, or a folder."
        ),
    ] = Path("reconstruction.html"),
    posterior: Annotated[
        str, typer.Option(metavar="mode|sample", help="Decode the posterior's mode or a sample.")
    ] = "mode",
    seed: Annotated[int, typer.Option("--seed", metavar="N", help="Seed for the noise with --posterior sample.")] = 0,
    max_side: options.MaxSide = None,
    blind: options.Blind = False,
    json: options.Json = False,
    **runtime: Unpack[options.RuntimeOptions],
) -> None:
    """Encode and decode each PHOTO with every VAE, and show original | A | B with PSNR and SSIM.

    Example: vaelens reconstruct me.jpg --vae ft-mse --vae kl-f8 -o faces.html
    """
    from vaelens import reconstruction

    vaes = options.or_embedded(vae)
    reconstruction.check_output(output, photos, vaes, blind=blind)
    with progress() as step:
        done = reconstruction.reconstruct(
            photos,
            vaes,
            posterior=posterior,  # pyright: ignore[reportArgumentType]  (checked there, with a message)
            seed=seed,
            max_side=max_side,
            notify=notice,
            progress=step,
            **runtime,
        )
    for note in done.notes():
        notice(f"Note: {note}")
    written = done.save(output, blind=blind)
    if json:
        result_json(done.record | {"written": [str(path) for path in written]})
    elif blind:  # the table names the decoders beside their scores
        result(written_line(written))
    else:
        result_table(done.table())
        result()
        result(written_line(written))
