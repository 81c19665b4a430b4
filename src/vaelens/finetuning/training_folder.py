"""A training's folder: its plan, and the files that it writes on the way.

plan.json, log.jsonl, evaluations.jsonl, samples/000000500.png, skipped.json. No line depends on time or machine, so
that a resumed run leaves the same files as an uninterrupted one.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from vaelens.errors import UsageError
from vaelens.files import checked_json, is_temporary, read_checked_json, write_atomic
from vaelens.finetuning.recipe import HELD_OUT
from vaelens.images.writing import encode_png
from vaelens.runs.lock import LOCK
from vaelens.runs.outputs import RECORD_NAME, read_record
from vaelens.runs.plan import CHOOSE_ANOTHER, as_stored, differences, read_plan, refuse_differences, write_plan
from vaelens.runs.ranks import Ranks
from vaelens.runs.records import JsonLines
from vaelens.runtime import Notify, silent
from vaelens.text.numbers import counted
from vaelens.text.paths import reason
from vaelens.text.private_paths import without_folders


class TrainingFolder:
    """The folder at `path`; a process with `writes` False, any but the first of several, writes nothing."""

    def __init__(self, path: Path, writes: bool = True, notify: Notify = silent) -> None:
        self.path = path
        self.log = JsonLines(path / "log.jsonl", allow_nan=True)
        self.evaluations = JsonLines(path / "evaluations.jsonl", allow_nan=True)
        self._writes = writes
        self._notify = notify

    def add_log(self, line: Mapping[str, Any]) -> None:
        """Append a line to log.jsonl."""
        if self._writes:
            self.log.append([line])

    def add_evaluation(self, line: Mapping[str, Any]) -> None:
        """Append a line to evaluations.jsonl."""
        if self._writes:
            self.evaluations.append([line])

    def add_samples(self, step: int, pixels: np.ndarray) -> None:
        """Save a sheet of held-out images, uint8 [h,w,3]."""
        if self._writes:
            write_atomic(self.path / "samples" / f"{step:09d}.png", encode_png(pixels))

    def truncate(self, step: int) -> None:
        """Remove the lines after this step, which will be repeated, and with a notice damaged ones."""
        if self._writes:
            for file in (self.log, self.evaluations):
                if damaged := file.keep(lambda line: line["step"] <= step):
                    lines = f"{counted(damaged, 'line')} with a wrong checksum"
                    self._notify(f"Warning: {file.path}: removed {lines}. Check the disk.")


def existing_plan(path: Path) -> dict[str, Any]:
    """The plan of the training in the folder, empty where there is none.

    Raises UsageError where no training can be stored there; BadInputError for a damaged plan.
    """
    found = read_plan(path, "finetune", ("micro_batch_size", "threads"))
    if found is None and path.is_dir() and not all(_is_ours(entry.name) for entry in path.iterdir()):
        raise UsageError(f"{path} isn't empty and doesn't hold a training run. {CHOOSE_ANOTHER}")
    return found or {}


def _is_ours(name: str) -> bool:
    """Whether a file may be there before the plan: a lock, or what a killed process left of the plan."""
    return name.startswith(LOCK) or is_temporary(name)


def refuse_changed(path: Path, found: Mapping[str, Any], requested: Mapping[str, Any]) -> None:
    """Compare what is known of a plan before anything is loaded with the `found` one, if there is one.

    The number of held-out images isn't: it may follow from the images. Raises UsageError where something else differs.
    """
    new = as_stored(requested)
    changed = differences({key: found.get(key) for key in new}, new) if found else []
    refuse_differences(path, [one for one in changed if one[0] != f"recipe.{HELD_OUT}"])


def write_or_compare_plan(path: Path, found: Mapping[str, Any], plan: Mapping[str, Any]) -> str | None:
    """Write the plan of a new run, or compare it with the `found` one; gives the reason why the run can't be resumed.

    The reason is returned, not raised, so that all processes can raise it.
    """
    if not found:
        write_plan(path, plan)
        return None
    try:
        refuse_differences(path, differences(dict(found), as_stored(plan)))
    except UsageError as error:
        return str(error)
    stopped = (read_record(path / RECORD_NAME) or {}).get("stopped")
    return f"{path} was stopped early: {stopped} {CHANGE_RECIPE}" if stopped else None


CHANGE_RECIPE = "Change the recipe with --set, and start again in another folder."


def record_unreadable(path: Path, unreadable: Mapping[str, str], notify: Notify, ranks: Ranks) -> dict[str, str]:
    """Write skipped.json: all images that couldn't be read, by any process, also before a resume; with the reason."""
    file = path / "skipped.json"
    found: dict[str, str] = {}
    try:
        found = read_checked_json(file.read_bytes())
    except FileNotFoundError:
        pass
    except (OSError, ValueError) as error:
        if ranks.is_first:
            notify(
                f"Warning: {file}: {reason(error)}, so images that were replaced before the run was resumed may be "
                "missing in the record. Check the disk."
            )
    for one in ranks.gather(dict(unreadable)):
        found |= {label: without_folders(why) for label, why in one.items()}
    if found and ranks.is_first:
        label, why = next(iter(found.items()))
        count = len(found)
        notify(
            f"Warning: {counted(count, 'image')} couldn't be read and {'was' if count == 1 else 'were'} replaced by "
            f"others. {label}: {why}"
        )
        write_atomic(file, checked_json(found))
    return found
