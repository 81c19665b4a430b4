"""From a prompt to latents: a diffusion model samples one latent per seed, without any VAE.

model = find_model("CompVis/stable-diffusion-v1-4", runtime)         # small files only
latent = open_generator(model, Sampling("a cat"), runtime).latents(seed=0)
"""

from dataclasses import replace

import torch
from torch import Tensor

from vaelens.adapters.models import ModelFiles, download
from vaelens.adapters.pipelines import DiffusionPipeline, OnStep, open_pipeline
from vaelens.errors import CheckFailedError, UsageError
from vaelens.images.prompts import PromptError, caption, parse
from vaelens.latents import Latent, ModelFacts, PromptProvenance
from vaelens.resources import out_of_memory
from vaelens.runtime import Runtime, dtype_name
from vaelens.sampling import CELL, Sampling, shortened
from vaelens.vae import check_seed
from vaelens.weights.registry import registry


class LatentGenerator:
    """A loaded model and its sampling, with the model's defaults filled in."""

    def __init__(self, pipe: DiffusionPipeline, sampling: Sampling) -> None:
        self._pipe = pipe
        self.model = pipe.model
        defaults = {
            "steps": pipe.model.pipeline.steps,
            "guidance_scale": pipe.model.pipeline.guidance_scale,
            "size": (pipe.side, pipe.side),
        }
        unset = {name: value for name, value in defaults.items() if getattr(sampling, name) is None}
        checked = sampling.safety_checker and pipe.has_safety_checker
        self.sampling = replace(sampling, safety_checker=checked, **unset)
        self._as_read = replace(  # with the prompts in the words that the model was trained on
            self.sampling,
            prompt=_training_caption(pipe.model, sampling.prompt),
            negative_prompt=sampling.negative_prompt and _training_caption(pipe.model, sampling.negative_prompt),
        )
        assert self.sampling.steps is not None
        self.unet_calls = pipe.unet_calls(self.sampling.steps)
        self.facts = ModelFacts(
            name=self.model.name,
            source=self.model.source,
            commit=self.model.commit,
            variant=self.model.variant,
            dtype=dtype_name(pipe.dtype),
            scheduler=pipe.scheduler,
            scheduler_options=pipe.scheduler_options,
        )

    @property
    def latent_size(self) -> tuple[int, int]:
        """Height and width of the latents."""
        assert self.sampling.size is not None
        height, width = self.sampling.size
        return height // CELL, width // CELL

    def latents(self, seed: int, on_step: OnStep | None = None) -> Latent:
        """The latent of one seed, alone in its batch, as `DiffusionPipeline.latents` makes it.

        Raises CheckFailedError where it isn't finite, ResourceError where memory runs out.
        """
        assert self.sampling.size is not None
        h, w = self.sampling.size
        message = (
            f"out of memory denoising {w}x{h} pixels with {self.model.name}. Choose a smaller --size, use --dtype "
            "bfloat16, or run where there is more memory."
        )
        with out_of_memory(message):
            latents = self._pipe.latents(self._as_read, seed, on_step)
        if not latents.isfinite().all():
            half = self._pipe.dtype == torch.float16
            why = "float16 overflowed: use --dtype bfloat16 or float32" if half else "its weights are damaged"
            raise CheckFailedError(f"{self.model.name} gave NaN or infinity instead of latents for seed {seed}; {why}.")
        provenance = PromptProvenance(sampling=self.sampling, seed=seed, model=self.facts)
        return Latent(latents, self.model.space, provenance)

    def check_safety(self, image: Tensor) -> tuple[Tensor, bool]:
        """The model's safety checker on a decoded image, see `DiffusionPipeline.check_safety`."""
        return self._pipe.check_safety(image)

    def notes(self) -> list[str]:
        """What the model does otherwise than one might expect, a sentence each."""
        sampling, read = self.sampling, self._as_read
        notes: list[str] = []
        for label, prompt in (("prompt", read.prompt), ("negative prompt", read.negative_prompt)):
            truncated = self._pipe.truncated(prompt or "")
            if truncated:
                notes.append(f'The text encoder cuts off the end of the {label}: "{shortened(truncated)}".')
        if read.prompt != sampling.prompt:
            notes.append(f'{self.model.name} reads the prompt as "{read.prompt}".')
        if sampling.negative_prompt and sampling.guidance_scale is not None and sampling.guidance_scale <= 1:
            notes.append(
                f"Guidance scale {sampling.guidance_scale:g} turns guidance off, so the negative prompt has no effect."
            )
        if self.model.source == "embedded" and sampling.size != (self._pipe.side, self._pipe.side):
            notes.append(
                f"{self.model.name} was trained on {self._pipe.side}x{self._pipe.side} pixels; other sizes look wrong."
            )
        return notes


def open_generator(model: ModelFiles, sampling: Sampling, runtime: Runtime) -> LatentGenerator:
    """The model with its weights, downloaded if need be. Raises what `download` and `open_pipeline` raise."""
    return LatentGenerator(open_pipeline(download(model, runtime), sampling, runtime), sampling)


def check_prompts(sampling: Sampling, model: str) -> None:
    """Raises UsageError for prompts that the named model, if it is a known one, can't read."""
    known = registry().models.get(model.lower())
    if known is None or known.prompts != "scenes":
        return
    for label, prompt in (("", sampling.prompt), ("the negative prompt: ", sampling.negative_prompt)):
        try:
            parse(prompt) if prompt else None
        except PromptError as error:
            raise UsageError(f"{label}{error} For any prompt, use a larger model: --model sd-v1-4.") from error


def check_seeds(seeds: list[int]) -> list[int]:
    """The seeds, each once. Raises UsageError for none, or one that torch can't be seeded with."""
    if not seeds:
        raise UsageError("no seed named. Name at least one, e.g. 0.")
    for seed in seeds:
        check_seed(seed)
    return list(dict.fromkeys(seeds))


def _training_caption(model: ModelFiles, prompt: str) -> str:
    """The prompt as the captions that the model was trained on, where those are of the small language of scenes."""
    known = registry().models.get(model.name) if model.source == "embedded" else None
    return caption(parse(prompt)) if prompt and known is not None and known.prompts == "scenes" else prompt
