"""The folder of a training: its plan, its lock, and whether it may go on."""

import json
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from vaelens.errors import UsageError
from vaelens.runs.lock import LOCK
from vaelens.runs.plan import CHOOSE_ANOTHER, as_stored, differences, read_plan, refuse_differences, write_plan


def begun(path: Path) -> dict[str, Any]:
    """The plan of the training in the folder; empty where there is none. Raises UsageError where none can be.

    Raises BadInputError for a damaged one.
    """
    found = read_plan(path, "finetune", ("at_once", "threads"))
    if found is None and path.is_dir() and any(not entry.name.startswith(LOCK) for entry in path.iterdir()):
        raise UsageError(f"{path} holds other files, but no training. {CHOOSE_ANOTHER}")
    return found or {}


def hold_to(path: Path, found: Mapping[str, Any], plan: Mapping[str, Any]) -> str | None:
    """Write the plan, or compare it with the one that is there; gives the reason why the run can't go on, if any.

    The reason is given, not raised, so that all processes can raise it.
    """
    if not found:
        write_plan(path, plan)
        return None
    try:
        refuse_differences(path, differences(dict(found), as_stored(plan)))
    except UsageError as error:
        return str(error)
    reason = None
    with suppress(OSError, ValueError, AttributeError):  # no record yet, or a damaged one: it goes on
        reason = json.loads((path / "run.json").read_bytes()).get("stopped")
    if not reason:
        return None
    return f"{path} was stopped: {reason} Change the recipe with --set, and begin in another folder."
