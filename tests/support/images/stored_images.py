"""Made-up folders, zips, shards and parquet files of images, whose contents only stand for images.

The last part makes zips and tars byte by byte, so that they can say what no honest program writes.
"""

import io
import json
import struct
import tarfile
import zipfile
import zlib
from dataclasses import dataclass
from pathlib import Path

from vaelens.images.datasets import Dataset


def content(name: str) -> bytes:
    """Stands for an image's file: datasets don't look inside."""
    return f"the image {name}".encode()


def ids(data: Dataset) -> list[str]:
    return [item.id for item in data.items]


def folder(root: Path, *names: str) -> Path:
    for name in names:
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content(name))
    return root


def zipped(path: Path, *names: str, **more: bytes) -> Path:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name in names:
            archive.writestr(name, content(name))
        for name, data in more.items():
            archive.writestr(name, data)
    return path


def tarred(path: Path, members: dict[str, bytes]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w") as tar:
        for name, data in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
    return path


def shards(root: Path, key: str = "AESTHETIC_SCORE") -> Path:
    """As img2dataset leaves it: three shards of four, scores 4.0, 4.25, ..., one of them missing."""
    for shard in range(3):
        members: dict[str, bytes] = {}
        for i in range(4):
            name = f"{shard:05d}{i:04d}"
            score = {} if (shard, i) == (1, 1) else {key: 4.0 + (4 * shard + i) / 4}
            members[f"{name}.jpg"] = content(name)
            members[f"{name}.json"] = json.dumps({"key": name, "status": "success", **score}).encode()
            members[f"{name}.txt"] = b"a caption"
        tarred(root / f"{shard:05d}.tar", members)
        (root / f"{shard:05d}.parquet").write_bytes(b"PAR1")
        (root / f"{shard:05d}_stats.json").write_text("{}")
    return root


def parquet(
    path: Path, columns: dict[str, list[object]], features: object = None, rows: int | None = None, row_group: int = 2
) -> Path:
    import pyarrow
    import pyarrow.parquet

    table = pyarrow.table(columns).slice(0, rows)
    if features is not None:
        table = table.replace_schema_metadata({"huggingface": json.dumps({"info": {"features": features}})})
    path.parent.mkdir(parents=True, exist_ok=True)
    pyarrow.parquet.write_table(table, path, row_group_size=row_group)
    return path


def images_column(*names: str) -> list[object]:
    return [{"bytes": content(name), "path": name} for name in names]


@dataclass(frozen=True)
class Entry:
    """A zip's member: `data` as stored, and what its headers say of it; None where that is true of stored data."""

    name: bytes
    data: bytes = b"x"
    method: int = 0
    size: int | None = None
    crc: int | None = None
    flags: int = 0
    local_name: bytes | None = None
    local_method: int | None = None
    offset: int | None = None
    packed: int | None = None
    extra: bytes = b""


def raw_zip(
    *entries: Entry,
    before: bytes = b"",
    after: bytes = b"",
    comment: bytes = b"",
    count: int | None = None,
    start: int | None = None,
    disk: int = 0,
) -> bytes:
    """A zip of these entries, whose end says `count` members and a directory at `start`, where these are given."""
    whole, directory = before, b""
    for entry in entries:
        crc = zlib.crc32(entry.data) if entry.crc is None else entry.crc
        size = len(entry.data) if entry.size is None else entry.size
        packed = len(entry.data) if entry.packed is None else entry.packed
        name = entry.name if entry.local_name is None else entry.local_name
        method = entry.method if entry.local_method is None else entry.local_method
        offset = len(whole) if entry.offset is None else entry.offset
        local = struct.pack("<5H3L2H", 20, entry.flags, method, 0, 0, crc, packed, min(size, 2**32 - 1), len(name), 0)
        whole += b"PK\x03\x04" + local + name + entry.data
        numbers = (crc, packed, size, len(entry.name), len(entry.extra), 0, 0, 0, 0, offset)
        directory += b"PK\x01\x02" + struct.pack("<6H3L5H2L", 20, 20, entry.flags, entry.method, 0, 0, *numbers)
        directory += entry.name + entry.extra
    number = len(entries) if count is None else count
    place = len(whole) if start is None else start
    end = struct.pack("<4H2LH", disk, disk, number, number, len(directory), place, len(comment))
    return whole + directory + b"PK\x05\x06" + end + comment + after


def header(name: str = "a.jpg", size: int = 0, kind: bytes = b"0", raw_size: bytes | None = None) -> bytes:
    """One header of a tar; `raw_size` is what stands in its size field."""
    block = bytearray(tarfile.TarInfo(name).tobuf(tarfile.USTAR_FORMAT))
    block[124:136] = raw_size if raw_size is not None else b"%011o\0" % size
    block[156:157] = kind
    block[148:156] = b" " * 8
    block[148:156] = b"%06o\0 " % sum(block)
    return bytes(block)


def padded(data: bytes) -> bytes:
    return data + bytes(-len(data) % 512)


def stored(name: str, data: bytes, kind: bytes = b"0") -> bytes:
    """A header with its data behind it."""
    return header(name, len(data), kind) + padded(data)


def pax(**records: str) -> bytes:
    """An extended header with these records."""
    content = b""
    for key, value in records.items():
        record = f" {key.replace('__', '.')}={value}\n".encode()
        length = len(record) + 1
        while len(str(length)) + len(record) != length:
            length = len(str(length)) + len(record)
        content += str(length).encode() + record
    return stored("pax", content, b"x")


END = bytes(1024)
