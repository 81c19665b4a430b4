"""When a training stops early, which checkpoint it returns to, and what it won't release."""

import json
from pathlib import Path
from typing import Any, Literal

import pytest
import torch
from safetensors.torch import load_file

import vaelens as vl
from support.training import CONSTANT_LR, NO_GAN, SMALL_CONFIG, folder, json_lines, stop_after, train
from support.vaes import random_vae
from vaelens.errors import CheckFailedError
from vaelens.finetuning import loop, training, validation
from vaelens.finetuning.loop import Training
from vaelens.finetuning.training import Interrupted
from vaelens.finetuning.validation import EarlyStopping, StopReason, readable_chunks, score

pytestmark = pytest.mark.usefixtures("plain_report")

WITH_GAN = CONSTANT_LR | {"gan.start": 0, "gan.warmup_steps": 0, "run.checkpoint_every": 1, "run.evaluate_every": 12}


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return folder(tmp_path_factory.mktemp("data") / "photos", 8, side=44)


@pytest.fixture(scope="module")
def narrow(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return random_vae(SMALL_CONFIG).save(tmp_path_factory.mktemp("vae") / "narrow.safetensors")


@pytest.fixture
def strict(monkeypatch: pytest.MonkeyPatch) -> None:
    """Any discriminator is taken for a perfect one, after three lines of the log."""
    monkeypatch.setattr(validation, "PERFECT_LOSS", 1e9)
    monkeypatch.setattr(validation, "PATIENCE", 3)


def released_step(run: Path) -> int:
    """After how many steps a run was released, by its record; its weights are those of that checkpoint."""
    steps = json.loads((run / "run.json").read_text())["steps"]
    state = load_file(run / "checkpoints" / f"{steps:09d}" / "state.safetensors")
    network = vl.load(run, device="cpu").network.state_dict()
    averages = {name.removeprefix("ema."): tensor for name, tensor in state.items() if name.startswith("ema.")}
    assert len(averages) > 20
    assert all(torch.equal(network[name], tensor) for name, tensor in averages.items())
    return int(steps)


def at_step_0(vae: Path, photos: Path, run: Path, overrides: dict[str, Any]) -> Training:
    """A training as `finetune` makes it, before its first step."""
    made: list[Training] = []

    def stop(t: Training) -> Literal["interrupted"]:
        made.append(t)
        return "interrupted"

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(training, "train", stop)
        with pytest.raises(Interrupted):
            train(vae, photos, run, overrides=overrides)
    return made[0]


@pytest.mark.usefixtures("strict")
def test_a_useless_discriminator_stops_a_training(narrow: Path, photos: Path, tmp_path: Path) -> None:
    """The count continues after a resume."""
    whole, parted = tmp_path / "whole", tmp_path / "parted"
    with pytest.raises(CheckFailedError, match=r"perfectly.*after step \d+\. Change the recipe"):
        train(narrow, photos, whole, overrides=WITH_GAN)
    assert [line["step"] for line in json_lines(whole / "log.jsonl")] == [1, 2, 3]
    assert "perfectly" in json.loads((whole / "run.json").read_text())["stopped"]
    assert released_step(whole) <= 1, "the count started with step 1"

    with pytest.raises(Interrupted, match="after step 2"):
        train(narrow, photos, parted, overrides=WITH_GAN, should_stop=stop_after(2))
    with pytest.raises(CheckFailedError, match="perfectly"):
        train(narrow, photos, parted, overrides=WITH_GAN)
    assert (parted / "log.jsonl").read_bytes() == (whole / "log.jsonl").read_bytes()
    assert released_step(parted) == released_step(whole)


@pytest.mark.parametrize(("last_good_step", "newest"), [(5, 4), (8, 6)])
def test_an_evaluation_can_stop_a_training_at_its_newest_good_checkpoint(
    last_good_step: int, newest: int, narrow: Path, photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run, scores = tmp_path / "run", []

    def evaluation(_: EarlyStopping, step: int, trained: float, held_out: float, _exact: object) -> StopReason | None:
        scores.append((step, trained, held_out))
        return StopReason("made up.", last_good_step) if step == 8 else None

    monkeypatch.setattr(EarlyStopping, "check_evaluation", evaluation)
    overrides = NO_GAN | {"run.evaluate_every": 2, "run.checkpoint_every": 2, "run.steps": 12}
    with pytest.raises(CheckFailedError, match=rf"made up\..*after step {newest}\. Change the recipe"):
        train(narrow, photos, run, overrides=overrides)
    assert json_lines(run / "log.jsonl")[-1]["step"] == 8
    assert released_step(run) == newest
    evaluations = [one for one in json_lines(run / "evaluations.jsonl") if one["weights"] == "released"]
    assert scores == [(one["step"], one["training"]["psnr"], one["held_out"]["psnr"]) for one in evaluations]
    assert [step for step, _, _ in scores] == [0, 2, 4, 6, 8]


def test_an_evaluation_measures_training_images_too(
    narrow: Path, photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("VAELENS_CACHE", str(tmp_path / "cache"))
    few, run = folder(tmp_path / "few", 3, first=20, side=44), tmp_path / "run"
    with pytest.raises(Interrupted):
        train(narrow, few, run, overrides=NO_GAN, held_out=photos, should_stop=lambda: True)
    look = next(one for one in json_lines(run / "evaluations.jsonl") if one["weights"] == "released")
    assert look["step"] == 0
    vl.evaluate(narrow, few, preset="small", output=tmp_path / "scores", device="cpu", threads=1)
    scores = json.loads((tmp_path / "scores" / "results.json").read_text())["scores"]["narrow"]
    assert look["training"]["psnr"] == pytest.approx(scores["psnr"]["mean"], rel=1e-6)
    assert look["held_out"]["psnr"] != pytest.approx(scores["psnr"]["mean"], rel=1e-3)


def test_a_changed_encoder_is_not_released(narrow: Path, photos: Path, run: Path, monkeypatch: Any) -> None:

    def spoiled(t: Training) -> Literal["finished", "interrupted"] | StopReason:
        ended = loop.train(t)
        with torch.no_grad():
            t.state.network.encoder.conv_in.weight.view(-1)[0] += 1e-3
        return ended

    monkeypatch.setattr(training, "train", spoiled)
    with pytest.raises(CheckFailedError, match="isn't a drop-in and isn't released"):
        train(narrow, photos, run, overrides=NO_GAN | {"run.steps": 1})
    left = {entry.name for entry in run.iterdir()}
    assert not left & {"vae", "vae-ldm.safetensors", "raw", "run.json", "README.md"}


def test_micro_batches_give_the_same_batch(narrow: Path, photos: Path, tmp_path: Path) -> None:
    losses = []
    for micro_batch_size in (4, 2):
        run = tmp_path / str(micro_batch_size)
        train(narrow, photos, run, overrides=NO_GAN | {"run.steps": 2}, micro_batch_size=micro_batch_size)
        losses.append([line["loss"] for line in json_lines(run / "log.jsonl")])
    assert len(losses[0]) == 2
    assert losses[1] == pytest.approx(losses[0], rel=1e-4)


def test_an_evaluation_that_is_not_finite_stops_a_training(narrow: Path, photos: Path, tmp_path: Path) -> None:
    overrides = NO_GAN | {"run.evaluate_every": 2, "run.checkpoint_every": 1, "run.steps": 4}
    (tmp_path / "run").mkdir()
    t = at_step_0(narrow, photos, tmp_path / "run", overrides)

    def poison(done: int, _: int, numbers: dict[str, float]) -> None:
        if done == 2 and "loss" in numbers:
            t.state.averaged()["decoder.conv_out.weight"].view(-1)[0] = torch.nan
            made = loop.released_vae(t, t.spec)
            assert not score(made, readable_chunks(t.held_out, t.preset.preset), t.preset, 0).finite

    t.on_log = poison
    assert score(loop.released_vae(t, t.spec), readable_chunks(t.held_out, t.preset.preset), t.preset, 0).finite
    ended = loop.train(t)
    assert isinstance(ended, StopReason)
    assert "NaN or infinite" in ended.message
    assert [line["step"] for line in json_lines(t.folder.path / "log.jsonl")] == [1, 2]
    assert t.state.step == 1
    assert all(torch.isfinite(tensor).all() for tensor in t.state.averaged().values())
