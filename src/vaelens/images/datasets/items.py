"""What a dataset is made of: sources of stored images, and the items taken from one."""

import hashlib
import json
import unicodedata
from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict, dataclass
from pathlib import PurePosixPath
from typing import TypeVar

from vaelens.errors import BadInputError, CheckFailedError
from vaelens.images.drawing import Box

T = TypeVar("T")

UNREADABLE = "unreadable"  # in the place of a sha256
MAX_BYTES = 2**29  # one image's file: more than the largest image we read takes, uncompressed


@dataclass(frozen=True)
class Item:
    """One image: a sample id unique in its dataset, the sha256 of its file, boxes in pixels as a preset reads it."""

    id: str
    sha256: str
    boxes: tuple[Box, ...] = ()


@dataclass(frozen=True)
class Source:
    """Stored images before any is chosen or read.

    name: how a report calls it
    origin: folder, zip, shards, hub, coco-val2017 or synthetic
    ids: sample ids, sorted
    read: from a sample id to the stored bytes; any number of threads may call it
    boxes: from a sample id to its labelled boxes
    scores: aesthetic scores by sample id; None where they aren't needed
    fields: what is stored beside the images, for the error where no score is found
    """

    name: str
    origin: str
    ids: tuple[str, ...]
    read: Callable[[str], bytes]
    notes: tuple[str, ...] = ()
    boxes: Callable[[str], tuple[Box, ...]] = lambda _: ()
    scores: Mapping[str, float] | None = None
    fields: tuple[str, ...] = ()


@dataclass(frozen=True)
class Dataset:
    """The chosen images of a source, sorted by id; `name` is what a report calls it, `notes` what it says below."""

    name: str
    origin: str
    items: tuple[Item, ...]
    notes: tuple[str, ...]
    source: Source

    def read(self, item: Item) -> bytes:
        """The stored file of one image, whole; any number of threads may call it.

        Raises BadInputError if it can't be read any more, CheckFailedError if it isn't what it was when the
        set was opened.
        """
        data = self.source.read(item.id)
        if hashlib.sha256(data).hexdigest() != item.sha256:
            raise CheckFailedError(f"{self.source.name}: {item.id} has changed since the run started. Start it again.")
        return data


def manifest_sha256(items: Iterable[Item]) -> str:
    """The sha256 of a set: over one JSON line [id, sha256] per item, sorted by id. Boxes don't count."""
    digest = hashlib.sha256()
    for item in sorted(items, key=lambda item: item.id):
        digest.update(json.dumps([item.id, item.sha256]).encode() + b"\n")
    return digest.hexdigest()


def boxes_sha256(items: Iterable[Item]) -> str:
    """The sha256 of a set's boxes, over one JSON list of [id, *boxes]."""
    boxes = [[item.id, *(list(asdict(box).values()) for box in item.boxes)] for item in items]
    return hashlib.sha256(json.dumps(boxes).encode()).hexdigest()


def clean_id(name: str, where: str) -> str:
    """A stored file's name as an id: a relative path with forward slashes, in one Unicode form (NFC).

    Bytes that are no UTF-8 are spelled out. Raises BadInputError for a name that leads out of `where`.
    """
    path = PurePosixPath(unicodedata.normalize("NFC", name.replace("\\", "/")))
    if path.is_absolute() or ".." in path.parts:
        raise BadInputError(f"{where} holds a file named {name!r}, which leads out of it. Pack it again.")
    return str(path).encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")


def by_id(pairs: Iterable[tuple[str, T]], where: str) -> dict[str, T]:
    """The pairs sorted by id. Raises BadInputError where two files come to the same id."""
    found: dict[str, T] = {}
    for name, value in pairs:
        if name in found:
            raise BadInputError(f"{where} holds two images that would both be called {name!r}. Rename one.")
        found[name] = value
    return dict(sorted(found.items()))
