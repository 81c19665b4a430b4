"""The commands, as a user runs them: output, files left, exit codes and messages."""

import importlib.metadata
import json
import os
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from support.hub_standin import HubStandin
from support.vaes import random_vae
from vaelens.images.faces import draw_face
from vaelens.vae import VAE


def vaelens(*arguments: object, cwd: Path | None = None, **env: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-W", "error", "-m", "vaelens", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, check=False, cwd=cwd, env={**os.environ, **env})


@pytest.fixture
def photo(tmp_path: Path) -> Path:
    path = tmp_path / "photo.png"
    Image.fromarray(draw_face(0, 96).pixels[:90]).save(path)
    return path


def test_a_strip_with_the_embedded_vaes(photo: Path, tmp_path: Path) -> None:
    ran = vaelens("reconstruct", photo, "-o", "out.png", cwd=tmp_path)
    assert ran.returncode == 0, ran.stderr
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


def test_a_folder_holds_page_strip_record_and_each_image(photo: Path, vae: VAE, tmp_path: Path) -> None:
    file = vae.save(tmp_path / "mine.safetensors")
    named = photo.rename(photo.with_name("mé 日本 <b>&.png"))
    ran = vaelens("reconstruct", named, "--vae", "tiny-kl-f8", "--vae", file, "-o", tmp_path / "out", "--json")
    assert ran.returncode == 0, ran.stderr
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


def test_the_library_and_the_command_make_the_same_pixels(photo: Path, tmp_path: Path) -> None:
    import vaelens as vl
    from vaelens.images.writing import to_pixels

    vaelens("reconstruct", photo, "-o", tmp_path / "out", "--posterior", "sample", "--seed", "0", "--device", "cpu")
    file = next((tmp_path / "out").glob("001-*-tiny-kl-f8.png"))
    expected = vl.load("tiny-kl-f8", device="cpu").reconstruct(vl.read_image(photo), seed=0)
    assert np.array_equal(np.asarray(Image.open(file)), to_pixels(expected))
    mode = vl.reconstruct([photo], device="cpu").rows[0]
    assert not np.array_equal(mode.pixels, to_pixels(expected))


def test_the_same_command_gives_the_same_image(photo: Path, tmp_path: Path) -> None:
    for name in ("a.png", "b.png"):
        vaelens("reconstruct", photo, "-o", tmp_path / name, "-q")
    a, b = (json.loads((tmp_path / f"{n}.run.json").read_text())["rows"][0] for n in "ab")
    assert a["latents_sha256"] == b["latents_sha256"]
    assert (tmp_path / "a.png").read_bytes() == (tmp_path / "b.png").read_bytes()


def test_psnr_and_ssim_are_those_of_the_image_written(photo: Path, tmp_path: Path) -> None:
    from skimage.metrics import peak_signal_noise_ratio

    vaelens("reconstruct", photo, "-o", tmp_path / "out")
    row = json.loads((tmp_path / "out" / "run.json").read_text())["rows"][0]
    written = np.asarray(Image.open(next((tmp_path / "out").glob("001-*.png"))))
    expected = peak_signal_noise_ratio(np.asarray(Image.open(photo)), written)
    assert abs(row["psnr"] - expected) < 1e-5


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["photo.png", "--vae", "ft-mes"], 2, "Did you mean ft-mse"),
        (["photo.png", "--vae", "none.safetensors"], 3, "no such file"),
        (["photo.png", "--vae", "old.ckpt"], 4, "old.ckpt is a pickled file"),
        (["photo.png", "--vae", "nan.safetensors"], 7, "decoder.conv_out.bias holds 1 value that is NaN"),
        (["photo.png", "-o", "photo.png"], 2, "is one of the inputs and would be lost"),
        (["photo.png", "-o", "out.jpg"], 2, "a .png strip, an .html page or a folder"),
        (["photo.png", "-o", "/dev/null"], 2, "/dev/null"),
        (["strip.png", "-o", "."], 2, "strip.png is one of the inputs and would be lost"),
        (["photo.png", "--vae", ""], 2, "an empty name is no VAE"),
        (["photo.png", "-o", "taken.png"], 2, "taken.run.json is a folder"),
        (["photo.png", "--vae", "stabilityai/stable-diffusion-xl-base-1.0", "--offline"], 5, "not in the cache"),
        (["photo.png", "--seed", "18446744073709551616"], 2, "a seed lies between"),
        (["photo.png", "--posterior", "mean"], 2, "mode or sample, not 'mean'"),
        (["photo.png", "--device", "tpu"], 2, "no device 'tpu' here"),
        (["photo.png", "--dtype", "int8"], 2, "no dtype is called 'int8'"),
        (["photo.png", "--space", "sd9", "--vae", "plain.safetensors"], 2, "no latent space is called 'sd9'"),
        (["photo.png", "--vae", "plain.safetensors"], 3, "doesn't say"),
        (["nowhere.png"], 3, "nowhere.png: can't be read"),
        (["text.png"], 3, "no image that vaelens knows"),
        (["photo.png", "--max-side", "0"], 2, "max-side"),
        ([], 2, "PHOTO"),
    ],
)
def test_mistakes_get_one_sentence_and_their_code(
    photo: Path, tmp_path: Path, vae_file: Path, rewrite: object, arguments: list[str], code: int, message: str
) -> None:
    def spoil(tensors: dict) -> None:  # type: ignore[type-arg]
        tensors["decoder.conv_out.bias"][0] = float("nan")

    rewrite(vae_file, tmp_path / "nan.safetensors", spoil)  # type: ignore[operator]
    rewrite(vae_file, tmp_path / "plain.safetensors", metadata={})  # type: ignore[operator]
    (tmp_path / "text.png").write_text("hello")
    (tmp_path / "old.ckpt").write_bytes(b"PK")
    (tmp_path / "strip.png").write_bytes(photo.read_bytes())
    (tmp_path / "taken.run.json").mkdir()
    before = sorted(tmp_path.iterdir())
    ran = vaelens("reconstruct", *arguments, cwd=tmp_path)
    assert ran.returncode == code, ran.stderr
    assert message in ran.stderr
    assert "Traceback" not in ran.stderr
    assert ran.stdout == ""
    assert sorted(tmp_path.iterdir()) == before
    with Image.open(photo) as kept:
        assert kept.size == (96, 90)


