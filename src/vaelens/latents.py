"""Latents: one image's, with all that made it, and the files that hold them."""

import json
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ValidationError
from safetensors.torch import save as safetensors_bytes
from torch import Tensor

from vaelens.errors import BadInputError, UsageError
from vaelens.files import write_atomic
from vaelens.tensors.safetensors_file import open_safetensors
from vaelens.vae import latents_sha256
from vaelens.weights.registry import registry

CHUNK = "vaelens"  # the PNG text in which an image says what made it
KEPT = ("name", "latent_space", "weights", "fingerprint", "dtype", "device")  # of a VAE there: no path of this machine
LATENTS_KEY = "vaelens_latents"  # in the metadata of a file of latents


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


class Prompted(BaseModel):
    """How a latent was made from a prompt, as `Generator.described` and its seed say it."""

    prompt: str
    negative_prompt: str | None
    steps: int
    guidance: float
    height: int
    width: int
    seed: int
    scheduler: str
    scheduler_asked: str | None
    scheduler_options: dict[str, Any] = {}
    model: str
    model_source: Literal["embedded", "folder", "hub", "file"]
    model_commit: str | None = None
    model_dtype: str


class _Said(BaseModel):
    """A latents file's metadata."""

    latent_space: str | None = None
    made: dict[str, Any] = {}


def latents_bytes(latent: Latent) -> bytes:
    """The file of a latent: safetensors, its fp32 values and all that made it."""
    metadata = {LATENTS_KEY: json.dumps({"latent_space": latent.space, "made": latent.made}, sort_keys=True)}
    return safetensors_bytes({"latents": latent.tensor.float().contiguous()}, metadata)


def save_latents(path: str | os.PathLike[str], latent: Latent) -> Path:
    """Write `latents_bytes`; raises as `write_atomic` does."""
    return write_atomic(path, latents_bytes(latent))


def read_latents(path: str | os.PathLike[str], space: str | None = None) -> list[Latent]:
    """The latents in a safetensors file, an image each: vaelens' own, or one tensor [b,c,h,w] of scaled latents.

    `space` says their latent space where the file doesn't. Raises BadInputError for a file that holds none, and as
    `open_safetensors` does; UsageError for a space that contradicts the file's.
    """
    if Path(path).is_dir() or Path(path).suffix.lower() != ".safetensors":
        raise BadInputError(
            f"{path}: latents lie in a .safetensors file, such as `compare -o FOLDER/` writes. Name one."
        )
    opened = open_safetensors(Path(path))
    names = [name for name, shape in opened.shapes.items() if len(shape) == 4]
    if len(opened.shapes) != 1 or len(names) != 1:
        some = ", ".join(f"{n} {list(s)}" for n, s in list(opened.shapes.items())[:3]) or "nothing"
        raise BadInputError(
            f"{path}: a file of latents holds one tensor [b,c,h,w], this one {some}. Name another file."
        )
    try:
        said = _Said.model_validate(json.loads(opened.metadata.get(LATENTS_KEY, "{}")))
        known, made = said.latent_space, said.made
        if "prompt" in made:
            Prompted.model_validate(made)
    except (ValidationError, ValueError, RecursionError) as error:
        first = " ".join(str(error).split())[:100]
        raise BadInputError(
            f"{path}: its vaelens metadata is damaged ({first}). Take the original, or name a file without any."
        ) from error
    if space is not None:
        registry().check_space(space)
        if known not in {None, space}:
            raise UsageError(f"{path}: latents of {known} by the file, of {space} by --space. Leave out --space.")
    tensor = opened.read(names)[names[0]].float()
    return [Latent(tensor[i : i + 1].contiguous(), known or space, made) for i in range(len(tensor))]
