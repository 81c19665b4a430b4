"""plan.json: everything that the results in a folder depend on. A folder holds the results of one plan only."""

import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, cast

from vaelens.errors import BadInputError, CheckFailedError, UsageError
from vaelens.files import checked_json, json_text, read_checked_json, write_atomic

Plan = Mapping[str, Any]
Difference = tuple[str, object, object]  # name, in the folder, requested

PLAN = "plan.json"
CHOOSE_ANOTHER = "Choose another folder with -o."
HASHES = {"manifest_sha256": "the images' hash", "boxes_sha256": "the boxes' hash"}
KERNELS = {"kernels", "path"}  # the last parts of names of the engine's path
LABELS = {"images": "the number of images", **HASHES}


def read_plan(path: Path, command: str, counts: Sequence[str] = ()) -> dict[str, Any] | None:
    """The plan in this folder, None where there is none. `counts` are the keys that must hold positive integers.

    Raises UsageError where `path` is a file, or the plan another command's; BadInputError for a file that isn't a plan;
    CheckFailedError for one that has changed since it was written or has no checksum.
    """
    if path.exists() and not path.is_dir():
        raise UsageError(f"-o {path} is a file, but {command} needs a folder. {CHOOSE_ANOTHER}")
    file = path / PLAN
    try:
        content = file.read_bytes()
        found = json.loads(content)
    except (FileNotFoundError, NotADirectoryError):
        return None
    except (OSError, ValueError, RecursionError) as error:
        raise BadInputError(f"{file} can't be read: {error}. {CHOOSE_ANOTHER}") from error
    if not isinstance(found, dict) or "command" not in found:
        raise BadInputError(f"{file} is damaged: it has no command. {CHOOSE_ANOTHER}")
    try:
        plan = read_checked_json(content)
    except ValueError as error:
        raise CheckFailedError(
            f"{file}: {error}, so what the results depend on isn't known. {CHOOSE_ANOTHER}"
        ) from error
    if plan["command"] != command:
        raise UsageError(f"{path} holds a run of `vaelens {plan['command']}`, not of {command}. {CHOOSE_ANOTHER}")
    bad = [name for name in counts if type(plan.get(name)) is not int or plan[name] < 1]
    if bad:
        raise BadInputError(f"{file} is damaged: it has no valid {', '.join(bad)}. {CHOOSE_ANOTHER}")
    return plan


def write_plan(path: Path, plan: Plan) -> None:
    """Write it to the folder. Raises what `write_atomic` raises."""
    write_atomic(path / PLAN, checked_json(plan))


def as_stored(plan: Plan) -> dict[str, Any]:
    """The plan as it reads back from its file: lists for tuples, None for what isn't finite."""
    return json.loads(json_text(plan))


def differences(found: object, requested: object, name: str = "") -> list[Difference]:
    """What differs between two plans as stored, each by the path of its keys: `preset.side`."""
    if isinstance(found, dict) and isinstance(requested, dict):
        before, after = cast(dict[str, object], found), cast(dict[str, object], requested)
        return [
            difference
            for key in dict.fromkeys([*before, *after])
            for difference in differences(before.get(key), after.get(key), f"{name}.{key}" if name else key)
        ]
    return [] if found == requested else [(name, found, requested)]


def refuse_differences(path: Path, found: Sequence[Difference], instead: str = "choose another folder with -o") -> None:
    """Raises UsageError, naming the first four, where the run in the folder isn't the requested one.

    instead: of resuming, what can be done
    """
    images = " and images" * any(name in {"images", *HASHES} for name, _, _ in found)
    if any(name == "images" for name, _, _ in found):  # other hashes follow from another number
        found = [one for one in found if one[0] not in HASHES]
    if found:
        listed = "; ".join(
            f"{LABELS.get(name, name)} was {_shortened(old)}, now {_shortened(new)}" for name, old, new in found[:4]
        )
        before = next(
            (old for name, old, _ in found if name.rpartition(".")[2] in KERNELS and isinstance(old, str)), ""
        )
        hint = f" (VAELENS_KERNELS={before}, where the machine has that path)" if before else ""
        raise UsageError(
            f"{path} holds a run with other settings: {listed}. Resume it with the same settings{images}{hint}, "
            f"or {instead}."
        )


def _shortened(value: object) -> str:
    if isinstance(value, str) and re.fullmatch(r"[0-9a-f]{64}", value):
        return value[:12]
    text = json.dumps(value)
    return text if len(text) <= 80 else text[:77] + "..."
