"""`vaelens inspect --health`: the same findings as the library, exit codes, and options that need --health."""

import json
from pathlib import Path

import pytest
import torch
from PIL import Image

from support.commands import invoke
from support.health import lively
from vaelens.cli.main import app
from vaelens.errors import UsageError
from vaelens.health import examination, examine
from vaelens.health.examination import COLOURS
from vaelens.images.faces import draw_face
from vaelens.loading import load


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    folder = tmp_path / "photos"
    folder.mkdir()
    for seed in range(2):
        Image.fromarray(draw_face(seed, 80).pixels).save(folder / f"{seed}.png")
    (folder / "notes.txt").write_text("no image")
    return folder


def test_the_command_shows_what_the_library_finds(photos: Path, tmp_path: Path) -> None:
    file = lively().save(tmp_path / "mine.safetensors")
    options = ("--photo", photos, "--round-trips", 2, "--time-at", 32, "--max-side", 64, "--device", "cpu")
    ran = invoke("inspect", file, "--health", *options)
    assert max(map(len, ran.stdout.splitlines())) <= 80
    lines = [" ".join(line.split()) for line in ran.stdout.splitlines()]
    assert "2 given images" in lines
    assert "finite values everywhere fine" in lines
    health = examine(load(file, device="cpu"), [photos], max_side=64, round_trips=2, time_at=())
    assert health.record["settings"]["images"] == 2
    for finding in health.findings:
        if finding.check != "time":
            assert " ".join(filter(None, (finding.check, finding.result, finding.verdict or "-"))) in lines


def test_a_vae_that_overflows_exits_with_7_and_all_findings(
    photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(examination, "COLOURS", COLOURS)
    vae = lively()
    with torch.no_grad():
        vae.network.decoder.conv_in.weight.fill_(1e38)
    file = vae.save(tmp_path / "hot.safetensors")
    options = ("--health", "--photo", photos, "--max-side", 64, "--time-at", 32, "--json", "-q")
    ran = invoke("inspect", file, *options, code=7)
    assert "hot gave NaN or infinite values in 13 passes" in ran.stderr
    found = json.loads(ran.stdout)["health"]
    assert found["findings"][0]["verdict"] == "bad"
    assert found["measured"]["activations"]["decoder.conv_in"] is None


@pytest.mark.parametrize(
    ("option", "value"),
    [("--photo", "."), ("--max-side", "512"), ("--round-trips", "8"), ("--time-at", "256"), ("--device", "auto"),
     ("--dtype", "float32"), ("--max-pixels", "5")],
)  # fmt: skip
def test_options_of_health_are_refused_without_it(vae_file: Path, option: str, value: str) -> None:
    """The default value too: who names it expects a run."""
    with pytest.raises(UsageError, match=f"^{option}: no effect without --health"):
        app(["inspect", str(vae_file), option, value], standalone_mode=False)
    with pytest.raises(UsageError, match="no effect without --health"):
        app(["inspect", str(vae_file), option, value, "--photo", ".", "--device", "cpu"], standalone_mode=False)
    app(["inspect", str(vae_file), "--json", "--offline"], standalone_mode=False)


def test_options_of_health_without_it_exit_with_2(vae_file: Path) -> None:
    ran = invoke("inspect", vae_file, "--dtype", "float16", "--max-side", "64", code=2)
    assert "--max-side, --dtype: no effect without --health" in ran.stderr
