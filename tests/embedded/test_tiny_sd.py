"""tiny-sd, the embedded model: small, offline, draws what it is asked for; its docs' numbers are the record's."""

import importlib
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


@pytest.fixture
def script(monkeypatch: pytest.MonkeyPatch) -> Callable[[str], ModuleType]:
    """A script of `embedded/` as a module."""
    monkeypatch.syspath_prepend(ROOT / "embedded")
    return importlib.import_module


def run(*arguments: object, cwd: Path, **more: str) -> subprocess.CompletedProcess[str]:
    """Offline, on one thread; whatever is fetched would fail."""
    env = os.environ | {"HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1", "VAELENS_CACHE": str(cwd / "none")} | more
    command = [sys.executable, *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, check=False, cwd=cwd, env=env, timeout=240)


def test_it_is_small_and_in_the_layout_that_old_and_new_libraries_read() -> None:
    assert sum(path.stat().st_size for path in FOLDER.rglob("*") if path.is_file()) <= 10_000_000
    index = json.loads((FOLDER / "model_index.json").read_text())
    assert index["_class_name"] == "StableDiffusionPipeline"
    assert index["vae"] == [None, None]
    with safe_open(FOLDER / "text_encoder" / "model.safetensors", "pt") as opened:
        names = list(opened.keys())
        assert {opened.get_tensor(name).dtype for name in names} == {torch.float16}
    assert all(name.startswith("text_model.") for name in names), "transformers 4 takes no others, and says so nowhere"
    vocabulary = json.loads((FOLDER / "tokenizer" / "vocab.json").read_text())
    assert vocabulary == json.loads((FOLDER / "tokenizer" / "tokenizer.json").read_text())["model"]["vocab"]


def test_with_nothing_named_it_draws_and_the_trio_decodes(tmp_path: Path) -> None:
    ran = run("-m", "vaelens", "compare", PROMPT, "--seed", "0", "-o", "out", cwd=tmp_path)
    assert ran.returncode == 0, ran.stderr
    assert "No model and no VAE named. Using the small embedded model tiny-sd" in ran.stderr
    record = json.loads((tmp_path / "out" / "run.json").read_text())
    assert [vae["name"] for vae in record["vaes"]] == TRIO
    assert len({row["latents_sha256"] for row in record["rows"]}) == 1
    assert (record["model"]["name"], record["images"][0]["provenance"]["sampling"]["steps"]) == ("tiny-sd", 25)
    image = next((tmp_path / "out").glob("*-tiny-ft-mse.png"))
    again = run("-m", "vaelens", "replay", image, "-o", "again.png", cwd=tmp_path)
    assert again.returncode == 0, again.stderr
    assert "largest difference 0 of 255: the same image, bit for bit" in again.stdout
    assert np.array_equal(Image.open(image), Image.open(tmp_path / "again.png"))


def test_seeds_differ_and_each_is_the_same_alone_and_among_others() -> None:
    among = compare(PROMPT, seeds=[3, 0], steps=4)
    alone = generate(PROMPT, seeds=[0], steps=4)
    assert alone.images[0].latent.sha256 == among.images[1].latent.sha256 != among.images[0].latent.sha256
    assert np.array_equal(alone.images[0].decoded[0].pixels, among.images[1].decoded[0].pixels)


@pytest.mark.parametrize(
    "scene",
    [Letter("R", "red", "white"), Letter("K", "yellow", "blue"), Face("smiling", "blue", "red", "yellow")],
    ids=["R", "K", "face"],
)
def test_it_draws_what_it_is_asked_for(script: Callable[[str], ModuleType], scene: Scene) -> None:
    """Read by the network that was trained apart; the full check's numbers are in docs/tiny-sd.json."""
    labels, check = script("labels"), script("check_tiny_sd")
    made = generate(caption(scene), seeds=[1])
    pixels = torch.from_numpy(made.images[0].decoded[0].pixels).permute(2, 0, 1)[None]
    (seen,) = labels.read(labels.load_labels(), pixels.float() / 255)
    found = check.shares([scene], [seen])["all"]
    assert found["share"] >= 2 / 3, seen


