"""Every claim about its VAE that an image file's metadata hold, program by program."""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

from vaelens.files import StrPath
from vaelens.identification.images import comfyui, comfyui_workflow, infotext, invokeai, vaelens_metadata
from vaelens.identification.images.claims import Claim, distinct
from vaelens.images.text_metadata import ImageText, read_texts
from vaelens.json_reading import parse_json
from vaelens.png_metadata import PNG_KEY

PARAMETERS, PROMPT, WORKFLOW, COMMENT = "parameters", "prompt", "workflow", "usercomment"  # keys, in lower case
JSON_OBJECT = re.compile(r'\ufeff?\s*\{\s*(?:"|\Z)')  # how one begins, and "{masterpiece}, a castle" doesn't
INVOKEAI = {invokeai.METADATA, invokeai.OLD_METADATA, invokeai.COMMAND}


@dataclass(frozen=True)
class ImageMetadata:
    """What an image's metadata claim; `unread` says in sentences which of them couldn't be read, and why."""

    path: Path
    claims: tuple[Claim, ...]
    unread: tuple[str, ...]


def read_metadata(path: StrPath) -> ImageMetadata:
    """The claims in an image's metadata. Whatever they hold, they are read in bounded time and memory.

    Raises as `read_texts` does, for a file that isn't an image.
    """
    claims: list[Claim] = []
    unread: list[str] = []
    graphs: dict[str, tuple[comfyui.Graph, str]] = {}
    for text in _split(read_texts(path)):
        place = f"{text.place} `{text.key}`"
        try:
            claims += _claims(text, place, graphs)
        except ValueError as error:
            unread.append(f"{place} can't be read: {error}.")
    for kind in (PROMPT, WORKFLOW):  # the drawing only where the graph that ran isn't there
        if kind in graphs:
            claims += comfyui.read_graph(*graphs[kind])
            break
    return ImageMetadata(Path(path), tuple(_without_repetition(claims)), tuple(unread))


def _split(texts: Sequence[ImageText]) -> list[ImageText]:
    """The texts by what they are: of EXIF, "prompt:{...}" under any key."""
    found: list[ImageText] = []
    for text in texts:
        key, colon, rest = text.text.partition(":")
        if text.place == "EXIF" and colon and key.lower() in {PROMPT, WORKFLOW} and JSON_OBJECT.match(rest):
            found.append(ImageText(f"EXIF {text.key},", key.lower(), rest))
        else:
            found.append(text)
    return found


def _claims(text: ImageText, place: str, graphs: dict[str, tuple[comfyui.Graph, str]]) -> list[Claim]:
    """The claims of one text; graphs are put aside. Raises ValueError for JSON that can't be read."""
    key = text.key.lower()
    if key == PNG_KEY and text.place == "PNG text":
        return vaelens_metadata.read_own(text.text, place)
    if key in INVOKEAI:
        claim = invokeai.read_invokeai(key, text.text, place)
        return [] if claim is None else [claim]
    if key in {PROMPT, WORKFLOW}:
        _keep(key, text.text, place, graphs)
        return []
    if key not in {PARAMETERS, COMMENT, "imagedescription"}:
        return []
    wrong: ValueError | None = None
    if key == COMMENT and JSON_OBJECT.match(text.text):
        try:
            both = _both_graphs(text.text)
        except ValueError as error:
            both, wrong = {}, error
        for name, inner in both.items():
            _keep(name, inner, place, graphs)
        if both:
            return []
    claim = infotext.read_infotext(text.text, place)
    if claim is None and wrong is not None:
        raise wrong
    return [] if claim is None else [claim]


def _both_graphs(text: str) -> dict[str, Any]:
    """What a comment that is a JSON object has under `prompt` and `workflow`. Raises ValueError for one that isn't."""
    found: Any = parse_json(text, nan=True)
    return {
        key.lower(): value for key, value in cast(dict[str, Any], found).items() if key.lower() in {PROMPT, WORKFLOW}
    }


def _keep(key: str, found: Any, place: str, graphs: dict[str, tuple[comfyui.Graph, str]]) -> None:
    """Put a graph aside. A text that isn't meant as JSON, as a plain prompt isn't, is none."""
    if isinstance(found, str):
        if not JSON_OBJECT.match(found):
            return
        found = parse_json(found, nan=True)
    graph = comfyui.read_prompt(found) if key == PROMPT else comfyui_workflow.read_workflow(found)
    if graph:
        graphs.setdefault(key, (graph, place))


def _without_repetition(claims: Sequence[Claim]) -> list[Claim]:
    """Without the infotext that vaelens writes for other programs beside its own metadata, where it says the same."""
    own = {claim.vae for claim in claims if claim.program == vaelens_metadata.PROGRAM and claim.fingerprint}
    repeated = [claim.program == infotext.VAELENS and not claim.fingerprint and claim.vae in own for claim in claims]
    return distinct([claim for claim, again in zip(claims, repeated, strict=True) if not again])
