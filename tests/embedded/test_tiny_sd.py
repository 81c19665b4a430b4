"""tiny-sd, the embedded model: small, offline, follows its prompt; its docs have the numbers of its record."""

import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors import safe_open
from typer.testing import CliRunner, Result

import vaelens
from vaelens.adapters.libraries import diffusers
from vaelens.cli import main
from vaelens.comparison.workflow import compare, generate
from vaelens.files import sha256_file
from vaelens.images.prompts import VALUES, Face, Letter, Scene, caption
from vaelens.resources import using_threads
from vaelens.sampling import SCHEDULERS
from vaelens.weights.registry import embedded_model_path, registry

ROOT = Path(__file__).parents[2]
FOLDER = embedded_model_path(registry().find_model("tiny-sd"))
TRIO = ["tiny-kl-f8", "tiny-ft-ema", "tiny-ft-mse"]
PROMPT = "a smiling face with blue eyes and red hair on a yellow background"
RECORD: dict[str, Any] = json.loads((ROOT / "docs" / "tiny-sd.json").read_text())


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    with using_threads(1):
        yield


def test_files_are_small_and_in_the_layout_of_old_and_new_libraries() -> None:
    assert sum(path.stat().st_size for path in FOLDER.rglob("*") if path.is_file()) <= 10_000_000
    index = json.loads((FOLDER / "model_index.json").read_text())
    assert index["_class_name"] == "StableDiffusionPipeline"
    assert index["vae"] == [None, None]
    with safe_open(FOLDER / "text_encoder" / "model.safetensors", "pt") as opened:
        names = list(opened.keys())
        assert {opened.get_tensor(name).dtype for name in names} == {torch.float16}
    assert all(name.startswith("text_model.") for name in names), "transformers 4 silently ignores other names"
    vocabulary = json.loads((FOLDER / "tokenizer" / "vocab.json").read_text())
    assert vocabulary == json.loads((FOLDER / "tokenizer" / "tokenizer.json").read_text())["model"]["vocab"]


def command(*arguments: object) -> Result:
    """The `vaelens` command in this process."""
    ran = CliRunner().invoke(main.app, list(map(str, arguments)))
    assert ran.exit_code == 0, ran.output
    return ran


