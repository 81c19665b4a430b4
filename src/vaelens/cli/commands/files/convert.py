"""`vaelens convert` and `vaelens extract`: a VAE to another file, checked against its source."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from vaelens.cli import options
from vaelens.cli.output import notice, progress, result, result_json, written_line

if TYPE_CHECKING:
    from vaelens.conversion.converting import Conversion
    from vaelens.conversion.fp16_checks import Rescue
    from vaelens.conversion.verification import Differences

Output = Annotated[
    Path, typer.Option("-o", "--output", metavar="PATH", help="A .safetensors file, or a folder for diffusers.")
]
Layout = Annotated[
    str | None,
    typer.Option(
        "--layout",
        metavar="LAYOUT",
        help="How the tensors are named: diffusers, or ldm (A1111, ComfyUI, original code). Default: the source's "
        "(diffusers for the two files of a TAESD).",
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


@options.with_pixel_limit
def convert(
    source: options.SourceVAE,
    output: Output,
    layout: Layout = None,
    dtype: StoredDtype = None,
    fp16_safe: Annotated[
        bool,
        typer.Option(
            "--fp16-safe",
            help="Scale the maps of a full VAE by powers of two, so that float16 holds them: the same function. "
            "Measured on the images compared. Default precision: float16.",
        ),
    ] = False,
    photo: options.TrialPhotos = None,
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
            fp16_safe=fp16_safe,
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
    photo: options.TrialPhotos = None,
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
    result(f"difference   {difference(found)} (both computed in float32)")
    if done.rescue is not None:
        for line in _fp16_lines(done.rescue):
            result(line)
    result(written_line(done.written))


def difference(found: "Differences") -> str:
    """How two VAEs differ, in words."""
    return (
        f"latents {found.latents_largest:.2g} at most; pixels {255 * found.pixels_largest:.2g} of 255 at most, "
        f"{255 * found.pixels_mean:.2g} on average"
    )


def _fp16_lines(found: "Rescue") -> list[str]:
    """What was scaled, and how the VAE differs from the source in each precision, with each epsilon."""
    layer, top = found.largest
    largest = f"largest      {top:.4g} of the 65504 that float16 holds, in {layer}"
    if not found.scaled:
        return [f"{largest}: nothing was scaled", f"in float16   {_difference(found.half)}"]
    ks, other = [scale.exponent for scale in found.scaled], "with the epsilon of other programs"
    rounding = found.rounding
    return [
        f"{largest}; now {found.largest_after[1]:.4g}",
        f"scaled       {len(ks)} of {len(found.scales)} sets of maps, by 2^-{min(ks)} to 2^-{max(ks)}",
        f"in float32   {_difference(found.exact)}; {other} {_difference(found.stock_epsilon)}",
        f"in float16   {_difference(found.half)}; {other} {_difference(found.half_stock_epsilon)}; "
        f"before {_difference(found.half_before)}",
        f"rounding     {rounding.subnormal:,} of {rounding.total:,} weights below float16's normal numbers (before: "
        f"{found.rounding_before.subnormal:,}); the largest change {100 * rounding.error:.2g} %, of {rounding.worst}",
    ]


def _difference(found: "Differences | None") -> str:
    if found is None:
        return "NaN or infinite"
    return f"latents {found.latents_largest:.2g}, pixels {255 * found.pixels_largest:.2g} of 255 at most"
