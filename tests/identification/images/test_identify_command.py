"""`vaelens identify` on images: what is printed, with and without decoders, and what is refused."""

import hashlib
import json
from pathlib import Path

import pytest

import vaelens as vl
from support.commands import invoke
from support.images.metadata_files import PIXELS, automatic1111, png_with, written
from support.images.written_files import saved
from vaelens.weights.registry import embedded_paths, registry

MSE = "vae-ft-mse-840000-ema-pruned.safetensors"


def test_claims_are_printed_as_claims(tmp_path: Path) -> None:
    path = written(tmp_path, png_with({"parameters": automatic1111(MSE, "63aeecb90f")}))
    lines = invoke("identify", path).stdout.splitlines()
    assert lines[0] == str(path)
    assert lines[1].startswith("  AUTOMATIC1111's web UI claims (PNG text `parameters`): VAE vae-ft-mse")
    assert "contradict each other" in lines[2]
    assert lines[-1] == "Metadata are claims: anybody can write them."
    (image,) = json.loads(invoke("identify", path, "--json").stdout)["images"]
    assert image["claims"][0]["compared"]["verdict"] == "contradict"
    assert image["claims"][0]["compared"]["by_hash"][0]["vae"] == "sdxl"
    assert image["verdict"] is None


def test_an_image_without_metadata(tmp_path: Path) -> None:
    path = written(tmp_path, saved(PIXELS, "PNG"))
    assert invoke("identify", path).stdout.splitlines()[1:] == ["  no metadata that says anything about a VAE"]


def test_a_verdict(tmp_path: Path) -> None:
    photo = vl.read_image(Path(__file__).parents[3] / "examples" / "chelsea.png")[..., 60:124, 130:194]
    image = vl.load("tiny-ft-ema").reconstruct(photo.contiguous())
    from vaelens.images.writing import encode_png, to_pixels

    path = written(tmp_path, encode_png(to_pixels(image)))
    said = invoke("identify", path, "--vae", "tiny-ft-ema", "--vae", "tiny-ft-mse", "--device", "cpu").stdout
    assert "Pixels: tiny-ft-ema reproduces it (0." in said
    found = vl.identify(path, vaes=["tiny-ft-mse"], device="cpu").images[0]
    assert found.verdict is not None
    assert found.verdict.vae is None


def test_images_beside_weights(tmp_path: Path) -> None:
    path = written(tmp_path, png_with({"parameters": automatic1111(MSE, "735e4c3a44")}))
    weights = vl.load("tiny-ft-mse").save(tmp_path / "mine.safetensors")
    ran = invoke("identify", path, weights)
    assert ran.stdout.index("tiny-ft-mse") < ran.stdout.index(str(path))
    found = json.loads(invoke("identify", path, weights, "--json").stdout)
    assert len(found["files"]) == len(found["images"]) == 1


def test_the_hash_of_a_file_of_the_same_call(tmp_path: Path) -> None:
    weights = vl.load("tiny-ft-mse").save(tmp_path / "sdxl_vae.safetensors")
    digest = hashlib.sha256(weights.read_bytes()).hexdigest()[:10]
    mine = written(tmp_path, png_with({"parameters": automatic1111(weights.name, digest)}), "mine.png")
    other = written(tmp_path, png_with({"parameters": automatic1111(weights.name, "735e4c3a44")}), "other.png")
    said = invoke("identify", mine, weights).stdout
    assert f"    The hash is that of {weights}, whose content is tiny-ft-mse." in said.splitlines()
    assert "The hash is that of" not in invoke("identify", other, weights).stdout


def test_a_folder_of_images(tmp_path: Path) -> None:
    path = written(tmp_path, saved(PIXELS, "PNG"))
    for name in ("b.png", "c.JPG"):
        written(tmp_path, saved(PIXELS, "PNG"), name)
    patterns = f"{path.parent / '*.png'} {path.parent / '*.JPG'}"
    said = invoke("identify", path.parent, code=3).stderr.replace("\n", " ")
    assert f"Its images have to be named one by one: {patterns}" in said


def test_a_png_that_is_cut_off(tmp_path: Path) -> None:
    whole = png_with({"parameters": automatic1111(MSE, None)})
    assert "cut off" not in invoke("identify", written(tmp_path, whole)).stdout
    said = invoke("identify", written(tmp_path, whole[:-20])).stdout
    assert MSE in said
    assert "  The file is cut off: pixels are missing" in said


def test_a_damaged_image_stops_nothing(tmp_path: Path) -> None:
    good = written(tmp_path, png_with({"parameters": automatic1111(MSE, None)}), "good.png")
    bad = written(tmp_path, saved(PIXELS, "PNG")[:30], "bad.png")
    ran = invoke("identify", bad, good, code=3)
    assert "damaged" in ran.stdout
    assert MSE in ran.stdout


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--vae", "tiny-ft-mse", "WEIGHTS"], "--vae: no effect without an image"),
        (["--against", "tiny-ft-mse", "IMAGE"], "--against: no effect on images"),
        (["--space", "moon", "IMAGE"], "no latent space is called 'moon'"),
        (["--vae", "nosuch", "IMAGE"], "no VAE is called 'nosuch'"),
    ],
)
def test_options_without_effect_are_refused(arguments: list[str], words: str, tmp_path: Path) -> None:
    image = written(tmp_path, saved(PIXELS, "PNG"))
    weights = embedded_paths(registry().find("tiny-ft-mse"))[-1]
    named = [{"IMAGE": str(image), "WEIGHTS": str(weights)}.get(one, one) for one in arguments]
    assert words in invoke("identify", *named, code=2).stderr


def test_names_from_metadata_control_no_terminal(tmp_path: Path) -> None:
    name = "\x1b[31mred\u202e" + "x" * 5000
    path = written(tmp_path, png_with({"parameters": automatic1111(name, None)}))
    said = invoke("identify", path).stdout
    assert "\x1b" not in said
    assert "\u202e" not in said
    assert max(map(len, said.splitlines())) < 600
