"""The options of generating images: seeds, model, VAEs, and those of sampling, derived from `Sampling`."""

from collections.abc import Callable
from typing import Annotated, Any, get_type_hints

import typer

from vaelens import sampling
from vaelens.cli import options

Model = Annotated[
    str | None,
    typer.Option(
        "--model",
        metavar="MODEL",
        help="tiny-sd, sd-v1-4, sd-v1-5, sd-v2-1, sdxl-base, a hub id, a diffusers folder or a checkpoint file. "
        "Default: the model of the VAEs' latent space, or the embedded tiny-sd.",
    ),
]
Seeds = Annotated[
    list[str] | None,
    typer.Option("--seed", metavar="N", help="Seeds, one latent each: 0, or 0,1,5, or 0-7. Repeatable. Default: 0."),
]
NoSafetyChecker = Annotated[bool, typer.Option("--no-safety-checker", help=sampling.options()["safety_checker"].help)]


def with_sampling_options(command: Callable[..., None]) -> Callable[..., None]:
    """The command with an option for each field of `Sampling` before `--output`; it gets the values as keywords."""
    added = {name: _parameter(name, option) for name, option in sampling.options().items()}
    return options.insert(command, added, before="output")


def parse_seeds(texts: list[str] | None) -> list[int] | None:
    """The seeds in order; None where none is named. Raises UsageError."""
    return None if texts is None else [seed for text in texts for seed in sampling.parse_seeds(text)]


def _parameter(name: str, option: sampling.Option) -> tuple[Any, object]:
    default = sampling.defaults()[name]
    turns_off = default is True  # such an option is a flag that turns it off
    info = typer.Option(
        *option.flags,
        metavar=option.metavar or None,
        help=option.help,
        show_default=False,
        parser=option.parse,
        callback=_negated if turns_off else None,
    )
    hint: Any = str | None if option.parse else get_type_hints(sampling.Sampling)[name]
    return Annotated[hint, info], False if turns_off else default


def _negated(value: bool) -> bool:
    return not value
