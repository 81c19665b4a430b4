"""The commands, as a user runs them: output, files written, exit codes and messages."""

import importlib.metadata
import json
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from support.commands import invoke, vaelens
from support.comparisons import face_photo
from support.standins.hub import HubStandin
from support.vaes import random_vae
from vaelens.cli import main, output
from vaelens.evaluation import run
from vaelens.images.faces import draw_face
from vaelens.vae import VAE


@pytest.fixture
def photo(tmp_path: Path) -> Path:
    return face_photo(tmp_path / "photo.png", 96, 90)


def test_a_strip_with_the_embedded_vaes(photo: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    ran = invoke("reconstruct", photo, "-o", "out.png")
    for fact in ("tiny-kl-f8, tiny-ft-ema, tiny-ft-mse", "--vae ft-mse", "96x90 padded to 96x96"):
        assert fact in ran.stderr
    assert "wrote out.png and 1 more" in ran.stdout
    strip = Image.open(tmp_path / "out.png")
    record = json.loads((tmp_path / "out.run.json").read_text())
    assert strip.text["vae"] == "tiny-kl-f8, tiny-ft-ema, tiny-ft-mse"
    assert strip.text["fingerprint"] == ", ".join(vae["weights"] for vae in record["vaes"])
    named = json.loads(strip.text["vaelens"])["vaes"]
    assert [vae["fingerprint"] for vae in named] == [vae["fingerprint"] for vae in record["vaes"]]
    assert [row["vae"] for row in record["rows"]] == ["tiny-kl-f8", "tiny-ft-ema", "tiny-ft-mse"]
    for row in record["rows"]:
        assert f"{row['psnr']:.2f}" in ran.stdout
        assert f"{row['ssim']:.4f}" in ran.stdout
        assert row["psnr"] > 15
    assert row["padded_to"] == [96, 96]
    assert {"schema", "command", "settings", "versions", "threads", "seconds", "peak_memory_bytes"} <= set(record)


def test_a_folder_has_page_strip_record_and_each_image(photo: Path, vae: VAE, tmp_path: Path) -> None:
    file = vae.save(tmp_path / "mine.safetensors")
    named = photo.rename(photo.with_name("mé 日本 <b>&.png"))
    ran = vaelens("reconstruct", named, "--vae", "tiny-kl-f8", "--vae", file, "-o", tmp_path / "out", "--json", "-q")
    assert ran.stderr == ""
    result = json.loads(ran.stdout)
    assert [r["vae"] for r in result["rows"]] == ["tiny-kl-f8", "mine"]
    written = sorted(p.name for p in (tmp_path / "out").iterdir())
    singles = ["001-mé_日本__b__-1-tiny-kl-f8.png", "001-mé_日本__b__-2-mine.png"]
    assert written == [*singles, "index.html", "run.json", "strip.png"]
    assert sorted(Path(p).name for p in result["written"]) == written
    single = Image.open(tmp_path / "out" / "001-mé_日本__b__-1-tiny-kl-f8.png")
    assert single.size == (96, 90)
    assert single.text["vae"] == "tiny-kl-f8"
    assert "日本 <b>" not in (tmp_path / "out" / "index.html").read_text()


PHOTO = ["reconstruct", "photo.png"]


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        ([*PHOTO, "--vae", "ft-mes"], 2, "Did you mean ft-mse"),
        ([*PHOTO, "--vae", "none.safetensors"], 3, "no such file"),
        ([*PHOTO, "--vae", "old.ckpt"], 4, "old.ckpt asks for os.system, which could run code; nothing"),
        ([*PHOTO, "--vae", "nan.safetensors"], 7, "decoder.conv_out.bias holds 1 value"),
        ([*PHOTO, "-o", "photo.png"], 2, "is one of the inputs and would be lost"),
        ([*PHOTO, "-o", "out.jpg"], 2, "a .png strip, an .html page or a folder"),
        ([*PHOTO, "-o", "/dev/null"], 2, "/dev/null"),
        (["reconstruct", "strip.png", "-o", "."], 2, "strip.png is one of the inputs and would be lost"),
        ([*PHOTO, "--vae", ""], 2, "the value '' is empty"),
        ([*PHOTO, "-o", "taken.png"], 2, "taken.run.json is a folder"),
        ([*PHOTO, "--vae", "nobody/nothing", "--offline"], 5, "not in the cache"),
        ([*PHOTO, "--seed", "18446744073709551616"], 2, "a seed lies between"),
        ([*PHOTO, "--posterior", "mean"], 2, "mode or sample, not 'mean'"),
        ([*PHOTO, "--device", "tpu"], 2, "'tpu'"),
        ([*PHOTO, "--dtype", "int8"], 2, "'int8'"),
        ([*PHOTO, "--space", "sd9", "--vae", "plain.safetensors"], 2, "'sd9'"),
        ([*PHOTO, "--vae", "plain.safetensors"], 3, "plain.safetensors"),
        (["reconstruct", "nowhere.png"], 3, "nowhere.png"),
        (["reconstruct", "text.png"], 3, "text.png"),
        ([*PHOTO, "--max-side", "0"], 2, "max-side"),
        (["reconstruct"], 2, "PHOTO"),
        (["compare", "photo.png"], 2, "--photo photo.png"),
        (["compare", "a face", "--seed", "1.5"], 2, "seeds are whole numbers"),
        (["compare", ""], 2, "the prompt is empty"),
        (["compare", "a face", "--steps", "0"], 2, "from 1 to 1000, not 0"),
        (["compare", "a face", "--size", "250"], 2, "multiples of 8"),
        (["compare", "a face", "--size", "large"], 2, "'large'"),
        (["compare", "a face", "--max-pixels", "5"], 2, "--max-pixels is for photos"),
        (["compare", "a face", "--vae", "tiny-ft-mes"], 2, "Did you mean tiny-ft-mse"),
        (["compare", "x" * 10_000], 2, "doesn't know 'xxxxx"),
        (["generate", "a face", "--vae", "tiny-kl-f8", "--vae", "tiny-ft-mse"], 2, "one VAE, but 2 are named"),
        (["generate", "a face", "--negative-prompt", "blurry"], 2, "negative prompt: tiny-sd doesn't know 'blurry'"),
        (
            ["generate", "a face", "-o", "photo.png"],
            2,
            "photo.png was not made by vaelens, or changed since, and would be lost",
        ),
        (["replay", "photo.png"], 3, "photo.png has no vaelens metadata"),
        (["replay", "photo.png", "-o", "photo.png"], 2, "is one of the inputs and would be lost"),
        (["replay", "photo.png", "-o", "strip.png"], 2, "strip.png was not made by vaelens, or changed since"),
        (["replay", "photo.png", "-o", "taken.png"], 2, "taken.run.json is a folder"),
        (["replay", "photo.png", "-o", "new.jpg"], 2, "-o new.jpg"),
        (["inspect", "tiny-kl-f8", "--round-trips", "3"], 2, "--round-trips"),
    ],
)
def test_a_wrong_command_gets_a_message_and_its_exit_code(
    photo: Path, vae_file: Path, rewrite: Any, monkeypatch: Any, arguments: list[str], code: int, message: str
) -> None:
    folder = photo.parent
    rewrite(vae_file, folder / "nan.safetensors", _spoil)
    rewrite(vae_file, folder / "plain.safetensors", metadata={})
    (folder / "text.png").write_text("hello")
    (folder / "old.ckpt").write_bytes(b"cos\nsystem\n(S'touch ran'\ntR.")
    (folder / "strip.png").write_bytes(photo.read_bytes())
    (folder / "taken.run.json").mkdir()
    before = {path: path.read_bytes() for path in folder.iterdir() if path.is_file()}
    monkeypatch.chdir(folder)
    ran = invoke(*arguments, code=code)
    assert ran.stdout == ""
    assert message in ran.stderr
    assert len(ran.stderr) < 500
    assert {path: path.read_bytes() for path in folder.iterdir() if path.is_file()} == before


