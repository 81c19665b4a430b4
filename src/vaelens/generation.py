"""From a prompt to latents: a diffusion model and its settings, asked for one latent a seed, without any VAE.

model = generation.find("CompVis/stable-diffusion-v1-4")     # small files only
with generation.opened(model, Settings("a cat")) as made: latents = made.latents(seed=0)
"""

import json
import os
import re
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, cast

import torch
from safetensors.torch import save as safetensors_bytes
from torch import Tensor

from vaelens.adapters.models import ModelFiles, bring, find_model
from vaelens.adapters.pipelines import DiffusionPipeline, OnStep, check_scheduler, open_pipeline
from vaelens.errors import BadInputError, UsageError
from vaelens.files import write_atomic
from vaelens.images.prompts import PromptError, parse
from vaelens.vae import check_seed, latents_sha256
from vaelens.weights.registry import registry
from vaelens.weights.safetensors_file import open_tensor_file

Say = Callable[[str], None]
CELL = 8  # pixels a latent cell, for every model that is taken
MOST_STEPS, LARGEST = 1000, 4096
SIZE = re.compile(r"(\d+)(?:\s*[xX*]\s*(\d+))?")
LATENTS_KEY = "vaelens_latents"  # in the metadata of a file of latents


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


@dataclass(frozen=True)
class Latent:
    """One latent [1,c,h/f,w/f], scaled, fp32 on the CPU; its latent space, and all that made it, for records."""

    tensor: Tensor
    space: str | None
    made: dict[str, Any]

    @property
    def sha256(self) -> str:
        """Of its fp32 values."""
        return latents_sha256(self.tensor)


class Generator:
    """A model that stands ready with settled settings; see `open_generator`."""

    def __init__(self, pipe: DiffusionPipeline, settings: Settings) -> None:
        self._pipe = pipe
        self.model = pipe.model
        self.prompt = settings.prompt
        self.negative = settings.negative
        self.steps = pipe.model.kind.steps if settings.steps is None else settings.steps
        self.guidance = pipe.model.kind.guidance if settings.guidance is None else settings.guidance
        self.height, self.width = settings.size or (pipe.side, pipe.side)
        self.guards = pipe.has_guard
        self._scheduler_asked = settings.scheduler

    def latents(self, seed: int, on_step: OnStep | None = None) -> Latent:
        """The latent of one seed, alone in its batch, as `DiffusionPipeline.latents` makes it."""
        made = self._pipe.latents(
            self.prompt,
            negative=self.negative,
            seed=seed,
            steps=self.steps,
            guidance=self.guidance,
            height=self.height,
            width=self.width,
            on_step=on_step,
        )
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
            "scheduler_asked": self._scheduler_asked,
            "model": self.model.name,
            "model_source": self.model.source,
            "model_commit": self.model.commit,
            "model_variant": self.model.variant,
            "model_dtype": str(self._pipe.dtype).removeprefix("torch."),
        }

    def guard(self, image: Tensor) -> tuple[Tensor, bool]:
        """The model's safety checker on a decoded picture, see `DiffusionPipeline.guard`."""
        return self._pipe.guard(image)

    def notes(self) -> list[str]:
        """What the model won't do as one might think, a sentence each."""
        unread = self._pipe.unread(self.prompt)
        notes = [f'The text encoder has no room for the end of the prompt: "{_short(unread)}".'] if unread else []
        if self.model.source == "embedded" and (self.height, self.width) != (self._pipe.side, self._pipe.side):
            notes.append(
                f"{self.model.name} learnt from {self._pipe.side}x{self._pipe.side} pixels; others come out odd."
            )
        return notes


def check_settings(settings: Settings, model: str | None = None) -> None:
    """Raises UsageError for settings that no model can follow, or that the named one, if it is known, can't."""
    if not settings.prompt.strip():
        raise UsageError("the prompt is empty. Say what the picture should show.")
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
        try:
            parse(settings.prompt)
            parse(settings.negative) if settings.negative else None
        except PromptError as error:
            raise UsageError(f"{error} For any prompt: --model sd-v1-4.") from error


def parse_size(text: str) -> tuple[int, int]:
    """Height and width from "512" or "768x512" (width x height). Raises UsageError."""
    found = SIZE.fullmatch(text.strip())
    if found is None:
        raise UsageError(f"a size is one side, 512, or width x height, 768x512; {_short(text)!r} isn't.")
    width = int(found[1])
    return int(found[2] or width), width


def find(source: str, settings: Settings, *, dtype: torch.dtype, offline: bool, announce: Say | None) -> ModelFiles:
    """The model, of which only small files are fetched; raises what `find_model` raises."""
    return find_model(source, half=dtype != torch.float32, guard=settings.guard, offline=offline, announce=announce)


def open_generator(
    model: ModelFiles,
    settings: Settings,
    *,
    device: torch.device,
    dtype: torch.dtype,
    offline: bool = False,
    announce: Say | None = None,
) -> Generator:
    """The model with its weights, downloaded if need be, and the settings settled. Raises what both raise."""
    brought = bring(model, offline=offline, announce=announce)
    pipe = open_pipeline(brought, device=device, dtype=dtype, scheduler=settings.scheduler, guard=settings.guard)
    return Generator(pipe, settings)


def latents_bytes(latent: Latent) -> bytes:
    """The file of a latent: safetensors, its fp32 values and all that made it."""
    metadata = {LATENTS_KEY: json.dumps({"latent_space": latent.space, "made": latent.made}, sort_keys=True)}
    return safetensors_bytes({"latents": latent.tensor.float().contiguous()}, metadata)


def save_latents(path: str | os.PathLike[str], latent: Latent) -> Path:
    """Write `latents_bytes`; raises as `write_atomic` does."""
    return write_atomic(path, latents_bytes(latent))


def read_latents(path: str | os.PathLike[str], space: str | None = None) -> list[Latent]:
    """The latents in a safetensors file, a picture each: vaelens' own, or one tensor [b,c,h,w] of scaled latents.

    `space` says their latent space where the file doesn't. Raises BadInputError for a file that holds none, and as
    `open_tensor_file` does; UsageError for a space that contradicts the file's.
    """
    opened = open_tensor_file(Path(path))
    names = [name for name, shape in opened.shapes.items() if len(shape) == 4]
    if len(opened.shapes) != 1 or len(names) != 1:
        some = ", ".join(f"{n} {list(s)}" for n, s in list(opened.shapes.items())[:3]) or "nothing"
        raise BadInputError(
            f"{path}: a file of latents holds one tensor [b,c,h,w], this one {some}. Name another file."
        )
    try:
        said: dict[str, Any] = json.loads(opened.metadata.get(LATENTS_KEY, "{}"))
        known, made = said.get("latent_space"), dict(said.get("made", {}))
    except (ValueError, TypeError, AttributeError, RecursionError) as error:
        raise BadInputError(f"{path}: its vaelens metadata is damaged ({error}).") from error
    if space is not None:
        registry().check_space(space)
        if known not in {None, space}:
            raise UsageError(f"{path}: latents of {known} by the file, of {space} by --space. Leave out --space.")
    tensor = opened.read(names)[names[0]].float()
    return [Latent(tensor[i : i + 1].contiguous(), known or space, made) for i in range(len(tensor))]


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
