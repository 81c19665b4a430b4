"""A whole training: its output, and that neither an interruption nor a kill changes a bit of it."""

import json
import shutil
import signal
import subprocess
import sys
from collections.abc import Generator
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from diffusers import AutoencoderKL as DiffusersKL
from safetensors.torch import load_file

import vaelens as vl
from support.training import SHORT_RUN, TRAIN_SCRIPT, folder, small_presets, stop_after, train
from support.vaes import random_vae
from vaelens.errors import BadInputError, CheckFailedError, UsageError
from vaelens.finetuning.training import Interrupted, finetune

pytestmark = pytest.mark.usefixtures("_plain_report")

FROM_SCRATCH: dict[str, Any] = {"overrides": {"model.space": "own"}}


@pytest.fixture(scope="module", autouse=True)
def _presets() -> Generator[None]:
    with small_presets():
        yield


@pytest.fixture
def _plain_report(whole: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """After `whole`, which has a real one: its page takes longer than such a training."""
    assert whole.is_dir()
    monkeypatch.setattr("vaelens.evaluation.run.make_examples", lambda chosen, work: [])
    monkeypatch.setattr("vaelens.evaluation.report.report_files.report_html", lambda results, examples: "")


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return folder(tmp_path_factory.mktemp("data") / "photos", 14, side=44)


@pytest.fixture(scope="module")
def narrow(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return random_vae().save(tmp_path_factory.mktemp("vae") / "narrow.safetensors")


@pytest.fixture(scope="module")
def whole(narrow: Path, photos: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A training in one go."""
    run = tmp_path_factory.mktemp("whole") / "run"
    train(narrow, photos, run)
    return run


def assert_same(run: Path, whole: Path) -> None:
    """Weights, EMA, optimizers, log, evaluations, samples and the released VAE: bit for bit."""
    for name in ("checkpoints/000000020/state.safetensors", "log.jsonl", "evaluations.jsonl"):
        assert (run / name).read_bytes() == (whole / name).read_bytes(), name
    assert vl.load(run, device="cpu").fingerprint == vl.load(whole, device="cpu").fingerprint
    for strip in (whole / "samples").iterdir():
        assert (run / "samples" / strip.name).read_bytes() == strip.read_bytes(), strip.name


def test_what_a_training_leaves(whole: Path, narrow: Path) -> None:
    before, after, raw = (vl.load(path, device="cpu") for path in (narrow, whole, whole / "raw"))
    assert (after.name, after.spec) == ("run", before.spec)
    assert after.fingerprint.encoder == before.fingerprint.encoder
    assert after.fingerprint.decoder != before.fingerprint.decoder
    assert raw.fingerprint.decoder not in (after.fingerprint.decoder, before.fingerprint.decoder)
    assert vl.load(whole / "vae-ldm.safetensors", device="cpu").fingerprint == after.fingerprint
    lines = [json.loads(line) for line in (whole / "log.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines] == list(range(1, 21))
    assert ["generator_loss" in line for line in lines] == [False] * 6 + [True] * 14
    assert sorted(p.name for p in (whole / "checkpoints").iterdir()) == [
        "000000000",
        "000000010",
        "000000015",
        "000000020",
    ]
    record = json.loads((whole / "run.json").read_text())
    assert (record["command"], record["steps"], record["stopped"]) == ("finetune", 20, None)
    assert record["settings"]["recipe"]["loss"]["pixel"] == "l1"
    assert record["vaes"][0]["weights"] == after.fingerprint.short
    evaluations = [json.loads(line) for line in (whole / "evaluations.jsonl").read_text().splitlines()]
    assert [(one["step"], one["weights"]) for one in evaluations] == [
        (n, weights) for n in (0, 10, 20) for weights in ("raw", "released")
    ]
    assert set(evaluations[-1]["held_out"]) == {"fd_small", "psnr", "ssim", "psim_small"}
    card = (whole / "README.md").read_text()
    assert "drop-in for VAEs of the latent space sd1" in card
    assert "| gan.weight | 0.2 | our choice |" in card.replace("\\", "")
    assert "report/report.html" in card
    assert (whole / "report" / "report.html").stat().st_size > 10_000


def test_diffusers_takes_it(whole: Path) -> None:
    theirs = DiffusersKL.from_pretrained(whole, subfolder="vae").eval()
    ours = vl.load(whole, device="cpu")
    z = torch.randn(1, 4, 4, 4, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        torch.testing.assert_close(ours.network.decode(z), theirs.decode(z).sample, rtol=1e-5, atol=1e-5)


def test_the_scores_are_those_of_the_loop(whole: Path) -> None:
    evaluations = [json.loads(line) for line in (whole / "evaluations.jsonl").read_text().splitlines()]
    scores = json.loads((whole / "report" / "results.json").read_text())["scores"]
    for key, value in evaluations[-1]["held_out"].items():
        found = scores["run"][key].get("mean", scores["run"][key].get("value"))
        assert value == pytest.approx(found, rel=1e-6), key


def test_a_killed_training_resumes_bit_for_bit(whole: Path, narrow: Path, photos: Path, tmp_path: Path) -> None:
    run, moment = tmp_path / "run", 13
    names = {"tests": str(Path(__file__).parents[1]), "vae": str(narrow), "photos": str(photos), "output": str(run)}
    for kill_at in (moment, 0):
        code = TRAIN_SCRIPT.format(**names, kill_at=kill_at)  # type: ignore[str-format]
        ended = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
        assert ended.returncode == (-9 if kill_at else 0), ended.stderr
        if kill_at:
            assert (run / "log.jsonl").read_text().count("\n") == moment
    assert_same(run, whole)


def test_an_interruption_is_saved(whole: Path, narrow: Path, photos: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    with pytest.raises(Interrupted, match="after step 7"):
        train(narrow, photos, run, should_stop=stop_after(7))
    assert (run / "checkpoints" / "000000007").is_dir()
    said: list[str] = []
    train(narrow, photos, run, notify=said.append)
    assert "Resuming after step 7 of 20." in said
    assert_same(run, whole)
    before = (run / "run.json").stat().st_mtime_ns
    train(narrow, photos, run)  # finished already: nothing is trained again
    assert_same(run, whole)
    assert (run / "run.json").stat().st_mtime_ns != before


def test_the_command_saves_at_a_signal(photos: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    settings = {"run.held_out": 2, "run.log_every": 1, "run.checkpoint_every": 8000, "data.batch_size": 2}
    more = [part for key, value in settings.items() for part in ("--set", f"{key}={value}")]
    command = [
        sys.executable,
        "-m",
        "vaelens",
        "finetune",
        str(photos),
        "--recipe",
        "tiny-scratch",
        *more,
        "-o",
        str(run),
    ]
    running = subprocess.Popen([*command, "--threads", "1"], stderr=subprocess.PIPE, text=True)
    assert running.stderr is not None
    while "loss" not in (line := running.stderr.readline()):
        assert line, "it ended by itself"
    running.send_signal(signal.SIGTERM)
    _, errors = running.communicate(timeout=60)
    assert running.returncode == 130, errors
    assert "the same command resumes there" in errors
    assert "Traceback" not in errors
    newest = max(int(p.name) for p in (run / "checkpoints").iterdir())
    assert newest == len((run / "log.jsonl").read_text().splitlines()) > 0


def test_a_damaged_checkpoint_is_skipped(whole: Path, narrow: Path, photos: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    with pytest.raises(Interrupted):
        train(narrow, photos, run, should_stop=stop_after(12))
    newest = run / "checkpoints" / "000000012" / "state.safetensors"
    data = bytearray(newest.read_bytes())
    data[len(data) // 2] ^= 1
    newest.write_bytes(data)
    said: list[str] = []
    train(narrow, photos, run, notify=said.append)
    assert any("is damaged: its sha256 is wrong. Using the checkpoint before it." in line for line in said)
    assert "Resuming after step 10 of 20." in said
    assert_same(run, whole)
    for one in (run / "checkpoints").iterdir():
        (one / "manifest.json").write_text("[")
    with pytest.raises(CheckFailedError, match="no checkpoint is valid"):
        train(narrow, photos, run)


@pytest.mark.slow
def test_a_full_disk_at_a_checkpoint_loses_nothing(whole: Path, narrow: Path, photos: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    with pytest.raises(Interrupted):
        train(narrow, photos, run, should_stop=stop_after(12))
    names = {"tests": str(Path(__file__).parents[1]), "vae": str(narrow), "photos": str(photos), "output": str(run)}
    code = TRAIN_SCRIPT.format(**names, kill_at=0)  # type: ignore[str-format]
    limit = (run / "checkpoints" / "000000012" / "state.safetensors").stat().st_size // 2
    full = f"import resource; resource.setrlimit(resource.RLIMIT_FSIZE, ({limit}, {limit}))\n{code}"
    ended = subprocess.run([sys.executable, "-c", full], capture_output=True, text=True, check=False)
    assert "ResourceError" in ended.stderr
    assert "the disk is full" in ended.stderr
    assert {p.name for p in (run / "checkpoints").iterdir()} == {"000000000", "000000010", "000000012"}
    train(narrow, photos, run)
    assert_same(run, whole)


def test_a_training_that_runs_away_is_stopped_and_rolled_back(narrow: Path, photos: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    with pytest.raises(CheckFailedError, match=r"NaN or infinite.*after step \d+\. Change the recipe") as error:
        train(
            narrow,
            photos,
            run,
            overrides={"optimizer.lr": 1e18, "optimizer.max_grad_norm": 0.0, "optimizer.warmup_steps": 16},
        )
    record = json.loads((run / "run.json").read_text())
    assert f"after step {record['steps']}." in str(error.value)
    assert "NaN" in record["stopped"]
    assert "**Stopped early:**" in (run / "README.md").read_text()
    assert all(torch.isfinite(t).all() for t in load_file(run / "vae-ldm.safetensors").values())
    with pytest.raises(UsageError, match="was stopped early"):
        train(
            narrow,
            photos,
            run,
            overrides={"optimizer.lr": 1e18, "optimizer.max_grad_norm": 0.0, "optimizer.warmup_steps": 16},
        )


def test_from_scratch_it_has_a_space_of_its_own(photos: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    overrides = {"model.space": "own", "run.steps": 2, "run.evaluate_every": 2}
    short = {"gan.weight": 0.0, "optimizer.warmup_steps": 0, "optimizer.decay_steps": 0}
    tuned = train(None, photos, run, recipe="tiny-scratch", overrides=overrides | short)
    assert tuned.vae.spec.latent_space is None
    latents = torch.cat(
        [tuned.vae.encode(vl.read_image(p)).posterior.mode().flatten() for p in sorted(photos.iterdir())]
    )
    assert tuned.vae.spec.scaling_factor == pytest.approx(1 / float(latents.std()), rel=0.2)
    assert "latent space of its own" in (run / "README.md").read_text()
    assert vl.load(run, device="cpu").spec == tuned.vae.spec


def test_cached_posteriors_change_only_the_last_bits(narrow: Path, photos: Path, tmp_path: Path) -> None:
    still = {
        "data.crop": [1.0, 1.0],
        "data.flip": 0.0,
        "data.color_jitter": 0.0,
        "run.steps": 6,
        "run.evaluate_every": 6,
    }
    slow = still | {
        "optimizer.lr": 1e-7,
        "model.posterior": "mode",
        "gan.weight": 0.0,
    }  # the losses alone are compared
    logs = []
    for cache in (False, True):
        run = tmp_path / str(cache)
        train(narrow, photos, run, overrides=slow, cache=cache)  # 10 images: from the third update on, seen before
        logs.append([json.loads(line)["loss"] for line in (run / "log.jsonl").read_text().splitlines()])
    assert logs[0] == pytest.approx(logs[1], rel=1e-5)
    assert len({f"{loss:.6f}" for loss in logs[0]}) == 6, "and differ from update to update"
    with pytest.raises(UsageError, match="differently in each epoch"):
        train(narrow, photos, tmp_path / "no", cache=True)
    with pytest.raises(UsageError, match="this recipe trains the encoder"):
        train(
            None, photos, tmp_path / "no", recipe="tiny-scratch", overrides=still | {"model.space": "own"}, cache=True
        )
    assert not (tmp_path / "no").exists()


def test_bfloat16_networks_keep_float32_weights(narrow: Path, photos: Path, tmp_path: Path, whole: Path) -> None:
    train(narrow, photos, tmp_path / "run", dtype="bfloat16", overrides={"run.steps": 6, "run.evaluate_every": 6})
    held = load_file(tmp_path / "run" / "checkpoints" / "000000006" / "state.safetensors")
    assert {t.dtype for name, t in held.items() if not name.endswith("num_batches_tracked")} == {torch.float32}
    ours, exact = (
        json.loads((run / "log.jsonl").read_text().splitlines()[0])["loss"] for run in (tmp_path / "run", whole)
    )
    assert ours != exact
    assert ours == pytest.approx(exact, rel=0.05)
    with pytest.raises(UsageError, match="float16 has too little range"):
        train(narrow, photos, tmp_path / "no", dtype="float16")


def test_invalid_calls_are_refused_before_anything_is_written(narrow: Path, photos: Path, tmp_path: Path) -> None:
    no = tmp_path / "no"
    empty = tmp_path / "empty"
    empty.mkdir()
    other = random_vae(space="sdxl", scale=0.13025).save(tmp_path / "other.safetensors")
    cases: list[tuple[type[Exception], str, dict[str, Any]]] = [
        (UsageError, "for VAEs of the latent space sd1, but other has sdxl", {"vae": other}),
        (UsageError, "continues a VAE. Name it with --from", {"vae": None}),
        (UsageError, "trains from scratch", {"recipe": "tiny-scratch", "overrides": {"model.space": "own"}}),
        (UsageError, "Did you mean kl-f8", {"vae": Path("kl-f9")}),
        (BadInputError, "no images", {"photos": empty}),
        (
            UsageError,
            "Give at least 16 images, lower it with --set run.held_out=7,",
            {"overrides": {"run.held_out": 8}},
        ),
        (UsageError, "is a tiny autoencoder", {"vae": Path("taesd")}),
        (UsageError, "For sd1, use ft-ema or ft-mse.", {"vae": Path("kl-f8"), "overrides": {"model.space": "tiny"}}),
        (UsageError, "doesn't divide the batch size 4", {"micro_batch_size": 3}),
        (UsageError, "2 weights for 1 sources", {"weights": [1, 1]}),
        (UsageError, "the images have none", {"overrides": {"loss.box_weight": 2.0}}),
        (UsageError, "uses no network called vgg16; it uses none", {"networks": {"vgg16": "x"}}),
        (UsageError, "Did you mean loss.pixel", {"overrides": {"loss.pixl": "l1"}}),
        (UsageError, "needs a multiple of 8. Set it: --set data.size=32", {"overrides": {"data.size": 33}}),
        (UsageError, "the seed must be between", {"seed": -1}),
        (
            UsageError,
            "--space is for a VAE file",
            {"vae": None, "recipe": "tiny-scratch", "space": "sd1"} | FROM_SCRATCH,
        ),
    ]
    for kind, said, more in cases:
        wanted = {"vae": narrow, "photos": photos, "recipe": "tiny-ft-ema"} | more
        with pytest.raises(kind) as error:
            train(wanted.pop("vae"), wanted.pop("photos"), no, **wanted)
        assert said in str(error.value), (said, error.value)
        assert not no.exists(), said
    vl.load("tiny-kl-f8", device="cpu").save(tmp_path / "file.safetensors")
    with pytest.raises(UsageError, match="is a file"):
        train(narrow, photos, tmp_path / "file.safetensors")
    with pytest.raises(UsageError, match="holds other files"):
        train(narrow, photos, empty.parent)


def test_a_gan_that_never_starts_is_a_warning(narrow: Path, photos: Path, tmp_path: Path) -> None:
    said: list[str] = []
    overrides: dict[str, Any] = {"run.steps": 2, "optimizer.warmup_steps": 0, "optimizer.decay_steps": 0}
    overrides |= {"run.evaluate_every": 2, "gan.start": 2, "gan.warmup_steps": 0}
    train(narrow, photos, tmp_path / "late", overrides=overrides, notify=said.append)
    assert any("the GAN starts after step 2, but this training ends at 2" in line for line in said)
    assert "The GAN, which starts after step 2, was never used." in (tmp_path / "late" / "README.md").read_text()
    lines = [json.loads(line) for line in (tmp_path / "late" / "log.jsonl").read_text().splitlines()]
    assert not any("generator_loss" in line for line in lines)


def test_another_training_in_the_folder_is_refused_by_name(whole: Path, narrow: Path, photos: Path) -> None:
    for said, more in (
        ("recipe.loss.pixel was", {"overrides": {"loss.pixel": "mse"}}),
        ("seed was 0, now 1", {"seed": 1}),
        ("micro_batch_size was", {"micro_batch_size": 2}),
    ):
        with pytest.raises(UsageError, match=said):
            train(narrow, photos, whole, **more)  # type: ignore[arg-type]


def test_corrupt_images_are_skipped_counted_and_listed(narrow: Path, photos: Path, tmp_path: Path) -> None:
    small = folder(tmp_path / "small", 12, first=30, side=20)  # smaller than the crop, too
    (small / "33.png").write_bytes((small / "33.png").read_bytes()[:80])
    said: list[str] = []
    overrides = {"run.steps": 6, "run.evaluate_every": 6}
    tuned = train(narrow, small, tmp_path / "run", overrides=overrides, notify=said.append, held_out=photos)
    assert any(line.startswith("Warning: 1 image couldn't be read") for line in said), said
    assert [name.rpartition(": ")[2] for name in tuned.record["skipped"]] == ["33.png"]
    assert list(json.loads((tmp_path / "run" / "skipped.json").read_text())) == list(tuned.record["skipped"])


def test_several_sources_and_boxes(narrow: Path, photos: Path, tmp_path: Path) -> None:
    more = folder(tmp_path / "more", 8, first=50, side=44)
    (tmp_path / "boxes.csv").write_text(
        "id,label,left,top,right,bottom\n" + "".join(f"{n}.png,eye,5,5,30,30\n" for n in range(50, 58))
    )
    (tmp_path / "none.csv").write_text("id,label,left,top,right,bottom\n00.png,mouth,5,5,30,30\n")
    overrides = {
        "run.steps": 3,
        "run.evaluate_every": 3,
        "gan.weight": 0.0,
        "optimizer.decay_steps": 0,
        "loss.box_weight": 5.0,
        "loss.box_labels": ["eye"],
    }
    recorded = []
    for weights in (None, [3, 1]):
        run = tmp_path / f"run-{weights}"
        finetune(
            narrow, [photos, more], recipe="tiny-ft-ema", overrides=SHORT_RUN | overrides, output=run, device="cpu",
            threads=1, weights=weights, boxes=[tmp_path / "none.csv", tmp_path / "boxes.csv"],
        )  # fmt: skip
        settings = json.loads((run / "run.json").read_text())["settings"]
        recorded.append([source["weight"] for source in settings["sources"]])
    assert recorded == [[1, 1], [3, 1]]
    assert (tmp_path / "run-None" / "log.jsonl").read_bytes() != (tmp_path / "run-[3, 1]" / "log.jsonl").read_bytes()


def test_boxes_without_weight_are_refused_or_noted(narrow: Path, photos: Path, tmp_path: Path) -> None:
    (tmp_path / "boxes.csv").write_text("id,label,left,top,right,bottom\n00.png,eye,5,5,30,30\n")
    boxes = [tmp_path / "boxes.csv"]
    with pytest.raises(UsageError, match="boxes labelled eyes, but the images have only eye"):
        train(
            narrow,
            photos,
            tmp_path / "no",
            boxes=boxes,
            overrides={"loss.box_weight": 2.0, "loss.box_labels": ["eyes"]},
        )
    said: list[str] = []
    short = {"run.steps": 6, "run.evaluate_every": 6}
    train(narrow, photos, tmp_path / "run", boxes=boxes, notify=said.append, overrides=short)
    assert any("have no weight" in line for line in said)


def test_another_file_of_boxes_is_another_training(narrow: Path, photos: Path, tmp_path: Path) -> None:
    asked: list[int] = []
    more: dict[str, Any] = {"overrides": {"loss.box_weight": 2.0}}
    for number in (0, 1):
        lines = "".join(f"{photo.name},eye,5,5,30,{30 + number}\n" for photo in photos.iterdir())
        (tmp_path / f"{number}.csv").write_text(f"id,label,left,top,right,bottom\n{lines}")
    with pytest.raises(Interrupted):
        train(narrow, photos, tmp_path / "run", boxes=[tmp_path / "0.csv"], should_stop=lambda: not asked, **more)
    with pytest.raises(UsageError, match="sources was"):
        train(narrow, photos, tmp_path / "run", boxes=[tmp_path / "1.csv"], **more)


def test_an_image_that_changes_during_a_training_is_reported(narrow: Path, tmp_path: Path) -> None:
    photos, run = folder(tmp_path / "photos", 14, side=44), tmp_path / "run"

    def spoil(done: int, _total: int, _numbers: dict[str, float]) -> None:
        if done == 6:
            for photo in photos.iterdir():
                photo.write_bytes(photo.read_bytes() + b" ")

    with pytest.raises(CheckFailedError, match=r"has changed since the run began") as error:
        train(narrow, photos, run, on_log=spoil)
    assert "lr" not in str(error.value)
    assert not (run / "run.json").exists(), "it isn't marked as stopped"


def test_a_kill_before_the_first_checkpoint_leaves_no_gap(
    whole: Path, narrow: Path, photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = tmp_path / "run"
    with monkeypatch.context() as patch:
        patch.setattr("vaelens.finetuning.loop.save_checkpoint", lambda _: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            train(narrow, photos, run)
    assert (run / "evaluations.jsonl").exists()
    train(narrow, photos, run)
    assert_same(run, whole)
    assert (run / "checkpoints" / "000000000").is_dir()


def test_a_rollback_skips_a_damaged_checkpoint(
    narrow: Path, photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from vaelens.finetuning.validation import EarlyStopping, StopReason

    run = tmp_path / "run"

    def find(_self: EarlyStopping, update: int, _values: dict[str, float]) -> StopReason | None:
        if update == 12:
            (run / "checkpoints" / "000000010" / "manifest.json").write_text("[")
            return StopReason("a made-up reason.", 11)
        return None

    monkeypatch.setattr(EarlyStopping, "check_log", find)
    with pytest.raises(CheckFailedError, match=r"a made-up reason.*after step 5\."):
        train(narrow, photos, run)
    assert json.loads((run / "run.json").read_text())["steps"] == 5


def test_the_card_has_the_new_vae_s_scores_whatever_it_is_called(narrow: Path, photos: Path, tmp_path: Path) -> None:
    short = {"run.steps": 6, "run.evaluate_every": 6, "optimizer.lr": 0.01, "gan.weight": 0.0}
    tuned = train(narrow, photos, tmp_path / "narrow", overrides=short)
    assert tuned.results is not None
    assert tuned.results.vaes == ("narrow (before)", "narrow (raw)", "narrow")
    head = yaml.safe_load((tmp_path / "narrow" / "README.md").read_text().split("---")[1])
    metrics = {m["type"]: m["value"] for m in head["model-index"][0]["results"][0]["metrics"]}
    assert metrics["psnr"] == tuned.results.spreads["narrow", "psnr"].mean
    assert metrics["psnr"] != tuned.results.spreads["narrow (before)", "psnr"].mean


def test_damaged_files_of_a_run(narrow: Path, photos: Path, whole: Path, tmp_path: Path) -> None:
    shutil.copytree(whole, tmp_path / "run")
    run = tmp_path / "run"
    (run / "run.json").write_text('{"stopped":')
    (run / "skipped.json").write_text("[")
    train(narrow, photos, run)
    assert_same(run, whole)
    for text in (
        '{"recipe": 1, "micro_batch_size": 4, "threads": 1}',
        '{"recipe": {}, "micro_batch_size": "x", "threads": 1}',
        "{",
    ):
        (run / "plan.json").write_text(text)
        with pytest.raises(BadInputError, match=r"plan\.json"):
            train(narrow, photos, run)


def test_one_training_at_a_time_in_a_folder(narrow: Path, photos: Path, tmp_path: Path) -> None:
    from filelock import FileLock

    (tmp_path / "run").mkdir()
    with FileLock(tmp_path / "run" / ".lock"), pytest.raises(UsageError, match="another run"):
        train(narrow, photos, tmp_path / "run")


def test_an_evaluation_s_folder_is_no_training_s_and_the_other_way_round(
    whole: Path, narrow: Path, photos: Path, tmp_path: Path
) -> None:
    vl.evaluate(narrow, photos, preset="small", output=tmp_path / "evaluation", device="cpu", take=2)
    with pytest.raises(UsageError, match="of `vaelens evaluate`"):
        train(narrow, photos, tmp_path / "evaluation")
    with pytest.raises(UsageError, match="of `vaelens finetune`"):
        vl.evaluate(narrow, photos, preset="small", output=whole, device="cpu", take=2)
