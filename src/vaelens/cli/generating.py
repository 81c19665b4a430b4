"""Options that `compare` and `generate` share."""

from typing import Annotated

import typer

Model = Annotated[
    str | None,
    typer.Option(
        "--model",
        metavar="MODEL",
        help="tiny-sd, sd-v1-4, sd-v1-5, sd-v2-1, sdxl-base, a hub id, a diffusers folder or a checkpoint file.",
        show_default=False,
    ),
]
Seeds = Annotated[
    list[str] | None,
    typer.Option(
        "--seed",
        metavar="N",
        help="One latent a seed: 0, or 0,1,5, or 0-7; repeatable. By default 0.",
        show_default=False,
    ),
]
Negative = Annotated[
    str | None, typer.Option("--negative", metavar="PROMPT", help="What to keep away from.", show_default=False)
]
Steps = Annotated[
    int | None, typer.Option("--steps", metavar="N", help="Of denoising; by default the model's.", show_default=False)
]
Guidance = Annotated[
    float | None,
    typer.Option(
        "--cfg",
        metavar="G",
        help="Guidance; 0 and 1 are none. By default the model's.",
        show_default=False,
    ),
]
Size = Annotated[
    str | None,
    typer.Option(
        "--size", metavar="WxH", help="Multiples of 8: 512, 768x512. By default the model's.", show_default=False
    ),
]
Scheduler = Annotated[
    str | None,
    typer.Option(
        "--scheduler",
        metavar="NAME",
        help="ddim, pndm, euler, euler-a, heun, dpm++2m, dpm++2m-karras, unipc. By default the model's own.",
        show_default=False,
    ),
]
NoChecker = Annotated[
    bool, typer.Option("--no-safety-checker", help="Leave out the model's safety checker, where it has one.")
]
Vaes = Annotated[
    list[str] | None,
    typer.Option(
        "--vae",
        metavar="VAE",
        help="A name of `vaelens list`, a file, a folder or a hub id. Repeatable. By default the model's known ones.",
        show_default=False,
    ),
]


def seeds_of(texts: list[str] | None) -> list[int] | None:
    """The seeds in order; None where none is named. Raises UsageError."""
    from vaelens.generation import parse_seeds

    return None if texts is None else [seed for text in texts for seed in parse_seeds(text)]


def size_of(text: str | None) -> tuple[int, int] | None:
    """Height and width in pixels. Raises UsageError."""
    from vaelens.generation import parse_size

    return None if text is None else parse_size(text)
