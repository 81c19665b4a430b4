"""`vaelens convert` and `vaelens extract`: a VAE to another file, checked against its source."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from vaelens.cli import options
from vaelens.cli.output import notice, progress, result, result_json, written_line

if TYPE_CHECKING:
    from vaelens.conversion.converting import Conversion

Output = Annotated[
    Path, typer.Option("-o", "--output", metavar="PATH", help="A .safetensors file, or a folder for diffusers.")
]
Layout = Annotated[
    str | None,
    typer.Option(
        "--layout",
        metavar="LAYOUT",
        help="How the tensors are named: diffusers, or ldm (A1111, ComfyUI, original code). Default: the source's.",
    ),
]
StoredDtype = Annotated[
    str | None,
    typer.Option(
        "--dtype",
        metavar="DTYPE",
        help="Precision of the file: float32 (fp32), float16 (fp16) or bfloat16 (bf16). Default: the source's, bit for "
        "bit.",
    ),
]
Photos = Annotated[
    list[str] | None,
    typer.Option(
        "--photo",
        metavar="PATH",
        help="Compare on this image, or on a folder of them. Repeatable. Default: synthetic faces and letters.",
    ),
]


@options.with_pixel_limit
def convert(
    source: Annotated[
        str, typer.Argument(metavar="VAE", help="A name of `vaelens list`, a file, folder, hub id or address.")
    ],
    output: Output,
    layout: Layout = None,
    dtype: StoredDtype = None,
    photo: Photos = None,
    device: options.Device = "auto",
    space: options.Space = None,
    offline: options.Offline = False,
    json: options.Json = False,
) -> None:
    """Write a VAE in another layout or precision, read it back, and print how its images differ from the source's.

    Example: vaelens convert ft-mse.ckpt -o ft-mse-fp16.safetensors --layout ldm --dtype float16
    """
    from vaelens import conversion

    with progress() as step:
        done = conversion.convert(
            source,
            output,
            layout=layout,
            dtype=dtype,
            photos=photo,
            device=device,
            space=space,
            offline=offline,
            notify=notice,
            progress=step,
        )
    result_json(done.as_dict()) if json else show(done)


@options.with_pixel_limit
def extract(
    checkpoint: Annotated[str, typer.Argument(metavar="CHECKPOINT", help="A file of a whole model.")],
    output: Output,
    layout: Layout = None,
    dtype: StoredDtype = None,
    photo: Photos = None,
    device: options.Device = "auto",
    space: options.Space = None,
    json: options.Json = False,
) -> None:
    """Take the VAE out of a checkpoint, as a file by itself, and check it.

    Example: vaelens extract v1-5-pruned.ckpt -o its-vae.safetensors
    """
    from vaelens import conversion

    with progress() as step:
        done = conversion.extract(
            checkpoint,
            output,
            layout=layout,
            dtype=dtype,
            photos=photo,
            device=device,
            space=space,
            notify=notice,
            progress=step,
        )
    result_json(done.as_dict()) if json else show(done)


def show(done: "Conversion") -> None:
    """The conversion in lines, the difference among them."""
    found = done.differences
    result(f"source       {done.source}: {done.source_layout}, {done.source_stored}")
    result(f"written as   {done.layout}, {done.stored}: {done.tensors} tensors, {done.bytes / 1e6:.1f} MB")
    result(f"latent space {done.spec.latent_space or 'its own'}")
    if done.dropped:
        result(f"left out     {', '.join(done.dropped[:6])}{', ...' if len(done.dropped) > 6 else ''}")
    result(f"read back    every tensor as it was written; compared on {done.images}")
    result(
        f"difference   latents {found.latents_largest:.2g} at most; pixels {255 * found.pixels_largest:.2g} of 255 at "
        f"most, {255 * found.pixels_mean:.2g} on average (both computed in float32)"
    )
    result(written_line(done.written))
