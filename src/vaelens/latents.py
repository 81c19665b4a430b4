"""Latents: one image's with its provenance, and the files that hold them."""

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel
from torch import Tensor

from vaelens.errors import BadInputError, UsageError
from vaelens.json_reading import parse_json
from vaelens.sampling import Sampling, Size
from vaelens.tensors.safetensors_file import open_safetensors
from vaelens.tensors.writing import safetensors_bytes
from vaelens.text.paths import user_path
from vaelens.vae import latents_sha256
from vaelens.weights.registry import registry

LATENTS_KEY = "vaelens_latents"  # in the metadata of a file of latents


class ModelFacts(BaseModel):
    """The diffusion model that sampled a latent: what it is, its precision, its scheduler's class and options."""

    name: str
    source: Literal["embedded", "folder", "hub", "file"]
    commit: str | None = None
    variant: str | None = None
    dtype: str
    scheduler: str
    scheduler_options: dict[str, Any] = {}


class PromptProvenance(BaseModel):
    """How a latent was sampled from a prompt, with the model's defaults filled in."""

    sampling: Sampling
    seed: int
    model: ModelFacts


class PhotoProvenance(BaseModel):
    """How a latent was encoded from a photo; `photo_size` is height and width after shrinking to `max_side`."""

    photo: str
    photo_sha256: str
    photo_size: Size
    max_side: int | None
    encoder: str
    encoder_weights: str
    posterior: Literal["mode"] = "mode"


Provenance = PromptProvenance | PhotoProvenance


@dataclass(frozen=True)
class Latent:
    """One latent [1,c,h/f,w/f], scaled, fp32 on the CPU; its latent space and its provenance, None where unknown."""

    tensor: Tensor
    space: str | None
    provenance: Provenance | None = None

    @property
    def sha256(self) -> str:
        """Of its fp32 values."""
        return latents_sha256(self.tensor)


class _Metadata(BaseModel):
    """A latents file's metadata."""

    latent_space: str | None = None
    provenance: Provenance | None = None


def latents_bytes(latent: Latent) -> bytes:
    """The file of a latent: safetensors, its fp32 values, and its space and provenance as metadata."""
    metadata = _Metadata(latent_space=latent.space, provenance=latent.provenance).model_dump_json()
    return safetensors_bytes({"latents": latent.tensor.float().contiguous()}, {LATENTS_KEY: metadata})


def read_latents(path: str | os.PathLike[str], space: str | None = None) -> list[Latent]:
    """The latents in a safetensors file, one per image: vaelens' own, or one tensor [b,c,h,w] of scaled latents.

    `space` is their latent space where the file names none. Raises BadInputError for a file that holds none, and as
    `open_safetensors` does; UsageError for a space that contradicts the file's.
    """
    if Path(path).suffix.lower() != ".safetensors" or user_path(path).is_dir():
        raise BadInputError(
            f"{path}: latents are read from .safetensors files, as `compare -o FOLDER/` writes them. Name one."
        )
    opened = open_safetensors(Path(path))
    names = [name for name, shape in opened.shapes.items() if len(shape) == 4]
    if len(opened.shapes) != 1 or len(names) != 1:
        some = ", ".join(f"{n} {list(s)}" for n, s in list(opened.shapes.items())[:3]) or "nothing"
        raise BadInputError(
            f"{path}: a file of latents holds one tensor [b,c,h,w]; this one holds {some}. Name another file."
        )
    try:
        metadata = _Metadata.model_validate(parse_json(opened.metadata.get(LATENTS_KEY, "{}")))
    except (UsageError, ValueError) as error:  # pydantic's errors are ValueErrors
        reason = " ".join(str(error).split())[:100]
        raise BadInputError(
            f"{path}: its vaelens metadata is damaged ({reason}). Use the original, or a file without such metadata."
        ) from error
    found = metadata.latent_space
    if space is not None:
        registry().check_space(space)
        if found not in {None, space}:
            raise UsageError(f"{path}: its latents are of {found}, not of {space} (--space). Leave out --space.")
    tensor = opened.read(names)[names[0]].float()
    return [Latent(tensor[i : i + 1].contiguous(), found or space, metadata.provenance) for i in range(len(tensor))]