def _spoil(tensors: dict) -> None:  # type: ignore[type-arg]
    tensors["decoder.conv_out.bias"][0] = float("nan")


def test_an_error_is_one_line_and_its_traceback_is_shown_on_request(photo: Path) -> None:
    ran = vaelens("reconstruct", photo, "--vae", "ft-mes", "-v", code=2)
    assert ran.stdout == ""
    traceback, line, message = ran.stderr.rpartition("vaelens: ")
    assert (line, message.count("\n")) == ("vaelens: ", 1)
    assert message.startswith("no VAE is called 'ft-mes'")
    assert traceback.startswith("Traceback")


@pytest.mark.parametrize("name", [pytest.param("SIGINT", marks=pytest.mark.slow), "SIGTERM"])
def test_an_interrupt_ends_with_130_and_leaves_nothing(tmp_path: Path, name: str) -> None:
    Image.fromarray(draw_face(0, 256).pixels).resize((2000, 2000)).save(tmp_path / "photo.png")
    command = [sys.executable, "-m", "vaelens", "reconstruct", "photo.png", "-o", "out.png"]
    running = subprocess.Popen(command, cwd=tmp_path, stderr=subprocess.PIPE, text=True)
    assert "No --vae named" in running.stderr.readline()
    time.sleep(0.3)
    running.send_signal(getattr(signal, name))
    _, errors = running.communicate(timeout=60)
    assert running.returncode == 130, errors
    assert "vaelens: interrupted." in errors
    assert "Traceback" not in errors
    assert [p.name for p in tmp_path.iterdir()] == ["photo.png"]


