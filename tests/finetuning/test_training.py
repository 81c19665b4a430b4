"""Trainings by unusual recipes and data: what they leave, what they report, and which calls are refused."""

import json
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from safetensors.torch import load_file

import vaelens as vl
from support.commands import invoke
from support.training import CONSTANT_LR, NO_GAN, SIX_STEPS, folder, json_lines, stop_after, train
from support.vaes import random_vae
from vaelens.engine import autoencoder
from vaelens.engine.plan import Plan
from vaelens.errors import BadInputError, CheckFailedError, NetworkError, UsageError
from vaelens.finetuning import recipe_files, training
from vaelens.finetuning.recipe_files import find_recipe
from vaelens.finetuning.training import Interrupted, finetune
from vaelens.finetuning.validation import EarlyStopping, StopReason
from vaelens.kernels.paths import available_paths
from vaelens.weights.registry import registry

pytestmark = pytest.mark.usefixtures("plain_report")

HEADER = "id,label,left,top,right,bottom\n"
OWN_SPACE: dict[str, Any] = {"model.space": "own"}


@pytest.mark.slow
def test_the_command_saves_at_a_signal(photos: Path, run: Path) -> None:
    settings = {"run.held_out": 2, "run.log_every": 1, "run.checkpoint_every": 8000}
    settings |= {"data.batch_size": 2, "data.size": 64}
    more = [part for key, value in settings.items() for part in ("--set", f"{key}={value}")]
    options = ["--recipe", "tiny-scratch", *more, "-o", str(run), "--threads", "1"]
    command = [sys.executable, "-m", "vaelens", "finetune", str(photos), *options]
    running = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
    while "loss" not in (line := running.stderr.readline()):
        assert line, "it ended by itself"
    running.send_signal(signal.SIGTERM)
    _, errors = running.communicate(timeout=60)
    assert running.returncode == 130, errors
    assert "run the same command again to resume" in errors
    assert "Traceback" not in errors
    newest = max(int(p.name) for p in (run / "checkpoints").iterdir())
    assert newest == len((run / "log.jsonl").read_text().splitlines()) > 0


def test_a_training_that_diverges_is_stopped_and_rolled_back(narrow: Path, photos: Path, run: Path) -> None:
    divergent = {"optimizer.lr": 1e18, "optimizer.max_grad_norm": 0.0, "optimizer.warmup_steps": 8}
    with pytest.raises(CheckFailedError, match=r"NaN or infinite.*after step \d+\. Change the recipe") as error:
        train(narrow, photos, run, overrides=divergent)
    record = json.loads((run / "run.json").read_text())
    assert f"after step {record['steps']}." in str(error.value)
    assert "NaN" in record["stopped"]
    assert "**Stopped early:**" in (run / "README.md").read_text()
    assert all(torch.isfinite(t).all() for t in load_file(run / "vae-ldm.safetensors").values())
    with pytest.raises(UsageError, match="was stopped early"):
        train(narrow, photos, run, overrides=divergent)


def test_a_vae_from_scratch_has_a_latent_space_of_its_own(photos: Path, run: Path) -> None:
    overrides = OWN_SPACE | NO_GAN | {"run.steps": 2, "run.evaluate_every": 2}
    tuned = train(None, photos, run, recipe="tiny-scratch", overrides=overrides)
    assert tuned.vae.spec.latent_space is None
    images = [vl.read_image(path) for path in sorted(photos.iterdir())]
    latents = torch.cat([tuned.vae.encode(image).posterior.mode().flatten() for image in images])
    assert tuned.vae.spec.scaling_factor == pytest.approx(1 / float(latents.std()), rel=0.2)
    assert "latent space of its own" in (run / "README.md").read_text()
    assert vl.load(run, device="cpu").spec == tuned.vae.spec


