"""Options that mean the same in every command."""

from pathlib import Path
from typing import Annotated

import typer

from vaelens.cli.output import notice
from vaelens.errors import UsageError

EMBEDDED_NOTICE = (
    "No --vae named. Using the small embedded VAEs: {names}. For a decoder of Stable Diffusion's latents: --vae ft-mse "
    "({size:.0f} MB, downloaded once)."
)

Vaes = Annotated[
    list[str] | None,
    typer.Option(
        "--vae",
        metavar="VAE",
        help="A name of `vaelens list`, a file, a folder or a hub id. Repeatable. Default: the small embedded ones.",
    ),
]
Device = Annotated[str, typer.Option("--device", metavar="DEVICE", help="Device: auto, cpu, cuda or mps.")]
Dtype = Annotated[str, typer.Option("--dtype", metavar="DTYPE", help="Precision: float32, float16 or bfloat16.")]
MaxSide = Annotated[
    int | None,
    typer.Option("--max-side", min=1, metavar="PIXELS", help="Shrink photos whose longer side exceeds this."),
]
Space = Annotated[
    str | None,
    typer.Option(
        "--space",
        metavar="SPACE",
        help="Latent space (sd1, sdxl, sd3, flux1, ...) of a VAE file that doesn't name its own.",
    ),
]
SkipBad = Annotated[bool, typer.Option("--skip-bad", help="Skip images that can't be read, and list them.")]
Batch = Annotated[
    int | None, typer.Option("--batch", min=1, metavar="N", help="Batch size. Default: 4 on a CPU, 16 elsewhere.")
]
Threads = Annotated[int | None, typer.Option("--threads", min=1, metavar="N", help="CPU threads. Default: all cores.")]
Networks = Annotated[
    list[str] | None,
    typer.Option(
        "--network",
        metavar="NAME=FILE",
        help="Read the weights of a metric network from a file: vgg16=vgg16.pth. Repeatable.",
    ),
]
Json = Annotated[bool, typer.Option("--json", help="Print the result as JSON.")]
Offline = Annotated[bool, typer.Option("--offline", help="Use only what is on this machine.")]
Quiet = Annotated[bool, typer.Option("-q", "--quiet", help="Print results and errors only.")]
Verbose = Annotated[bool, typer.Option("-v", "--verbose", help="Show tracebacks.")]


def or_embedded(vaes: list[str] | None) -> list[str]:
    """The named VAEs; where none is named, the embedded ones, with a notice."""
    from vaelens.weights.registry import registry

    if vaes:
        return vaes
    embedded = registry().embedded()
    size = sum(file.size or 0 for file in registry().find("ft-mse").files) / 1e6
    notice(EMBEDDED_NOTICE.format(names=", ".join(embedded), size=size))
    return embedded


def network_paths(given: list[str] | None) -> dict[str, str | Path]:
    """The files of --network by network name. Raises UsageError for one without a name or file."""
    paths: dict[str, str | Path] = {}
    for one in given or ():
        name, _, file = one.partition("=")
        if not name or not file:
            raise UsageError(f"--network is NAME=FILE, as in vgg16=vgg16-397923af.pth; {one!r} isn't.")
        paths[name] = file
    return paths
