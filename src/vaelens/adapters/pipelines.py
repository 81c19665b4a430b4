"""Diffusion models opened through diffusers, to sample latents. No VAE is loaded for them."""

from collections.abc import Callable
from functools import wraps
from importlib import import_module
from typing import Any, cast

import torch
from torch import Tensor

from vaelens.adapters.libraries import diffusers, quiet
from vaelens.adapters.models import LIBRARIES, SAFETY_PARTS, ModelFiles
from vaelens.errors import BadInputError
from vaelens.resources import is_out_of_memory, preserved_random_state
from vaelens.runtime import Runtime
from vaelens.sampling import SCHEDULERS, Sampling

OnStep = Callable[[int, int], None]  # gets the number of the UNet call that comes next, from 1, and their count
POSITION_IDS = "position_ids"  # a buffer of 0, 1, 2 ..., which older files hold and newer ones don't
SCHEDULER_OPTIONS = ("use_karras_sigmas", "use_exponential_sigmas", "use_beta_sigmas", "algorithm_type")


class DiffusionPipeline:
    """One model, ready to make latents, one image at a time.

    `side` is the side of the square images it was trained for, in pixels.
    """

    def __init__(self, pipe: Any, model: ModelFiles, device: torch.device) -> None:
        self._pipe = pipe
        self._device = device
        self.model = model
        self.side: int = pipe.unet.config.sample_size * pipe.vae_scale_factor
        self.dtype: torch.dtype = pipe.unet.dtype

    @property
    def scheduler(self) -> str:
        """The scheduler's class in diffusers."""
        return type(self._pipe.scheduler).__name__

    @property
    def scheduler_options(self) -> dict[str, Any]:
        """The scheduler's own settings by diffusers' names: spacing of the noise levels, kind of solver."""
        config = self._pipe.scheduler.config
        return {name: config[name] for name in SCHEDULER_OPTIONS if config.get(name)}

    @property
    def has_safety_checker(self) -> bool:
        """Whether a safety checker is loaded."""
        return getattr(self._pipe, "safety_checker", None) is not None

    def unet_calls(self, steps: int) -> int:
        """The UNet calls of so many steps: some schedulers make more than one per step."""
        with quiet():
            self._pipe.scheduler.set_timesteps(steps)
        return len(self._pipe.scheduler.timesteps)

    def truncated(self, prompt: str) -> str:
        """The end of the prompt that the text encoder cuts off, or ""."""
        tokenizer = self._pipe.tokenizer
        ids: list[int] = tokenizer(prompt, truncation=False, verbose=False).input_ids
        limit: int = tokenizer.model_max_length
        return tokenizer.decode(ids[limit - 1 : -1]).strip() if len(ids) > limit else ""

    def latents(self, sampling: Sampling, seed: int, on_step: OnStep | None = None) -> Tensor:
        """Scaled latents [1,c,h/f,w/f], fp32 on the CPU: what diffusers returns for `output_type="latent"`.

        `sampling` names steps, guidance scale and size. The noise comes from torch.Generator("cpu").manual_seed(seed),
        on every device.
        """
        assert sampling.steps is not None
        assert sampling.size is not None
        calls = self.unet_calls(sampling.steps)

        def step_ended(_pipe: Any, step: int, _time: Any, values: dict[str, Any]) -> dict[str, Any]:
            if on_step and step + 1 < calls:
                on_step(step + 2, calls)
            return values

        if on_step:
            on_step(1, calls)
        with quiet():
            output = self._pipe(
                sampling.prompt,
                negative_prompt=sampling.negative_prompt,
                num_inference_steps=sampling.steps,
                guidance_scale=sampling.guidance_scale,
                height=sampling.size[0],
                width=sampling.size[1],
                generator=torch.Generator("cpu").manual_seed(seed),
                output_type="latent",
                callback_on_step_end=step_ended,
            )
        return output.images.detach().float().cpu().contiguous()

    @torch.no_grad()
    def check_safety(self, image: Tensor) -> tuple[Tensor, bool]:
        """An image [1,3,h,w] in [0,1] after the safety checker, black where it was flagged; and whether it was.

        Without a checker the image stays as it is.
        """
        if not self.has_safety_checker:
            return image, False
        _, found = self._pipe.run_safety_checker(image.cpu() * 2 - 1, self._device, self.dtype)
        flagged = bool(found and found[0])
        return (torch.zeros_like(image) if flagged else image), flagged


