"""Which files of weights a user means: the files named, and in folders those whose suffix says so."""

import os
from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path

from vaelens.errors import BadInputError, VaelensError
from vaelens.files import StrPath
from vaelens.images.reading import SUFFIXES as IMAGE_SUFFIXES
from vaelens.runtime import Notify, silent
from vaelens.tensors.file_types import PICKLED
from vaelens.tensors.sharded import is_index, shard_names
from vaelens.text.numbers import counted
from vaelens.text.paths import exists, explained, user_path
from vaelens.weights.own_files import PLURALS, own_kind
from vaelens.weights.registry import registry

SUFFIXES = {".safetensors", ".sft", ".gguf", *PICKLED}  # .sft: what some call safetensors


def weight_files(sources: Sequence[StrPath], notify: Notify = silent) -> list[Path]:
    """The files, each once, in the order of the sources; those of a folder and of all folders in it by their paths.

    A file that two paths lead to is one; a link to a file is another. In a folder an index stands for its shards, and
    hidden files and folders are left out; so is what vaelens itself writes beside VAEs, which a notice says. Raises
    BadInputError for a path that doesn't exist, and for a folder that can't be read or has no such file; of a folder in
    it that can't be read a notice says that it is left out.
    """
    found: list[Path] = []
    for source in sources:
        path = user_path(source)
        if path.is_dir():
            inside = _in_folder(path, notify)
            own = {one: kind for one in inside if (kind := own_kind(one)) is not None}
            if own:
                kinds = " and ".join(
                    counted(number, kind, PLURALS[kind]) for kind, number in Counter(own.values()).items()
                )
                notify(f"{path}: vaelens' own files that hold no VAE by themselves are left out: {kinds}.")
                inside = [one for one in inside if one not in own]
            if not inside:
                raise BadInputError(
                    f"{path} holds no file of weights ({', '.join(sorted(SUFFIXES))}). {_instead_of_folder(path)}"
                )
            found += inside
        elif exists(os.fspath(path)):  # also a link that leads nowhere, of which reading says where
            found.append(path)
        else:
            raise BadInputError(f"{path}: there is no such file or folder. {_advice(os.fspath(source))}")
    once: dict[Path, Path] = {}
    for path in found:
        once.setdefault(_place(path), path)
    return list(once.values())


def _place(path: Path) -> Path:
    """What tells files apart, whatever way leads to their folder; a link to a file remains one of its own."""
    return path.parent.resolve() / path.name


def _instead_of_folder(folder: Path) -> str:
    """What to name in place of a folder without weights."""
    images = Counter(path.suffix for path in folder.iterdir() if path.suffix.lower() in IMAGE_SUFFIXES)
    if not images:
        return "Name another folder, or a file."
    patterns = [f"{folder / '*'}{suffix}" for suffix, _ in images.most_common()]
    return f"Its images have to be named one by one: {' '.join(patterns)}"


def _in_folder(folder: Path, notify: Notify) -> list[Path]:
    """Raises the user's error where the folder can't be read; of one in it a notice is given."""

    def refused(error: OSError) -> None:
        place = Path(error.filename)
        if place == folder:
            raise explained(error, folder, "can't be read") from error
        notify(str(explained(error, place, "left out")))

    files: list[Path] = []
    for place, folders, names in os.walk(folder, onerror=refused):
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        files += [Path(place, name) for name in sorted(names) if not name.startswith(".")]
    indices = [path for path in files if is_index(path.name)]
    shards = _shards(indices)
    whole = [path for path in files if path.suffix.lower() in SUFFIXES and path not in shards]
    return sorted([*whole, *indices])


def _shards(indices: Iterable[Path]) -> set[Path]:
    """The files that these indices list; a damaged index, which is reported when it is read, lists none."""
    shards: set[Path] = set()
    for index in indices:
        try:
            shards |= {index.with_name(name) for name in shard_names(index)}
        except VaelensError:
            continue
    return shards


def _advice(text: str) -> str:
    return registry().advice(text, f"`vaelens inspect {text}` describes it")
