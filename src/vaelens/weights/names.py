"""Names to show for VAEs: telling, and different for different ones."""

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from vaelens.tensors.sharded import is_index
from vaelens.text.paths import user_path
from vaelens.weights.folders import SAFE, STEM

CACHED = "models--"  # how the hub's cache calls a repository's folder


def shown_name(path: Path) -> str:
    """A file's name without its suffix, or a folder's.

    A file called as diffusers calls weights takes the name of its folder, a folder called vae that of its parent, and
    one in the hub's cache that of its repository.
    """
    name = _place(path).name
    return name.removeprefix(CACHED).replace("--", "/") if name.startswith(CACHED) else name


def distinct_names(names: Sequence[str], sources: Sequence[Any] = ()) -> list[str]:
    """The names; one that an earlier VAE has gets the folders of its source before it, else a number: a, b/a, a (2).

    The same source twice is told apart by numbers: its folders would be those of both.
    """
    distinct: list[str] = []
    for position, name in enumerate(names):
        source = sources[position] if position < len(sources) else None
        longer = [] if any(one is source or one == source for one in sources[:position]) else _longer(name, source)
        candidates = [name, *longer, *(f"{name} ({number})" for number in range(2, len(names) + 2))]
        distinct.append(next(candidate for candidate in candidates if candidate not in distinct))
    return distinct


def _longer(name: str, source: Any) -> list[str]:
    """The name after one, two and three folders of its path."""
    if not isinstance(source, str | Path):
        return []
    path = user_path(source)
    if not path.exists():
        return []
    parts = _folder(name, path).parts[1:]  # without the root
    return ["/".join([*parts[-count:], name]) for count in range(1, min(3, len(parts)) + 1)]


def _folder(name: str, path: Path) -> Path:
    """The folder of what has that name: of the path's place, itself or a folder of it; else that of its place."""
    place, whole = _place(path), Path(os.path.abspath(path))  # noqa: PTH100 - as in `_place`
    own = Path(name).parts
    called_so = (one for one in (place, whole, *whole.parents) if own and one.parts[-len(own) :] == own)
    found = next(called_so, None)
    return found.parents[len(own) - 1] if found is not None else place.parent


def _place(path: Path) -> Path:
    """The path whose name tells most, without suffixes."""
    path = Path(os.path.abspath(path))  # noqa: PTH100 - not `resolve`: the user's names, not those of links' targets
    if not path.is_dir():
        name = path.name
        if is_index(name):
            name = name.partition(SAFE)[0]
        elif name.lower().endswith(SAFE):
            name = name[: -len(SAFE)]
        path = path.parent if name.startswith(STEM) else path.with_name(name)
    if path.name == "vae" and path.parent.name:
        path = path.parent
    in_cache = path.parent.name == "snapshots" and path.parents[1].name.startswith(CACHED)
    return path.parents[1] if in_cache else path
