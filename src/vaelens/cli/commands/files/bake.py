"""`vaelens bake`: a VAE into a whole checkpoint."""

from pathlib import Path
from typing import Annotated

import typer

from vaelens.cli import options
from vaelens.cli.output import notice, progress, result, result_json


def bake(
    vae: options.SourceVAE,
    checkpoint: Annotated[Path, typer.Argument(metavar="CHECKPOINT", help="A whole model in one .safetensors file.")],
    output: Annotated[
        Path, typer.Option("-o", "--output", metavar="FILE", help="The new checkpoint, a .safetensors file.")
    ],
    dtype: Annotated[
        str | None,
        typer.Option(
            "--dtype",
            metavar="DTYPE",
            help="Precision of the VAE in the new checkpoint: float32 (fp32), float16 (fp16) or bfloat16 (bf16). "
            "Default: that of the VAE that is replaced.",
        ),
    ] = None,
    space: options.Space = None,
    offline: options.Offline = False,
    json: options.Json = False,
) -> None:
    """Put a VAE into a checkpoint of Stable Diffusion; everything else in it stays byte for byte.

    Example: vaelens bake ft-mse model.safetensors -o model-ft-mse.safetensors
    """
    from vaelens import conversion

    with progress() as step:
        done = conversion.bake(
            vae, checkpoint, output, dtype=dtype, space=space, offline=offline, notify=notice, progress=step
        )
    if json:
        result_json(done.as_dict())
        return
    where = f"{done.layout} layout, under {done.prefix}" if done.prefix else f"{done.layout} layout"
    result(f"VAE        {done.vae}, latent space {done.latent_space}: {done.stored}, {where}")
    result(
        f"tensors    {done.replaced} replaced, {done.added} added (the checkpoint had no VAE)"
        if done.added
        else f"tensors    {done.replaced} replaced and read back, {done.kept} kept byte for byte"
    )
    result(f"wrote {done.written} ({done.bytes / 1e6:,.1f} MB)")
