"""A first try works: the shortest sensible call of each command, on the smallest sensible input, succeeds."""

import json
from pathlib import Path

import pytest
from PIL import Image

from support.commands import invoke
from support.training import folder, small_presets
from vaelens.evaluation.presets import PRESETS
from vaelens.finetuning.recipe_files import find_recipe, recipe_names

CACHE = "VAELENS_CACHE"
TABLE = "[tiny-kl-f8]\npsnr = 20.0\nssim = 0.60\n"


@pytest.fixture(autouse=True)
def _inputs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """photo.png, dot.png (1x1), the folders one, two and five, and dots with a photo and a dot."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv(CACHE, str(tmp_path / "cache"))
    for name, count in (("one", 1), ("two", 2), ("five", 5)):
        folder(tmp_path / name, count, side=40)
    (tmp_path / "one" / "00.png").rename(tmp_path / "photo.png")
    folder(tmp_path / "dots", 1, side=24)
    Image.new("RGB", (1, 1), (200, 10, 30)).save(tmp_path / "dot.png")
    (tmp_path / "dots" / "dot.png").write_bytes((tmp_path / "dot.png").read_bytes())
    (tmp_path / "one" / "00.png").write_bytes((tmp_path / "photo.png").read_bytes())
    (tmp_path / "table.toml").write_text(TABLE)


QUICK = [
    "list",
    "inspect tiny-kl-f8",
    "reconstruct dot.png",
    "reconstruct one",
    "compare --photo two",
    "evaluate dot.png",
    "finetune two --set run.steps=1",
    "finetune --explain tiny-ft-mse --set run.steps=1",
]
SLOW = [
    "doctor",
    "reconstruct photo.png",
    "reconstruct five -o out",
    "compare --photo dot.png",
    "evaluate one",
    "evaluate two",
    "evaluate synthetic --take 1",
    "inspect tiny-kl-f8 --health",
    "inspect tiny-kl-f8 --health --photo dot.png",
    "inspect tiny-kl-f8 --health --photo one",
    'generate "a face"',
    'compare "a face"',
    "evaluate photo.png",
    "evaluate five",
    "evaluate dots",
    "evaluate five --take 1",
    "calibrate one --vae tiny-kl-f8 --table table.toml",
    "calibrate dot.png --vae tiny-kl-f8 --table table.toml",
    "finetune five --from tiny-ft-mse --set run.steps=40",
    "finetune five --take 2 --set run.steps=2",
    "finetune dots --set run.steps=2",
    "finetune one --held-out dots --set run.steps=2",
    "finetune synthetic --take 2 --set run.steps=2",
]


@pytest.mark.parametrize("call", [*QUICK, *(pytest.param(call, marks=pytest.mark.slow) for call in SLOW)])
def test_the_shortest_call_on_the_smallest_input_succeeds(call: str) -> None:
    start, quote, rest = call.partition('"')
    words = [*start.split(), *([rest.partition('"')[0], *rest.partition('"')[2].split()] if quote else [])]
    # Small squares: what is tried is whether a call works, not how fast.
    small = (
        ["--set", "run.preset=small", "--set", "data.size=32"] if words[0] == "finetune" and "--set" in words else []
    )
    with small_presets(), pytest.MonkeyPatch.context() as patch:
        patch.setitem(PRESETS, "offline", PRESETS["small"])
        ran = invoke(*words, *small, *(() if words[0] in ("list", "doctor", "finetune") else ("--offline",)))
    if call in {"evaluate dot.png", "evaluate photo.png", "evaluate one"}:
        assert "Warning: 1 image is too few to generalize from. " in ran.stderr
    assert "1 images" not in ran.stderr


def test_one_photo_for_a_training_gets_a_sentence_that_helps() -> None:
    ran = invoke("finetune", "one", code=2)
    assert "Give at least 2 different images" in ran.stderr
    assert "--held-out" in ran.stderr


@pytest.mark.slow
@pytest.mark.parametrize("name", [name for name in recipe_names() if name.startswith("tiny-")])
def test_every_small_recipe_runs_one_step_on_two_images(name: str) -> None:
    scratch = find_recipe(name).model.config != ""
    start = [] if scratch else ["--from", "tiny-kl-f8"]
    small = ["--set", "run.preset=small", "--set", "data.size=64", "--set", "gan.layers=2"]
    with small_presets():
        invoke("finetune", "two", *start, "--recipe", name, "--set", "run.steps=1", *small, "-o", "run")
    assert json.loads(Path("run/run.json").read_text())["steps"] == 1
