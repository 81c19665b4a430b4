"""The folder of a training: its plan, its lock, and whether it may go on."""

import json
from collections.abc import Generator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from vaelens.errors import UsageError
from vaelens.evaluation.plan import ELSEWHERE, any_plan, changes, refuse_changes
from vaelens.files import write_atomic
from vaelens.report.record import json_text

LOCK = ".lock"


def begun(path: Path) -> dict[str, Any]:
    """The plan of the training in the folder; empty where there is none. Raises UsageError where none can be."""
    if path.exists() and not path.is_dir():
        raise UsageError(f"-o {path} is a file, and a training needs a folder. Choose another.")
    found = any_plan(path)
    if found is None and path.is_dir() and any(not entry.name.startswith(LOCK) for entry in path.iterdir()):
        raise UsageError(f"{path} holds other things, and no training. {ELSEWHERE}")
    if found is not None and "recipe" not in found:
        raise UsageError(f"{path} holds a run of another command. {ELSEWHERE}")
    return found or {}


def hold_to(path: Path, found: Mapping[str, Any], plan: Mapping[str, Any]) -> None:
    """Write the plan, or compare it with the one that is there. Raises UsageError for another, or a stopped, run."""
    text = json_text(plan)
    if not found:
        write_atomic(path / "plan.json", text.encode())
        return
    refuse_changes(path, changes(dict(found), json.loads(text)))
    record = path / "run.json"
    reason = json.loads(record.read_bytes()).get("stopped") if record.exists() else None
    if reason:
        raise UsageError(f"{path} was stopped: {reason} Change the recipe with --set, and begin in another folder.")


@contextmanager
def alone(path: Path, rank: int) -> Generator[None]:
    """In this context no other training runs in the folder. Raises UsageError where one does."""
    try:
        path.mkdir(parents=True, exist_ok=True)
        lock = FileLock(path / (LOCK if rank == 0 else f"{LOCK}-{rank}"), timeout=0)
        lock.acquire()
    except Timeout as error:
        raise UsageError(f"{path}: a training is running there already. Wait for it, or choose another -o.") from error
    except OSError as error:
        raise UsageError(f"{path}: can't be written: {error.strerror}. Choose another -o.") from error
    try:
        yield
    finally:
        lock.release()
