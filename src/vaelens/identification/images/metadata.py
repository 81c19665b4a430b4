"""Every claim about its VAE that an image file's metadata hold, program by program."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, cast

from vaelens.files import StrPath
from vaelens.identification.images import comfyui, comfyui_workflow, infotext, invokeai, vaelens_metadata
from vaelens.identification.images.claims import Claim, distinct
from vaelens.images.text_metadata import ImageText, read_texts
from vaelens.json_reading import parse_json
from vaelens.png_metadata import PNG_KEY

PARAMETERS, PROMPT, WORKFLOW, COMMENT = "parameters", "prompt", "workflow", "usercomment"  # keys, in lower case
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
    """The texts by what they are: of EXIF, "prompt:{...}" under any key, and a comment that holds both graphs."""
    found: list[ImageText] = []
    for text in texts:
        key, colon, rest = text.text.partition(":")
        if text.place == "EXIF" and colon and key.lower() in {PROMPT, WORKFLOW} and rest.lstrip()[:1] == "{":
            found.append(ImageText(f"EXIF {text.key},", key.lower(), rest))
        elif text.key.lower() == COMMENT and text.text.lstrip()[:1] == "{":
            found.append(replace(text, key="UserComment"))
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
        _keep(key, parse_json(text.text, nan=True), place, graphs)
        return []
    if key == COMMENT and text.text.lstrip()[:1] == "{":
        found: Any = parse_json(text.text, nan=True)
        for name, inner in cast(dict[str, Any], found).items():
            if name.lower() in {PROMPT, WORKFLOW}:
                _keep(name.lower(), parse_json(inner, nan=True) if isinstance(inner, str) else inner, place, graphs)
        return []
    if key in {PARAMETERS, COMMENT, "imagedescription"}:
        claim = infotext.read_infotext(text.text, place)
        return [] if claim is None else [claim]
    return []


def _keep(key: str, found: Any, place: str, graphs: dict[str, tuple[comfyui.Graph, str]]) -> None:
    graph = comfyui.read_prompt(found) if key == PROMPT else comfyui_workflow.read_workflow(found)
    if graph:
        graphs.setdefault(key, (graph, place))


def _without_repetition(claims: Sequence[Claim]) -> list[Claim]:
    """Without the infotext that vaelens writes for other programs beside its own metadata, where it says the same."""
    own = {claim.vae for claim in claims if claim.program == vaelens_metadata.PROGRAM and claim.fingerprint}
    repeated = [claim.program == infotext.VAELENS and not claim.fingerprint and claim.vae in own for claim in claims]
    return distinct([claim for claim, again in zip(claims, repeated, strict=True) if not again])