def test_the_library_overwrites_no_photo_either(photo: Path) -> None:
    import vaelens as vl
    from vaelens.errors import UsageError

    before = photo.read_bytes()
    done = vl.reconstruct(photo, device="cpu")
    with pytest.raises(UsageError, match="would be lost"):
        done.save(photo)
    with pytest.raises(UsageError, match=r"strip, an \.html page or a folder"):
        done.save(photo.with_name("faces.jpg"))
    assert photo.read_bytes() == before
    assert list(photo.parent.iterdir()) == [photo]
    mine = photo.with_name("web")
    mine.mkdir()
    (mine / "index.html").write_text("mine")
    (mine / "run.json").write_text('{"mine": 1}')
    with pytest.raises(UsageError, match=r"index\.html was not made by vaelens and would be lost"):
        done.save(mine)
    assert (mine / "index.html").read_text() == "mine"
    for _ in range(2):  # its own folder may be written again
        done.save(photo.with_name("again"))
    written = done.save(photo.with_name("results.v2"))  # a folder may have a dot
    assert written[0] == photo.with_name("results.v2") / "index.html"


def test_the_library_checks_everything_cheap_first(photo: Path) -> None:
    import vaelens as vl
    from vaelens.errors import UsageError

    ran: list[str] = []

    def progress(done: int, total: int, what: str) -> None:
        ran.append(what)

    for arguments, options, message in (
        (([photo], ["tiny-kl-f8", "ft-mes"]), {}, "Did you mean ft-mse"),
        (([photo],), {"max_side": 0}, "at least 1 pixel"),
        (([photo],), {"seed": 2**70}, "a seed lies between"),
        (([photo], []), {}, "no VAE named"),
        (([],), {}, "no photo named"),
    ):
        with pytest.raises(UsageError, match=message):
            vl.reconstruct(*arguments, **options, progress=progress)  # type: ignore[arg-type]
    assert ran == []


def test_vaes_of_one_name_keep_their_images_apart(photo: Path, vae: VAE, tmp_path: Path) -> None:
    import vaelens as vl

    other = random_vae(seed=1)
    done = vl.reconstruct(photo, [vae, other, vae.save(tmp_path / "random.safetensors")], device="cpu", max_side=40)
    assert done.vaes == ["random", "random (2)", "random (3)"]
    written = done.save(tmp_path / "out")
    assert len({p.name for p in written}) == len(written) == 6
    hashes = [row.latents_sha256 for row in done.rows]
    assert hashes[0] == hashes[2] != hashes[1]
    assert done.photos[0].size == (38, 40)


def test_a_perfect_reconstruction_leaves_strict_json(photo: Path, tmp_path: Path) -> None:
    from dataclasses import replace

    import vaelens as vl

    done = vl.reconstruct(photo, device="cpu")
    rows = tuple(replace(row, psnr=float("inf")) for row in done.rows)
    record = done.record | {"rows": [{"psnr": float("inf")}]}
    replace(done, rows=rows, record=record).save(tmp_path / "out.html")

    def refuse(constant: str) -> None:
        raise AssertionError(constant)

    text = (tmp_path / "out.run.json").read_text()
    assert json.loads(text, parse_constant=refuse)["rows"] == [{"psnr": None}]


