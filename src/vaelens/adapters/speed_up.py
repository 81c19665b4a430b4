"""diffusers' AutoencoderKL through the engine: the same values, sooner, and within a budget of memory.

vaelens.speed_up(pipe.vae, max_memory="2GB")
"""

import functools
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
OWN_CLASS = "_vaelens_own_class"  # of a class that calls the engine: the one that it stands for
METHODS = ("_encode", "_decode")  # what diffusers' encode and decode call for each slice of the batch


def speed_up(vae: Model, max_memory: int | str | None = None) -> Model:
    """Let the engine run diffusers' AutoencoderKL in `encode` and `decode`; gives the same object.

    Its parameters, config, state dict and what it saves stay as they are, and so do its calls: slicing, `return_dict`,
    generators, dtypes. Its class becomes one derived from its own, of the same name. `max_memory` ("2GB") is by how
    much a call may let memory grow beyond the loaded model; by default what is free. Values are those of the model
    within the tolerance of docs/exactness.md. A copy (`copy.deepcopy`, pickle, `torch.save` of the whole model) is sped
    up as well, with the same budget, and runs its own weights; to load one from a file, vaelens must be installed.

    The model's own code runs wherever the engine would pass something over: tiling, gradients (call it under
    torch.no_grad(), as pipelines do), hooks on its modules, adapters, modules compiled or replaced, autocast, another
    architecture. Called again it takes the new budget; `undo_speed_up` ends it. Raises UsageError for a model of
    another class, and for a `max_memory` that isn't an amount; calls raise it for a `max_memory` that is too little.
    """
    model: Any = vae
    _check(model)
    vars(model)[BUDGET] = bytes_of(max_memory)
    model.__class__ = _class_with_engine(_own_class(model))
    with torch.no_grad():
        if why := obstacle(model):
            log(f"speed_up: the model runs as it is for now, because {why}.")
    return vae


def undo_speed_up(vae: Model) -> Model:
    """The model as it was before `speed_up`; gives the same object. Raises UsageError for a model of another class."""
    _check(vae)
    model: Any = vae
    model.__class__ = _own_class(model)
    model.__dict__.pop(BUDGET, None)
    return vae


@functools.cache
def _class_with_engine(own: type[Any]) -> type[Any]:
    """A class of models whose calls go to the engine. Methods of a class follow copies; those of an object don't."""

    def encode(self: Any, x: Tensor) -> Tensor:
        """Pixels to moments."""
        moments = _run("encode", self, x)
        return own._encode(self, x) if moments is None else moments

    def decode(self: Any, z: Tensor, return_dict: bool = True) -> Any:
        """z to pixels, as the model's own method returns them."""
        pixels = _run("decode", self, z)
        if pixels is None:
            return own._decode(self, z, return_dict=return_dict)
        return _output(pixels) if return_dict else (pixels,)

    def reduce(self: Any, protocol: Any) -> tuple[Any, ...]:
        """For copies and pickles: the class isn't found by its name."""
        del protocol
        return _new, (own,), self.__dict__

    names = {"__module__": own.__module__, "__qualname__": own.__qualname__, "__doc__": own.__doc__, OWN_CLASS: own}
    methods = dict(zip(METHODS, (encode, decode), strict=True))
    return type(own.__name__, (own,), {**names, **methods, "__reduce_ex__": reduce})


def _new(own: type[Any]) -> Any:
    """A model of such a class without any state, which whoever copies it adds."""
    kind: Any = _class_with_engine(own)
    return kind.__new__(kind)


def _own_class(model: Any) -> type[Any]:
    kind: type[Any] = model.__class__
    return vars(kind).get(OWN_CLASS, kind)


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


def _run(direction: Direction, model: Any, image: Tensor) -> Tensor | None:
    """In the model's dtype; None where its own code has to run."""
    parameter = next(model.parameters())
    fits = image.dtype == parameter.dtype and image.device == parameter.device
    if model.use_tiling or not fits:  # of an input that doesn't fit the model's own code says what is wrong
        return None
    found = EngineCalls(model, getattr(model, BUDGET, None)).run(direction, image)
    return None if found is None else found.to(image.dtype)


def _output(pixels: Tensor) -> Any:
    from diffusers.models.autoencoders.vae import DecoderOutput  # noqa: PLC0415  (the model's class has loaded it)

    return DecoderOutput(sample=pixels)
