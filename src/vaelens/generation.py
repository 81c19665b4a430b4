"""From a prompt to latents: a diffusion model and its settings, asked for one latent a seed, without any VAE.

model = generation.find("CompVis/stable-diffusion-v1-4", settings, ...)      # small files only
latent = generation.open_generator(model, settings, ...).latents(seed=0)
"""

import re
from dataclasses import asdict, dataclass
from typing import Any, cast

import torch
from torch import Tensor

from vaelens.adapters.models import ModelFiles, bring, find_model
from vaelens.adapters.pipelines import DiffusionPipeline, OnStep, check_scheduler, open_pipeline
from vaelens.errors import CheckFailedError, ResourceError, UsageError
from vaelens.images.prompts import PromptError, caption, parse
from vaelens.latents import Latent
from vaelens.resources import is_out_of_memory
from vaelens.runtime import Runtime
from vaelens.vae import check_seed
from vaelens.weights.registry import registry

CELL = 8  # pixels a latent cell, for every model that is taken
MOST_STEPS, LARGEST, MOST_SEEDS = 1000, 4096, 10_000
SEEDS = re.compile(r"(-?\d{1,25})(?:-(\d{1,25}))?")  # one, or the first and last of several
SIZE = re.compile(r"(\d+)(?:\s*[xX*]\s*(\d+))?")


@dataclass(frozen=True)
class Settings:
    """What is asked of a model. None: what the model or its pipeline in diffusers does by itself.

    `guidance` is diffusers' guidance_scale: 0 and 1 are none. `size` is height and width in pixels.
    """

    prompt: str
    negative: str | None = None
    steps: int | None = None
    guidance: float | None = None
    size: tuple[int, int] | None = None
    scheduler: str | None = None
    guard: bool = True


class Generator:
    """A model that stands ready with settled settings; see `open_generator`."""

    def __init__(self, pipe: DiffusionPipeline, settings: Settings) -> None:
        self._pipe = pipe
        self.model = pipe.model
        self.prompt = settings.prompt
        self.negative = settings.negative
        self.read = _as_learnt(pipe.model, settings.prompt), _as_learnt(pipe.model, settings.negative or "")
        self.steps = pipe.model.kind.steps if settings.steps is None else settings.steps
        self.calls = pipe.calls(self.steps)
        self.guidance = pipe.model.kind.guidance if settings.guidance is None else settings.guidance
        self.height, self.width = settings.size or (pipe.side, pipe.side)
        self.guards = pipe.has_guard
        self._scheduler_asked = settings.scheduler

    def latents(self, seed: int, on_step: OnStep | None = None) -> Latent:
        """The latent of one seed, alone in its batch, as `DiffusionPipeline.latents` makes it.

        Raises CheckFailedError where it isn't finite, ResourceError where memory runs out.
        """
        prompt, negative = self.read
        try:
            made = self._pipe.latents(
                prompt,
                negative=negative if self.negative is not None else None,
                seed=seed,
                steps=self.steps,
                guidance=self.guidance,
                height=self.height,
                width=self.width,
                on_step=on_step,
            )
        except (MemoryError, RuntimeError) as error:
            if not is_out_of_memory(error):
                raise
            raise ResourceError(
                f"out of memory denoising {self.width}x{self.height} pixels with {self.model.name}. Make it smaller "
                "(--size), use --dtype bfloat16, or run where there is more memory."
            ) from error
        if not made.isfinite().all():
            half = self._pipe.dtype == torch.float16
            why = "float16 overflows there: use --dtype bfloat16 or float32" if half else "its weights are damaged"
            raise CheckFailedError(f"{self.model.name} gave NaN or infinity in place of latents, seed {seed}; {why}.")
        return Latent(made, self.model.space, self.described() | {"seed": seed})

    def described(self) -> dict[str, Any]:
        """The settings as they are used, for records."""
        return {
            "prompt": self.prompt,
            "negative_prompt": self.negative,
            "steps": self.steps,
            "guidance": self.guidance,
            "height": self.height,
            "width": self.width,
            "scheduler": self._pipe.scheduler,
            "scheduler_options": self._pipe.scheduler_options,
            "scheduler_asked": self._scheduler_asked,
            "model": self.model.name,
            "model_source": self.model.source,
            "model_commit": self.model.commit,
            "model_variant": self.model.variant,
            "model_dtype": str(self._pipe.dtype).removeprefix("torch."),
        }

    def guard(self, image: Tensor) -> tuple[Tensor, bool]:
        """The model's safety checker on a decoded image, see `DiffusionPipeline.guard`."""
        return self._pipe.guard(image)

    def notes(self) -> list[str]:
        """What the model won't do as one might think, a sentence each."""
        notes: list[str] = []
        for what, read in zip(("prompt", "negative prompt"), self.read, strict=True):
            unread = self._pipe.unread(read)
            if unread:
                notes.append(f'The text encoder has no room for the end of the {what}: "{_short(unread)}".')
        if self.read[0] != self.prompt:
            notes.append(f'{self.model.name} reads the prompt as "{self.read[0]}".')
        if self.negative and self.guidance <= 1:
            notes.append(f"Guidance {self.guidance:g} is none, so the negative prompt does nothing.")
        if self.model.source == "embedded" and (self.height, self.width) != (self._pipe.side, self._pipe.side):
            notes.append(
                f"{self.model.name} learnt from {self._pipe.side}x{self._pipe.side} pixels; others come out odd."
            )
        return notes


