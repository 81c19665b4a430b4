"""The plan of a run: what its rows depend on. A folder holds to the plan that it was begun with."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, cast

from vaelens.errors import BadInputError, UsageError
from vaelens.files import json_text
from vaelens.runs.plan import ELSEWHERE, any_plan, changes, refuse_changes

OURS = ("rows.jsonl", "run.json", "report.html", "report.md", "results.json", "rows.csv", "regions.csv", "model-index")


def read_plan(path: Path) -> dict[str, Any] | None:
    """The plan of the run in this folder; None where there is none.

    Raises BadInputError for one that is damaged, or of another command.
    """
    plan = any_plan(path)
    if plan is None:
        return None
    if "recipe" in plan and "preset" not in plan:  # finetune's
        raise BadInputError(f"{path} holds a run of another command, and no evaluation goes on there. {ELSEWHERE}")
    if not _is_plan(plan):
        raise BadInputError(
            f"{path / 'plan.json'} is no plan of an evaluation: it is damaged, or another program's. {ELSEWHERE}"
        )
    return plan


def _is_plan(plan: Mapping[str, Any]) -> bool:
    """Whether it has what is read before plans are compared."""
    preset = plan.get("preset")
    named = isinstance(preset, dict) and isinstance(cast(dict[str, Any], preset).get("name"), str)
    counts = [plan.get(name) for name in ("batch", "threads")]
    return named and isinstance(plan.get("vaes"), dict) and all(type(n) is int and n > 0 for n in counts)


def check_empty(path: Path) -> None:
    """Raises UsageError where a folder without a plan holds a file that a run would replace."""
    taken = [name for name in OURS if (path / name).exists()]
    if taken:
        raise UsageError(f"{path / taken[0]} is not of an evaluation and would be lost. {ELSEWHERE}")


def check_plan(path: Path, asked: Mapping[str, Any]) -> dict[str, Any]:
    """The plan in the folder, if there is one, compared with what is known of the one asked for; cheap.

    Raises UsageError where it is another run's, or where no folder can be; BadInputError for a damaged one.
    """
    if path.exists() and not path.is_dir():
        raise UsageError(f"-o {path} is a file, and an evaluation needs a folder. Choose another.")
    found = read_plan(path)
    if found is None:
        check_empty(path)
        return {}
    compare_plans(path, found, json.loads(json_text(asked)))
    return found


def compare_plans(path: Path, found: Mapping[str, Any], asked: Mapping[str, Any]) -> None:
    """Raises UsageError, naming what differs, unless a run found in the folder is the one asked for, as far as said."""
    was_named, named = found.get("preset", {}).get("name"), asked["preset"]["name"]
    if was_named != named:
        raise UsageError(
            f"{path} holds a run with the preset {was_named}, not {named}: "
            f"results of two presets never stand in one table. {ELSEWHERE}"
        )
    known = found.get("vaes", {})
    changed = [
        *changes({key: found.get(key) for key in asked if key != "vaes"}, {k: asked[k] for k in asked if k != "vaes"}),
        *changes({k: known.get(k, vae) for k, vae in asked.get("vaes", {}).items()}, asked.get("vaes", {}), "VAE "),
    ]
    refuse_changes(path, changed)
