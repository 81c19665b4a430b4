"""diffusers' AutoencoderKL through the engine: the same values, sooner, and within a budget of memory.

vaelens.speed_up(pipe.vae, max_memory="2GB")
"""

from collections.abc import Callable
from types import MethodType
from typing import Any, TypeVar

import torch
from torch import Tensor

from vaelens.adapters.libraries import diffusers
from vaelens.engine.calls import EngineCalls
from vaelens.engine.eligibility import is_autoencoder_kl, obstacle
from vaelens.engine.plan import Direction
from vaelens.errors import UsageError
from vaelens.networks.autoencoder_kl import AutoencoderKL
from vaelens.runtime import bytes_of, log
from vaelens.vae import VAE

Model = TypeVar("Model")

BUDGET = "_vaelens_max_memory"  # the attribute that a model keeps its budget in, while it is sped up
METHODS = ("_encode", "_decode")  # what diffusers' encode and decode call for each slice of the batch


def speed_up(vae: Model, max_memory: int | str | None = None) -> Model:
    """Let the engine run diffusers' AutoencoderKL in `encode` and `decode`; gives the same object.

    Its class, parameters, config, state dict and what it saves stay as they are, and so do its calls: slicing,
    `return_dict`, generators, dtypes. `max_memory` ("2GB") is by how much a call may let memory grow beyond the loaded
    model; by default what is free. Values are those of the model within the tolerance of docs/exactness.md.

    The model's own code runs wherever the engine would pass something over: tiling, gradients (call it under
    torch.no_grad(), as pipelines do), hooks on its modules, adapters, modules compiled or replaced, autocast, another
    architecture. Called again it takes the new budget; `undo_speed_up` ends it. Raises UsageError for a model of
    another class, and for a `max_memory` that isn't an amount; calls raise it for a `max_memory` that is too little.
    """
    model: Any = vae
    _check(model)
    vars(model)[BUDGET] = bytes_of(max_memory)
    for method in (_encode, _decode):
        vars(model)[method.__name__] = MethodType(method, model)  # bound, so that a deep copy's is the copy's own
    with torch.no_grad():
        if why := obstacle(model):
            log(f"speed_up: the model runs as it is for now, because {why}.")
    return vae


def undo_speed_up(vae: Model) -> Model:
    """The model as it was before `speed_up`; gives the same object. Raises UsageError for a model of another class."""
    _check(vae)
    for name in (BUDGET, *METHODS):
        vars(vae).pop(name, None)
    return vae


def _check(vae: object) -> None:
    model: Any = vae
    if not is_autoencoder_kl(model) or isinstance(model, AutoencoderKL):
        hint = " vaelens runs a VAE of its own through the engine already." if isinstance(vae, VAE) else ""
        raise UsageError(
            f"speed_up takes a model of diffusers' class AutoencoderKL, and this one is {type(vae).__name__}.{hint}"
        )
    missing = [name for name in METHODS if not hasattr(model, name)]
    if missing:
        raise UsageError(
            f"diffusers {diffusers().__version__} has no AutoencoderKL.{missing[0]}, which speed_up replaces. Install "
            "another version."
        )


def _encode(self: Any, x: Tensor) -> Tensor:
    """In place of the method of that name: pixels to moments."""
    moments = _run("encode", self, x)
    return _own(self, "_encode")(x) if moments is None else moments


def _decode(self: Any, z: Tensor, return_dict: bool = True) -> Any:
    """In place of the method of that name: z to pixels, as it returns them."""
    pixels = _run("decode", self, z)
    if pixels is None:
        return _own(self, "_decode")(z, return_dict=return_dict)
    return _output(pixels) if return_dict else (pixels,)


def _run(direction: Direction, model: Any, image: Tensor) -> Tensor | None:
    """In the model's dtype; None where its own code has to run."""
    parameter = next(model.parameters())
    fits = image.dim() == 4 and image.dtype == parameter.dtype and image.device == parameter.device
    if model.use_tiling or not fits:  # of an input that doesn't fit the model's own code says what is wrong
        return None
    found = EngineCalls(model, getattr(model, BUDGET, None)).run(direction, image)
    return None if found is None else found.to(image.dtype)


def _own(model: Any, name: str) -> Callable[..., Any]:
    kind: Any = model.__class__
    return MethodType(getattr(kind, name), model)


def _output(pixels: Tensor) -> Any:
    from diffusers.models.autoencoders.vae import DecoderOutput  # noqa: PLC0415  (the model's class has loaded it)

    return DecoderOutput(sample=pixels)