def test_tiny_sd_and_the_trio_are_the_default_and_work_offline(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("VAELENS_CACHE", str(tmp_path / "empty"))
    ran = command("compare", PROMPT, "--seed", "0", "--offline", "-o", tmp_path / "out")
    assert "No model and no VAE named. Using the small embedded model tiny-sd" in ran.stderr
    record = json.loads((tmp_path / "out" / "run.json").read_text())
    assert [vae["name"] for vae in record["vaes"]] == TRIO
    assert len({row["latents_sha256"] for row in record["rows"]}) == 1
    assert (record["model"]["name"], record["images"][0]["provenance"]["sampling"]["steps"]) == ("tiny-sd", 25)
    image = next((tmp_path / "out").glob("*-tiny-ft-mse.png"))
    again = command("replay", image, "-o", tmp_path / "again.png")
    assert "largest difference 0 of 255: the same image, bit for bit" in again.stdout
    assert np.array_equal(Image.open(image), Image.open(tmp_path / "again.png"))


def test_an_image_is_the_same_alone_and_with_other_seeds() -> None:
    both = compare(PROMPT, seeds=[3, 0], vaes=["tiny-kl-f8"], steps=4)
    alone = generate(PROMPT, seeds=[0], steps=4)
    assert alone.images[0].latent.sha256 == both.images[1].latent.sha256 != both.images[0].latent.sha256
    assert np.array_equal(alone.images[0].decoded[0].pixels, both.images[1].decoded[0].pixels)


@pytest.mark.parametrize(
    "scene",
    [Letter("R", "red", "white"), Letter("K", "yellow", "blue"), Face("smiling", "blue", "red", "yellow")],
    ids=["R", "K", "face"],
)
def test_images_follow_the_prompt(script: Callable[[str], ModuleType], scene: Scene) -> None:
    """As read by the classifier; the whole check's numbers are in docs/tiny-sd.json."""
    labels, check = script("labels"), script("check_tiny_sd")
    generated = generate(caption(scene), seeds=[1])
    pixels = torch.from_numpy(generated.images[0].decoded[0].pixels).permute(2, 0, 1)[None]
    (predicted,) = labels.read(labels.load_labels(), pixels.float() / 255)
    assert check.shares([scene], [predicted])["all"]["share"] >= 2 / 3, predicted


@pytest.mark.parametrize("scheduler", SCHEDULERS)
def test_every_scheduler_gives_an_image_without_noise(scheduler: str) -> None:
    """Its highest noise level is above Stable Diffusion's, where Karras' spacing rounds to equal timesteps."""
    steps = None if scheduler.endswith("-karras") else 8  # the model's own number, where the spacing is the point
    pixels = generate("the letter A", scheduler=scheduler, steps=steps).images[0].decoded[0].pixels
    assert pixels.std() > 20
    assert np.abs(np.diff(pixels.astype(int), axis=0)).mean() < 8


def assert_same_image(theirs: np.ndarray, ours: np.ndarray) -> None:
    """But for values that lie between two 8-bit levels: the engine sums up in another order than diffusers' class."""
    difference = np.abs(theirs.astype(int) - ours)
    assert difference.max() <= 1
    assert (difference > 0).mean() < 1e-3


def test_diffusers_pipeline_gives_the_same_image_with_our_vae() -> None:
    """Without naming a dtype, as in the article."""
    vae = vaelens.as_diffusers(vaelens.load("tiny-ft-mse", device="cpu"))
    pipe = diffusers().StableDiffusionPipeline.from_pretrained(FOLDER, vae=vae)
    pipe.set_progress_bar_config(disable=True)
    seed = torch.Generator().manual_seed(0)
    theirs = pipe(PROMPT, num_inference_steps=3, guidance_scale=3.0, generator=seed).images[0]
    ours = generate(PROMPT, "tiny-ft-mse", steps=3, device="cpu").images[0].decoded[0].pixels
    assert_same_image(np.asarray(theirs), ours)
    with pytest.raises(TypeError, match="takes a VAE"):
        vaelens.as_diffusers("tiny-ft-mse")


@pytest.mark.slow
def test_the_example_program_runs_with_tiny_sd(tmp_path: Path) -> None:
    # The torchvision of the tests has no operators, without which transformers can't be imported.
    program = str(ROOT / "examples" / "swap_vae.py")
    start = f"import support.torchvision_operators, runpy; runpy.run_path({program!r}, None, '__main__')"
    call = [sys.executable, "-c", start, PROMPT, "--model", "tiny-sd", "--steps", "3", "--seed", "2"]
    offline = {"HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1", "VAELENS_CACHE": str(tmp_path / "empty")}
    env = os.environ | offline | {"PYTHONPATH": f"{ROOT / 'tests'}{os.pathsep}{ROOT / 'src'}"}
    ran = subprocess.run(call, capture_output=True, text=True, check=False, cwd=tmp_path, env=env, timeout=240)
    assert ran.returncode == 0, ran.stderr
    expected = compare(PROMPT, seeds=[2], steps=3, device="cpu").images[0]
    for name, one in zip(TRIO, expected.decoded, strict=True):
        assert_same_image(np.asarray(Image.open(tmp_path / f"{name}-seed-2.png")), one.pixels)


def test_the_record_supports_the_claims_of_the_docs() -> None:
    assert (RECORD["prompts"], RECORD["held_out"]) == (200, 50)
    generated, classifier = RECORD["generated"], RECORD["classifier_on_reconstructions"]
    assert generated["all"]["share"] >= 0.8
    assert generated["all"]["right"] == sum(part["right"] for name, part in generated.items() if name != "all")
    assert min(part["share"] for part in classifier.values()) >= 0.95
    names = {f"{of_class.__name__} {name}" for of_class, attributes in VALUES.items() for name in attributes}
    assert set(generated) == set(classifier) == names | {"all"}
    assert min(len(values) for attributes in VALUES.values() for values in attributes.values()) >= 4
    assert RECORD["chance"] < 0.2


def test_the_docs_have_the_numbers_of_the_record() -> None:
    text = (ROOT / "docs" / "tiny-sd.md").read_text("utf-8")
    columns = [RECORD[key] for key in ("generated", "generated_held_out", "classifier_on_reconstructions")]
    for name, part in RECORD["generated"].items():
        row = next(
            line
            for line in text.splitlines()
            if line.startswith(f"| {name.lower().replace(' ground', ' background')} | ")
        )
        shares = [f"{column[name]['share']:.1%}".replace("%", " %") for column in columns]
        assert [cell.strip() for cell in row.split("|")[3:6]] == shares, name
        assert part["of"] > 0
    assert f"{RECORD['chance']:.1%}".replace("%", " %") in text


def test_the_record_is_of_the_shipped_weights() -> None:
    weights = sorted(FOLDER.rglob("*.safetensors"))
    assert {path.relative_to(FOLDER).as_posix(): sha256_file(path) for path in weights} == RECORD["weights_sha256"]
    known = registry().find_model("tiny-sd")
    assert (RECORD["steps"], RECORD["guidance_scale"]) == (known.steps, known.guidance_scale)