def test_out_of_memory_has_its_code(photo: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import vaelens as vl
    from vaelens.errors import ResourceError

    vae = random_vae()

    def exhausted(_: object) -> None:
        raise RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory: you tried to allocate 9 bytes")

    monkeypatch.setattr(vae.network.decoder, "forward", exhausted)
    with pytest.raises(ResourceError, match=r"out of memory on cpu with 96x90 pixels .*random.*--max-side"):
        vl.reconstruct(photo, vae)
    monkeypatch.setattr(vae.network.decoder, "forward", lambda _: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        vl.reconstruct(photo, vae)


def test_a_large_photo_is_announced(tmp_path: Path) -> None:
    import vaelens as vl

    Image.new("1", (2100, 2000)).save(tmp_path / "large.png")
    notices: list[str] = []
    with pytest.raises(ZeroDivisionError):
        vl.reconstruct(tmp_path / "large.png", device="cpu", notify=notices.append, progress=lambda *_: 1 / 0)
    assert len(notices) == 1
    assert "large.png has 4 megapixels" in notices[0]


def test_quiet_is_quiet(photo: Path, tmp_path: Path) -> None:
    assert vaelens("reconstruct", photo, "-o", tmp_path / "a.png", "-q").stderr == ""


def test_verbose_shows_the_traceback(photo: Path, tmp_path: Path) -> None:
    ran = vaelens("reconstruct", photo, "--vae", "ft-mes", "-v", cwd=tmp_path)
    assert "Traceback" in ran.stderr


def test_an_interrupt_ends_with_130_and_leaves_nothing(tmp_path: Path) -> None:
    Image.fromarray(draw_face(0, 256).pixels).resize((2000, 2000)).save(tmp_path / "photo.png")
    command = [sys.executable, "-m", "vaelens", "reconstruct", "photo.png", "-o", "out.png"]
    for name in ("SIGINT", "SIGTERM"):
        import signal

        running = subprocess.Popen(command, cwd=tmp_path, stderr=subprocess.PIPE, text=True)
        assert running.stderr is not None
        assert "No --vae named" in running.stderr.readline()
        time.sleep(0.3)
        running.send_signal(getattr(signal, name))
        _, errors = running.communicate(timeout=60)
        assert running.returncode == 130, errors
        assert "vaelens: interrupted." in errors
        assert "Traceback" not in errors
    assert [p.name for p in tmp_path.iterdir()] == ["photo.png"]


def test_an_interrupt_that_compiled_code_turned_into_an_error_is_still_one(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    import signal

    from vaelens.cli import main

    def swallow() -> None:
        try:
            signal.raise_signal(signal.SIGINT)
        except KeyboardInterrupt:
            raise ValueError("could not determine the shape of a storage") from None

    monkeypatch.setattr(main, "app", swallow)
    monkeypatch.setattr(main, "_interrupts", [])
    handlers = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        with pytest.raises(SystemExit) as left:
            main.main()
    finally:
        for number, handler in handlers.items():
            signal.signal(number, handler)
    assert left.value.code == 130
    assert capsys.readouterr().err == "vaelens: interrupted.\n"


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["compare", "photo.png"], "--photo photo.png"),
        (
            ["generate", "a face", "--vae", "tiny-kl-f8", "--vae", "tiny-ft-mse"],
            "generate decodes with one VAE, but 2 are named",
        ),
        (["generate", "a face", "--negative-prompt", "blurry"], "the negative prompt: tiny-sd doesn't know 'blurry'"),
        (["generate", "a face", "-o", "photo.png"], "photo.png was not made by vaelens and would be lost"),
        (["compare", "a face", "--seed", "1.5"], "seeds are whole numbers"),
        (["compare", ""], "the prompt is empty"),
        (["compare", "a face", "--steps", "0"], "from 1 to 1000, not 0"),
        (["compare", "a face", "--size", "250"], "multiples of 8"),
        (["compare", "a face", "--vae", "tiny-ft-mes"], "Did you mean tiny-ft-mse"),
        (["compare", "x" * 10_000], "doesn't know 'xxxxx"),
    ],
)
def test_a_wrong_prompt_or_option_is_explained(photo: Path, arguments: list[str], words: str) -> None:
    before = photo.read_bytes()
    ran = vaelens(*arguments, cwd=photo.parent)
    assert ran.returncode == 2, ran.stderr
    assert words in ran.stderr
    assert len(ran.stderr) < 500
    assert photo.read_bytes() == before
    assert [path.name for path in photo.parent.iterdir()] == ["photo.png"]


