"""InvokeAI's metadata: JSON in a PNG's text chunks.

- `invokeai_metadata` since 3.0: `vae` is the VAE "used for decoding, if the main model's default was not used", as
  `{"key": ..., "hash": "blake3:...", "name": ..., "base": ..., "type": "vae"}` since 4.0 and
  `{"model_name": ..., "base_model": ...}` in 3.x; `model` is the main model in the same form. The hash is of InvokeAI's
  own kind unless its settings ask for sha256.
- `sd-metadata` (2.x) and `Dream` (1.x and 2.x): the model alone.

Checked against InvokeAI 5 (`invokeai/app/invocations/metadata.py`) and the files of 2.x and 3.x.
"""

from collections.abc import Mapping
from typing import Any, cast

from vaelens.identification.images.claims import Claim, text_of
from vaelens.json_reading import parse_json

PROGRAM = "InvokeAI"
METADATA, OLD_METADATA, COMMAND = "invokeai_metadata", "sd-metadata", "dream"  # keys, in lower case
OLD_SILENCE = "Metadata of InvokeAI before 3.0 name no VAE."


def read_invokeai(key: str, text: str, place: str) -> Claim | None:
    """What one of InvokeAI's texts says; None for a key that isn't InvokeAI's.

    Raises ValueError, with a reason, where the text isn't the JSON object that it should be.
    """
    key = key.lower()
    if key == COMMAND:
        return Claim(PROGRAM, place, notes=(OLD_SILENCE,))
    if key not in {METADATA, OLD_METADATA}:
        return None
    found: Any = parse_json(text, nan=True)
    if not isinstance(found, dict):
        raise ValueError("it isn't a JSON object")
    values = cast(dict[str, Any], found)
    if key == OLD_METADATA:
        model = text_of(values.get("model_weights")) or text_of(values.get("model"))
        return Claim(PROGRAM, place, checkpoint=model, notes=(OLD_SILENCE,))
    vae, model = _named(values.get("vae")), _named(values.get("model"))
    name = vae.get("name") or vae.get("model_name")
    checkpoint = model.get("name") or model.get("model_name")
    if name or vae.get("hash"):
        return Claim(PROGRAM, place, name, vae.get("hash"), checkpoint)
    if "generation_mode" in values or checkpoint:  # a generated image, with the model's own VAE
        return Claim(PROGRAM, place, checkpoint=checkpoint, own_vae=True)
    return Claim(PROGRAM, place, notes=("It names no VAE.",))


def _named(found: Any) -> Mapping[str, str]:
    """The texts of a model's description; of a model given by name alone, the name."""
    if isinstance(found, dict):
        return {key: text for key, value in cast(dict[str, Any], found).items() if (text := text_of(value))}
    name = text_of(found)
    return {} if name is None else {"name": name}
