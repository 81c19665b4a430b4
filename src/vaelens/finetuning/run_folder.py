"""The folder of a training: its plan, its lock, and whether it may go on."""

import json
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from vaelens.errors import BadInputError, UsageError
from vaelens.files import json_text, write_atomic
from vaelens.runs.lock import LOCK
from vaelens.runs.plan import ELSEWHERE, any_plan, changes, refuse_changes


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
