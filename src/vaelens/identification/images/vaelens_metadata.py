"""vaelens' own metadata: the JSON of `vaelens.png_metadata`, of one image, a sheet or a strip of `reconstruct`.

Read more leniently than for a replay: of metadata from another version or changed by hand, what is there counts.
"""

from typing import Any, cast

from vaelens.identification.images.claims import Claim, at_most, distinct, text_of
from vaelens.json_reading import parse_json
from vaelens.png_metadata import SHEET_KEY
from vaelens.weights.fingerprint import Digests, Fingerprint

PROGRAM = "vaelens"
VAES_KEY = "vaes"  # in the JSON of a strip: each VAE that decoded some of it


def read_own(text: str, place: str) -> list[Claim]:
    """One claim per VAE of an image, a sheet or a strip, up to MOST_CLAIMS.

    Raises ValueError, with a reason, where the text isn't the JSON object that it should be.
    """
    found: Any = parse_json(text)
    if not isinstance(found, dict):
        raise ValueError("it isn't a JSON object")
    values = cast(dict[str, Any], found)
    sheet = values.get(SHEET_KEY)
    vaes = values.get(VAES_KEY)
    if isinstance(sheet, list):
        parts = cast(list[Any], sheet)
    elif isinstance(vaes, list) and vaes:
        parts = [{"vae": vae} for vae in cast(list[Any], vaes)]
    else:
        parts = [values]
    claims = distinct([_claim(cast(dict[str, Any], part), place) for part in parts if isinstance(part, dict)])
    return at_most(claims, PROGRAM, place, "VAEs")


def _claim(values: dict[str, Any], place: str) -> Claim:
    vae, provenance = _object(values.get("vae")), _object(values.get("provenance"))
    name, weights = text_of(vae.get("name")), text_of(vae.get("weights"))
    model = text_of(_object(provenance.get("model")).get("name"))
    notes = () if name or weights else ("It names no VAE.",)
    return Claim(PROGRAM, place, name, checkpoint=model, fingerprint=weights, digests=_digests(vae), notes=notes)


def _digests(vae: dict[str, Any]) -> Fingerprint | None:
    """A VAE's whole fingerprint; None where it isn't one."""
    halves = [_object(_object(vae.get("fingerprint")).get(half)) for half in ("encoder", "decoder")]
    texts = [[text_of(half.get(kind)) for kind in ("stored", "fp16", "bf16")] for half in halves]
    if any(text is None for half in texts for text in half):
        return None
    return Fingerprint(*(Digests(*(text or "" for text in half)) for half in texts))


def _object(found: Any) -> dict[str, Any]:
    return cast(dict[str, Any], found) if isinstance(found, dict) else {}
