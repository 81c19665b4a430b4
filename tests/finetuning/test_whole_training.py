"""A whole training: its output, and that neither an interruption, a kill nor a full disk changes a bit of it."""

import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from diffusers import AutoencoderKL as DiffusersKL
from safetensors.torch import load_file

import vaelens as vl
from support.reports import files_with_folder
from support.training import OTHER_FIELDS, SIX_STEPS, json_lines, stop_after, train, train_script
from vaelens.errors import BadInputError, CheckFailedError, UsageError
from vaelens.finetuning.training import Interrupted

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("plain_report")]


@pytest.fixture(scope="module")
def whole(narrow: Path, photos: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A training in one go, with a real report: it is made before `plain_report` has any effect."""
    run = tmp_path_factory.mktemp("whole") / "run"
    train(narrow, photos, run)
    return run


def assert_same(run: Path, whole: Path) -> None:
    """Weights, EMA, optimizers, log, evaluations, samples and the released VAE: bit for bit."""
    for name in ("checkpoints/000000012/state.safetensors", "log.jsonl", "evaluations.jsonl"):
        assert (run / name).read_bytes() == (whole / name).read_bytes(), name
    assert vl.load(run, device="cpu").fingerprint == vl.load(whole, device="cpu").fingerprint
    for strip in (whole / "samples").iterdir():
        assert (run / "samples" / strip.name).read_bytes() == strip.read_bytes(), strip.name


def test_a_training_writes_vaes_checkpoints_logs_and_a_report(whole: Path, narrow: Path, tmp_path: Path) -> None:
    before, after, raw = (vl.load(path, device="cpu") for path in (narrow, whole, whole / "raw"))
    assert (after.name, after.spec) == ("run", before.spec)
    ldm = vl.load(whole / "vae-ldm.safetensors", device="cpu").save(tmp_path / "vae")
    for folder in (whole / "vae", whole / "raw", ldm):
        assert OTHER_FIELDS.items() <= json.loads((folder / "config.json").read_text()).items(), folder
    assert after.fingerprint.encoder == before.fingerprint.encoder
    assert after.fingerprint.decoder != before.fingerprint.decoder
    assert raw.fingerprint.decoder not in (after.fingerprint.decoder, before.fingerprint.decoder)
    assert vl.load(whole / "vae-ldm.safetensors", device="cpu").fingerprint == after.fingerprint
    lines = json_lines(whole / "log.jsonl")
    assert [line["step"] for line in lines] == list(range(1, 13))
    assert ["generator_loss" in line for line in lines] == [False] * 6 + [True] * 6
    assert sorted(int(p.name) for p in (whole / "checkpoints").iterdir()) == [0, 6, 9, 12]
    record = json.loads((whole / "run.json").read_text())
    assert (record["command"], record["steps"], record["stopped"]) == ("finetune", 12, None)
    assert record["settings"]["recipe"]["loss"]["pixel"] == "l1"
    assert record["vaes"][0]["weights"] == after.fingerprint.short
    evaluations = json_lines(whole / "evaluations.jsonl")
    expected = [(step, weights) for step in (0, 6, 12) for weights in ("raw", "released")]
    assert [(one["step"], one["weights"]) for one in evaluations] == expected
    assert set(evaluations[-1]["held_out"]) == {"fd_small", "psnr", "ssim", "psim_small"}
    scores = json.loads((whole / "report" / "results.json").read_text())["scores"]["run"]
    for key, value in evaluations[-1]["held_out"].items():
        assert value == pytest.approx(scores[key].get("mean", scores[key].get("value")), rel=1e-6), key
    card = (whole / "README.md").read_text()
    assert "drop-in for VAEs of the latent space sd1" in card
    assert "| gan.weight | 0.2 | our choice |" in card.replace("\\", "")
    assert re.search(r"^On 4 held-out images of \"[^\"]+\", none of which was trained on", card, re.M)
    assert "34 of 41 fields are our choice (never published, or changed)." in card
    assert "report/report.html" in card
    assert (whole / "report" / "report.html").stat().st_size > 10_000


def test_diffusers_takes_it(whole: Path) -> None:
    theirs = DiffusersKL.from_pretrained(whole, subfolder="vae").eval()
    ours = vl.load(whole, device="cpu")
    z = torch.randn(1, 4, 4, 4, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        torch.testing.assert_close(ours.network.decode(z), theirs.decode(z).sample, rtol=1e-5, atol=1e-5)


@pytest.mark.slow
def test_a_killed_training_resumes_bit_for_bit(whole: Path, narrow: Path, photos: Path, run: Path) -> None:
    code = train_script(narrow, photos, run, kill_at=8)
    ended = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert ended.returncode == -9, ended.stderr
    assert (run / "log.jsonl").read_text().count("\n") == 8
    train(narrow, photos, run)
    assert_same(run, whole)


def test_an_interruption_is_saved(whole: Path, narrow: Path, photos: Path, run: Path) -> None:
    with pytest.raises(Interrupted, match="after step 7"):
        train(narrow, photos, run, should_stop=stop_after(7))
    assert (run / "checkpoints" / "000000007").is_dir()
    notices: list[str] = []
    train(narrow, photos, run, notify=notices.append)
    assert "Resuming after step 7 of 12." in notices
    assert_same(run, whole)
    before = (run / "run.json").stat().st_mtime_ns
    train(narrow, photos, run, notify=notices.append)  # nothing is trained again
    assert "Already finished (step 12 of 12)." in notices
    assert_same(run, whole)
    assert (run / "run.json").stat().st_mtime_ns != before


def test_a_damaged_checkpoint_is_skipped(whole: Path, narrow: Path, photos: Path, run: Path) -> None:
    with pytest.raises(Interrupted):
        train(narrow, photos, run, should_stop=stop_after(8))
    newest = run / "checkpoints" / "000000008" / "state.safetensors"
    data = bytearray(newest.read_bytes())
    data[len(data) // 2] ^= 1
    newest.write_bytes(data)
    notices: list[str] = []
    train(narrow, photos, run, notify=notices.append)
    assert any("is damaged: its sha256 is wrong. Using the checkpoint before it." in line for line in notices)
    assert "Resuming after step 6 of 12." in notices
    assert_same(run, whole)
    for checkpoint in (run / "checkpoints").iterdir():
        (checkpoint / "manifest.json").write_text("[")
    with pytest.raises(CheckFailedError, match="no checkpoint is valid"):
        train(narrow, photos, run)


@pytest.mark.slow
def test_a_full_disk_at_a_checkpoint_loses_nothing(whole: Path, narrow: Path, photos: Path, run: Path) -> None:
    with pytest.raises(Interrupted):
        train(narrow, photos, run, should_stop=stop_after(8))
    limit = (run / "checkpoints" / "000000008" / "state.safetensors").stat().st_size // 2
    full = f"import resource; resource.setrlimit(resource.RLIMIT_FSIZE, ({limit}, {limit}))\n"
    full += train_script(narrow, photos, run)
    ended = subprocess.run([sys.executable, "-c", full], capture_output=True, text=True, check=False)
    assert "ResourceError" in ended.stderr
    assert "the disk is full" in ended.stderr
    assert {p.name for p in (run / "checkpoints").iterdir()} == {"000000000", "000000006", "000000008"}
    train(narrow, photos, run)
    assert_same(run, whole)


def test_a_run_without_a_checkpoint_starts_again(
    whole: Path, narrow: Path, photos: Path, run: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        patch.setattr("vaelens.finetuning.loop.save_checkpoint", lambda _: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            train(narrow, photos, run)
    assert (run / "evaluations.jsonl").exists()
    train(narrow, photos, run)
    assert_same(run, whole)
    assert (run / "checkpoints" / "000000000").is_dir()


def test_damaged_records_are_replaced(narrow: Path, photos: Path, whole: Path, tmp_path: Path) -> None:
    run = Path(shutil.copytree(whole, tmp_path / "run"))
    (run / "skipped.json").write_text("[")
    train(narrow, photos, run)
    assert_same(run, whole)
    for text in ('{"recipe": 1, "micro_batch_size": 4, "threads": 1}', '{"command": "finetune", "recipe":'):
        (run / "plan.json").write_text(text)
        with pytest.raises(BadInputError, match=r"plan\.json"):
            train(narrow, photos, run)


@pytest.mark.parametrize("changed", ["README.md", "run.json", "vae/config.json"])
def test_what_the_user_changed_is_never_replaced(
    narrow: Path, photos: Path, whole: Path, tmp_path: Path, changed: str
) -> None:
    run = Path(shutil.copytree(whole, tmp_path / "run"))
    (run / changed).write_text("mine")
    with pytest.raises(UsageError, match=f"{changed}.* not made by vaelens, or changed since"):
        train(narrow, photos, run)
    assert (run / changed).read_text() == "mine"


def test_no_file_of_a_training_names_a_folder_of_this_machine(whole: Path, narrow: Path, photos: Path) -> None:
    base = whole.parent.parent
    assert narrow.is_relative_to(base)
    assert photos.is_relative_to(base)
    assert files_with_folder(whole, base) == []


def test_bfloat16_networks_have_float32_weights(narrow: Path, photos: Path, run: Path, whole: Path) -> None:
    train(narrow, photos, run, dtype="bfloat16", overrides=SIX_STEPS)
    state = load_file(run / "checkpoints" / "000000006" / "state.safetensors")
    assert {t.dtype for name, t in state.items() if not name.endswith("num_batches_tracked")} == {torch.float32}
    ours, exact = (json_lines(folder / "log.jsonl")[0]["loss"] for folder in (run, whole))
    assert ours != exact
    assert ours == pytest.approx(exact, rel=0.05)
    with pytest.raises(UsageError, match="float16 has too little range"):
        train(narrow, photos, run.parent / "no", dtype="float16")


def test_another_training_in_the_folder_is_refused_by_name(whole: Path, narrow: Path, photos: Path) -> None:
    for message, more in (
        ("recipe.loss.pixel was", {"overrides": {"loss.pixel": "mse"}}),
        ("seed was 0, now 1", {"seed": 1}),
        ("micro_batch_size was", {"micro_batch_size": 2}),
    ):
        with pytest.raises(UsageError, match=message):
            train(narrow, photos, whole, **more)  # type: ignore[arg-type]


def test_a_folder_of_an_evaluation_is_no_training_s(whole: Path, narrow: Path, photos: Path, tmp_path: Path) -> None:
    vl.evaluate(narrow, photos, preset="small", output=tmp_path / "evaluation", device="cpu", take=2)
    with pytest.raises(UsageError, match="of `vaelens evaluate`"):
        train(narrow, photos, tmp_path / "evaluation")
    with pytest.raises(UsageError, match="of `vaelens finetune`"):
        vl.evaluate(narrow, photos, preset="small", output=whole, device="cpu", take=2)
