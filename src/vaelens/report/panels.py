"""What the viewer shows, as data: images in all their versions, and by which decoders they were made."""

import base64
import hashlib
import json
import struct
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from vaelens.images.drawing import Box
from vaelens.runs.versions import versions

PNG_SIGNATURE = b"\x89PNG\r\n\x1a\n"
PIXEL_CHUNKS = {b"IHDR", b"IDAT"}
PAGE_SCHEMA = 1  # of the id: results of pages whose ids were made in another way don't pool


@dataclass(frozen=True)
class Decoder:
    """A VAE by its weights: the sha256 of its encoder and of its decoder, as stored."""

    encoder: str
    decoder: str

    @staticmethod
    def of(record: Mapping[str, Any]) -> "Decoder":
        """From a VAE's record, as `report.record.vae_record` makes it."""
        return Decoder(*(record["fingerprint"][half]["stored"] for half in ("encoder", "decoder")))


@dataclass(frozen=True)
class Layer:
    """One image of a panel, the original or a version of it; `note` holds its scores, or is "".

    `decoder` made it from the latents with this sha256, where they are known; the original has neither. A decoder has
    the same name in all panels of a page, and no other has it.
    """

    name: str
    png: bytes
    note: str
    decoder: Decoder | None = None
    latents_sha256: str | None = None


@dataclass(frozen=True)
class Panel:
    """One image in all its versions, the original first, all `width` x `height` pixels.

    `note` is the line under the title, or "". `boxes` are regions to jump to, in the panel's pixels.
    """

    title: str
    width: int
    height: int
    layers: tuple[Layer, ...]
    note: str = ""
    boxes: tuple[Box, ...] = ()


def check_panel(panel: Panel) -> None:
    """Raises ValueError for a panel without layers, and for a layer that isn't a PNG of the panel's size: layers are
    laid over each other.
    """
    if not panel.layers:
        raise ValueError(f"{panel.title}: a panel without layers")
    for layer in panel.layers:
        is_png = layer.png.startswith(PNG_SIGNATURE)
        size = struct.unpack(">II", layer.png[16:24]) if is_png else None
        if size != (panel.width, panel.height):
            found = f"{size[0]} x {size[1]}" if size else "no PNG"
            raise ValueError(f"{panel.title}: layer {layer.name} is {found}, not {panel.width} x {panel.height}")


def panels_data(panels: Sequence[Panel], sources: Sequence[str]) -> list[dict[str, Any]]:
    """The panels as the viewer's script takes them. `sources` are the addresses of all layers' images, in order."""
    number = {name: i for i, name in enumerate(_decoders(panels))}
    source = iter(sources)
    return [
        {
            "title": _well_formed(panel.title),
            "note": panel.note,
            "width": panel.width,
            "height": panel.height,
            "layers": [
                {
                    "name": _well_formed(layer.name),
                    "note": layer.note,
                    "src": next(source),
                    "decoder": None if layer.decoder is None else number[layer.name],
                    "latents": layer.latents_sha256,
                }
                for layer in panel.layers
            ],
            "boxes": [asdict(box) | {"label": _well_formed(box.label)} for box in panel.boxes],
        }
        for panel in panels
    ]


def image_sources(panels: Sequence[Panel]) -> list[str]:
    """All layers' images as data: URLs, in order."""
    encoded = (base64.b64encode(layer.png).decode("ascii") for panel in panels for layer in panel.layers)
    return [f"data:image/png;base64,{text}" for text in encoded]


def blind_data(panels: Sequence[Panel]) -> dict[str, Any] | None:
    """What a blind test of these panels records: the page's id, our version, the decoders in order. None where no
    panel shows two decoders.
    """
    if not any(sum(layer.decoder is not None for layer in panel.layers) > 1 for panel in panels):
        return None
    decoders = [{"name": _well_formed(name), **asdict(decoder)} for name, decoder in _decoders(panels).items()]
    return {"page": page_id(panels), "vaelens": versions()["vaelens"], "decoders": decoders}


def page_id(panels: Sequence[Panel]) -> str:
    """sha256 over the images' sizes and pixels, the latents and the decoders' weights: names and notes don't count."""
    content = [
        [
            panel.width,
            panel.height,
            [
                [layer.decoder and asdict(layer.decoder), layer.latents_sha256, _pixels_sha256(layer.png)]
                for layer in panel.layers
            ],
        ]
        for panel in panels
    ]
    return hashlib.sha256(json.dumps([PAGE_SCHEMA, content]).encode()).hexdigest()


def _well_formed(text: str) -> str:
    """Without lone surrogates, as a file's name may hold: no result with one could be written as UTF-8."""
    return text.encode("utf-8", "replace").decode("utf-8")


def _decoders(panels: Sequence[Panel]) -> dict[str, Decoder]:
    """By name, in the order of the first panel that has them."""
    return {layer.name: layer.decoder for panel in panels for layer in panel.layers if layer.decoder is not None}


def _pixels_sha256(png: bytes) -> str:
    """Of a PNG's compressed pixels, without its texts."""
    found = hashlib.sha256()
    for kind, content in _chunks(png):
        if kind in PIXEL_CHUNKS:
            found.update(content)
    return found.hexdigest()


def _chunks(png: bytes) -> Iterator[tuple[bytes, bytes]]:
    at = len(PNG_SIGNATURE)
    while at + 8 <= len(png):
        length, kind = struct.unpack(">I4s", png[at : at + 8])
        yield kind, png[at + 8 : at + 8 + length]
        at += length + 12
