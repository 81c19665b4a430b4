"""Ranks of torchrun, two processes: on one folder, on a folder each, and with plans that differ."""

import json
import socket
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from support.small_run import BATCH, IMAGES, Run, assert_same, command, rows, subprocess_environment
from vaelens.errors import UsageError
from vaelens.evaluation.evaluation_folder import EvaluationFolder
from vaelens.evaluation.results import Results
from vaelens.runs.ranks import Ranks

pytestmark = pytest.mark.usefixtures("small_runs")

SCRIPT = """
import atexit, os, sys
from pathlib import Path

import torch

from support.small_run import FAST
from vaelens.errors import UsageError
from vaelens.evaluation import run
from vaelens.evaluation.report import report_files

run.make_examples = lambda chosen, run: []
report_files.report_html = lambda results, examples: ""
rank, (photos, folder, *vaes) = int(os.environ["RANK"]), sys.argv[1:]
os.environ["VAELENS_CACHE"] = f"{folder}/cache-{rank}"
# Registered first, so it runs last: a group that is still there then aborts one process in ten.
atexit.register(lambda: Path(f"{folder}/group-{rank}").write_text(str(torch.distributed.is_initialized())))
try:
    run.evaluate(vaes, photos, output=f"{folder}/other-{rank}", **FAST | {"threads": 1 + rank})
except UsageError as error:
    Path(f"{folder}/refusal-{rank}").write_text(str(error))
results = run.evaluate(vaes, photos, output=f"{folder}/run-{rank}", **FAST)
assert (results is None) == (rank == 1)
"""


def torchrun(*arguments: str) -> None:
    """Two processes; fails with their messages where one fails."""
    launch = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2", "--master-port", free_port()]
    environment = subprocess_environment()
    done = subprocess.run(
        [*launch, *arguments], env=environment, capture_output=True, text=True, timeout=300, check=False
    )
    assert done.returncode == 0, done.stderr


def free_port() -> str:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return str(probe.getsockname()[1])


@pytest.mark.slow
def test_ranks_on_one_folder_give_the_rows_of_one_process(
    whole: Run, photos: Path, two_vaes: list[Path], tmp_path: Path, measure: Callable[..., Results]
) -> None:
    output = tmp_path / "run"
    torchrun("-m", "support.small_run", *command(photos, two_vaes, output))
    record = json.loads((output / "run.json").read_text())
    assert record["settings"]["ranks"] == 2
    (call,) = record["calls"]
    shares = [(one["images"], one["reconstructions"]) for one in call["ranks"]]
    assert shares == [(8, 16), (6, 12)], "four of the seven chunks, and three"
    assert (call["images"], call["reconstructions"]) == (IMAGES, 2 * IMAGES)
    assert_same(output, measure(), whole)


@pytest.mark.slow
def test_ranks_with_a_folder_each_and_ranks_with_other_threads(
    whole: Run, photos: Path, two_vaes: list[Path], tmp_path: Path, measure: Callable[..., Results]
) -> None:
    """Rank 0 collects what rank 1 measured; where the plans differ, both are refused before anything is measured."""
    (tmp_path / "script.py").write_text(SCRIPT)
    torchrun(str(tmp_path / "script.py"), str(photos), str(tmp_path), *map(str, two_vaes))
    for rank in (0, 1):
        refusal = (tmp_path / f"refusal-{rank}").read_text()
        assert refusal.startswith("rank 1 and rank 0 differ in threads.")
        assert not (tmp_path / f"other-{rank}").exists()
        assert (tmp_path / f"group-{rank}").read_text() == "False", "the processes part before they end"
    assert 0 < len(rows(tmp_path / "run-1")) < len(rows(whole.folder))
    before = rows(tmp_path / "run-0")
    assert_same(tmp_path / "run-0", measure(output=tmp_path / "run-0"), whole)
    assert rows(tmp_path / "run-0") == before, "all was there"


def test_ranks_that_differ_are_refused_by_the_setting(monkeypatch: pytest.MonkeyPatch) -> None:
    """Rank 0 alone has an old folder, whose batch it takes."""
    import accelerate.utils

    plans = [{"batch": 2, "seed": 0}, {"batch": 4, "seed": 0}]
    monkeypatch.setattr(accelerate.utils, "gather_object", lambda _: plans)
    with pytest.raises(UsageError, match=r"rank 1 .* differ in batch"):
        Ranks(0, 2).require_same(plans[0])


def test_units_can_be_copied_from_one_folder_to_another(whole: Run, tmp_path: Path) -> None:
    """What a rank without a shared disk sends is what rank 0 would have had."""
    ids = [f"{n:02d}.png" for n in range(IMAGES)]
    source, target = EvaluationFolder(whole.folder, ids, BATCH), EvaluationFolder(tmp_path / "run", ids, BATCH)
    target.start(json.loads((whole.folder / "plan.json").read_text()))
    source.refresh()
    for chunk in range(source.chunks):
        for vae in ("one", "two"):
            target.add(chunk, vae, *source.unit(chunk, vae))
            assert target.is_done(chunk, vae)
    assert rows(tmp_path / "run") == rows(whole.folder)
    assert torch.equal(target.features("two", "fd-small"), source.features("two", "fd-small"))