@pytest.mark.usefixtures("handlers")
def test_an_interrupt_hidden_by_another_error_is_still_one(monkeypatch: pytest.MonkeyPatch, capsys: Any) -> None:
    """Compiled code turns it into an error of its own."""

    def swallow(**_: object) -> None:
        try:
            signal.raise_signal(signal.SIGINT)
        except KeyboardInterrupt:
            raise ValueError("could not determine the shape of a storage") from None

    monkeypatch.setattr(sys, "argv", ["vaelens", "list"])
    monkeypatch.setattr(main, "app", swallow)
    monkeypatch.setattr(main, "_interrupts", [])
    with pytest.raises(SystemExit) as left:
        main.main()
    assert left.value.code == 130
    assert capsys.readouterr().err == "vaelens: interrupted.\n"


@pytest.mark.usefixtures("handlers")
@pytest.mark.parametrize("there", [True, False])
def test_an_interrupted_evaluation_says_in_one_line_how_to_resume(
    there: bool, monkeypatch: pytest.MonkeyPatch, capsys: Any, tmp_path: Path
) -> None:
    monkeypatch.chdir(tmp_path)
    if there:
        Path("ev").mkdir()
    monkeypatch.setattr(run, "evaluate", lambda *_, **__: signal.raise_signal(signal.SIGINT))
    monkeypatch.setattr(main, "_interrupts", [])
    monkeypatch.setattr(sys, "argv", ["vaelens", "evaluate", "synthetic", "--vae", "tiny-kl-f8", "-o", "ev"])
    with pytest.raises(SystemExit) as left:
        main.main()
    assert left.value.code == 130
    printed = capsys.readouterr().err
    left_there = " The scores so far are in ev; run the same command again to resume." if there else ""
    assert printed == f"vaelens: interrupted.{left_there}\n"


def test_progress_never_exceeds_its_total(monkeypatch: pytest.MonkeyPatch, capsys: Any) -> None:
    monkeypatch.setattr(output, "PROGRESS_INTERVAL", -1)
    with output.progress() as step:
        for done in (0, 1, 2):
            step(done, 2, "reading images")
    assert [line.partition(":")[0] for line in capsys.readouterr().err.splitlines()] == ["1 of 2", "2 of 2", "2 of 2"]


@pytest.mark.usefixtures("handlers")
@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (f"evaluate photos --take {'9' * 40}", f"--take: {'9' * 40} is too large. See `"),
        ("evaluate photos --take abc", "--take: abc is not a whole number. See `"),
        ("evaluate photos --take 0", "--take: 0 is too small, the smallest is 1. See `"),
        ("finetune photos --weight heavy", "--weight: heavy is not a number. See `"),
        ("evaluate photos --take", "--take requires an argument. See `"),
        ("evaluate photos --tke 3", "no option is called --tke. Did you mean --take"),
        ("evaluate photos --xyz", "no such option: --xyz. See `"),
        ("evaluate", "SOURCE is missing. See `"),
        ("evalute photos", "no such command 'evalute'. Did you mean 'evaluate'?"),
        ("inspect ft-mes", "no VAE is called 'ft-mes'"),
    ],
)
def test_a_usage_error_is_one_line(monkeypatch: pytest.MonkeyPatch, capsys: Any, arguments: str, message: str) -> None:
    monkeypatch.setattr(sys, "argv", ["vaelens", *arguments.split()])
    with pytest.raises(SystemExit) as left:
        main.main()
    assert left.value.code == 2
    printed = capsys.readouterr()
    assert printed.err.startswith(f"vaelens: {message}")
    assert (printed.err.count("\n"), printed.out) == (1, "")


