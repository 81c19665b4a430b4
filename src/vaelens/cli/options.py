"""Options that mean the same in every command."""

from pathlib import Path
from typing import Annotated

import typer

from vaelens.cli.output import say
from vaelens.errors import UsageError

STAND_INS = (
    "No --vae named, so what ships with vaelens serves, small stand-ins: {names}. For a decoder of Stable Diffusion's "
    "latents: --vae ft-mse ({size:.0f} MB, downloaded once)."
)

Vaes = Annotated[
    list[str] | None,
    typer.Option(
        "--vae",
        metavar="VAE",
        help="A name of `vaelens list`, a file, a folder or a hub id. Repeatable; by default the small embedded ones.",
    ),
]
Device = Annotated[str, typer.Option("--device", metavar="DEVICE", help="auto, cpu, cuda or mps.")]
Dtype = Annotated[str, typer.Option("--dtype", metavar="DTYPE", help="float32, float16 or bfloat16.")]
Seed = Annotated[int, typer.Option("--seed", metavar="N", help="Of the noise, with --posterior sample.")]
Space = Annotated[
    str | None,
    typer.Option(
        "--space",
        metavar="SPACE",
        help="The latent space (sd1, sdxl, sd3, flux1, ...) of a VAE file that doesn't say it.",
    ),
]
SkipBad = Annotated[bool, typer.Option("--skip-bad", help="Leave out images that can't be read, and list them.")]
Batch = Annotated[
    int | None,
    typer.Option("--batch", min=1, metavar="N", help="Images at once; 4 on a CPU, else 16.", show_default=False),
]
Threads = Annotated[
    int | None,
    typer.Option("--threads", min=1, metavar="N", help="Of the CPU; by default all cores.", show_default=False),
]
Networks = Annotated[
    list[str] | None,
    typer.Option(
        "--network",
        metavar="NAME=FILE",
        help="A metric network's weights from a file: vgg16=vgg16.pth. Repeatable.",
        show_default=False,
    ),
]
Json = Annotated[bool, typer.Option("--json", help="Print the result as JSON.")]
Offline = Annotated[bool, typer.Option("--offline", help="Use only what is on this machine.")]
Quiet = Annotated[bool, typer.Option("-q", "--quiet", help="Say nothing but results and errors.")]
Verbose = Annotated[bool, typer.Option("-v", "--verbose", help="Show tracebacks.")]


def or_embedded(vaes: list[str] | None) -> list[str]:
    """The VAEs that were named; where none was, those that ship with vaelens, which is said."""
    from vaelens.weights.registry import registry

    if vaes:
        return vaes
    embedded = registry().embedded()
    size = sum(file.size or 0 for file in registry().find("ft-mse").files) / 1e6
    say(STAND_INS.format(names=", ".join(embedded), size=size))
    return embedded


def network_paths(given: list[str] | None) -> dict[str, str | Path]:
    """What --network names, by name. Raises UsageError for one without a name or file."""
    paths: dict[str, str | Path] = {}
    for one in given or ():
        name, _, file = one.partition("=")
        if not name or not file:
            raise UsageError(f"--network is NAME=FILE, as in vgg16=vgg16-397923af.pth; {one!r} isn't.")
        paths[name] = file
    return paths