def test_cached_posteriors_change_only_the_last_bits(narrow: Path, photos: Path, tmp_path: Path) -> None:
    still = SIX_STEPS | {"data.crop": [1.0, 1.0], "data.flip": 0.0, "data.color_jitter": 0.0}
    slow = still | {"optimizer.lr": 1e-7, "model.posterior": "mode", "gan.weight": 0.0}  # the losses alone are compared
    losses = []
    for cache in (False, True):
        run = tmp_path / str(cache)
        train(narrow, photos, run, overrides=slow, cache=cache)  # 10 images: from the third step on, seen before
        losses.append([line["loss"] for line in json_lines(run / "log.jsonl")])
    assert losses[0] == pytest.approx(losses[1], rel=1e-5)
    assert len({f"{loss:.6f}" for loss in losses[0]}) == 6, "and differ from step to step"
    with pytest.raises(UsageError, match="differently in each epoch"):
        train(narrow, photos, tmp_path / "no", cache=True)
    with pytest.raises(UsageError, match="this recipe trains the encoder"):
        train(None, photos, tmp_path / "no", recipe="tiny-scratch", overrides=still | OWN_SPACE, cache=True)
    assert not (tmp_path / "no").exists()


def test_a_gan_that_never_starts_is_a_warning(narrow: Path, photos: Path, tmp_path: Path) -> None:
    notices: list[str] = []
    run = tmp_path / "late"
    overrides = CONSTANT_LR | {"run.steps": 2, "run.evaluate_every": 2, "gan.start": 2, "gan.warmup_steps": 0}
    train(narrow, photos, run, overrides=overrides, notify=notices.append)
    assert any("the GAN starts after step 2, but this training ends at 2" in notice for notice in notices)
    assert "The GAN, which starts after step 2, was never used." in (run / "README.md").read_text()
    assert not any("generator_loss" in line for line in json_lines(run / "log.jsonl"))


def test_corrupt_images_are_skipped_counted_and_listed(narrow: Path, photos: Path, tmp_path: Path, run: Path) -> None:
    small = folder(tmp_path / "small", 12, first=30, side=20)  # smaller than the crop, too
    (small / "33.png").write_bytes((small / "33.png").read_bytes()[:80])
    notices: list[str] = []
    tuned = train(narrow, small, run, overrides=SIX_STEPS, notify=notices.append, held_out=photos)
    assert any(notice.startswith("Warning: 1 image couldn't be read") for notice in notices), notices
    assert [name.rpartition(": ")[2] for name in tuned.record["skipped"]] == ["33.png"]
    skipped = run / "skipped.json"
    assert list(json.loads(skipped.read_text()))[:1] == list(tuned.record["skipped"])
    skipped.write_bytes(skipped.read_bytes().replace(b"33.png", b"32.png"))
    again = train(narrow, small, run, overrides=SIX_STEPS, notify=notices.append, held_out=photos)
    assert again.record["skipped"] == {}, "what has changed isn't used"
    assert [one for one in notices if f"{skipped}: it has changed since it was written" in one]


def test_the_weights_of_several_sources_change_a_training(narrow: Path, photos: Path, tmp_path: Path) -> None:
    more = folder(tmp_path / "more", 8, first=50, side=44)
    boxes = [tmp_path / "none.csv", tmp_path / "boxes.csv"]
    boxes[0].write_text(HEADER + "00.png,mouth,5,5,30,30\n")
    boxes[1].write_text(HEADER + "".join(f"{n}.png,eye,5,5,30,30\n" for n in range(50, 58)))
    overrides = {"run.steps": 3, "run.evaluate_every": 3, "gan.weight": 0.0, "optimizer.decay_steps": 0}
    overrides |= {"loss.box_weight": 5.0, "loss.box_labels": ["eye"]}
    recorded = []
    for weights in (None, [3, 1]):
        run = tmp_path / f"run-{weights}"
        train(narrow, [photos, more], run, overrides=overrides, weights=weights, boxes=boxes)
        settings = json.loads((run / "run.json").read_text())["settings"]
        recorded.append([source["weight"] for source in settings["sources"]])
    assert recorded == [[1, 1], [3, 1]]
    assert (tmp_path / "run-None" / "log.jsonl").read_bytes() != (tmp_path / "run-[3, 1]" / "log.jsonl").read_bytes()


