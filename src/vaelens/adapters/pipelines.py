"""A diffusion model, opened through diffusers and asked for latents. No VAE is loaded for it."""

import warnings
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from vaelens.adapters.libraries import diffusers
from vaelens.adapters.models import GUARD, ModelFiles
from vaelens.errors import BadInputError, UsageError

OnStep = Callable[[int, int], None]
SCHEDULERS: dict[
    str, tuple[str, dict[str, Any]]
] = {  # by the names that other tools give them, diffusers' classes and what makes them so
    "ddim": ("DDIMScheduler", {}),
    "pndm": ("PNDMScheduler", {}),
    "lms": ("LMSDiscreteScheduler", {}),
    "euler": ("EulerDiscreteScheduler", {}),
    "euler-a": ("EulerAncestralDiscreteScheduler", {}),
    "heun": ("HeunDiscreteScheduler", {}),
    "dpm++2m": ("DPMSolverMultistepScheduler", {}),
    "dpm++2m-karras": ("DPMSolverMultistepScheduler", {"use_karras_sigmas": True}),
    "unipc": ("UniPCMultistepScheduler", {}),
}


class DiffusionPipeline:
    """One model, ready to make latents, one picture at a time.

    `scheduler` is the name of its scheduler's class, `side` the size in pixels that it was trained for.
    """

    def __init__(self, pipe: Any, model: ModelFiles, device: torch.device) -> None:
        self._pipe = pipe.to(device)
        self._device = device
        self.model = model
        self.factor: int = pipe.vae_scale_factor
        self.channels: int = pipe.unet.config.in_channels
        self.side: int = pipe.unet.config.sample_size * self.factor
        self.dtype: torch.dtype = pipe.unet.dtype

    @property
    def scheduler(self) -> str:
        """The scheduler's class in diffusers."""
        return type(self._pipe.scheduler).__name__

    @property
    def has_guard(self) -> bool:
        """Whether a safety checker is loaded."""
        return getattr(self._pipe, "safety_checker", None) is not None

    def unread(self, prompt: str) -> str:
        """The end of the prompt that the text encoder has no room for, or ""."""
        tokenizer = self._pipe.tokenizer
        ids: list[int] = tokenizer(prompt, truncation=False, verbose=False).input_ids
        room: int = tokenizer.model_max_length
        return tokenizer.decode(ids[room - 1 : -1]).strip() if len(ids) > room else ""

    def latents(
        self,
        prompt: str,
        *,
        negative: str | None,
        seed: int,
        steps: int,
        guidance: float,
        height: int,
        width: int,
        on_step: OnStep | None = None,
    ) -> Tensor:
        """Scaled latents [1,c,h/f,w/f], fp32 on the CPU: what diffusers gives for `output_type="latent"`.

        The noise comes from torch.Generator("cpu").manual_seed(seed), on every device.
        """

        def stepped(_pipe: Any, step: int, _time: Any, values: dict[str, Any]) -> dict[str, Any]:
            if on_step and step < steps:  # PNDM takes one more than it is asked for
                on_step(step + 1, steps)
            return values

        with warnings.catch_warnings():  # what its libraries deprecate among themselves
            warnings.simplefilter("ignore")
            made = self._pipe(
                prompt,
                negative_prompt=negative,
                num_inference_steps=steps,
                guidance_scale=guidance,
                height=height,
                width=width,
                generator=torch.Generator("cpu").manual_seed(seed),
                output_type="latent",
                callback_on_step_end=stepped,
            )
        return made.images.detach().float().cpu().contiguous()

    @torch.no_grad()
    def guard(self, image: Tensor) -> tuple[Tensor, bool]:
        """A picture [1,3,h,w] in [0,1] as the safety checker lets it through, and whether that hid it (black then).

        Without a checker the picture is as it was.
        """
        if not self.has_guard:
            return image, False
        _, found = self._pipe.run_safety_checker(image.cpu() * 2 - 1, self._device, self.dtype)
        hidden = bool(found and found[0])
        return (torch.zeros_like(image) if hidden else image), hidden


def open_pipeline(
    model: ModelFiles, *, device: torch.device, dtype: torch.dtype, scheduler: str | None = None, guard: bool = True
) -> DiffusionPipeline:
    """The model, whose files are all on this machine. Raises BadInputError for files that don't make it up.

    `scheduler` replaces the model's own by one of SCHEDULERS, with the model's settings (UsageError for another).
    """
    if scheduler is not None:
        check_scheduler(scheduler)
    library = diffusers()
    kind = getattr(library, model.kind.pipeline)
    without: dict[str, Any] = {"vae": None}
    if model.kind.guarded:
        without |= {} if guard and model.has_guard else dict.fromkeys(GUARD)
        without["requires_safety_checker"] = False  # without one it would say so at length
    options = {"torch_dtype": dtype, "local_files_only": True, **without}
    try:
        with warnings.catch_warnings():  # on its own options' names, which change with its versions
            warnings.simplefilter("ignore")
            if model.file is not None:
                pipe = kind.from_single_file(str(model.file), config=str(model.folder), **options)
            else:
                pipe = kind.from_pretrained(str(model.folder), variant=model.variant, use_safetensors=True, **options)
    except (OSError, ValueError, RuntimeError, KeyError, TypeError, AttributeError) as error:
        reason = " ".join(str(error).split())[:300]
        raise BadInputError(f"{model.name}: its files don't make up a {model.kind.pipeline}: {reason}") from error
    pipe.set_progress_bar_config(disable=True)
    if scheduler is not None:
        name, changed = SCHEDULERS[scheduler]
        pipe.scheduler = getattr(library, name).from_config(pipe.scheduler.config, **changed)
    return DiffusionPipeline(pipe, model, device)


def check_scheduler(name: str) -> None:
    """Raises UsageError for a scheduler that isn't known."""
    if name not in SCHEDULERS:
        raise UsageError(
            f"no scheduler is called {name!r}. Known: {', '.join(SCHEDULERS)}; by default the model's own."
        )
