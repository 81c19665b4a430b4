"""Tensors of one network in several safetensors files (shards), which an index lists: `*.safetensors.index.json`."""

from pathlib import Path, PurePosixPath
from typing import Any, cast

from vaelens.errors import BadInputError
from vaelens.json_reading import quoted, read_json
from vaelens.tensors.safetensors_file import open_safetensors
from vaelens.tensors.tensor_file import TensorFile
from vaelens.text.numbers import counted

MOST_SHARDS = 1_000


def is_index(name: str) -> bool:
    """Whether a file's name is that of an index, perhaps of a variant: `...safetensors.index.fp16.json`."""
    return ".safetensors.index." in name and name.endswith(".json")


def open_index(path: Path) -> TensorFile:
    """The tensors of an index's shards, which lie beside it, their headers checked. The metadata are the first one's.

    Raises BadInputError where index and shards don't hold the same tensors, and as `open_safetensors` does.
    """
    listed_in: dict[str, set[str]] = {}
    for tensor, name in _weight_map(path).items():
        listed_in.setdefault(name, set()).add(tensor)
    _check_number(path, len(listed_in))
    missing = [name for name in sorted(listed_in) if not path.with_name(name).is_file()]
    if missing:
        what = f"{len(missing):,} of its {counted(len(listed_in), 'file')}" if len(listed_in) > 1 else "its only file"
        which, them = ("is missing,", "it") if len(missing) == 1 else ("are missing, first", "them")
        raise BadInputError(f"{path}: {what} {which} {missing[0]}. Download {them} into the same folder.")
    shapes: dict[str, tuple[int, ...]] = {}
    dtypes: dict[str, str] = {}
    metadata: dict[str, str] | None = None
    shards: dict[str, Path] = {}
    for name, listed in sorted(listed_in.items()):
        opened = open_safetensors(path.with_name(name))
        if listed != opened.shapes.keys():
            one = min(listed ^ opened.shapes.keys())
            which = f"lacks {quoted(one)}, which" if one in listed else f"holds {quoted(one)}, unlike what"
            raise BadInputError(f"{opened.path} {which} {path.name} says. Download all files of it again.")
        shapes |= opened.shapes
        dtypes |= opened.dtypes
        metadata = opened.metadata if metadata is None else metadata
        shards |= dict.fromkeys(opened.shapes, opened.path)
    return TensorFile(path, shapes, dtypes, metadata or {}, shards=shards)


def shard_names(path: Path) -> list[str]:
    """The names of an index's files. Raises BadInputError for one that isn't such an index."""
    names = sorted(set(_weight_map(path).values()))
    _check_number(path, len(names))
    return names


def _check_number(path: Path, count: int) -> None:
    if not count or count > MOST_SHARDS:
        raise BadInputError(f"{path} lists {counted(count, 'file')} of weights. Download it again.")


def _weight_map(path: Path) -> dict[str, str]:
    """The file of each tensor."""
    try:
        held: object = read_json(path).get("weight_map")
    except FileNotFoundError as error:
        raise BadInputError(f"{path}: there is no such file. Check the path.") from error
    if not isinstance(held, dict):
        raise BadInputError(f"{path} isn't an index of weights: it has no weight_map table. Download it again.")
    for tensor, name in cast(dict[str, Any], held).items():
        if not isinstance(name, str) or name != PurePosixPath(name).name or not name.endswith(".safetensors"):
            raise BadInputError(
                f"{path}: {quoted(tensor)} lies in {quoted(name)}, which isn't a .safetensors file beside the index. "
                "Download it again."
            )
    return cast(dict[str, str], held)