def test_the_version_is_printed() -> None:
    ran = vaelens("--version")
    assert (ran.returncode, ran.stdout) == (0, f"vaelens {importlib.metadata.version('vaelens')}\n")


def test_list_prints_the_published_table() -> None:
    ran = vaelens("list")
    assert ran.returncode == 0, ran.stderr
    lines = [" ".join(line.split()) for line in ran.stdout.splitlines()]
    assert "ft-MSE 840,001 MSE + 0.1 LPIPS 4.70 24.5 ± 3.7 0.71 ± 0.13 0.92 ± 0.27" in lines
    assert "kl-f8 (original) 246,803 L1 + LPIPS 4.99 23.4 ± 3.8 0.69 ± 0.14 1.01 ± 0.28" in lines
    assert "ft-EMA 560,001 L1 + LPIPS 1.77 26.7 ± 4.8 0.82 ± 0.12 0.67 ± 0.34" in lines
    assert json.loads(vaelens("list", "--json").stdout)["vaes"]["ft-mse"]["training"]["resumed_from"] == "ft-ema"
    assert "ft-mse sd1 840,001 decoder stabilityai/sd-vae-ft-mse MIT" in lines
    assert "sd-v1-4 sd1 CompVis/stable-diffusion-v1-4 CreativeML OpenRAIL-M" in lines
    assert "tiny-sd tiny embedded Apache-2.0" in lines


def test_inspect_shows_each_field_with_its_source(vae_file: Path) -> None:
    ran = vaelens("inspect", vae_file)
    assert ran.returncode == 0, ran.stderr
    lines = [" ".join(line.split()) for line in ran.stdout.splitlines()]
    assert "tensors 248" in lines
    assert "norm_num_groups 4 the file's metadata" in lines
    assert "latent_channels 4 the tensors' shapes" in lines
    found = json.loads(vaelens("inspect", vae_file, "--json").stdout)
    assert found["fingerprint"] == random_vae().fingerprint.as_dict()
    assert found["spec"]["latent_space"] == {"value": "sd1", "source": "the file's metadata"}


def test_doctor_checks_each_device(tmp_path: Path) -> None:
    ran = vaelens("doctor", "--json", HF_TOKEN="hf_secretsecretsecret", HF_HOME=str(tmp_path))
    assert ran.returncode == 0, ran.stderr
    found = json.loads(ran.stdout)
    assert found["healthy"] is True
    assert [t["difference"] for t in found["round_trips"] if (t["device"], t["dtype"]) == ("cpu", "float32")] == [0.0]
    assert found["hub"]["token"] is True
    assert "hf_secret" not in ran.stdout + ran.stderr
    assert "agrees with the CPU" in vaelens("doctor").stdout


def test_doctor_fails_when_a_device_disagrees(monkeypatch: pytest.MonkeyPatch) -> None:
    from vaelens import doctor

    monkeypatch.setitem(doctor.TOLERANCES, "float32", -1.0)
    assert not doctor.diagnose().healthy


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


def test_a_vae_from_the_hub_by_id(photo: Path, vae: VAE, tmp_path: Path) -> None:
    """Downloaded with a notice, then from the cache with --offline; the token is nowhere."""
    folder = vae.save(tmp_path / "vae")
    with HubStandin() as hub:
        for file in folder.iterdir():
            hub.add("someone/pipeline", f"vae/{file.name}", file.read_bytes())
        env = hub.environment(tmp_path / "home", HF_TOKEN="hf_secretsecretsecret")
        outputs = ["reconstruct", photo, "--vae", "someone/pipeline", "-o", tmp_path / "out.png"]
        first = vaelens(*outputs, **env)
        assert first.returncode == 0, first.stderr
        assert "someone/pipeline" in first.stderr
        assert json.loads((tmp_path / "out.run.json").read_text())["vaes"][0]["name"] == "someone/pipeline"
        asked = len(hub.requests)
        second = vaelens(*outputs, "--offline", **env)
        assert second.returncode == 0, second.stderr
        assert len(hub.requests) == asked
        missing = vaelens("inspect", "someone/else", "--offline", **env)
        assert missing.returncode == 5
        for ran in (first, second, missing):
            assert "hf_secret" not in ran.stdout + ran.stderr
    gone = vaelens("inspect", "ft-mse", **env)
    assert gone.returncode == 5
    assert "stabilityai/sd-vae-ft-mse" in gone.stderr
    assert "Traceback" not in gone.stderr
