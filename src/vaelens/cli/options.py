"""Options that mean the same in every command, and the decorators that add them."""

import inspect
from collections.abc import Callable, Mapping
from functools import wraps
from pathlib import Path
from typing import Annotated, Any, TypedDict, get_type_hints

import typer

from vaelens import sampling
from vaelens.cli.output import notice, set_level
from vaelens.errors import UsageError

EMBEDDED_NOTICE = (
    "No --vae named. Using {what}. For Stable Diffusion's latents: --vae ft-mse ({size:.0f} MB, downloaded once)."
)

Vaes = Annotated[
    list[str] | None,
    typer.Option(
        "--vae",
        metavar="VAE",
        help="A name of `vaelens list`, a file, folder, hub id or address. Repeatable. Default: the small embedded "
        "ones.",
    ),
]
Device = Annotated[str, typer.Option("--device", metavar="DEVICE", help="Device: auto, cpu, cuda or mps.")]
Dtype = Annotated[
    str, typer.Option("--dtype", metavar="DTYPE", help="Precision: float32 (fp32), float16 (fp16) or bfloat16 (bf16).")
]
MaxSide = Annotated[
    int | None,
    typer.Option("--max-side", min=1, metavar="PIXELS", help="Shrink photos whose longer side exceeds this."),
]
MaxPixels = Annotated[
    int | None,
    typer.Option(
        "--max-pixels",
        min=1,
        metavar="N",
        help="Read images of up to N pixels, at 16 bytes of memory each. Default: about 67 million.",
        show_default=False,
    ),
]
Space = Annotated[
    str | None,
    typer.Option(
        "--space",
        metavar="SPACE",
        help="Latent space (sd1, sdxl, sd3, flux1, ...) of a VAE file that doesn't name its own.",
    ),
]
Split = Annotated[
    str | None,
    typer.Option("--split", metavar="NAME", help="The split of a Hugging Face dataset or a folder of parquet files."),
]
MinAesthetic = Annotated[
    float | None,
    typer.Option("--min-aesthetic", metavar="SCORE", help="Only images with at least this aesthetic score."),
]
TrialPhotos = Annotated[
    list[str] | None,
    typer.Option(
        "--photo",
        metavar="PATH",
        help="Compare on this image, or on a folder of them. Repeatable. Default: synthetic faces and letters.",
    ),
]
SourceVAE = Annotated[
    str, typer.Argument(metavar="VAE", help="A name of `vaelens list`, a file, folder, hub id or address.")
]
SkipBad = Annotated[bool, typer.Option("--skip-bad", help="Skip images that can't be read, and list them.")]
Batch = Annotated[
    int | None, typer.Option("--batch", min=1, metavar="N", help="Batch size. Default: 4 on a CPU, 16 elsewhere.")
]
MaxMemory = Annotated[
    str | None,
    typer.Option(
        "--max-memory",
        metavar="SIZE",
        help="Memory that running a VAE may take beyond its weights: 2GB, 512MiB ... The image stays the same. "
        "Default: what is free.",
    ),
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
Blind = Annotated[
    bool,
    typer.Option(
        "--blind",
        help="The page opens as a blind test; names and scores appear after it. Needs two VAEs and an .html output.",
    ),
]
Json = Annotated[bool, typer.Option("--json", help="Print the result as JSON.")]
Offline = Annotated[bool, typer.Option("--offline", help="Use only what is on this machine.")]
Quiet = Annotated[bool, typer.Option("-q", "--quiet", help="Print results and errors only.")]
Verbose = Annotated[bool, typer.Option("-v", "--verbose", help="Show tracebacks of errors.")]


class RuntimeOptions(TypedDict):
    """Where and how a command runs its VAEs, as the library's functions take it."""

    device: Device
    dtype: Dtype
    space: Space
    offline: Offline
    max_memory: MaxMemory


RUNTIME_DEFAULTS: RuntimeOptions = {
    "device": "auto",
    "dtype": "float32",
    "space": None,
    "offline": False,
    "max_memory": None,
}


def with_runtime_options(command: Callable[..., None]) -> Callable[..., None]:
    """The command with the options of `RuntimeOptions` before `--json`; it gets the values as `**runtime`."""
    hints = get_type_hints(RuntimeOptions, include_extras=True)
    return insert(command, {name: (hints[name], default) for name, default in RUNTIME_DEFAULTS.items()}, before="json")


def with_sampling_options(command: Callable[..., None]) -> Callable[..., None]:
    """The command with an option for each field of `Sampling` before `--output`; it gets the values as keywords."""
    added = {name: _parameter(name, option) for name, option in sampling.options().items()}
    return insert(command, added, before="output")


def with_pixel_limit(command: Callable[..., None]) -> Callable[..., None]:
    """The command with `--max-pixels` before `--json`; it holds for every image that is read while the command runs."""

    @wraps(command)
    def run(*, max_pixels: int | None, **given: Any) -> None:
        from vaelens.images.headers import pixel_limit

        with pixel_limit(max_pixels):
            command(**given)

    vars(run)["__signature__"] = inspect.signature(command)
    return insert(run, {"max_pixels": (MaxPixels, None)}, before="json")


def with_level_options(command: Callable[..., None]) -> Callable[..., None]:
    """The command with `--quiet` and `--verbose`, which are applied before it runs."""

    @wraps(command)
    def run(*, quiet: bool, verbose: bool, **given: Any) -> None:
        set_level(quiet, verbose)
        command(**given)

    vars(run)["__signature__"] = inspect.signature(command)
    return insert(run, {"quiet": (Quiet, False), "verbose": (Verbose, False)})


def insert(
    command: Callable[..., None], added: Mapping[str, tuple[Any, object]], *, before: str | None = None
) -> Callable[..., None]:
    """The command with keyword parameters, by name (annotation, default), before another one or at the end."""
    signature = inspect.signature(command)
    parameters = [p for p in signature.parameters.values() if p.kind is not p.VAR_KEYWORD]
    place = next((i for i, parameter in enumerate(parameters) if parameter.name == before), len(parameters))
    parameters[place:place] = [
        inspect.Parameter(name, inspect.Parameter.POSITIONAL_OR_KEYWORD, default=default, annotation=hint)
        for name, (hint, default) in added.items()
    ]
    vars(command)["__signature__"] = signature.replace(parameters=parameters)
    return command


def or_embedded(vaes: list[str] | None) -> list[str]:
    """The named VAEs; where none is named, the embedded ones, with a notice."""
    from vaelens.weights.registry import registry

    if vaes:
        return vaes
    embedded = registry().embedded()
    _note_embedded(f"the small embedded VAEs: {', '.join(embedded)}")
    return embedded


def embedded_encoder() -> str:
    """The embedded VAE whose encoder is used where none is named, with a notice."""
    from vaelens.weights.registry import registry

    name = registry().embedded()[0]
    _note_embedded(f"the encoder of the small embedded VAE {name}")
    return name


def _note_embedded(what: str) -> None:
    from vaelens.weights.registry import registry

    size = sum(file.size or 0 for file in registry().find("ft-mse").files) / 1e6
    notice(EMBEDDED_NOTICE.format(what=what, size=size))


def network_paths(given: list[str] | None) -> dict[str, str | Path]:
    """The files of --network by network name. Raises UsageError for one without a name or file."""
    paths: dict[str, str | Path] = {}
    for one in given or ():
        name, _, file = one.partition("=")
        if not name or not file:
            raise UsageError(f"--network is NAME=FILE, as in vgg16=vgg16-397923af.pth; {one!r} isn't.")
        paths[name] = file
    return paths


def seeds_of(texts: list[str] | None) -> list[int] | None:
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
