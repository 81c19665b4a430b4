"""Options that mean the same in every command."""

from typing import Annotated

import typer

Vaes = Annotated[
    list[str] | None,
    typer.Option(
        "--vae",
        metavar="VAE",
        help="A name of `vaelens list`, a file, a folder or a hub id. Repeatable; by default the small embedded VAE.",
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
Json = Annotated[bool, typer.Option("--json", help="Print the result as JSON.")]
Offline = Annotated[bool, typer.Option("--offline", help="Use only what is on this machine.")]
Quiet = Annotated[bool, typer.Option("-q", "--quiet", help="Say nothing but results and errors.")]
Verbose = Annotated[bool, typer.Option("-v", "--verbose", help="Show tracebacks.")]
