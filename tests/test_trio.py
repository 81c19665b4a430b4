"""The scripts that train the embedded VAEs and write docs/proof.md, end to end on a few updates and pictures."""

import importlib
import json
import statistics
import sys
from collections.abc import Generator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from PIL import Image
from safetensors import safe_open
from safetensors.torch import load_file

import vaelens as vl
from training import small_presets
from vaelens.errors import UsageError
from vaelens.images.datasets import DataSet, open_dataset
from vaelens.weights.fingerprint import fingerprint
from vaelens.weights.reading import read_vae

ROOT = Path(__file__).parent.parent
SHORT: dict[str, Any] = {
    "run.updates": 2, "run.held_out": 2, "run.evaluate_every": 2, "run.checkpoint_every": 2, "data.size": 32,
    "data.batch": 2, "run.preset": "smaller", "optimizer.warm_up": 0, "optimizer.cool_down": 0,
}  # fmt: skip
OF_DECODERS = {"gan.start": 0, "gan.warm_up": 0, "gan.layers": 1}
PICTURES = 12


@pytest.fixture(scope="module")
def scripts() -> Generator[SimpleNamespace]:
    """The scripts in embedded/, which import each other."""
    sys.path.insert(0, str(ROOT / "embedded"))
    names = ("trio", "arms", "comparison", "distribution", "proof", "proof_record")
    try:
        yield SimpleNamespace(**{name: importlib.import_module(name) for name in names})
    finally:
        sys.path.remove(str(ROOT / "embedded"))


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> list[DataSet]:
    photos = tmp_path_factory.mktemp("photos")
    for name in ("astronaut", "chelsea"):
        Image.open(ROOT / "examples" / f"{name}.png").resize((96, 96)).save(photos / f"{name}.png")
    return [open_dataset(photos), open_dataset("drawn", take=2, training=True)]


