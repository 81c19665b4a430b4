"""A diffusion model, opened through diffusers and asked for latents. No VAE is loaded for it."""

from collections.abc import Callable
from functools import wraps
from importlib import import_module
from typing import Any

import torch
from torch import Tensor

from vaelens.adapters.libraries import diffusers, quiet
from vaelens.adapters.models import GUARD, LIBRARIES, ModelFiles
from vaelens.errors import BadInputError, UsageError
from vaelens.resources import is_out_of_memory, preserved_random_state

OnStep = Callable[[int, int], None]  # told the number of the step that comes next, from 1, and of all
EVEN = {"use_karras_sigmas": False, "use_exponential_sigmas": False, "use_beta_sigmas": False}
DPM = {"algorithm_type": "dpmsolver++", "solver_order": 2}
SCHEDULERS: dict[str, tuple[str, dict[str, Any]]] = {
    # by the names that other tools give them: diffusers' classes, and what makes them so whatever the model's own had
    "ddim": ("DDIMScheduler", {}),
    "pndm": ("PNDMScheduler", {}),
    "euler": ("EulerDiscreteScheduler", EVEN),
    "euler-a": ("EulerAncestralDiscreteScheduler", {}),
    "heun": ("HeunDiscreteScheduler", EVEN),
    "dpm++2m": ("DPMSolverMultistepScheduler", DPM | EVEN),
    "dpm++2m-karras": ("DPMSolverMultistepScheduler", DPM | EVEN | {"use_karras_sigmas": True}),
    "unipc": ("UniPCMultistepScheduler", EVEN),
}
COUNTED = "position_ids"  # a buffer of 0, 1, 2 ..., which older files hold and newer ones don't
DECISIVE = ("use_karras_sigmas", "use_exponential_sigmas", "use_beta_sigmas", "algorithm_type")


class DiffusionPipeline:
    """One model, ready to make latents, one image at a time.

    `scheduler` is the name of its scheduler's class, `side` the size in pixels that it was trained for.
    """

    def __init__(self, pipe: Any, model: ModelFiles, device: torch.device) -> None:
        self._pipe = pipe
        self._device = device
        self.model = model
        self.factor: int = pipe.vae_scale_factor
        self.side: int = pipe.unet.config.sample_size * self.factor
        self.dtype: torch.dtype = pipe.unet.dtype

    @property
    def scheduler(self) -> str:
        """The scheduler's class in diffusers."""
        return type(self._pipe.scheduler).__name__

    @property
    def scheduler_options(self) -> dict[str, Any]:
        """What the scheduler does in its own way, by diffusers' names: spacing of the noise levels, kind of solver."""
        config = self._pipe.scheduler.config
        return {name: config[name] for name in DECISIVE if config.get(name)}

    def calls(self, steps: int) -> int:
        """How often the UNet is asked for so many steps: some schedulers ask more than once a step."""
        with quiet():
            self._pipe.scheduler.set_timesteps(steps)
        return len(self._pipe.scheduler.timesteps)

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

        calls = self.calls(steps)

        def stepped(_pipe: Any, step: int, _time: Any, values: dict[str, Any]) -> dict[str, Any]:
            if on_step and step + 1 < calls:
                on_step(step + 2, calls)
            return values

        if on_step:
            on_step(1, calls)
        with quiet():
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
        """An image [1,3,h,w] in [0,1] as the safety checker lets it through, and whether that hid it (black then).

        Without a checker the image is as it was.
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
    with quiet():
        kind = getattr(library, model.kind.pipeline)  # imported now
    without: dict[str, Any] = {"vae": None}
    if model.kind.guarded:
        without |= {} if guard and model.has_guard else dict.fromkeys(GUARD)
        without["requires_safety_checker"] = False  # without one it would say so at length
    options = {"torch_dtype": dtype, "local_files_only": True}
    try:
        with quiet(), preserved_random_state():  # made of random numbers before they are read
            if model.file is not None:
                pipe = kind.from_single_file(str(model.file), config=str(model.folder), **options, **without)
            else:
                options |= {"variant": model.variant, "use_safetensors": True}
                networks = _networks(model, options)
                pipe = kind.from_pretrained(str(model.folder), **options, **(without | networks))
            _check_whole(pipe)
            pipe = pipe.to(device)
            if scheduler is not None:
                name, changed = SCHEDULERS[scheduler]
                pipe.scheduler = _from_the_first(getattr(library, name).from_config(pipe.scheduler.config, **changed))
    except (OSError, ValueError, RuntimeError, KeyError, TypeError, AttributeError, NotImplementedError) as error:
        if is_out_of_memory(error):
            raise
        reason = " ".join(str(error).split())[:300]
        raise BadInputError(f"{model.name}: its files don't make up a {model.kind.pipeline}: {reason}") from error
    pipe.set_progress_bar_config(disable=True)
    return DiffusionPipeline(pipe, model, device)


def _from_the_first(scheduler: Any) -> Any:
    """The scheduler, told after each `set_timesteps` that its first step is the first.

    Left alone it looks for the first time step among all, and takes the second of two that are equal: Karras' spacing
    rounds to equal ones where the noise levels reach far up, and the last step then lies beyond the end.
    """
    if hasattr(scheduler, "set_begin_index"):
        plain = scheduler.set_timesteps

        @wraps(plain)
        def begun(*given: Any, **more: Any) -> None:
            plain(*given, **more)
            scheduler.set_begin_index(0)

        scheduler.set_timesteps = begun
    return scheduler


def _networks(model: ModelFiles, options: dict[str, Any]) -> dict[str, Any]:
    """The model's networks, each from its own files. Raises ValueError where a weight is missing or of another shape.

    Left to the pipeline, transformers would fill it with random values.
    """
    found: dict[str, Any] = {}
    for name, (library, kind) in model.components.items():
        made_by = getattr(import_module(LIBRARIES[library]), kind, None)
        if not (isinstance(made_by, type) and issubclass(made_by, torch.nn.Module)):
            continue  # a tokenizer or a scheduler; what isn't there at all the pipeline says
        loader: Any = made_by
        found[name], told = loader.from_pretrained(
            str(model.folder), subfolder=name, output_loading_info=True, **options
        )
        lost = [str(key) for key in told.get("missing_keys", ()) if not str(key).endswith(COUNTED)]
        lost += [str(key) for key in told.get("mismatched_keys", ())]
        if lost:
            raise ValueError(f"{name} lacks {', '.join(sorted(lost)[:3])}{' and more' * (len(lost) > 3)}")
    return found


def _check_whole(pipe: Any) -> None:
    """Raises ValueError for a weight that no file gave, which a checkpoint's loader leaves without values."""
    for name, part in pipe.components.items():
        if isinstance(part, torch.nn.Module):
            lost = [key for key, weight in part.named_parameters() if weight.is_meta]
            if lost:
                raise ValueError(f"{name} lacks {', '.join(lost[:3])}{' and more' * (len(lost) > 3)}")


def check_scheduler(name: str) -> None:
    """Raises UsageError for a scheduler that isn't known."""
    if name not in SCHEDULERS:
        raise UsageError(
            f"no scheduler is called {name!r}. Known: {', '.join(SCHEDULERS)}; by default the model's own."
        )
