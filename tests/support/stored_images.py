"""Made-up folders, zips and shards of images, whose contents only stand for images."""

import io
import json
import tarfile
import zipfile
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
