"""webdataset shards: tar files whose members share a key, as img2dataset writes them.

00000.tar: 000000012.jpg, 000000012.json (its data), 000000012.txt (its caption), ...

A key is a member's folder and its name up to the first dot, as webdataset defines it; the rest is the extension.
A key's image is called by the key. Where a key has several (0.input.png, 0.target.png), each is an image of the
dataset, called by its whole name. An image's data are in the json of its own name (0.input.json), else in that of its
key (0.json).
"""

import json
import math
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from decimal import Decimal
from pathlib import Path
from typing import cast

from vaelens.errors import BadInputError
from vaelens.images.datasets.archives import tar_headers
from vaelens.images.datasets.archives.tar_headers import TarMember, WrongTarError
from vaelens.images.datasets.folders import suffix_of
from vaelens.images.datasets.items import MAX_BYTES, Source, by_id, bytes_at, clean_id, too_large
from vaelens.images.datasets.left_out import UNREAD, note_on_left_out
from vaelens.images.reading import SUFFIXES
from vaelens.runtime import DEFAULT, Runtime
from vaelens.text.numbers import parse_number

# What lists of LAION, its descendants and COYO call their aesthetic score, the first found counts.
SCORES = (
    "aesthetic",
    "AESTHETIC_SCORE",
    "aesthetic_score",
    "aesthetics_score",
    "aesthetic_score_laion_v2",
    "laion_aesthetic",
    "AESTHETIC",
)
MAX_JSON = 2**20  # its objects take twenty times as much
COMPRESSED = {b"\x1f\x8b": "gzip", b"BZh": "bzip2", b"\xfd7zXZ": "xz", b"\x28\xb5\x2f\xfd": "zstd"}


@dataclass(frozen=True, slots=True)
class Member:
    """Where an image lies: `size` bytes from `offset` on."""

    path: Path
    offset: int
    size: int


@dataclass(frozen=True)
class Shard:
    """What one tar holds: images by the last part of their ids, the scores and fields beside them, what is left out."""

    images: dict[str, Member] = field(default_factory=dict[str, Member])
    scores: dict[str, float] = field(default_factory=dict[str, float])
    fields: set[str] = field(default_factory=set[str])
    left_out: Counter[str] = field(default_factory=Counter[str])
    reasons: Counter[str] = field(default_factory=Counter[str])
    several: int = 0  # images whose key has others


def open_shards(
    paths: Sequence[Path], root: Path, name: str, *, scored: bool = False, runtime: Runtime = DEFAULT
) -> Source:
    """The images in tar files; ids are a tar's path below `root` and the key: 00000.tar/000000012.

    Each tar is gone through once, by its headers, and read at random later. With `scored` the json beside
    each image is read for its aesthetic score.

    Raises BadInputError for a tar that is damaged, incomplete or compressed, one with data behind its end, two
    images of one name, and where there is no image at all.
    """
    found: list[tuple[str, Member]] = []
    scores: dict[str, float] = {}
    fields: set[str] = set()
    left_out, reasons = Counter[str](), Counter[str]()
    several = 0
    for done, path in enumerate(sorted(paths)):
        runtime.progress(done, len(paths), "indexing shards")
        shard = index_tar(path, scored=scored)
        prefix = clean_id(str(path.relative_to(root)), str(root))
        found += [(f"{prefix}/{key}", member) for key, member in shard.images.items()]
        scores |= {f"{prefix}/{key}": score for key, score in shard.scores.items()}
        fields |= shard.fields
        left_out += shard.left_out
        reasons += shard.reasons
        several += shard.several
    members = by_id(found, name)
    notes = note_on_left_out(left_out, reasons)
    if not members:
        raise BadInputError(f"{name} holds no images{f': {notes[0]}' if notes else ''}. Name other shards.")
    if several:
        notes += (f"{several:,} images share their keys with others: each counts, under its whole name",)

    def pieces(key: str) -> Iterator[bytes]:
        member = members[key]
        return bytes_at(member.path, member.offset, member.size)

    return Source(
        name,
        "shards",
        tuple(members),
        pieces,
        notes,
        scores=scores if scored else None,
        fields=tuple(sorted(fields)),
    )


