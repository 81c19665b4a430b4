"""Files that vaelens itself writes beside VAEs: training checkpoints, features, and the shards of latent caches."""

import re
from pathlib import Path

from vaelens.tensors.writing import BEFORE_CHECKSUM
from vaelens.text.paths import is_file

CHECKPOINT, FEATURES, SHARD = "training checkpoint", "file of features", "shard of a latent cache"
PLURALS = {CHECKPOINT: "training checkpoints", FEATURES: "files of features", SHARD: "shards of a latent cache"}
HEADER = re.compile(rb".{8}" + re.escape(BEFORE_CHECKSUM) + rb'[0-9a-f]{64}"}', re.S)


def own_kind(path: Path) -> str | None:
    """Which of these a file is, by its place and by what lies beside or in it; None for any other."""
    if path.name == "state.safetensors":
        beside = all(is_file(str(path.with_name(name))) for name in ("state.json", "manifest.json"))
        return CHECKPOINT if beside and path.parent.parent.name == "checkpoints" else None
    places = [parent.name for parent in path.parents][:2]
    kind = SHARD if places[:1] == ["shards"] else FEATURES if places[1:] in (["features"], ["sums"]) else None
    return kind if kind is not None and path.suffix == ".safetensors" and _has_checksum(path) else None


def _has_checksum(path: Path) -> bool:
    """Whether a file has the header of the files that `checked_safetensors` makes, and no other metadata."""
    if not is_file(str(path)):  # opening a pipe would wait for a writer
        return False
    try:
        with path.open("rb") as file:
            return HEADER.match(file.read(200)) is not None
    except OSError:
        return False
