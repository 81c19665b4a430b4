"""A training's folder, before there is anything in it."""

import subprocess
import sys
from pathlib import Path

import pytest

from vaelens.errors import UsageError
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
