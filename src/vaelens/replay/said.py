"""What an image says of itself, read and checked: it may come from anywhere."""

import json
import os
from typing import Any, cast

from pydantic import BaseModel, ValidationError

from vaelens.decoding import Decoded
from vaelens.errors import BadInputError
from vaelens.files import json_text
from vaelens.images.reading import read_text
from vaelens.latents import CHUNK, KEPT, Latent
from vaelens.report.record import vae_record
from vaelens.runs.versions import versions
from vaelens.vae import VAE

File = str | os.PathLike[str]
Size = tuple[int, int]


class Served(BaseModel):
    """The VAE that decoded it."""

    name: str
    weights: str
    dtype: str
    device: str


class Photographed(BaseModel):
    """How a latent was made from a photo; the encoder is the first VAE's, not always the decoder's."""

    photo: str
    encoder: str
    encoder_weights: str
    max_side: int | None


class Said(BaseModel):
    """What an image says of itself. It may come from anywhere: names in it are names, never paths."""

    made: dict[str, Any]
    vae: Served
    latent_space: str | None
    latents_sha256: str
    size: Size
    safety_checker: bool
    threads: int
    versions: dict[str, str]


def read_said(image: File) -> Said:
    text = read_text(image)
    if CHUNK not in text:
        hint = " It has another tool's `parameters`: generate with those." if "parameters" in text else ""
        raise BadInputError(f"{image} doesn't say how vaelens made it; `generate` and `compare` write that.{hint}")
    try:
        said = json.loads(text[CHUNK])
        if isinstance(said, dict) and "sheet" in said:
            count = len(cast(dict[str, list[Any]], said)["sheet"])
            raise BadInputError(
                f"{image} is a sheet of {count} images; replay takes one alone. `compare -o FOLDER/` writes each."
            )
        return Said.model_validate(said)
    except (ValidationError, ValueError, RecursionError) as error:
        first = str(error).splitlines()[0][:100]
        raise BadInputError(f"{image}: what it says of itself can't be replayed ({first}).") from error


def text_again(image: File, latent: Latent, decoder: VAE, made: Decoded, threads: int) -> dict[str, str]:
    """What the new image says of itself."""
    text = read_text(image)
    vae = {key: value for key, value in vae_record(decoder).items() if key in KEPT}
    changed = {"vae": vae, "decoded_in": made.dtype, "latents_sha256": latent.sha256}
    changed |= {"hidden": made.hidden, "versions": versions(), "threads": threads}
    text[CHUNK] = json_text(json.loads(text[CHUNK]) | changed)
    return text | {"vae": decoder.name, "fingerprint": decoder.fingerprint.short}
