"""webdataset shards: tar files whose members share a key, as img2dataset writes them.

00000.tar: 000000012.jpg, 000000012.json (its data), 000000012.txt (its caption), ...
"""

import json
import math
import tarfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import cast

from vaelens.errors import BadInputError
from vaelens.images.datasets.folders import too_large
from vaelens.images.datasets.items import MAX_BYTES, Source, by_id, clean_id
from vaelens.images.reading import SUFFIXES
from vaelens.runtime import DEFAULT, Runtime

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
MAX_JSON = 2**22
BLOCK = 512  # a tar's unit


@dataclass(frozen=True)
class Member:
    """Where an image lies: `size` bytes from `offset` on."""

    path: Path
    offset: int
    size: int


@dataclass(frozen=True)
class Shard:
    """What one tar holds, by key: its images, and the data beside them."""

    images: dict[str, Member]
    data: dict[str, dict[str, object]]


def open_shards(
    paths: Sequence[Path], root: Path, name: str, *, scored: bool = False, runtime: Runtime = DEFAULT
) -> Source:
    """The images in tar files; ids are a tar's path below `root` and the key: 00000.tar/000000012.

    Each tar is gone through once, by its headers, and read at random later. With `scored` the json beside
    each image is read for its aesthetic score.

    Raises BadInputError for a tar that is damaged, incomplete or compressed, one key with two images, and
    where there is no image at all.
    """
    found: list[tuple[str, Member]] = []
    scores: dict[str, float] = {}
    fields: set[str] = set()
    for done, path in enumerate(sorted(paths)):
        runtime.progress(done, len(paths), "indexing shards")
        shard = index_tar(path, scored=scored)
        prefix = clean_id(str(path.relative_to(root)), str(root))
        found += [(f"{prefix}/{key}", member) for key, member in shard.images.items()]
        for key in shard.images.keys() & shard.data.keys():
            fields |= shard.data[key].keys()
            if (score := aesthetic_score(shard.data[key])) is not None:
                scores[f"{prefix}/{key}"] = score
    members = by_id(found, name)
    if not members:
        raise BadInputError(f"{name} holds no images ({', '.join(sorted(SUFFIXES))}). Name other shards.")
    return Source(
        name,
        "shards",
        tuple(members),
        lambda key: read_member(members[key]),
        scores=scores if scored else None,
        fields=tuple(sorted(fields)),
    )


def index_tar(path: Path, *, scored: bool = False) -> Shard:
    """One pass over a tar's headers; with `scored` the json members are read too."""
    shard = Shard({}, {})
    try:
        with tarfile.open(path, "r:") as tar:
            for member in tar:
                name = PurePosixPath(member.name)
                if not member.isreg() or member.issparse() or name.name.startswith("."):
                    continue
                key = clean_id(str(name.with_suffix("")), str(path))
                if name.suffix.lower() in SUFFIXES:
                    if key in shard.images:
                        raise BadInputError(f"{path} holds two images with the key {key!r}. Rename one.")
                    if member.size > MAX_BYTES:
                        raise too_large(f"{path}: {member.name}", member.size)
                    shard.images[key] = Member(path, member.offset_data, member.size)
                elif scored and name.suffix.lower() == ".json" and member.size <= MAX_JSON:
                    opened = tar.extractfile(member)
                    shard.data[key] = _json(opened.read() if opened else b"")
            end = tar.offset
    except (tarfile.TarError, OSError, EOFError, ValueError) as error:
        raise BadInputError(f"{path}: {_why_no_tar(path, error)}") from error
    _check_end(path, end)
    return shard


def read_member(member: Member) -> bytes:
    """One image's bytes. Raises BadInputError where they can't be read any more."""
    try:
        with member.path.open("rb") as file:
            file.seek(member.offset)
            data = file.read(member.size)
    except OSError as error:
        raise BadInputError(f"{member.path}: can't be read: {error.strerror}. Check its permissions.") from error
    if len(data) < member.size:
        raise BadInputError(f"{member.path} is shorter than when it was indexed. Copy it anew.")
    return data


def aesthetic_score(data: dict[str, object]) -> float | None:
    """The first of SCORES that is a finite number; numbers written as text count."""
    for name in SCORES:
        value = data.get(name)
        if isinstance(value, bool) or not isinstance(value, (int, float, str)):
            continue
        try:
            score = float(value)
        except ValueError:
            continue
        if math.isfinite(score):
            return score
    return None


def _json(content: bytes) -> dict[str, object]:
    """A json object; nothing where it is damaged, since only the score is used and its absence is counted."""
    try:
        found = json.loads(content)
    except (ValueError, RecursionError):
        return {}
    return cast(dict[str, object], found) if isinstance(found, dict) else {}


def _check_end(path: Path, end: int) -> None:
    """tarfile takes a damaged header, and a file that simply stops, for the end; a tar ends with a block of zeros."""
    with path.open("rb") as file:
        file.seek(end)
        block = file.read(BLOCK)
    if block != b"\0" * BLOCK:
        raise BadInputError(f"{path} is damaged or incomplete: it doesn't end as a tar does. Copy or make it anew.")


def _why_no_tar(path: Path, error: Exception) -> str:
    with path.open("rb") as file:
        head = file.read(6)
    if head.startswith((b"\x1f\x8b", b"BZh", b"\xfd7zXZ", b"\x28\xb5\x2f\xfd")):
        return "a compressed tar can't be read at random. Unpack it to a plain .tar first."
    return f"a damaged or incomplete tar: {error}. Copy or download it anew."
