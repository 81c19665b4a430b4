"""The options of sampling from a diffusion model, declared once.

The command line, the page's form, the records and `replay` are derived from `Sampling`. A new option is a field here,
its effect in `adapters/pipelines.py`, and a keyword of `compare`.
"""

import dataclasses
import math
import re
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from vaelens.errors import UsageError

CELL = 8  # pixels per latent cell, for every model that can be used
MAX_SEEDS = 10_000  # in one range
SEEDS = re.compile(r"(-?[0-9]{1,25})(?:-([0-9]{1,25}))?")  # one, or the first and last of several
SIZE = re.compile(r"([0-9]{1,9})(?:\s*[xX*]\s*([0-9]{1,9}))?")

Size = tuple[int, int]  # height and width in pixels

_EVEN = {"use_karras_sigmas": False, "use_exponential_sigmas": False, "use_beta_sigmas": False}
_DPM = {"algorithm_type": "dpmsolver++", "solver_order": 2}
SCHEDULERS: dict[str, tuple[str, dict[str, Any]]] = {
    # by the names that other tools use: diffusers' class, and the options that define it whatever the model's own had
    "ddim": ("DDIMScheduler", {}),
    "pndm": ("PNDMScheduler", {}),
    "euler": ("EulerDiscreteScheduler", _EVEN),
    "euler-a": ("EulerAncestralDiscreteScheduler", {}),
    "heun": ("HeunDiscreteScheduler", _EVEN),
    "dpm++2m": ("DPMSolverMultistepScheduler", _DPM | _EVEN),
    "dpm++2m-karras": ("DPMSolverMultistepScheduler", _DPM | _EVEN | {"use_karras_sigmas": True}),
    "unipc": ("UniPCMultistepScheduler", _EVEN),
}


def parse_size(text: str) -> Size:
    """Height and width from "512" or "768x512" (width x height). Raises UsageError."""
    found = SIZE.fullmatch(text.strip())
    if found is None:
        raise UsageError(f"a size is one side, 512, or width x height, 768x512; {shortened(text)!r} isn't.")
    width = int(found[1])
    return int(found[2] or width), width


def parse_seeds(text: str) -> list[int]:
    """Seeds from "0", "0,1,5", "0 1 5" or "0-7". Raises UsageError."""
    found: list[int] = []
    for part in re.split(r"[,\s]+", text.strip()):
        one = SEEDS.fullmatch(part)
        if one is None:
            raise UsageError(f"seeds are whole numbers: 0, or 0,1,5, or 0-7; {shortened(text)!r} isn't.")
        first, last = int(one[1]), int(one[2] or one[1])
        if not 0 <= last - first < MAX_SEEDS:
            raise UsageError(
                f"{shortened(part)!r} isn't a range of seeds. A range ascends and holds at most {MAX_SEEDS:,} seeds."
            )
        found += range(first, last + 1)
    return found


@dataclass(frozen=True)
class Option:
    """How a user sets a field of `Sampling`: flags on the command line, help text, limits.

    `minimum` and `maximum` are inclusive; of a size they hold for each side, which is a multiple of `multiple`. `parse`
    turns a text into the value, where its type doesn't say how; it raises UsageError.
    """

    flags: tuple[str, ...]
    help: str
    metavar: str = ""
    minimum: float | None = None
    maximum: float | None = None
    multiple: int = 1
    choices: tuple[str, ...] = ()
    parse: Callable[[str], Any] | None = None


def _option(default: Any, *flags: str, **details: Any) -> Any:
    return field(default=default, metadata={"option": Option(flags, **details)})


@dataclass(frozen=True)
class Sampling:
    """What to sample: the prompt, and the options of sampling. None means the model's own default.

    Names and meanings are those of diffusers' pipelines. `size` is height and width in pixels. Raises UsageError for a
    value outside its limits.
    """

    prompt: str
    negative_prompt: str | None = _option(
        None, "--negative-prompt", metavar="PROMPT", help="What the image should not show."
    )
    steps: int | None = _option(
        None, "--steps", metavar="N", minimum=1, maximum=1000, help="Denoising steps. Default: the model's."
    )
    guidance_scale: float | None = _option(
        None,
        "--guidance-scale",
        "--cfg",
        metavar="G",
        minimum=0,
        maximum=1000,
        help="Classifier-free guidance; 0 and 1 turn it off. Default: the model's.",
    )
    size: Size | None = _option(
        None,
        "--size",
        metavar="WxH",
        minimum=CELL,
        maximum=4096,
        multiple=CELL,
        parse=parse_size,
        help="Image size in pixels: 512, or 768x512 (multiples of 8). Default: the model's.",
    )
    scheduler: str | None = _option(
        None,
        "--scheduler",
        metavar="NAME",
        choices=tuple(SCHEDULERS),
        help=f"One of {', '.join(SCHEDULERS)}. Default: the model's.",
    )
    safety_checker: bool = _option(
        True, "--no-safety-checker", help="Do not run the model's safety checker, if it has one."
    )

    def __post_init__(self) -> None:
        if not self.prompt.strip():
            raise UsageError("the prompt is empty. Describe what the image should show.")
        for name, option in options().items():
            _check(name, option, getattr(self, name))


def options() -> dict[str, Option]:
    """The options of sampling by field name, in the order to show."""
    return {f.name: f.metadata["option"] for f in dataclasses.fields(Sampling) if "option" in f.metadata}


def defaults() -> dict[str, Any]:
    """The default of each option by field name."""
    return {f.name: f.default for f in dataclasses.fields(Sampling) if "option" in f.metadata}


def shortened(text: str) -> str:
    """Text that fits into a message."""
    return text if len(text) <= 60 else text[:57] + "..."


def _check(name: str, option: Option, value: Any) -> None:
    if value is None:
        return
    label = name.replace("_", " ")
    low, high = option.minimum, option.maximum
    if option.choices and value not in option.choices:
        raise UsageError(f"no {label} is called {shortened(value)!r}. Known: {', '.join(option.choices)}.")
    if name == "size":
        assert low is not None
        assert high is not None
        for side in value:
            if side % option.multiple or not low <= side <= high:
                nearest = round(min(max(low, side), high) / option.multiple) * option.multiple
                raise UsageError(
                    f"{_shown(value[1])}x{_shown(value[0])} has a side of {_shown(side)} pixels; sides are multiples "
                    f"of {option.multiple} from {low} to {high}. Nearest: {nearest}."
                )
    elif (low is not None and not low <= value < math.inf) or (high is not None and value > high):
        limits = f"{low:g} to {high:g}" if high is not None else f"{low:g} up"
        raise UsageError(f"{label} must be a number from {limits}, not {_shown(value)}.")


def _shown(value: float) -> str:
    """A number for a message; a whole one may have thousands of digits."""
    return f"{value:g}" if isinstance(value, float) else str(value) if abs(value) < 10**25 else "a huge number"