def test_an_image_that_changes_during_a_training_is_reported(narrow: Path, tmp_path: Path) -> None:
    photos, run = folder(tmp_path / "photos", 14, side=44), tmp_path / "run"

    def spoil(done: int, _total: int, _numbers: dict[str, float]) -> None:
        if done == 6:
            for photo in photos.iterdir():
                photo.write_bytes(photo.read_bytes() + b" ")

    with pytest.raises(CheckFailedError, match=r"has changed since the run started") as error:
        train(narrow, photos, run, on_log=spoil)
    assert "lr" not in str(error.value)
    assert not (run / "run.json").exists(), "it isn't marked as stopped"


def test_a_rollback_skips_damaged_checkpoints(narrow: Path, photos: Path, run: Path, monkeypatch: Any) -> None:

    def stop(_self: EarlyStopping, step: int, _values: dict[str, float]) -> StopReason | None:
        if step == 8:
            (run / "checkpoints" / "000000006" / "manifest.json").write_text("[")
            return StopReason("a made-up reason.", 7)
        return None

    monkeypatch.setattr(EarlyStopping, "check_log", stop)
    with pytest.raises(CheckFailedError, match=r"a made-up reason.*after step 3\."):
        train(narrow, photos, run)
    assert json.loads((run / "run.json").read_text())["steps"] == 3


def test_the_card_has_the_scores_of_the_released_vae(narrow: Path, photos: Path, tmp_path: Path) -> None:
    overrides = SIX_STEPS | {"optimizer.lr": 0.01, "gan.weight": 0.0}
    tuned = train(narrow, photos, tmp_path / "narrow", overrides=overrides)
    assert tuned.results.vaes == ("narrow (before)", "narrow (raw)", "narrow")
    head = yaml.safe_load((tmp_path / "narrow" / "README.md").read_text().split("---")[1])
    metrics = {m["type"]: m["value"] for m in head["model-index"][0]["results"][0]["metrics"]}
    assert metrics["psnr"] == tuned.results.spreads["narrow", "psnr"].mean
    assert metrics["psnr"] != tuned.results.spreads["narrow (before)", "psnr"].mean


def test_invalid_calls_are_refused_before_anything_is_written(narrow: Path, photos: Path, tmp_path: Path) -> None:
    no = tmp_path / "no"
    empty = tmp_path / "empty"
    empty.mkdir()
    other = random_vae(space="sdxl", scale=0.13025).save(tmp_path / "other.safetensors")
    held_out, scratch = {"run.held_out": 8}, {"recipe": "tiny-scratch", "overrides": OWN_SPACE}
    cases: list[tuple[type[Exception], str, dict[str, Any]]] = [
        (UsageError, "for VAEs of the latent space sd1, but other has sdxl", {"vae": other}),
        (UsageError, "continues a VAE. Name it with --from", {"vae": None}),
        (UsageError, "trains from scratch", scratch),
        (UsageError, "Did you mean kl-f8", {"vae": Path("kl-f9")}),
        (BadInputError, "no images", {"photos": empty}),
        (UsageError, "Give at least 16 images, lower it with --set run.held_out=7,", {"overrides": held_out}),
        (UsageError, "is a tiny autoencoder", {"vae": Path("taesd")}),
        (UsageError, "For sd1, use ft-ema or ft-mse.", {"vae": Path("kl-f8"), "overrides": {"model.space": "tiny"}}),
        (UsageError, "doesn't divide the batch size 4", {"micro_batch_size": 3}),
        (UsageError, "2 weights for 1 source", {"weights": [1, 1]}),
        (UsageError, "the images have none", {"overrides": {"loss.box_weight": 2.0}}),
        (UsageError, "uses no network called vgg16; it uses none", {"networks": {"vgg16": "x"}}),
        (UsageError, "Did you mean loss.pixel", {"overrides": {"loss.pixl": "l1"}}),
        (UsageError, "needs a multiple of 8. Set it: --set data.size=32", {"overrides": {"data.size": 33}}),
        (UsageError, "the seed must be between", {"seed": -1}),
        (UsageError, "--space is for a VAE file", scratch | {"vae": None, "space": "sd1"}),
    ]
    for kind, message, more in cases:
        call = {"vae": narrow, "photos": photos, "output": no} | more
        with pytest.raises(kind) as error:
            train(**call)
        assert message in str(error.value), (message, error.value)
        assert not no.exists(), message
    vl.load("tiny-kl-f8", device="cpu").save(tmp_path / "file.safetensors")
    with pytest.raises(UsageError, match="is a file"):
        train(narrow, photos, tmp_path / "file.safetensors")
    with pytest.raises(UsageError, match="isn't empty and doesn't hold a training run"):
        train(narrow, photos, empty.parent)


