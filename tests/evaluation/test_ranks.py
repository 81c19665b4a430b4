"""Two processes under torchrun: on one folder, on a folder each, and with plans that differ."""

import json
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from support.small_run import BATCH, FAST, IMAGES, assert_same, quick, rows
from vaelens.evaluation.results import Results
from vaelens.evaluation.run import evaluate

SCRIPT = """
import atexit, os, sys
from pathlib import Path

import torch

from vaelens.errors import UsageError
from vaelens.evaluation import run
from vaelens.evaluation.report import report_files

run.make_examples = lambda chosen, run: []
report_files.report_html = lambda results, examples: ""
rank, (photos, folder, *vaes) = int(os.environ["RANK"]), sys.argv[1:]
options = {"preset": "offline", "batch": 2}
os.environ["VAELENS_CACHE"] = f"{folder}/cache-{rank}"
# Registered first, so it runs last: a group that is still there then aborts one process in ten.
atexit.register(lambda: Path(f"{folder}/group-{rank}").write_text(str(torch.distributed.is_initialized())))
try:
    run.evaluate(vaes, photos, output=f"{folder}/other-{rank}", threads=1 + rank, **options)
except UsageError as error:
    Path(f"{folder}/said-{rank}").write_text(str(error))
results = run.evaluate(vaes, photos, output=f"{folder}/run-{rank}", threads=1, **options)
assert (results is None) == (rank == 1)
"""


@pytest.fixture(autouse=True)
def small_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("VAELENS_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr("vaelens.evaluation.run.make_examples", lambda chosen, run: [])
    monkeypatch.setattr("vaelens.evaluation.report.report_files.report_html", lambda results, examples: "")


def torchrun(*command: str) -> None:
    """Two processes; raises what they said where one fails."""
    launch = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2", "--master-port", free_port()]
    done = subprocess.run([*launch, *command], env=quick(), capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stderr


def free_port() -> str:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return str(probe.getsockname()[1])


def test_on_one_folder_they_change_nothing(
    whole: tuple[Path, Results], photos: Path, two_vaes: list[Path], tmp_path: Path
) -> None:
    output = tmp_path / "run"
    named = [part for vae in two_vaes for part in ("--vae", str(vae))]
    options = ["--preset", "offline", "--batch", str(BATCH), "--threads", "1", "-o", str(output)]
    torchrun("-m", "vaelens", "evaluate", str(photos), *named, *options)
    record = json.loads((output / "run.json").read_text())
    assert record["settings"]["ranks"] == 2
    (call,) = record["calls"]
    shares = [(one["images"], one["reconstructions"]) for one in call["ranks"]]
    assert shares == [(8, 16), (6, 12)], "four of the seven chunks, and three"
    assert (call["images"], call["reconstructions"]) == (IMAGES, 2 * IMAGES)
    results = evaluate(two_vaes, photos, output=output, **FAST)
    assert_same(output, results, whole)


@pytest.mark.slow
def test_without_a_common_folder_and_with_other_threads(
    whole: tuple[Path, Results], photos: Path, two_vaes: list[Path], tmp_path: Path
) -> None:
    """The first collects what the second measured; with other plans, both are refused before anything is."""
    (tmp_path / "script.py").write_text(SCRIPT)
    torchrun(str(tmp_path / "script.py"), str(photos), str(tmp_path), *map(str, two_vaes))
    for rank in (0, 1):
        said = (tmp_path / f"said-{rank}").read_text()
        assert said.startswith("rank 1 and rank 0 differ in threads.")
        assert not (tmp_path / f"other-{rank}").exists()
        assert (tmp_path / f"group-{rank}").read_text() == "False", "the processes part before they end"
    assert 0 < len(rows(tmp_path / "run-1")) < len(rows(whole[0]))
    before = rows(tmp_path / "run-0")
    assert_same(tmp_path / "run-0", evaluate(two_vaes, photos, output=tmp_path / "run-0", **FAST), whole)
    assert rows(tmp_path / "run-0") == before, "all was there"
