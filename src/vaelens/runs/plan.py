"""plan.json: what the results in a folder depend on. A folder holds to the plan that it was begun with."""

import json
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any, cast

from vaelens.errors import BadInputError, UsageError

ELSEWHERE = "Choose another folder with -o."
WORDS = {
    "pictures": "the number of pictures",
    "manifest_sha256": "the pictures' hash",
    "boxes_sha256": "the boxes' hash",
}


def any_plan(path: Path) -> dict[str, Any] | None:
    """What the folder's plan.json holds, of whatever command; None where there is none, {} for what is no table.

    Raises BadInputError where it can't be read.
    """
    file = path / "plan.json"
    try:
        found = json.loads(file.read_bytes())
    except (FileNotFoundError, NotADirectoryError):
        return None
    except (OSError, ValueError, RecursionError) as error:
        raise BadInputError(f"{file}: can't be read ({error}). {ELSEWHERE}") from error
    return cast(dict[str, Any], found) if isinstance(found, dict) else {}


def refuse_changes(path: Path, changed: Sequence[tuple[str, object, object]]) -> None:
    """Raises UsageError, naming the first of them, where a run found in the folder differs from the one asked for."""
    if changed:
        was = "; ".join(f"{WORDS.get(key, key)} was {short(old)}, now {short(new)}" for key, old, new in changed[:4])
        raise UsageError(f"{path} holds another run ({was}). Go on as it was begun, or choose another folder with -o.")


def changes(old: object, new: object, name: str = "") -> list[tuple[str, object, object]]:
    """What differs, by its innermost names."""
    if isinstance(old, dict) and isinstance(new, dict):
        before, after = cast(dict[str, object], old), cast(dict[str, object], new)
        inner = name if not name or name == "VAE " else f"{name}."
        return [
            change
            for key in dict.fromkeys([*before, *after])
            for change in changes(before.get(key), after.get(key), f"{inner}{key}")
        ]
    return [] if old == new else [(name, old, new)]


def short(value: object) -> str:
    """A value of a plan for a message."""
    if isinstance(value, str) and re.fullmatch(r"[0-9a-f]{64}", value):
        return value[:12]
    text = json.dumps(value)
    return text if len(text) <= 80 else text[:77] + "..."