def test_missing_networks_are_known_before_any_image_is_read(
    narrow: Path, photos: Path, run: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Those of the loss too, together with the preset's, and with options that this command has."""
    monkeypatch.setattr("vaelens.metrics.pretrained.cached_web", lambda _: None)
    monkeypatch.setattr(training, "open_sources", lambda *_, **__: pytest.fail("read"))
    with pytest.raises(NetworkError, match=r"recipe .* needs vgg16, lpips-vgg: .*run\.preset=offline need no"):
        train(narrow, photos, run, overrides={"loss.perceptual": "lpips-vgg"}, offline=True)


def test_boxes_without_weight_are_refused_or_noted(narrow: Path, photos: Path, tmp_path: Path, run: Path) -> None:
    boxes = [tmp_path / "boxes.csv"]
    boxes[0].write_text(HEADER + "00.png,eye,5,5,30,30\n")
    labelled = {"loss.box_weight": 2.0, "loss.box_labels": ["eyes"]}
    with pytest.raises(UsageError, match="boxes labelled eyes, but the images have only eye"):
        train(narrow, photos, tmp_path / "no", boxes=boxes, overrides=labelled)
    notices: list[str] = []
    train(narrow, photos, run, boxes=boxes, notify=notices.append, overrides=SIX_STEPS)
    assert any("have no weight" in notice for notice in notices)


def test_another_file_of_boxes_is_another_training(narrow: Path, photos: Path, tmp_path: Path, run: Path) -> None:
    more: dict[str, Any] = {"overrides": {"loss.box_weight": 2.0}}
    for number in (0, 1):
        lines = "".join(f"{photo.name},eye,5,5,30,{30 + number}\n" for photo in photos.iterdir())
        (tmp_path / f"{number}.csv").write_text(HEADER + lines)
    with pytest.raises(Interrupted):
        train(narrow, photos, run, boxes=[tmp_path / "0.csv"], should_stop=lambda: True, **more)
    with pytest.raises(UsageError, match="sources was"):
        train(narrow, photos, run, boxes=[tmp_path / "1.csv"], **more)


def test_one_training_at_a_time_in_a_folder(narrow: Path, photos: Path, run: Path) -> None:
    from filelock import FileLock

    (run).mkdir()
    with FileLock(run / ".lock"), pytest.raises(UsageError, match="another run"):
        train(narrow, photos, run)


SMALL: dict[str, Any] = {"model.space": "sd1", "data.size": 32, "data.batch_size": 2, "run.preset": "small"}
SMALL |= {"gan.width": 16, "gan.layers": 2}


def short_run(vae: Path, photos: Path, output: Path, overrides: dict[str, Any], **more: Any) -> Path:
    finetune(
        vae, photos, recipe="tiny-ft-ema", output=output, overrides=SMALL | overrides, device="cpu", threads=1, **more
    )
    return output


def test_a_short_run_says_what_it_chose(narrow: Path, tmp_path: Path) -> None:
    notices: list[str] = []
    photos = folder(tmp_path / "photos", 5, side=44)
    run = short_run(narrow, photos, tmp_path / "run", {"run.steps": 3}, notify=notices.append)
    (chosen,) = [notice for notice in notices if "follows" in notice]
    assert "optimizer.warmup_steps=0 (instead of 100)" in chosen
    assert "run.held_out=1 (instead of 24)" in chosen
    plan, record = (json.loads((run / name).read_text()) for name in ("plan.json", "run.json"))
    for recipe in (plan["recipe"], record["settings"]["recipe"]):
        assert (recipe["run"]["held_out"], recipe["optimizer"]["decay_steps"]) == (1, 1)
    card = (run / "README.md").read_text()
    assert "a quarter of the images at most" in card
    assert "follows the length of the run; 200 in the recipe" in card


@pytest.mark.slow
def test_a_training_keeps_its_kernels_and_the_strips_of_its_evaluations(
    narrow: Path, photos: Path, run: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The first call's memory decides; another path of kernels is refused."""
    monkeypatch.setenv("VAELENS_KERNELS", "torch")
    monkeypatch.setattr("vaelens.engine.planner.free_memory", lambda _: 2**20)
    with pytest.raises(Interrupted):
        train(narrow, photos, run, overrides=SIX_STEPS, should_stop=stop_after(1))
    plan = json.loads((run / "plan.json").read_text())
    budgets = plan["engine"]["budgets"]
    assert (plan["kernels"], plan["engine"]["path"], len(budgets)) == ("torch", "torch", 2)
    monkeypatch.setattr("vaelens.engine.planner.free_memory", lambda _: 2**34)
    if len(available_paths()) > 1:
        monkeypatch.setenv("VAELENS_KERNELS", available_paths()[0])
        with pytest.raises(UsageError, match=r'kernels was "torch", now .* \(VAELENS_KERNELS=torch, where the machine'):
            train(narrow, photos, run, overrides=SIX_STEPS)
        monkeypatch.setenv("VAELENS_KERNELS", "torch")
    seen, decode = list[int](), autoencoder.decode

    def seeing(*args: Any, plan: Plan, **options: Any) -> torch.Tensor:
        seen.append(plan.peak_bytes)
        return decode(*args, plan=plan, **options)

    monkeypatch.setattr(autoencoder, "decode", seeing)
    train(narrow, photos, run, overrides=SIX_STEPS)
    assert seen[0] == next(
        budgets[name] for name in budgets if name.startswith("decode")
    )  # the report has its own plan


@pytest.mark.slow
def test_a_short_run_resumes_exactly(narrow: Path, tmp_path: Path) -> None:
    photos, notices = folder(tmp_path / "photos", 5, side=44), list[str]()
    whole = short_run(narrow, photos, tmp_path / "whole", {"run.steps": 4})
    parted = tmp_path / "parted"
    with pytest.raises(Interrupted):
        short_run(narrow, photos, parted, {"run.steps": 4}, should_stop=stop_after(2))
    named = {"run.steps": 4, "run.held_out": 1}  # what it chose may be named when resuming
    short_run(narrow, photos, parted, named, notify=notices.append)
    assert not any("follows" in notice for notice in notices)
    assert (parted / "log.jsonl").read_bytes() == (whole / "log.jsonl").read_bytes()
    a, b = (load_file(path / "vae-ldm.safetensors") for path in (whole, parted))
    assert all(a[name].equal(b[name]) for name in a)


def test_the_recipe_follows_the_vae(tmp_path: Path) -> None:
    assert [recipe_files.default_recipe(space) for space in ("sd1", "tiny", None, "own")] == [
        "ft-mse",
        "tiny-ft-mse",
        "ft-mse",
        "ft-mse",
    ]
    for name in registry().embedded():
        found = recipe_files.default_recipe(registry().vaes[name].space)
        assert find_recipe(found).model.space == registry().vaes[name].space
    ran = invoke("finetune", folder(tmp_path / "photos", 1), "-o", tmp_path / "run", code=2)
    assert "Training the small embedded VAE tiny-ft-ema" in ran.stderr
    assert "a training needs an image to train on and another one" in ran.stderr
    assert not (tmp_path / "run").exists()