@pytest.fixture(scope="module")
def runs(scripts: SimpleNamespace, data: list[DataSet], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """All trainings with one seed, each measured on a few pictures."""
    path = tmp_path_factory.mktemp("runs")
    scripts.arms.PRESET = "smaller"
    with small_presets():
        for name in scripts.trio.WHOLE:
            scripts.trio.train(name, path, data=data, changed=SHORT)
        scripts.arms.run_arms(path, 0, "float32", PICTURES, data=data, changed=SHORT | OF_DECODERS)
    return path


def test_one_encoder_and_the_command_in_every_file(scripts: SimpleNamespace, runs: Path) -> None:
    read = {name: read_vae(scripts.trio.place(runs, name, 0)) for name in scripts.trio.TRAININGS}
    encoders = {name: vae.fingerprint.encoder.stored for name, vae in read.items()}
    whole = scripts.trio.WHOLE
    assert {encoders[name] for name in encoders if name not in whole} == {encoders["tiny-kl-f8"]}
    assert len({encoders[name] for name in whole}) == len(whole), "the second part trains the encoder too"
    decoders = [vae.fingerprint.decoder.stored for vae in read.values()]
    assert len(set(decoders)) == len(decoders), "control-twice goes on, and the GAN and the losses differ"
    for name, vae in read.items():
        assert {tensor.dtype for tensor in vae.tensors.values()} == {torch.float16}
        dtype = "bfloat16" if name in whole else "float32"
        assert vae.metadata["command"] == f"embedded/trio.py train {name} --seed 0 --dtype {dtype}"
        assert (
            vae.metadata["pictures"] == "photos0 (2 pictures), weight 2; drawn faces and letters (2 pictures), weight 1"
        )
    assert len({vae.spec.scaling_factor for name, vae in read.items() if name not in whole}) == 1


def test_shipping_parts_encoder_and_decoders(
    scripts: SimpleNamespace, runs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    paths = {
        name: [tmp_path / f"{name}.safetensors", tmp_path / "encoder.safetensors"] for name in scripts.trio.SHIPPED
    }
    scale = read_vae(scripts.trio.place(runs, "tiny-kl-f8", 0)).spec.scaling_factor
    spaces = {"tiny": SimpleNamespace(scaling_factor=scale)}
    monkeypatch.setattr(scripts.trio, "registry", lambda: SimpleNamespace(find=lambda name: name, spaces=spaces))
    monkeypatch.setattr(scripts.trio, "embedded_paths", paths.__getitem__)
    assert scripts.trio.ship(runs) == [
        paths["tiny-kl-f8"][0], paths["tiny-kl-f8"][1], paths["tiny-ft-ema"][0], paths["tiny-ft-mse"][0]
    ]  # fmt: skip
    for name, (decoder, encoder) in paths.items():
        with safe_open(decoder, "pt") as opened:
            assert json.loads(opened.metadata()["vaelens"])["latent_space"] == "tiny"
            assert f"train {name} --seed 0" in opened.metadata()["command"]
        tensors = load_file(decoder) | load_file(encoder)
        assert fingerprint(tensors) == read_vae(scripts.trio.place(runs, name, 0)).fingerprint
    spaces["tiny"].scaling_factor = scale + 1e-5
    with pytest.raises(UsageError, match=r"Set it there\."):
        scripts.trio.ship(runs)
    spaces["tiny"].scaling_factor = scale
    other = scripts.trio.place(tmp_path, "tiny-kl-f8", 0)
    vl.load(scripts.trio.place(runs, "tiny-ae", 0), device="cpu").save(other)
    for name in ("tiny-ft-ema", "tiny-ft-mse"):
        vl.load(scripts.trio.place(runs, name, 0), device="cpu").save(scripts.trio.place(tmp_path, name, 0))
    with pytest.raises(UsageError, match="don't share one encoder"):
        scripts.trio.ship(tmp_path)


def test_the_page_says_what_the_rows_say(
    scripts: SimpleNamespace, runs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    unseen = scripts.arms.unseen(PICTURES)
    monkeypatch.setattr(scripts.distribution, "PROBED", 6)
    monkeypatch.setattr(scripts.distribution, "NOISE", (0.0, 0.4))
    photo = next(iter(scripts.comparison.held_out().values())).resize((64, 64))
    monkeypatch.setattr(scripts.comparison, "held_out", lambda: {"one": photo})
    with small_presets():
        (runs / "distribution.json").write_text(json.dumps(scripts.distribution.probe(runs, unseen)))
    Image.new("RGB", (8, 8)).save(runs / "distribution.png")
    monkeypatch.setattr(scripts.proof_record, "unseen", lambda: unseen)
    scripts.proof_record.write_record(runs, [0], tmp_path / "proof.json", tmp_path / "images")
    record = json.loads((tmp_path / "proof.json").read_text())

    rows = [json.loads(line) for line in (runs / "measured" / "rows.jsonl").read_text().splitlines()]
    psnr = {name: {row["id"]: row["psnr"] for row in rows if row["vae"] == name} for name in {r["vae"] for r in rows}}
    means = {name: statistics.fmean(of.values()) for name, of in psnr.items()}
    assert len(psnr) == 6
    assert record["arms"]["arms"]["control"]["psnr"] == pytest.approx([means["control 0"]])
    assert record["distribution"]["reconstruction"]["psnr"]["tiny-ae"] == pytest.approx(means["tiny-ae"])
    found = {(d["first"], d["second"], d["measure"]): d for d in record["arms"]["differences"]}
    assert len(found) == 4 * 6
    one = found["tiny-ft-mse", "tiny-ft-ema", "psnr"]
    assert one["value"] == pytest.approx(means["tiny-ft-mse 0"] - means["tiny-ft-ema 0"])
    assert one["by_seed"] == pytest.approx([one["value"]])
    assert one["low"] <= one["value"] <= one["high"]
    frechet = found["tiny-ft-mse", "tiny-ft-ema", "fd_small"]
    arms = record["arms"]["arms"]
    assert frechet["value"] == pytest.approx(arms["tiny-ft-mse"]["fd_small"][0] - arms["tiny-ft-ema"]["fd_small"][0])

    noise = record["distribution"]["noise"]
    assert [line["noise"] for line in noise] == list(scripts.distribution.NOISE)
    same = noise[0]["psnr"]["tiny-kl-f8"], noise[-1]["psnr"]["tiny-kl-f8"]
    assert same[0] != same[1]
    page = scripts.proof.page(record)
    for line in page.splitlines():
        if line.startswith("| control |") and "the same loss" in line:
            assert f"{means['control 0']:.2f}" in line
    assert "nan" not in page.lower().replace("finance", "")
    assert page.count("![") == 2
    with Image.open(tmp_path / "images" / "proof-arms.png") as sheet:
        assert sheet.width > 5 * 96


@pytest.mark.skipif(not (ROOT / "docs" / "proof.json").exists(), reason="no record yet")
def test_the_committed_page_is_that_of_the_committed_record(scripts: SimpleNamespace) -> None:
    record = json.loads((ROOT / "docs" / "proof.json").read_text())
    assert scripts.proof.page(record) == (ROOT / "docs" / "proof.md").read_text()