def test_help_shows_no_types_of_arguments() -> None:
    assert "reconstruct [OPTIONS] PHOTO...\n" in invoke("reconstruct", "--help").stdout
    assert "\n  DATA  Training images" in invoke("finetune", "--help").stdout


def test_the_version_is_printed() -> None:
    assert vaelens("--version").stdout == f"vaelens {importlib.metadata.version('vaelens')}\n"


def test_list_prints_the_published_table() -> None:
    ran = invoke("list")
    lines = [" ".join(line.split()) for line in ran.stdout.splitlines()]
    assert "ft-mse 840,001 MSE + 0.1 LPIPS 4.70 24.5 ± 3.7 0.71 ± 0.13 0.92 ± 0.27" in lines
    assert "kl-f8 246,803 L1 + LPIPS 4.99 23.4 ± 3.8 0.69 ± 0.14 1.01 ± 0.28" in lines
    assert "ft-ema 560,001 L1 + LPIPS 1.77 26.7 ± 4.8 0.82 ± 0.12 0.67 ± 0.34" in lines
    assert json.loads(invoke("list", "--json").stdout)["vaes"]["ft-mse"]["training"]["resumed_from"] == "ft-ema"
    assert "ft-mse sd1 840,001 decoder stabilityai/sd-vae-ft-mse MIT" in lines
    assert "sd-v1-4 sd1 CompVis/stable-diffusion-v1-4 CreativeML OpenRAIL-M" in lines
    assert "tiny-sd tiny embedded Apache-2.0" in lines


def test_inspect_shows_each_field_with_its_source(vae_file: Path) -> None:
    ran = invoke("inspect", vae_file)
    lines = [" ".join(line.split()) for line in ran.stdout.splitlines()]
    assert "tensors 248" in lines
    assert "norm_num_groups 4 the file's metadata" in lines
    assert "latent_channels 4 the tensors' shapes" in lines
    found = json.loads(invoke("inspect", vae_file, "--json").stdout)
    assert found["fingerprint"] == random_vae().fingerprint.as_dict()
    assert found["spec"]["latent_space"] == {"value": "sd1", "source": "the file's metadata"}


def test_help_needs_no_torch_and_answers_at_once() -> None:
    code = (
        "import sys; sys.argv = ['vaelens', '--help']\nfrom vaelens.cli.main import main\n"
        "try: main()\nexcept SystemExit: pass\n"
        "heavy = {'torch', 'numpy', 'PIL', 'huggingface_hub', 'pydantic'} & set(sys.modules)\nassert not heavy, heavy"
    )
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert ran.returncode == 0, ran.stderr
    for command in ("reconstruct", "list", "inspect", "doctor"):
        assert command in ran.stdout


def test_output_into_a_closed_pipe_is_quiet() -> None:
    command = ["bash", "-c", f"{sys.executable} -m vaelens list | head -1"]
    ran = subprocess.run(command, capture_output=True, text=True, check=False)
    assert ran.stderr == ""
    assert ran.stdout.startswith("VAE")


def test_a_vae_from_the_hub_by_id(photo: Path, vae: VAE, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Downloaded with a notice, then from the cache with --offline; the token is nowhere."""
    folder = vae.save(tmp_path / "vae")
    monkeypatch.setenv("HF_TOKEN", "hf_secretsecretsecret")
    with HubStandin() as hub:
        hub.use(monkeypatch, tmp_path / "home")
        for file in folder.iterdir():
            hub.add("someone/pipeline", f"vae/{file.name}", file.read_bytes())
        outputs = ["reconstruct", photo, "--vae", "someone/pipeline", "-o", tmp_path / "out.png"]
        first = invoke(*outputs)
        assert "someone/pipeline" in first.stderr
        assert json.loads((tmp_path / "out.run.json").read_text())["vaes"][0]["name"] == "someone/pipeline"
        count = len(hub.requests)
        second = invoke(*outputs, "--offline")
        assert len(hub.requests) == count
        missing = invoke("inspect", "someone/else", "--offline", code=5)
    gone = invoke("inspect", "ft-mse", code=5)
    assert "stabilityai/sd-vae-ft-mse" in gone.stderr
    for ran in (first, second, missing, gone):
        assert "hf_secret" not in ran.stdout + ran.stderr