def index_tar(path: Path, *, scored: bool = False) -> Shard:
    """One pass over a tar's headers; with `scored` the json members are read too."""
    images: dict[str, Member] = {}  # by their whole names
    data: dict[str, Member] = {}
    left_out, reasons = Counter[str](), Counter[str]()
    try:
        for member in tar_headers.members(path):
            suffix = suffix_of(member.name)
            if member.name.rpartition("/")[2].startswith(".") or member.kind == "folder":
                continue
            if suffix in SUFFIXES and member.kind != "file":
                reasons[f"stored as a {member.kind}"] += 1
            elif suffix in SUFFIXES:
                _add(images, path, member)
            elif scored and suffix == ".json" and member.kind == "file" and member.size <= MAX_JSON:
                data[clean_id(member.name, str(path))] = Member(path, member.offset, member.size)
            elif suffix in UNREAD:
                left_out[suffix] += 1
    except WrongTarError as error:
        raise BadInputError(f"{path}: {_why_no_tar(path, error)}") from error
    except OSError as error:
        raise BadInputError(f"{path}: can't be read: {error.strerror}. Check its permissions.") from error
    return replace(_by_key(images, data), left_out=left_out, reasons=reasons)


def _by_key(images: dict[str, Member], data: dict[str, Member]) -> Shard:
    """Images and scores by the last part of the ids that their keys give."""
    keys = Counter(map(_key, images))
    shard = Shard(several=sum(count for count in keys.values() if count > 1))
    for name, member in images.items():
        key = _key(name)
        sample = name if keys[key] > 1 else key
        shard.images[sample] = member
        beside = data.get(f"{name.rpartition('.')[0]}.json") or data.get(f"{key}.json")
        if beside is not None:
            found = _json(beside)
            shard.fields.update(found)
            if (score := aesthetic_score(found)) is not None:
                shard.scores[sample] = score
    return shard


def _add(images: dict[str, Member], path: Path, member: TarMember) -> None:
    name = clean_id(member.name, str(path))
    if name in images:
        raise BadInputError(f"{path} holds two images called {name!r}. Rename one.")
    if member.size > MAX_BYTES:
        raise too_large(f"{path}: {name}", member.size)
    images[name] = Member(path, member.offset, member.size)


def _key(name: str) -> str:
    """A member's name without its extension, which begins at the first dot of the last part."""
    folder, slash, last = name.rpartition("/")
    return folder + slash + last.partition(".")[0]


def aesthetic_score(data: dict[str, object]) -> float | None:
    """The first of SCORES that is a finite number; numbers written as text count."""
    for name in SCORES:
        value = data.get(name)
        if isinstance(value, bool) or not isinstance(value, (int, float, str, Decimal)):
            continue
        try:
            score = parse_number(value) if isinstance(value, str) else float(value)
        except (ValueError, OverflowError):  # a number of hundreds of digits
            continue
        if math.isfinite(score):
            return score
    return None


def _json(member: Member) -> dict[str, object]:
    """A json object; nothing where it is damaged, since only the score is used and its absence is counted.

    Not by `parse_json`: where a value is missing, img2dataset may write NaN, beside a score that counts.
    """
    try:
        found = json.loads(b"".join(bytes_at(member.path, member.offset, member.size)))
    except (ValueError, RecursionError):
        return {}
    return cast(dict[str, object], found) if isinstance(found, dict) else {}


def _why_no_tar(path: Path, error: WrongTarError) -> str:
    with path.open("rb") as file:
        head = file.read(6)
    if packed := next((name for magic, name in COMPRESSED.items() if head.startswith(magic)), None):
        return f"a tar compressed by {packed} can't be read at random. Unpack it to a plain .tar first."
    return f"a damaged or incomplete tar: {error}. Copy or download it again."
