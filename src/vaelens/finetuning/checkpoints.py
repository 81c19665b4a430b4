"""Checkpoints: written completely or not at all, verified by sha256 when read, and pruned only after a new one.

checkpoints/000000500/     state.safetensors (all tensors), state.json (the step), manifest.json (their sha256)
"""

import hashlib
import json
import os
import shutil
from dataclasses import dataclass
from pathlib import Path

from safetensors import SafetensorError
from safetensors.torch import load as from_bytes

from vaelens.errors import CheckFailedError
from vaelens.files import json_text, write_atomic
from vaelens.finetuning.state import State
from vaelens.runtime import Notify
from vaelens.tensors.writing import safetensors_bytes
from vaelens.text.paths import explained

FOLDER = "checkpoints"
NEWEST = 2  # so many are stored, besides those that the caller names
PARTIAL = ".partial-"


@dataclass(frozen=True)
class Checkpoint:
    """A checkpoint's folder, and the step after which it was saved."""

    path: Path
    step: int


def checkpoints(run: Path) -> list[Checkpoint]:
    """Of a run, the oldest first, not verified."""
    folder = run / FOLDER
    found = [entry for entry in folder.iterdir() if entry.name.isdecimal()] if folder.is_dir() else []
    return sorted((Checkpoint(entry, int(entry.name)) for entry in found), key=lambda one: one.step)


def save(run: Path, state: State, keep: frozenset[int] = frozenset()) -> Checkpoint:
    """Write the state, then remove all checkpoints but the newest ones and those of the steps in `keep`.

    Raises ResourceError on a full disk; earlier checkpoints are then untouched, and no partial one is left.
    """
    place = run / FOLDER / f"{state.step:09d}"
    partial = place.with_name(f"{PARTIAL}{place.name}")
    tensors = {name: tensor.cpu().contiguous() for name, tensor in state.tensors().items()}
    contents = {
        "state.safetensors": safetensors_bytes(tensors),
        "state.json": json_text({"step": state.step}).encode(),
    }
    contents["manifest.json"] = json_text({n: hashlib.sha256(c).hexdigest() for n, c in contents.items()}).encode()
    try:
        shutil.rmtree(partial, ignore_errors=True)
        for name, content in contents.items():
            write_atomic(partial / name, content)
        if place.exists():
            shutil.rmtree(place)  # of a run that was resumed from an earlier one
        partial.rename(place)
        _sync(place.parent)
    except BaseException as error:
        shutil.rmtree(partial, ignore_errors=True)
        if isinstance(error, OSError):
            raise explained(error, place) from error
        raise
    for old in checkpoints(run)[:-NEWEST]:
        if old.step not in keep:
            shutil.rmtree(old.path, ignore_errors=True)
    return Checkpoint(place, state.step)


def restore_newest(run: Path, state: State, notify: Notify, until: int | None = None) -> bool:
    """Load the newest valid checkpoint, up to the step `until`, into the state; False where there is none at all.

    Skips damaged ones with a notice. Raises CheckFailedError where all are damaged.
    """
    found = [one for one in checkpoints(run) if until is None or one.step <= until]
    message = ""
    for one in reversed(found):
        try:
            restore(one, state)
        except CheckFailedError as error:
            message = str(error)
            notify(f"Warning: {message} Using the checkpoint before it.")
            continue
        return True
    if found:
        raise CheckFailedError(f"{run}: no checkpoint is valid. {message} Start the training again in another folder.")
    return False


def clean(run: Path, step: int) -> None:
    """Remove partial checkpoints of a killed process, and ones after the step from which a run is resumed."""
    for leftover in (run / FOLDER).glob(f"{PARTIAL}*"):
        shutil.rmtree(leftover, ignore_errors=True)
    for one in checkpoints(run):
        if one.step > step:  # it is damaged, or it would have been loaded
            shutil.rmtree(one.path, ignore_errors=True)


def restore(checkpoint: Checkpoint, state: State) -> None:
    """Load this checkpoint into the state. Raises CheckFailedError where it is damaged or of another training."""
    path = checkpoint.path
    try:
        manifest = json.loads((path / "manifest.json").read_bytes())
        contents = {name: (path / name).read_bytes() for name in manifest}
        wrong = [name for name, content in contents.items() if hashlib.sha256(content).hexdigest() != manifest[name]]
        if wrong or not {"state.safetensors", "state.json"} <= set(contents):
            raise CheckFailedError(f"{path / (wrong or ['state.safetensors'])[0]} is damaged: its sha256 is wrong.")
        step = int(json.loads(contents["state.json"])["step"])
        tensors = from_bytes(contents["state.safetensors"])
    except (OSError, ValueError, KeyError, TypeError, AttributeError, SafetensorError) as error:
        raise CheckFailedError(f"{path} is damaged ({error}).") from error
    state.restore(tensors, step)


def _sync(folder: Path) -> None:
    """Flush a rename to the disk."""
    if os.name != "posix":
        return
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
