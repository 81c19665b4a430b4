"""A training's folder, before there is anything in it, and when it holds another training."""

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from support.training import stop_after, train
from vaelens.errors import UsageError
from vaelens.finetuning import training
from vaelens.finetuning.training import Interrupted
from vaelens.finetuning.training_folder import existing_plan
from vaelens.runs.lock import exclusive_run
from vaelens.runs.plan import write_plan

KILLED_AT_ITS_PLAN = """
import os, sys
from pathlib import Path
from vaelens.runs.plan import write_plan
os.fsync = lambda file: os.kill(os.getpid(), 9)
write_plan(Path(sys.argv[1]), {"command": "finetune", "micro_batch_size": 4, "threads": 1})
"""


def test_what_a_process_leaves_that_was_killed_while_it_wrote_its_plan_is_removed(tmp_path: Path) -> None:
    run = tmp_path / "run"
    killed = subprocess.run([sys.executable, "-c", KILLED_AT_ITS_PLAN, run], check=False)
    assert killed.returncode == -9
    assert list(run.iterdir())
    assert existing_plan(run) == {}
    with exclusive_run(run, 0):
        write_plan(run, {"command": "finetune", "micro_batch_size": 4, "threads": 1})
        assert {path.name for path in run.iterdir()} == {".lock", "plan.json"}
    assert existing_plan(run)["micro_batch_size"] == 4


def test_a_folder_with_other_files_is_refused(tmp_path: Path) -> None:
    (tmp_path / ".vaelens-mine").touch()
    with pytest.raises(UsageError, match="isn't empty and doesn't hold a training run"):
        existing_plan(tmp_path)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"seed": 5}, "other settings: seed was 0, now 5"),
        ({"overrides": {"optimizer.lr": 1.0}}, r"other settings: recipe\.optimizer\.lr was"),
    ],
)
def test_other_settings_are_refused_before_anything_is_loaded(
    change: dict[str, Any], message: str, narrow: Path, photos: Path, run: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(Interrupted):
        train(narrow, photos, run, should_stop=stop_after(1))
    for name in ("initialize", "open_sources", "load_preset", "load_perceptual"):
        monkeypatch.setattr(training, name, lambda *_, **__: pytest.fail("loaded"))
    with pytest.raises(UsageError, match=message):
        train(narrow, photos, run, **change)