def _as_learnt(model: ModelFiles, prompt: str) -> str:
    """The prompt in the words that the model learnt: those of the small language, where that is all it knows."""
    known = registry().models.get(model.name) if model.source == "embedded" else None
    return caption(parse(prompt)) if prompt and known is not None and known.prompts == "scenes" else prompt


def check_settings(settings: Settings, model: str | None = None) -> None:
    """Raises UsageError for settings that no model can follow, or that the named one, if it is known, can't."""
    if not settings.prompt.strip():
        raise UsageError("the prompt is empty. Say what the image should show.")
    if settings.steps is not None and not 1 <= settings.steps <= MOST_STEPS:
        raise UsageError(f"steps are from 1 to {MOST_STEPS}, not {settings.steps}.")
    if settings.guidance is not None and not 0 <= settings.guidance < float("inf"):
        raise UsageError(f"guidance is 0 or more (0 and 1 are none), not {settings.guidance:g}.")
    if settings.scheduler is not None:
        check_scheduler(settings.scheduler)
    for side in settings.size or ():
        if side % CELL or not CELL <= side <= LARGEST:
            h, w = cast(tuple[int, int], settings.size)
            near = min(max(CELL, round(side / CELL) * CELL), LARGEST)
            raise UsageError(
                f"sides are multiples of {CELL} pixels from {CELL} to {LARGEST}, {w}x{h} has {side}. Nearest: {near}."
            )
    known = registry().models.get((model or "").lower())
    if known is not None and known.prompts == "scenes":
        what = ""
        try:
            parse(settings.prompt)
            what = "the negative prompt: "
            parse(settings.negative) if settings.negative else None
        except PromptError as error:
            raise UsageError(f"{what}{error} For any prompt: --model sd-v1-4 (serve has it, too).") from error


def parse_size(text: str) -> tuple[int, int]:
    """Height and width from "512" or "768x512" (width x height). Raises UsageError."""
    found = SIZE.fullmatch(text.strip())
    if found is None:
        raise UsageError(f"a size is one side, 512, or width x height, 768x512; {_short(text)!r} isn't.")
    width = int(found[1])
    return int(found[2] or width), width


def parse_seeds(text: str) -> list[int]:
    """Seeds from "0", "0,1,5", "0 1 5" or "0-7". Raises UsageError."""
    found: list[int] = []
    for part in re.split(r"[,\s]+", text.strip()):
        one = SEEDS.fullmatch(part)
        if one is None:
            raise UsageError(f"seeds are whole numbers: 0, or 0,1,5, or 0-7; {_short(text)!r} isn't.")
        first, last = int(one[1]), int(one[2] or one[1])
        if not 0 <= last - first < MOST_SEEDS:
            raise UsageError(f"{_short(part)!r} are no seeds: a range goes up, by at most {MOST_SEEDS:,}.")
        found += range(first, last + 1)
    return found


def find(source: str, settings: Settings, runtime: Runtime) -> ModelFiles:
    """The model, of which only small files are fetched; raises what `find_model` raises."""
    return find_model(source, half=runtime.dtype != torch.float32, guard=settings.guard, runtime=runtime)


def open_generator(
    model: ModelFiles,
    settings: Settings,
    runtime: Runtime,
) -> Generator:
    """The model with its weights, downloaded if need be, and the settings settled. Raises what both raise."""
    brought = bring(model, runtime)
    pipe = open_pipeline(
        brought, device=runtime.device, dtype=runtime.dtype, scheduler=settings.scheduler, guard=settings.guard
    )
    return Generator(pipe, settings)


def check_seeds(seeds: list[int]) -> list[int]:
    """The seeds, each once. Raises UsageError for none, or one that torch can't be seeded with."""
    if not seeds:
        raise UsageError("no seed named. Name at least one, e.g. 0.")
    for seed in seeds:
        check_seed(seed)
    return list(dict.fromkeys(seeds))


def as_dict(settings: Settings) -> dict[str, Any]:
    """The settings as they were asked for."""
    return asdict(settings)


def _short(text: str) -> str:
    return text if len(text) <= 60 else text[:57] + "..."
