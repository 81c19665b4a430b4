"""Checkpoints: whole or not at all, checked by sha256 when they are read, and pruned last.

checkpoints/000000500/     state.safetensors (all tensors), state.json (the counter), manifest.json (sha256s)
"""

import hashlib
import json
import os
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from safetensors import SafetensorError
from safetensors.torch import load as from_bytes
from safetensors.torch import save as safetensors_bytes

from vaelens.errors import CheckFailedError
from vaelens.files import explained, json_text, write_atomic
from vaelens.finetuning.state import State

FOLDER = "checkpoints"
KEPT = 2  # the newest so many, and those that are asked to stay
PARTIAL = ".partial-"


@dataclass(frozen=True)
class Checkpoint:
    """One that is there: its folder, and after how many updates it was made."""

    path: Path
    updates: int


def checkpoints(run: Path) -> list[Checkpoint]:
    """Of a run, the oldest first; whether they are sound shows when they are read."""
    folder = run / FOLDER
    found = [entry for entry in folder.iterdir() if entry.name.isdecimal()] if folder.is_dir() else []
    return sorted((Checkpoint(entry, int(entry.name)) for entry in found), key=lambda one: one.updates)


def save(run: Path, state: State, stays: frozenset[int] = frozenset()) -> Checkpoint:
    """Write the state, then drop old checkpoints: all but the newest KEPT and those at the updates in `stays`.

    Raises ResourceError on a full disk, with the earlier ones untouched and nothing half-written left.
    """
    place = run / FOLDER / f"{state.updates:09d}"
    partial = place.with_name(f"{PARTIAL}{place.name}")
    tensors = {name: tensor.cpu().contiguous() for name, tensor in state.tensors().items()}
    contents = {
        "state.safetensors": safetensors_bytes(tensors),
        "state.json": json_text({"updates": state.updates}).encode(),
    }
    contents["manifest.json"] = json_text({n: hashlib.sha256(c).hexdigest() for n, c in contents.items()}).encode()
    try:
        shutil.rmtree(partial, ignore_errors=True)
        for name, content in contents.items():
            write_atomic(partial / name, content)
        if place.exists():
            shutil.rmtree(place)  # of a run that went on from before it
        partial.rename(place)
        _sync(place.parent)
    except BaseException as error:
        shutil.rmtree(partial, ignore_errors=True)
        if isinstance(error, OSError):
            raise explained(error, place) from error
        raise
    for old in checkpoints(run)[:-KEPT]:
        if old.updates not in stays:
            shutil.rmtree(old.path, ignore_errors=True)
    return Checkpoint(place, state.updates)


def restore_newest(run: Path, state: State, say: Callable[[str], object], until: int | None = None) -> bool:
    """Put the newest sound checkpoint, of at most `until` updates, into the state; whether there was any.

    A damaged one is said and passed over. Raises CheckFailedError where there are some, and none is sound.
    """
    found = [one for one in checkpoints(run) if until is None or one.updates <= until]
    trouble = ""
    for one in reversed(found):
        try:
            restore(one, state)
        except CheckFailedError as error:
            trouble = str(error)
            say(f"{trouble} The one before it serves.")
            continue
        return True
    if found:
        raise CheckFailedError(f"{run}: no checkpoint is sound. {trouble} Begin the run anew in another folder.")
    return False


def clean(run: Path, updates: int) -> None:
    """Remove what a killed process left half-written, and what is newer than the state that a run goes on from."""
    for leftover in (run / FOLDER).glob(f"{PARTIAL}*"):
        shutil.rmtree(leftover, ignore_errors=True)
    for one in checkpoints(run):
        if one.updates > updates:  # damaged: else it would have been the one
            shutil.rmtree(one.path, ignore_errors=True)


def restore(checkpoint: Checkpoint, state: State) -> None:
    """Put this checkpoint into the state. Raises CheckFailedError where it is damaged or another training's."""
    path = checkpoint.path
    try:
        manifest = json.loads((path / "manifest.json").read_bytes())
        contents = {name: (path / name).read_bytes() for name in manifest}
        wrong = [name for name, content in contents.items() if hashlib.sha256(content).hexdigest() != manifest[name]]
        if wrong or not {"state.safetensors", "state.json"} <= set(contents):
            raise CheckFailedError(f"{path / (wrong or ['state.safetensors'])[0]} isn't what was written.")
        updates = int(json.loads(contents["state.json"])["updates"])
        tensors = from_bytes(contents["state.safetensors"])
    except (OSError, ValueError, KeyError, TypeError, AttributeError, SafetensorError) as error:
        raise CheckFailedError(f"{path} is damaged ({error}).") from error
    state.restore(tensors, updates)


def _sync(folder: Path) -> None:
    """Put a rename on the disk."""
    if os.name != "posix":
        return
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
