"""Latents: one image's with its provenance, and the files that hold them."""

import os
from dataclasses import dataclass
from typing import Any, Literal

from pydantic import BaseModel, ValidationError
from torch import Tensor

from vaelens.errors import BadInputError, UsageError
from vaelens.json_reading import parse_json
from vaelens.sampling import Sampling, Size
from vaelens.tensors.safetensors_file import open_safetensors
from vaelens.tensors.tensor_file import TensorFile
from vaelens.tensors.writing import safetensors_bytes
from vaelens.text.file_kinds import COMFYUI_TENSOR, LATENTS_KEY, LATENTS_TENSOR
from vaelens.text.numbers import counted
from vaelens.text.paths import is_folder, user_path
from vaelens.text.wrong_fields import explain_error
from vaelens.vae import latents_sha256
from vaelens.weights.other_networks import other_networks
from vaelens.weights.registry import registry

SUFFIXES = {".safetensors", ".latent"}
COMFYUI_FORMAT_0 = "latent_format_version_0"  # an empty tensor of a .latent file, beside COMFYUI_TENSOR


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
    return safetensors_bytes({LATENTS_TENSOR: latent.tensor.float().contiguous()}, {LATENTS_KEY: metadata})


def read_latents(path: str | os.PathLike[str], space: str | None = None) -> list[Latent]:
    """The latents in a file, one per image: vaelens' own, one tensor [b,c,h,w] of scaled latents, or ComfyUI's.

    ComfyUI's (.latent) hold raw z, or in its first format z * 0.18215, and name no space: `space` is the latent space
    where the file names none, and gives the scale. Raises BadInputError for a file that holds none, and as
    `open_safetensors` does; UsageError for a space that contradicts the file's, or is missing where it is needed;
    and as `user_path` does.
    """
    path = user_path(path)
    if not path.exists():  # before its suffix: a wrong name is the likelier mistake
        raise BadInputError(f"{path}: there is no such file. Check the path.")
    if is_folder(path) or path.suffix.lower() not in SUFFIXES:
        raise BadInputError(
            f"{path}: latents are read from .safetensors files, as `compare -o FOLDER/` writes them, and from .latent "
            "files of ComfyUI. Name one."
        )
    opened = open_safetensors(path)
    if space is not None:
        registry().check_space(space)
    if COMFYUI_TENSOR in opened.shapes:
        return _from_comfyui(opened, space)
    names = [name for name, shape in opened.shapes.items() if len(shape) == 4]
    if len(opened.shapes) != 1 or len(names) != 1:
        some = ", ".join(f"{n} {list(s)}" for n, s in list(opened.shapes.items())[:3]) or "nothing"
        what = " and ".join(other_networks(opened)) or some
        raise BadInputError(
            f"{path}: a file of latents holds one tensor [b,c,h,w]; this one holds {what}. Name another file."
        )
    metadata = _read_metadata(opened)
    found = metadata.latent_space
    if space is not None and found not in {None, space}:
        raise UsageError(f"{path}: its latents are of {found}, not of {space} (--space). Leave out --space.")
    tensor = opened.read(names)[names[0]].float()
    return _split(tensor, found or space, metadata.provenance)


def _read_metadata(opened: TensorFile) -> _Metadata:
    values: object = None
    try:
        values = parse_json(opened.metadata.get(LATENTS_KEY, "{}"))
        return _Metadata.model_validate(values)
    except (UsageError, ValueError) as error:
        reason = explain_error(error, values) if isinstance(error, ValidationError) else str(error).rstrip(".")
        raise BadInputError(
            f"{opened.path}: its vaelens metadata is damaged: {reason}. Use the original, or a file without such "
            "metadata."
        ) from error


def _from_comfyui(opened: TensorFile, space: str | None) -> list[Latent]:
    """What ComfyUI's SaveLatent wrote, as its LoadLatent reads it, in scaled latents.

    With COMFYUI_FORMAT_0 beside it the tensor is raw z, what a VAE there decodes; the older format, of Stable Diffusion
    1 and 2 only, had scaled latents, of which LoadLatent makes z by dividing by the scale of sd1.
    """
    shape = opened.shapes[COMFYUI_TENSOR]
    if len(shape) != 4:
        raise BadInputError(
            f"{opened.path}: its latents are {list(shape)}, not [b,c,h,w] of images: a video's, or packed ones. Name "
            "a file of an image's latents."
        )
    is_raw = COMFYUI_FORMAT_0 in opened.shapes
    space = space or (None if is_raw else "sd1")
    if space is None:
        fitting = [n for n in registry().spaces if (s := registry().space_spec(n)) and s.latent_channels == shape[1]]
        raise UsageError(
            f"{opened.path}: ComfyUI's latents don't say their latent space, which their scale depends on. Name it, "
            f"e.g. --space {fitting[0] if fitting else 'sd1'}."
        )
    spec, old = registry().space_spec(space), registry().space_spec("sd1")
    if spec is None or spec.latent_channels != shape[1]:
        expected = f"latents of {space} have {spec.latent_channels}" if spec else f"vaelens knows no scale of {space}"
        raise UsageError(
            f"{opened.path}: its latents have {counted(shape[1], 'channel')}, but {expected}. Name another --space."
        )
    tensor = opened.read([COMFYUI_TENSOR])[COMFYUI_TENSOR].float()
    if is_raw or spec != old:
        assert old is not None
        z = tensor if is_raw else tensor / old.scaling_factor
        tensor = spec.family.to_latents(z, spec, None)
    return _split(tensor, space, None)


def _split(tensor: Tensor, space: str | None, provenance: Provenance | None) -> list[Latent]:
    """One latent for each image."""
    return [Latent(tensor[i : i + 1].contiguous(), space, provenance) for i in range(len(tensor))]
