"""What a dataset is made of: sources of stored images, and the items taken from one."""

import hashlib
import itertools
import json
import re
import unicodedata
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass
from io import BytesIO
from pathlib import Path, PurePosixPath
from typing import TypeVar

from vaelens.errors import BadInputError, CheckFailedError
from vaelens.images.drawing import Box

T = TypeVar("T")

UNREADABLE = "unreadable"  # in the place of a sha256
MAX_BYTES = 2**29  # one image's file: more than the largest image we read takes, uncompressed
PIECE = 2**18  # bytes in memory at once, of a file that is only hashed
# Of an archive with more members or rows, each must take some bytes: ids need more memory than a lie takes on disk.
FREE_MEMBERS = 60_000
MEMBER_BYTES = 200  # the smallest images of real datasets, 28x28 grey ones, take about 300
# What would disturb a terminal, a table or a line of text; the rest of Unicode stays.
UNSAFE = re.compile("[\x00-\x1f\x7f-\x9f\u2028\u2029\u202a-\u202e\u2066-\u2069]")


@dataclass(frozen=True, slots=True)
class Item:
    """One image: a sample id unique in its dataset, the sha256 of its file, boxes in pixels as a preset reads it."""

    id: str
    sha256: str
    boxes: tuple[Box, ...] = ()


@dataclass(frozen=True)
class Source:
    """Stored images before any is chosen or read.

    name: how a report calls it
    origin: folder, zip, shards, parquet, hub, coco-val2017 or synthetic
    ids: sample ids, sorted
    pieces: from a sample id to the stored bytes, in pieces that are read one after the other; any number of threads
        may call it
    boxes: from a sample id to its labelled boxes
    scores: aesthetic scores by sample id; None where they aren't needed
    fields: what is stored beside the images, for the error where no score is found
    originals: where the stored images were made of others, the sha256 of those by sample id. They identify an image;
        `pieces` then checks by itself that what it reads is what was stored
    """

    name: str
    origin: str
    ids: tuple[str, ...]
    pieces: Callable[[str], Iterable[bytes]]
    notes: tuple[str, ...] = ()
    boxes: Callable[[str], tuple[Box, ...]] = lambda _: ()
    scores: Mapping[str, float] | None = None
    fields: tuple[str, ...] = ()
    originals: Mapping[str, str] | None = None

    def read(self, name: str) -> bytes:
        """The stored bytes of one image, whole."""
        pieces = iter(self.pieces(name))
        first, second = next(pieces, b""), next(pieces, None)
        if second is None:
            return first
        whole = BytesIO()  # b"".join would need twice the memory
        for piece in itertools.chain((first, second), pieces):
            whole.write(piece)
        return whole.getvalue()

    def sha256(self, name: str) -> str:
        """The sha256 of one image's file, of which only a piece is in memory at a time."""
        if self.originals is not None:
            return self.originals[name]
        digest = hashlib.sha256()
        for piece in self.pieces(name):
            digest.update(piece)
        return digest.hexdigest()


@dataclass(frozen=True)
class Dataset:
    """The chosen images of a source, sorted by id; `name` is what a report calls it, `notes` what it says below.

    `if_changed` says since when its files are the same, and what to do where one isn't.
    """

    name: str
    origin: str
    items: tuple[Item, ...]
    notes: tuple[str, ...]
    source: Source
    if_changed: str = "since the run started. Run the command again."

    def read(self, item: Item) -> bytes:
        """The stored file of one image, whole; any number of threads may call it.

        Raises BadInputError if it can't be read any more, CheckFailedError if it isn't what it was when the
        set was opened.
        """
        data = self.source.read(item.id)
        if self.source.originals is None and hashlib.sha256(data).hexdigest() != item.sha256:
            # The id of a single image, and of one in a single shard, begins with the source's name.
            where = item.id if item.id.startswith(self.source.name) else f"{self.source.name}: {item.id}"
            raise CheckFailedError(f"{where} has changed {self.if_changed}")
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

    Bytes that aren't UTF-8, control characters and others of UNSAFE are spelled out. Raises BadInputError for a name
    that leads out of `where`.
    """
    path = PurePosixPath(unicodedata.normalize("NFC", name.replace("\\", "/")))
    if path.is_absolute() or ".." in path.parts:
        raise BadInputError(f"{where} holds a file named {name!r}, which leads out of it. Pack it again.")
    text = str(path).encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")
    return UNSAFE.sub(lambda found: found[0].encode("unicode_escape").decode(), text)


def check_count(count: int, what: str, size: int, where: str) -> None:
    """Raises BadInputError for more members or rows than images can be in a file of `size` bytes."""
    if count > max(FREE_MEMBERS, size // MEMBER_BYTES):
        raise BadInputError(
            f"{where} holds {count:,} {what} in {size:,} bytes, too few bytes for so many images. "
            "Make it again, or leave it out."
        )


def too_large(name: str, size: int) -> BadInputError:
    """The error for a file beyond MAX_BYTES."""
    return BadInputError(f"{name} has {size:,} bytes; an image's file may have at most {MAX_BYTES:,}. Leave it out.")


def bytes_at(path: Path, offset: int, size: int) -> Iterator[bytes]:
    """The `size` bytes from `offset` on, in pieces. Raises BadInputError where they can't be read any more."""
    try:
        with path.open("rb") as file:
            file.seek(offset)
            while size > 0:
                piece = file.read(min(size, PIECE))
                if not piece:
                    raise BadInputError(f"{path} is shorter than when it was indexed. Copy it again.")
                size -= len(piece)
                yield piece
    except OSError as error:
        raise BadInputError(f"{path}: can't be read: {error.strerror}. Check its permissions.") from error


def by_id(pairs: Iterable[tuple[str, T]], where: str) -> dict[str, T]:
    """The pairs sorted by id. Raises BadInputError where two files come to the same id."""
    found: dict[str, T] = {}
    for name, value in pairs:
        if name in found:
            raise BadInputError(f"{where} holds two images that would both be called {name!r}. Rename one.")
        found[name] = value
    return dict(sorted(found.items()))