def open_pipeline(model: ModelFiles, sampling: Sampling, runtime: Runtime) -> DiffusionPipeline:
    """The model, whose files are all on this machine, with the scheduler and safety checker that `sampling` names.

    A scheduler that it names replaces the model's own and keeps the model's noise levels. Raises BadInputError for
    files that don't form such a model.
    """
    library = diffusers()
    with quiet():
        pipeline_class = getattr(library, model.pipeline.class_name)  # imported now
    parts: dict[str, Any] = {"vae": None}
    if model.pipeline.may_have_safety_checker:
        parts |= {} if sampling.safety_checker and model.has_safety_checker else dict.fromkeys(SAFETY_PARTS)
        parts["requires_safety_checker"] = False  # otherwise diffusers warns at length where there is none
    options = {"torch_dtype": runtime.dtype, "local_files_only": True}
    try:
        with quiet(), preserved_random_state():  # made of random numbers before they are read
            if model.file is not None:
                pipe = pipeline_class.from_single_file(str(model.file), config=str(model.folder), **options, **parts)
            else:
                options |= {"variant": model.variant, "use_safetensors": True}
                parts |= _networks(model, options)
                pipe = pipeline_class.from_pretrained(str(model.folder), **options, **parts)
            _check_complete(pipe)
            pipe = pipe.to(runtime.device)
            if sampling.scheduler is not None:
                name, changed = SCHEDULERS[sampling.scheduler]
                pipe.scheduler = _from_the_first(getattr(library, name).from_config(pipe.scheduler.config, **changed))
    except (OSError, ValueError, RuntimeError, KeyError, TypeError, AttributeError, NotImplementedError) as error:
        if is_out_of_memory(error):
            raise
        reason = " ".join(str(error).split())[:300]
        raise BadInputError(
            f"{model.name}: its files don't form a {model.pipeline.class_name}: {reason}. Download it again, or name "
            "another model."
        ) from error
    pipe.set_progress_bar_config(disable=True)
    return DiffusionPipeline(pipe, model, runtime.device)


def _from_the_first(scheduler: Any) -> Any:
    """The scheduler, which after each `set_timesteps` starts at its first step.

    By itself it looks the first time step up among all, and takes the second of two equal ones: Karras' spacing rounds
    to equal steps where the noise levels reach far up, and the last step then lies beyond the end.
    """
    if hasattr(scheduler, "set_begin_index"):
        set_timesteps = scheduler.set_timesteps

        @wraps(set_timesteps)
        def set_and_begin(*given: Any, **more: Any) -> None:
            set_timesteps(*given, **more)
            scheduler.set_begin_index(0)

        scheduler.set_timesteps = set_and_begin
    return scheduler


def _networks(model: ModelFiles, options: dict[str, Any]) -> dict[str, Any]:
    """The model's networks, each from its own files. Raises ValueError where a weight is missing or of another shape.

    Loaded by the pipeline, transformers would fill it with random values.
    """
    networks: dict[str, Any] = {}
    for name, (library, class_name) in model.components.items():
        loader: Any = getattr(import_module(LIBRARIES[library]), class_name, None)
        if not (isinstance(loader, type) and issubclass(loader, torch.nn.Module)):
            continue  # a tokenizer or a scheduler; the pipeline reports a class that doesn't exist
        networks[name], report = cast(Any, loader).from_pretrained(
            str(model.folder), subfolder=name, output_loading_info=True, **options
        )
        missing = [str(key) for key in report.get("missing_keys", ()) if not str(key).endswith(POSITION_IDS)]
        _check_none_missing(name, sorted([*missing, *(str(key) for key in report.get("mismatched_keys", ()))]))
    return networks


def _check_complete(pipe: Any) -> None:
    """Raises ValueError for a weight that no file holds; the loader of single files leaves it without values."""
    for name, part in pipe.components.items():
        if isinstance(part, torch.nn.Module):
            _check_none_missing(name, [key for key, weight in part.named_parameters() if weight.is_meta])


def _check_none_missing(part: str, keys: list[str]) -> None:
    if keys:
        raise ValueError(f"{part} lacks {', '.join(keys[:3])}{' and more' * (len(keys) > 3)}")
