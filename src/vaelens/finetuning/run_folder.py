"""The folder of a training: its plan, its lock, and whether it may go on."""

import json
from collections.abc import Generator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from vaelens.errors import BadInputError, UsageError
from vaelens.evaluation.plan import ELSEWHERE, any_plan, changes, refuse_changes
from vaelens.files import write_atomic
from vaelens.report.record import json_text

LOCK = ".lock"


def begun(path: Path) -> dict[str, Any]:
    """The plan of the training in the folder; empty where there is none. Raises UsageError where none can be.

    Raises BadInputError for a damaged one.
    """
    if path.exists() and not path.is_dir():
        raise UsageError(f"-o {path} is a file, and a training needs a folder. Choose another.")
    found = any_plan(path)
    if found is None and path.is_dir() and any(not entry.name.startswith(LOCK) for entry in path.iterdir()):
        raise UsageError(f"{path} holds other things, and no training. {ELSEWHERE}")
    if found is not None and "recipe" not in found:
        raise UsageError(f"{path} holds a run of another command. {ELSEWHERE}")
    numbers = [found.get(name) for name in ("at_once", "threads")] if found else []
    if found is not None and not (isinstance(found["recipe"], dict) and all(type(n) is int and n > 0 for n in numbers)):
        raise BadInputError(f"{path / 'plan.json'} is damaged. {ELSEWHERE}")
    return found or {}


def hold_to(path: Path, found: Mapping[str, Any], plan: Mapping[str, Any]) -> str | None:
    """Write the plan, or compare it with the one that is there; gives the reason why the run can't go on, if any.

    The reason is given, not raised, so that all processes can raise it.
    """
    text = json_text(plan)
    if not found:
        write_atomic(path / "plan.json", text.encode())
        return None
    try:
        refuse_changes(path, changes(dict(found), json.loads(text)))
    except UsageError as error:
        return str(error)
    reason = None
    with suppress(OSError, ValueError, AttributeError):  # no record yet, or a damaged one: it goes on
        reason = json.loads((path / "run.json").read_bytes()).get("stopped")
    if not reason:
        return None
    return f"{path} was stopped: {reason} Change the recipe with --set, and begin in another folder."


@contextmanager
def alone(path: Path, rank: int) -> Generator[None]:
    """In this context no other training runs in the folder. Raises UsageError where one does.

    A folder that was made for nothing, because the training was refused, is taken away again.
    """
    new = not path.exists()
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
        with suppress(OSError):  # gone already, or another process has its lock there: then it stays
            if new and all(file.name.startswith(LOCK) for file in path.iterdir()):
                Path(lock.lock_file).unlink()  # while it is held, so that nobody takes it in between
                path.rmdir()
        lock.release()
