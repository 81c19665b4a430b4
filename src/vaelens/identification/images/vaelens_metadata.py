"""vaelens' own metadata: the JSON of `vaelens.png_metadata`, of one image or of a sheet's.

Read more leniently than for a replay: of metadata from another version or changed by hand, what is there counts.
"""

from typing import Any, cast

from vaelens.identification.images.claims import Claim, text_of
from vaelens.json_reading import parse_json
from vaelens.png_metadata import SHEET_KEY

PROGRAM = "vaelens"


def read_own(text: str, place: str) -> list[Claim]:
    """One claim per image. Raises ValueError, with a reason, where the text isn't the JSON object that it should be."""
    found: Any = parse_json(text)
    if not isinstance(found, dict):
        raise ValueError("it isn't a JSON object")
    values = cast(dict[str, Any], found)
    sheet = values.get(SHEET_KEY)
    parts = cast(list[Any], sheet) if isinstance(sheet, list) else [values]
    return [_claim(cast(dict[str, Any], part), place) for part in parts if isinstance(part, dict)]


def _claim(values: dict[str, Any], place: str) -> Claim:
    vae, provenance = _object(values.get("vae")), _object(values.get("provenance"))
    name, weights = text_of(vae.get("name")), text_of(vae.get("weights"))
    model = text_of(_object(provenance.get("model")).get("name"))
    notes = () if name or weights else ("It names no VAE.",)
    return Claim(PROGRAM, place, name, checkpoint=model, fingerprint=weights, notes=notes)


def _object(found: Any) -> dict[str, Any]:
    return cast(dict[str, Any], found) if isinstance(found, dict) else {}
