"""Whole processes on one cache: killed at random moments, several ranks, and the command line."""

import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from support.commands import invoke
from support.latents import content
from support.small_run import make_photos, subprocess_environment
from vaelens.latent_cache.cache import open_cache

OPTIONS = ["--vae", "tiny-ft-ema", "--size", "64", "--shard-size", "1", "--batch", "1", "--threads", "1", "-q"]
KILLS = 10


@pytest.fixture
def images(tmp_path: Path) -> Path:
    (tmp_path / "images").mkdir()
    return make_photos(tmp_path / "images")


def command(images: Path, output: Path) -> list[str]:
    return ["encode", str(images), "-o", str(output), "--device", "cpu", *OPTIONS]


@pytest.mark.slow
def test_killed_ten_times_and_resumed_it_has_the_same_bytes(images: Path, tmp_path: Path) -> None:
    """One folder, in which each process is killed at a random moment after the first shard could be written."""
    environment = subprocess_environment()

    def start(output: Path) -> "subprocess.Popen[bytes]":
        launch = [sys.executable, "-m", "vaelens", *command(images, output)]
        return subprocess.Popen(launch, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE)

    def finish(output: Path) -> None:
        process = start(output)
        _, messages = process.communicate(timeout=300)
        assert process.returncode == 0, messages

    started = time.monotonic()
    finish(tmp_path / "whole")
    seconds = time.monotonic() - started
    moments, kills, output = random.Random(os.environ.get("VAELENS_KILL_SEED", "0")), 0, tmp_path / "killed"
    for _ in range(5 * KILLS):
        process = start(output)
        try:
            process.communicate(timeout=seconds * moments.uniform(0.4, 1.0))
            # Finished before its moment: what it made last is taken away, so that there is work for the next one.
            (output / "cache.json").unlink()
            for shard in sorted((output / "shards").iterdir())[-4:]:
                shard.unlink()
        except subprocess.TimeoutExpired:
            process.send_signal(signal.SIGKILL)
            process.communicate()
            kills += 1
        if kills == KILLS:
            break
    assert kills == KILLS
    finish(output)
    assert content(output) == content(tmp_path / "whole")


@pytest.mark.slow
def test_two_ranks_make_the_bytes_of_one_process(images: Path, tmp_path: Path) -> None:
    environment = subprocess_environment()
    launch = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2", "--standalone", "-m", "vaelens"]
    done = subprocess.run(
        [*launch, *command(images, tmp_path / "two")], env=environment, capture_output=True, text=True, timeout=300,
        check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    invoke(*command(images, tmp_path / "one"))
    assert content(tmp_path / "two") == content(tmp_path / "one")


def test_the_command_says_what_it_made_and_another_decoder_uses_it(images: Path, tmp_path: Path) -> None:
    """The embedded decoders share one encoder, as ft-EMA and ft-MSE do."""
    output = tmp_path / "latents"
    ran = invoke(*command(images, output), "--rule", "bicubic", "--take", "3")
    assert "images     3" in ran.stdout
    assert f"Wrote 3 images to {output}." in ran.stdout
    cache = open_cache(output)
    assert cache.index.encoder.vae == "tiny-ft-ema"
    from vaelens.loading import load

    cache.check_encoder(load("tiny-ft-mse", device="cpu"))
    ran = invoke(*command(images, tmp_path / "closed"), "--rule", "nearest", code=2)
    assert "there is no size rule 'nearest'" in ran.stderr
