"""COCO 2017's 5,000 validation images, downloaded once and checked, with boxes on the eyes of people."""

import tomllib
from collections.abc import Iterable
from dataclasses import replace
from importlib.resources import files

from vaelens.download.web_files import WebFile, fetch_web
from vaelens.images.boxes import coco_eye_boxes
from vaelens.images.datasets.items import Source, by_id
from vaelens.images.datasets.zips import open_zip
from vaelens.images.drawing import Box
from vaelens.runtime import DEFAULT, Runtime

NAME = "coco-val2017"
FOLDER = "val2017/"  # inside the zip; ids are without it, as they are when the unpacked folder is named


def coco_files() -> dict[str, WebFile]:
    """What `open_coco` downloads: "images" and, for the eyes, "annotations"."""
    table = tomllib.loads(files("vaelens.images.datasets").joinpath("coco.toml").read_text("utf-8"))
    return {what: WebFile(**file | {"urls": tuple(file["urls"])}) for what, file in table.items()}


def open_coco(*, eyes: bool = True, runtime: Runtime = DEFAULT) -> Source:
    """val2017.zip, 816 MB, and with `eyes` the annotations, 253 MB; ids are file names, 000000000139.jpg.

    Raises what `fetch_web` does, including CheckFailedError for other bytes than published.
    """
    archives = coco_files()
    zipped = open_zip(fetch_web(archives["images"], runtime))
    members = by_id(((name.removeprefix(FOLDER), name) for name in zipped.ids), NAME)
    boxes = coco_eye_boxes(fetch_web(archives["annotations"], runtime)) if eyes else {}

    def pieces(name: str) -> Iterable[bytes]:
        return zipped.pieces(members[name])

    def eyes_of(name: str) -> tuple[Box, ...]:
        return boxes.get(name, ())

    return replace(zipped, name=NAME, origin=NAME, ids=tuple(members), pieces=pieces, boxes=eyes_of, notes=())
