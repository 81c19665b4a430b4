"""`vaelens export`: a VAE as ONNX or OpenVINO graphs, each checked against it."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from vaelens.cli import options
from vaelens.cli.commands.files.convert import difference
from vaelens.cli.output import notice, progress, result, result_json, written_line

if TYPE_CHECKING:
    from vaelens.conversion.exporting.workflow import Export


@options.with_pixel_limit
def export(
    source: options.SourceVAE,
    output: Annotated[Path, typer.Option("-o", "--output", metavar="FOLDER", help="Output folder.")],
    format: Annotated[
        str,
        typer.Option(
            "--format",
            metavar="FORMAT",
            help="onnx or openvino. Each has to be installed: pip install 'vaelens[onnx]' or 'vaelens[openvino]'.",
        ),
    ],
    dtype: Annotated[
        str,
        typer.Option(
            "--dtype",
            metavar="DTYPE",
            help="Precision of the stored weights: float32 (fp32) or float16 (fp16), half the size. Inputs and outputs "
            "stay float32.",
        ),
    ] = "float32",
    photo: options.TrialPhotos = None,
    space: options.Space = None,
    offline: options.Offline = False,
    json: options.Json = False,
) -> None:
    """Write a VAE's encoder and decoder for ONNX Runtime or OpenVINO, run both, and print how their images differ.

    Example: vaelens export ft-mse -o ft-mse-onnx --format onnx --photo me.jpg
    """
    from vaelens.conversion.exporting import workflow

    with progress() as step:
        done = workflow.export(
            source,
            output,
            format=format,
            dtype=dtype,
            photos=photo,
            space=space,
            offline=offline,
            notify=notice,
            progress=step,
        )
    result_json(done.as_dict()) if json else _show(done)


def _show(done: "Export") -> None:
    found, narrower = done.differences, done.by_dtype
    sizes = ", ".join(f"{width}x{height}" for height, width in done.sizes)
    result(f"source       {done.source}")
    result(f"written as   {done.format}, weights in {done.stored}: {done.bytes / 1e6:.1f} MB; any batch and size")
    result(f"compared on  {done.images}, at {sizes}")
    result(f"difference   {difference(found)}")
    if narrower is not None:
        result(f"rounding     {difference(narrower)}: what {done.stored} changes, in each program")
    result(written_line(done.written))
