"""Files that vaelens itself writes beside VAEs: training checkpoints, features, and the shards of latent caches."""

import re
from pathlib import Path

from vaelens.errors import BadInputError
from vaelens.tensors.writing import BEFORE_CHECKSUM
from vaelens.text.paths import is_file

CHECKPOINT, FEATURES, SHARD = "training checkpoint", "file of features", "shard of a latent cache"
PLURALS = {CHECKPOINT: "training checkpoints", FEATURES: "files of features", SHARD: "shards of a latent cache"}
HEADER = re.compile(rb".{8}" + re.escape(BEFORE_CHECKSUM) + rb'[0-9a-f]{64}"}', re.S)


def own_kind(path: Path) -> str | None:
    """Which of these a file is, by its place and by what lies beside or in it; None for any other."""
    path = path.absolute()
    if path.name == "state.safetensors":
        beside = all(is_file(str(path.with_name(name))) for name in ("state.json", "manifest.json"))
        return CHECKPOINT if beside and path.parent.parent.name == "checkpoints" else None
    places = [parent.name for parent in path.parents][:2]
    kind = SHARD if places[:1] == ["shards"] else FEATURES if places[1:] in (["features"], ["sums"]) else None
    return kind if kind is not None and path.suffix == ".safetensors" and _has_checksum(path) else None


def refuse_own_file(path: Path) -> None:
    """Raises BadInputError for one of these, which says what takes it: none holds a VAE by itself."""
    kind = own_kind(path)
    if kind == CHECKPOINT:
        run = _above(path, 2)
        raise BadInputError(
            f"{path} is a training checkpoint of `vaelens finetune`, no VAE by itself. The same command with -o {run} "
            f"resumes from it, and once the training is finished {run} is its VAE."
        )
    if kind == SHARD:
        cache = _above(path, 1)
        raise BadInputError(
            f"{path} is a shard of a latent cache, which holds posteriors and no VAE. Name the whole cache: `vaelens "
            f"evaluate {cache}` and `vaelens finetune {cache}` take it in place of images."
        )
    if kind == FEATURES:
        run = _above(path, 2)
        raise BadInputError(
            f"{path} holds what `vaelens evaluate` computed of images for its scores, and no VAE. It belongs to {run}: "
            f"the same command with -o {run} uses it."
        )


def _above(path: Path, number: int) -> Path:
    """The folder so many levels above a file's own, as short as the path given."""
    return (path if len(path.parents) > number else path.absolute()).parents[number]


def _has_checksum(path: Path) -> bool:
    """Whether a file has the header of the files that `checked_safetensors` makes, and no other metadata."""
    if not is_file(str(path)):  # opening a pipe would wait for a writer
        return False
    try:
        with path.open("rb") as file:
            return HEADER.match(file.read(200)) is not None
    except OSError:
        return False
