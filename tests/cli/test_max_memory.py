"""`--max-memory` through a command: one that is too small, the smallest for an odd size, and memory that runs out."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from support.commands import invoke
from support.comparisons import face_photo
from vaelens.adapters.pipelines import OnStep
from vaelens.engine import autoencoder
from vaelens.engine.plan import Plan
from vaelens.generation import LatentGenerator
from vaelens.latents import Latent


def pixels(folder: Path) -> np.ndarray:
    (image,) = folder.glob("*narrow*.png")
    return np.asarray(Image.open(image)).astype(int)


@pytest.mark.usefixtures("torch_kernels")  # encoding, which comes first, needs more than decoding
def test_the_budget_that_a_refusal_names_is_enough(vae_file: Path, tmp_path: Path) -> None:
    photo = face_photo(tmp_path / "photo.png", 131, 77)
    command = "reconstruct", photo, "--vae", vae_file
    refused = invoke(*command, "--max-memory", "1MB", "-o", tmp_path / "little", code=2)
    assert "encoding 136x80 pixels needs at least" in refused.stderr
    budget = refused.stderr.split("Allow ")[1].split(" or more")[0].replace(" ", "")
    invoke(*command, "--max-memory", budget, "-o", tmp_path / "little")
    invoke(*command, "-o", tmp_path / "ample")
    assert abs(pixels(tmp_path / "little") - pixels(tmp_path / "ample")).max() <= 1


def test_a_budget_too_small_for_decoding_is_refused_before_the_latents_are_made(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    latents, made = LatentGenerator.latents, list[int]()

    def counted(self: LatentGenerator, seed: int, on_step: OnStep | None = None) -> Latent:
        made.append(seed)
        return latents(self, seed, on_step)

    monkeypatch.setattr(LatentGenerator, "latents", counted)
    command = "generate", "a smiling face", "--steps", 1, "-o", tmp_path / "face.png"
    assert "decoding 256x256 pixels needs at least" in invoke(*command, "--max-memory", "1MB", code=2).stderr
    assert made == []
    invoke(*command)
    refused = invoke("replay", tmp_path / "face.png", "--max-memory", "1MB", code=2)
    assert "decoding 256x256 pixels needs at least" in refused.stderr
    assert made == [0]


def test_where_memory_runs_out_in_mid_run_the_command_goes_on_and_says_so(
    vae_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    photo = face_photo(tmp_path / "photo.png", 203, 165)
    invoke("reconstruct", photo, "--vae", vae_file, "-o", tmp_path / "ample")
    run, failed = autoencoder.run, list[Plan]()

    def failing_once(steps: Any, plan: Plan, *rest: Any, **options: Any) -> None:
        if plan.direction == "decode" and not failed:
            failed.append(plan)
            raise MemoryError
        run(steps, plan, *rest, **options)

    monkeypatch.setattr(autoencoder, "run", failing_once)
    ran = invoke("reconstruct", photo, "--vae", vae_file, "-o", tmp_path / "again")
    assert "Memory ran out while decoding 208x168 pixels. It begins again with a plan that takes" in ran.stderr
    assert abs(pixels(tmp_path / "again") - pixels(tmp_path / "ample")).max() <= 1
    assert json.loads((tmp_path / "again" / "run.json").read_text())["vaes"][0]["engine"]["path"] == failed[0].path