@pytest.mark.parametrize("scheduler", SCHEDULERS)
def test_every_scheduler_serves_it(scheduler: str) -> None:
    """Its noise levels reach farther up than Stable Diffusion's, where Karras' spacing rounds to equal steps."""
    made = generate("the letter A", scheduler=scheduler).images[0].decoded[0].pixels
    assert made.std() > 20
    assert np.abs(np.diff(made.astype(int), axis=0)).mean() < 8, "no noise"


def test_diffusers_own_call_takes_it_with_our_vae() -> None:
    """Without naming a precision, as the article does."""
    import vaelens
    from vaelens.adapters.libraries import diffusers

    vae = vaelens.as_diffusers(vaelens.load("tiny-ft-mse", device="cpu"))
    pipe = diffusers().StableDiffusionPipeline.from_pretrained(FOLDER, vae=vae)
    pipe.set_progress_bar_config(disable=True)
    seed = torch.Generator().manual_seed(0)
    theirs = pipe(PROMPT, num_inference_steps=3, guidance_scale=3.0, generator=seed).images[0]
    ours = generate(PROMPT, "tiny-ft-mse", steps=3, device="cpu").images[0].decoded[0].pixels
    assert np.array_equal(np.asarray(theirs), ours)
    with pytest.raises(TypeError, match="takes a VAE"):
        vaelens.as_diffusers("tiny-ft-mse")


@pytest.mark.slow
def test_the_articles_program_runs_with_it(tmp_path: Path) -> None:
    program = str(ROOT / "examples" / "swap_vae.py")
    # The tests' torchvision lacks its operators, which transformers would stumble over; users' haven't such a one.
    start = f"import support.torchvision_operators, runpy; runpy.run_path({program!r}, None, '__main__')"
    asked = [PROMPT, "--model", "tiny-sd", "--steps", "3", "--seed", "2"]
    ran = run("-c", start, *asked, cwd=tmp_path, PYTHONPATH=f"{ROOT / 'tests'}{os.pathsep}{ROOT / 'src'}")
    assert ran.returncode == 0, ran.stderr
    mine = compare(PROMPT, seeds=[2], steps=3, device="cpu").images[0]
    for name, one in zip(TRIO, mine.decoded, strict=True):
        assert np.array_equal(Image.open(tmp_path / f"{name}-seed-2.png"), one.pixels), name


def test_the_record_shows_what_the_docs_claim() -> None:
    assert (RECORD["prompts"], RECORD["never_trained_on"]) == (200, 50)
    everything = RECORD["generated"]
    assert everything["all"]["share"] >= 0.8
    assert everything["all"]["right"] == sum(part["right"] for name, part in everything.items() if name != "all")
    reader = RECORD["label_network_on_reconstructed_drawings"]
    assert min(part["share"] for part in reader.values()) >= 0.95
    names = {f"{kind.__name__} {name}" for kind, attributes in VALUES.items() for name in attributes}
    assert set(everything) == set(reader) == names | {"all"}
    assert min(len(values) for attributes in VALUES.values() for values in attributes.values()) >= 4
    assert RECORD["chance"] < 0.2


def test_the_docs_have_the_records_numbers() -> None:
    text = (ROOT / "docs" / "tiny-sd.md").read_text("utf-8")
    unseen, reader = RECORD["generated_never_trained_on"], RECORD["label_network_on_reconstructed_drawings"]
    for name, part in RECORD["generated"].items():
        shown = [f"{one[name]['share']:.1%}".replace("%", " %") for one in (RECORD["generated"], unseen, reader)]
        assert f"| {'all' if name == 'all' else name.lower()} | " in text
        row = next(line for line in text.splitlines() if line.startswith(f"| {name.lower()} | "))
        assert [cell.strip() for cell in row.split("|")[3:6]] == shown, name
        assert part["of"] > 0
    assert f"{RECORD['chance']:.1%}".replace("%", " %") in text


def test_the_record_is_of_the_weights_that_ship() -> None:
    weights = sorted(FOLDER.rglob("*.safetensors"))
    assert {path.relative_to(FOLDER).as_posix(): sha256_file(path) for path in weights} == RECORD["weights_sha256"]
    known = registry().find_model("tiny-sd")
    assert (RECORD["steps"], RECORD["guidance"]) == (known.steps, known.guidance)
