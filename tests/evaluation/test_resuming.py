"""`evaluate` in several calls: shards, kills, lost files and added VAEs give the same rows as one call."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from support.small_run import BATCH, FAST, IMAGES, PRESET, Run, assert_same, command, rows, subprocess_environment
from vaelens.errors import BadInputError
from vaelens.evaluation.feature_files import FeatureFiles
from vaelens.evaluation.presets import PRESETS
from vaelens.evaluation.results import Results
from vaelens.evaluation.run import evaluate

pytestmark = pytest.mark.usefixtures("small_runs")
Measure = Callable[..., Results]


@pytest.fixture
def output(tmp_path: Path) -> Path:
    """Where `measure` writes."""
    return tmp_path / "run"


@pytest.mark.parametrize("count", [pytest.param(2, marks=pytest.mark.slow), 3, pytest.param(7, marks=pytest.mark.slow)])
def test_shards_give_the_rows_of_one_call(
    whole: Run, photos: Path, two_vaes: list[Path], output: Path, count: int
) -> None:
    results = None
    for shard in range(count, 0, -1):
        assert results is None
        results = evaluate(two_vaes, photos, output=output, shard=f"{shard}/{count}", **FAST)
    assert_same(output, results, whole)


def test_an_unfinished_shard_prints_as_json_what_is_left(
    photos: Path,
    two_vaes: list[Path],
    output: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    from vaelens.cli.main import app

    monkeypatch.setitem(PRESETS, "offline", PRESET)
    arguments = [*command(photos, two_vaes, output, "--take", "4", "--json"), "--shard"]
    app([*arguments, "1/2"], standalone_mode=False)
    (left,) = json.loads(capsys.readouterr().out).values()
    assert left | {"measured": None} == {
        "output": str(output), "shard": "1/2", "chunks": 2, "chunks_left": 1, "reconstructions_left": 4,
        "measured": None,
    }  # fmt: skip
    assert (left["measured"]["images"], left["measured"]["reconstructions"]) == (2, 4)
    app([*arguments, "2/2"], standalone_mode=False)
    assert "unfinished" not in (printed := json.loads(capsys.readouterr().out))
    assert printed["images"] == 4


@pytest.mark.slow
def test_a_run_killed_at_random_moments_resumes(
    whole: Run, photos: Path, two_vaes: list[Path], output: Path, measure: Measure
) -> None:
    rng = np.random.default_rng(int(os.environ.get("VAELENS_KILL_SEED", "0")))
    stops = 0
    for _ in range(int(os.environ.get("VAELENS_KILLS", "3"))):
        process = subprocess.Popen(
            [sys.executable, "-m", "support.small_run", *command(photos, two_vaes, output, "-q")],
            env=subprocess_environment(), stdout=subprocess.PIPE, stderr=subprocess.PIPE,
        )  # fmt: skip
        before = count_rows(output)
        while process.poll() is None and count_rows(output) == before:  # until it writes
            time.sleep(0.002)
        time.sleep(float(rng.uniform(0, 0.1)))
        stops += process.poll() is None
        process.send_signal(signal.SIGKILL)
        process.communicate()
    assert stops, "every run was over before it could be killed"
    assert_same(output, measure(), whole)


def count_rows(output: Path) -> int:
    file = output / "rows.jsonl"
    return file.read_bytes().count(b"\n") if file.exists() else 0


def test_nothing_is_measured_twice(whole: Run, output: Path, measure: Measure) -> None:
    shutil.copytree(whole.folder, output)
    before = (output / "rows.jsonl").read_bytes()
    steps: list[str] = []
    assert_same(output, measure(progress=lambda done, total, what: steps.append(what)), whole)
    assert (output / "rows.jsonl").read_bytes() == before
    assert not any(step.endswith(".png") for step in steps)


def test_features_that_were_lost_are_made_again(whole: Run, output: Path, measure: Measure) -> None:
    shutil.copytree(whole.folder, output)
    files = sorted((output / "features").rglob("*.safetensors"))
    assert len(files) == 3 * IMAGES // BATCH
    before = [file.read_bytes() for file in files]
    for lost in (files[2], files[9]):  # an original's and a VAE's
        lost.unlink()
    assert_same(output, measure(), whole)
    assert [file.read_bytes() for file in files] == before


def flip_a_bit(file: Path, place: int) -> None:
    content = bytearray(file.read_bytes())
    content[place] ^= 4
    file.write_bytes(bytes(content))


def test_stored_results_with_a_flipped_bit_are_measured_again_with_a_notice(
    whole: Run, output: Path, measure: Measure
) -> None:
    shutil.copytree(whole.folder, output)
    files = sorted((output / "features").rglob("*.safetensors"))
    before = [file.read_bytes() for file in files]
    for number, place in ((2, -3), (9, 40), (12, 0)):  # an original's values, a VAE's header, its length
        flip_a_bit(files[number], place)
    line = (output / "rows.jsonl").read_bytes().index(b'"psnr": ') + len(b'"psnr": ')
    flip_a_bit(output / "rows.jsonl", line)
    notices: list[str] = []
    assert_same(output, measure(notify=notices.append), whole)
    assert [file.read_bytes() for file in files] == before
    (notice,) = [one for one in notices if "wrong checksum" in one]
    assert "1 line of rows.jsonl" in notice
    assert files[2].relative_to(output).as_posix() in notice


def test_cached_features_with_a_flipped_bit_are_computed_again_with_a_notice(
    whole: Run, output: Path, measure: Measure
) -> None:
    measure()
    cached = sorted((output.parent / "cache").rglob("*.safetensors"))
    assert len(cached) == IMAGES // BATCH
    before = cached[1].read_bytes()
    flip_a_bit(cached[1], -3)
    shutil.rmtree(output)
    notices: list[str] = []
    assert_same(output, measure(notify=notices.append), whole)
    assert [one for one in notices if f"{cached[1]} is damaged" in one]
    assert cached[1].read_bytes() == before


def test_a_vae_can_be_added(whole: Run, two_vaes: list[Path], output: Path, measure: Measure) -> None:
    measure(two_vaes[:1])
    steps: list[str] = []
    results = measure(progress=lambda done, total, what: steps.append(f"{done}/{total}"))
    assert f"0/{IMAGES}" in steps, "only the new VAE is measured"
    assert_same(output, results, whole)


def distance(results: Results) -> float | None:
    return results.dataset_scores["one", "fd_small"].value


def test_sums_of_features_give_the_same_distance(
    whole: Run, output: Path, measure: Measure, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("vaelens.evaluation.feature_files.MAX_STORED", 10)
    results = measure()
    assert not list((output / "features").rglob("*.safetensors"))
    assert len(list((output / "sums").rglob("*.safetensors"))) == 3 * 7
    assert distance(results) == pytest.approx(distance(whole.results), rel=1e-8)
    assert rows(output) == rows(whole.folder)


def test_a_run_killed_while_summing_up_resumes(
    whole: Run, output: Path, measure: Measure, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Rows and features are there, sums are not, or features are left beside them: the next call repairs both."""
    monkeypatch.setattr("vaelens.evaluation.feature_files.MAX_STORED", 10)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(FeatureFiles, "_sum_up_group", lambda self, group, name: None)
        with pytest.raises(BadInputError, match=r"is missing\. Run the same command again"):  # summarising without sums
            measure()
    left = next((output / "features" / "originals").iterdir())
    before = left.read_bytes()
    results = measure()
    left.write_bytes(before)
    again = measure()
    assert again.dataset_scores == results.dataset_scores
    assert distance(again) == pytest.approx(distance(whole.results), rel=1e-8)
