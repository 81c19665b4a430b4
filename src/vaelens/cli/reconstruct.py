"""`vaelens reconstruct`: photos through VAEs, to a strip, a page or a folder."""

from pathlib import Path
from typing import Annotated

import typer

from vaelens.cli import options
from vaelens.cli.output import progress, result, result_json, result_table, say, set_level


def reconstruct(
    photos: Annotated[list[Path], typer.Argument(metavar="PHOTO", help="Image files.", show_default=False)],
    vae: options.Vaes = None,
    output: Annotated[
        Path,
        typer.Option(
            "-o", "--output", metavar="PATH", help="A .png strip, an .html page with slider and zoom, or a folder/."
        ),
    ] = Path("reconstruction.html"),
    posterior: Annotated[str, typer.Option(metavar="mode|sample", help="What of the posterior is decoded.")] = "mode",
    seed: options.Seed = 0,
    max_side: Annotated[
        int | None,
        typer.Option(
            min=1, metavar="PIXELS", help="Shrink larger photos to this many pixels first.", show_default=False
        ),
    ] = None,
    device: options.Device = "auto",
    dtype: options.Dtype = "float32",
    space: options.Space = None,
    offline: options.Offline = False,
    json: options.Json = False,
    quiet: options.Quiet = False,
    verbose: options.Verbose = False,
) -> None:
    """Encode and decode PHOTOs with each VAE; show original | A | B, with PSNR and SSIM.

    Example: vaelens reconstruct me.jpg --vae ft-mse --vae kl-f8 -o faces.html
    """
    set_level(quiet, verbose)
    from vaelens import reconstruction

    reconstruction.check_output(output, photos)
    vaes = options.or_embedded(vae)
    with progress() as step:
        done = reconstruction.reconstruct(
            photos,
            vaes,
            posterior=posterior,  # pyright: ignore[reportArgumentType]  (checked there, with a message)
            seed=seed,
            max_side=max_side,
            device=device,
            dtype=dtype,
            space=space,
            offline=offline,
            notify=say,
            progress=step,
        )
    for note in done.notes():
        say(note)
    written = done.save(output)
    if json:
        result_json(done.record | {"written": [str(path) for path in written]})
    else:
        result_table(done.table())
        result(f"\nwrote {written[0]}" + (f" and {len(written) - 1} more beside it" if len(written) > 1 else ""))
