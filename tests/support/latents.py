"""What the tests of latent caches share."""

import hashlib
from pathlib import Path
from typing import Any

FAST: dict[str, Any] = {"size": 32, "shard_size": 4, "batch": 2, "threads": 1, "device": "cpu"}


def content(folder: Path) -> dict[str, str]:
    """The sha256 of each file but locks."""
    files = (path for path in sorted(folder.rglob("*")) if path.is_file() and not path.name.startswith(".lock"))
    return {path.relative_to(folder).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}
