"""Commands killed at random moments, then called again: the same results as without a kill, and no file left over.

VAELENS_EXAMPLES=whole kills each command 20 times, VAELENS_KILL_SEED chooses other moments.
"""

import hashlib
import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from support.properties import commands
from vaelens.images.faces import draw_face

pytestmark = pytest.mark.slow

SMALL_TRAINING = (
    "optimizer.warmup_steps=1", "optimizer.decay_steps=2", "data.size=32", "data.batch_size=2", "run.steps=6",
    "run.evaluate_every=3", "run.checkpoint_every=2", "run.log_every=1", "run.held_out=2", "run.preset=offline",
    "gan.start=2", "gan.warmup_steps=1", "gan.width=16", "gan.layers=2",
)  # fmt: skip
COMMANDS = {
    "reconstruct": ["images/0.png", "images/1.png", "--vae", "tiny-kl-f8", "--vae", "tiny-ft-mse"],
    "compare": ["a face", "--seed", "0", "--steps", "2"],
    "evaluate": ["images", "--vae", "tiny-kl-f8", "--vae", "tiny-ft-mse", "--preset", "offline", "--batch", "2"],
    "encode": ["images", "--vae", "tiny-ft-ema", "--size", "64", "--shard-size", "1", "--batch", "1"],
    "finetune": [
        "images", "--from", "tiny-ft-ema", "--recipe", "tiny-ft-mse", "--micro-batch-size", "2",
        *(part for field in SMALL_TRAINING for part in ("--set", field)),
    ],
}  # fmt: skip
TIMES = {
    "finished", "when", "seconds", "measuring_seconds", "decode_seconds", "memory_bytes", "peak_memory_bytes", "calls",
    "ranks", "checksum",
}  # fmt: skip
WITH_TIMES = {".html", ".md", ".png"}  # their pages and sheets print times; the images themselves are in other files


def command(name: str, output: Path) -> list[str]:
    options = ["-o", str(output), "--device", "cpu", "-q"]
    threads = ["--threads", "1"] if name in {"encode", "evaluate", "finetune"} else []
    return [sys.executable, "-m", "vaelens", name, *COMMANDS[name], *options, *threads]


def environment(folder: Path) -> dict[str, str]:
    return os.environ | {"OMP_NUM_THREADS": "1", "VAELENS_CACHE": str(folder / "cache")}


def timeless(value: Any) -> Any:
    """JSON without times, memory, and the hashes of files that hold some."""
    if isinstance(value, dict):
        return {
            key: timeless(one)
            for key, one in value.items()  # pyright: ignore[reportUnknownVariableType]
            if key not in TIMES
            and not (key == "sha256" and "file" in value and Path(value["file"]).suffix in WITH_TIMES)
        }
    return [timeless(one) for one in value] if isinstance(value, list) else value  # pyright: ignore[reportUnknownVariableType]


def results(output: Path) -> dict[str, Any]:
    """Every file by its path, with what of it depends on the call alone."""
    found: dict[str, Any] = {}
    for path in sorted(output.rglob("*")):
        name = path.relative_to(output).as_posix()
        if path.is_dir():
            continue
        if path.suffix == ".json":
            found[name] = timeless(json.loads(path.read_bytes()))
        elif path.name == "rows.jsonl":
            found[name] = sorted(path.read_text().splitlines())
        elif path.suffix == ".png" and path.name not in {"sheet.png", "strip.png"}:
            found[name] = hashlib.sha256(Image.open(path).tobytes()).hexdigest()
        elif path.suffix in WITH_TIMES:
            found[name] = "there"
        else:
            found[name] = hashlib.sha256(path.read_bytes()).hexdigest()
    return found


@pytest.mark.parametrize("name", COMMANDS)
def test_a_command_that_was_killed_gives_the_same_results_when_it_is_called_again(name: str, tmp_path: Path) -> None:
    (tmp_path / "images").mkdir()
    for number in range(6):
        Image.fromarray(draw_face(number, 64).pixels).save(tmp_path / "images" / f"{number}.png")
    started = time.monotonic()
    whole = tmp_path / "whole" / "out"
    subprocess.run(
        command(name, whole), cwd=tmp_path, env=environment(tmp_path / "whole"), check=True, capture_output=True,
        timeout=300,
    )  # fmt: skip
    seconds, expected = time.monotonic() - started, results(whole)
    assert expected
    moments = random.Random(f"{name} {os.environ.get('VAELENS_KILL_SEED', '0')}")
    kills, tries, count = 0, 0, commands(20)
    while kills < count and tries < 2 * count:  # a run may be over before its moment: the machine is less busy now
        moment = (kills + moments.random()) / count * seconds  # spread over the whole run
        folder, tries = tmp_path / str(tries), tries + 1
        started = time.monotonic()
        process = subprocess.Popen(
            command(name, folder / "out"), cwd=tmp_path, env=environment(folder), stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        )  # fmt: skip
        try:
            process.communicate(timeout=moment)
            seconds = min(seconds, time.monotonic() - started)
        except subprocess.TimeoutExpired:
            process.send_signal(signal.SIGKILL)
            process.communicate()
            kills += 1
        again = subprocess.run(
            command(name, folder / "out"), cwd=tmp_path, env=environment(folder), capture_output=True, timeout=300,
            check=False,
        )  # fmt: skip
        assert again.returncode == 0, (moment, again.stderr.decode())
        assert results(folder / "out") == expected, moment
        strays = [path for path in folder.rglob("*") if ".vaelens-" in path.name or ".partial" in path.name]
        assert strays == [], moment
    print(f"{name}: {kills} kills in {tries} runs of {seconds:.1f} s, all with the results of a whole run")
    assert kills == count
