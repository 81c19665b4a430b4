"""The scripts that train the embedded VAEs and write docs/proof.md, end to end on a few updates and images."""

import importlib
import json
import statistics
from collections.abc import Generator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors import safe_open
from safetensors.torch import load_file

import vaelens as vl
from support.training import small_presets
from vaelens.errors import UsageError
from vaelens.families.discovery import families
from vaelens.images.datasets import Dataset, open_dataset
from vaelens.metrics.frechet import Jackknife
from vaelens.weights.fingerprint import fingerprint
from vaelens.weights.reading import read_vae

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[2]
SHORT: dict[str, Any] = {
    "run.steps": 2, "run.held_out": 2, "run.evaluate_every": 2, "run.checkpoint_every": 2, "data.size": 32,
    "data.batch_size": 2, "run.preset": "smaller", "optimizer.warmup_steps": 0, "optimizer.decay_steps": 0,
}  # fmt: skip
OF_DECODERS = {"gan.start": 0, "gan.warmup_steps": 0, "gan.layers": 1}
IMAGES = 12
WHOLE = ("tiny-scratch", "tiny-kl-f8", "tiny-ae")


@pytest.fixture(scope="module")
def scripts() -> SimpleNamespace:
    """The scripts in embedded/, which import each other."""
    names = ("trio", "arms", "comparison", "distribution", "proof", "proof_record")
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(ROOT / "embedded")
        return SimpleNamespace(**{name: importlib.import_module(name) for name in names})


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> list[Dataset]:
    photos = tmp_path_factory.mktemp("data") / "photos"
    photos.mkdir()
    for name in ("astronaut", "chelsea"):
        Image.open(ROOT / "examples" / f"{name}.png").resize((96, 96)).save(photos / f"{name}.png")
    return [open_dataset(photos), open_dataset("synthetic", take=2, training=True)]


@pytest.fixture(scope="module")
def runs(scripts: SimpleNamespace, data: list[Dataset], tmp_path_factory: pytest.TempPathFactory) -> Generator[Path]:
    """All trainings with one seed, each measured on a few images."""
    path = tmp_path_factory.mktemp("runs")
    with pytest.MonkeyPatch.context() as patch, small_presets():
        patch.setattr(scripts.arms, "PRESET", "smaller")
        for name in WHOLE:
            scripts.trio.train(name, path, dtype="float32", data=data, overrides=SHORT)
        scripts.arms.run_arms(path, 0, "float32", data=data, count=IMAGES, overrides=SHORT | OF_DECODERS)
        yield path


def test_one_encoder_and_the_command_in_every_file(scripts: SimpleNamespace, runs: Path) -> None:
    assert [name for name in scripts.trio.TRAININGS if scripts.trio.is_whole(name)] == list(WHOLE)
    read = {name: read_vae(scripts.trio.place(runs, name, 0)) for name in scripts.trio.TRAININGS}
    encoders = {name: vae.fingerprint.encoder.stored for name, vae in read.items()}
    assert {encoders[name] for name in encoders if name not in WHOLE} == {encoders["tiny-kl-f8"]}
    assert len({encoders[name] for name in WHOLE}) == len(WHOLE), "the second part trains the encoder too"
    decoders = [vae.fingerprint.decoder.stored for vae in read.values()]
    assert len(set(decoders)) == len(decoders), "control-twice goes on, and the GAN and the losses differ"
    for name, vae in read.items():
        assert {tensor.dtype for tensor in vae.tensors.values()} == {torch.float16}
        assert vae.metadata["command"] == f"embedded/trio.py train {name} --seed 0 --dtype float32 --threads 1"
        assert vae.metadata["images"] == "photos (2 images), weight 2; synthetic faces and letters (2 images), weight 1"
    assert len({vae.spec.scaling_factor for name, vae in read.items() if name not in WHOLE}) == 1


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
        assert fingerprint(tensors, families()["kl"]) == read_vae(scripts.trio.place(runs, name, 0)).fingerprint
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


def test_arms_that_are_there_are_neither_trained_nor_measured_again(
    scripts: SimpleNamespace, data: list[Dataset], runs: Path
) -> None:
    before = {path: path.stat().st_mtime_ns for path in (runs / "seed-0" / "control" / "checkpoints").rglob("*")}
    rows = (runs / "measured" / "rows.jsonl").read_bytes()
    weights = scripts.arms.loaded(runs, "control", 0).fingerprint
    scripts.arms.run_arms(runs, 0, "float32", data=data, count=IMAGES, overrides=SHORT | OF_DECODERS)
    assert {path: path.stat().st_mtime_ns for path in before} == before
    assert (runs / "measured" / "rows.jsonl").read_bytes() == rows
    assert scripts.arms.loaded(runs, "control", 0).fingerprint == weights
    with pytest.raises(UsageError, match="seed 0 only"):
        scripts.trio.train("tiny-kl-f8", runs, 1, data=data)


def test_the_page_says_what_the_rows_say(
    scripts: SimpleNamespace, runs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    unseen = scripts.arms.unseen(IMAGES)
    monkeypatch.setattr(scripts.distribution, "PROBED", 3)
    monkeypatch.setattr(scripts.distribution, "NOISE", (0.05, 0.4))
    photo = next(iter(scripts.comparison.held_out().values())).resize((64, 64))
    monkeypatch.setattr(scripts.comparison, "held_out", lambda: {"one": photo})
    record, sheet = scripts.distribution.probe(runs, unseen)
    assert sheet.shape[1] > 6 * 256
    (runs / "distribution.json").write_text(json.dumps(record))
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
    found = {(d["first"], d["second"], d["metric"]): d for d in record["arms"]["differences"]}
    assert len(found) == 4 * 6
    one = found["tiny-ft-mse", "tiny-ft-ema", "psnr"]
    assert one["value"] == pytest.approx(means["tiny-ft-mse 0"] - means["tiny-ft-ema 0"])
    assert one["by_seed"] == pytest.approx([one["value"]])
    assert one["low"] <= one["value"] <= one["high"]
    frechet, arms = found["tiny-ft-mse", "tiny-ft-ema", "fd_small"], record["arms"]["arms"]
    assert frechet["value"] == pytest.approx(arms["tiny-ft-mse"]["fd_small"][0] - arms["tiny-ft-ema"]["fd_small"][0])
    assert record["steps"] == dict.fromkeys(scripts.trio.TRAININGS, 2)

    noise = record["distribution"]["noise"]
    assert [line["noise"] for line in noise] == [0.05, 0.4]
    change = noise[1]["psnr"]["change"]
    assert noise[1]["psnr"]["difference"][0] == pytest.approx(change["tiny-kl-f8"] - change["tiny-ae"])
    page = scripts.proof.page(record)
    (line,) = [line for line in page.splitlines() if line.startswith("| control | tiny")]
    assert f"{means['control 0']:.2f}" in line
    assert "$" not in page
    assert page.count("![") == 2
    with Image.open(tmp_path / "images" / "proof-arms.png") as drawn:
        assert drawn.width > 5 * 96

    kept = scripts.trio.place(runs, "control", 0).read_bytes()
    scripts.trio.place(runs, "control", 0).write_bytes(scripts.trio.place(runs, "control-twice", 0).read_bytes())
    try:
        with pytest.raises(UsageError, match="other weights than the file of control 0"):
            scripts.comparison.compared(runs, unseen, [0])
    finally:
        scripts.trio.place(runs, "control", 0).write_bytes(kept)
    with pytest.raises(UsageError, match="lacks rows of tiny-kl-f8 or control 1"):
        scripts.comparison.Rows.of(runs, unseen, ["tiny-kl-f8", "control 1"])


def test_differences_pair_images_and_seeds(scripts: SimpleNamespace) -> None:
    """Each seed's arm against the same seed's, image by image."""
    rng = np.random.default_rng(0)
    base = {seed: 20 + 5 * rng.normal(size=40) for seed in range(3)}  # seeds lie far apart, the arms close together
    better = {seed: base[seed] + 0.5 + 0.01 * rng.normal(size=40) for seed in range(3)}
    values = {f"a {n}": {"psnr": better[n]} for n in base} | {f"b {n}": {"psnr": base[n]} for n in base}
    distances = {f"a {n}": Jackknife(2.0 + n, (2.1 + n, 1.9 + n)) for n in base}
    distances |= {f"b {n}": Jackknife(3.0 + n, (3.1 + n, 2.9 + n)) for n in base}
    rows = scripts.comparison.Rows(values, distances, 90.0, {})
    value, low, high = rows.difference([(f"a {n}", f"b {n}") for n in base], "psnr")
    assert 0.49 < low < value < high < 0.51
    assert rows.difference([("a 0", "b 1")], "psnr")[2] > 0.6, "other seeds' images are other numbers"
    assert rows.difference([(f"a {n}", f"b {n}") for n in base], "fd_small") == pytest.approx((-1, -1, -1))
    assert rows.value("b 2", "fd_small") == 5


def test_each_seed_s_own_difference_stands_beside_the_mean(
    scripts: SimpleNamespace, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(scripts.comparison, "PAIRS", (("a", "b"), ("b", "tiny-kl-f8")))
    monkeypatch.setattr(scripts.comparison, "BETTER", {"psnr": "higher"})
    monkeypatch.setattr(scripts.comparison, "row_name", lambda name, seed: name if "tiny" in name else f"{name} {seed}")
    steps = np.linspace(0, 1, 12)
    values = {"a 0": 21 + steps, "a 1": 23 + steps, "b 0": 20 + steps, "b 1": 20.5 + steps, "tiny-kl-f8": 20 + steps}
    rows = scripts.comparison.Rows({name: {"psnr": of} for name, of in values.items()}, {}, 90.0, {})
    first, second = scripts.comparison.differences(rows, [0, 1])
    assert (first.value, first.by_seed) == (pytest.approx(1.75), pytest.approx((1.0, 2.5)))
    assert (second.value, second.by_seed) == (pytest.approx(0.25), pytest.approx((0.0, 0.5)))


@pytest.mark.parametrize(
    ("metric", "value", "by_seed", "told"),
    [
        ("psnr", (0.5, 0.4, 0.6), (0.4, 0.5, 0.6), "a is better"),
        ("psnr", (-0.5, -0.6, -0.4), (-0.4, -0.5, -0.6), "b is better"),
        ("fd_small", (-0.5, -0.6, -0.4), (-0.4, -0.5, -0.6), "a is better"),
        ("fd_small", (0.5, 0.4, 0.6), (0.4, 0.5, 0.6), "b is better"),
        ("psnr", (0.5, 0.4, 0.6), (1.4, -0.2, 0.3), "not told apart"),  # seeds disagree
        ("psnr", (0.5, -0.1, 1.1), (0.4, 0.5, 0.6), "not told apart"),
    ],
)
def test_a_verdict_needs_images_and_seeds(
    scripts: SimpleNamespace, metric: str, value: tuple[float, ...], by_seed: tuple[float, ...], told: str
) -> None:
    difference = {"first": "a", "second": "b", "metric": metric, "by_seed": by_seed}
    difference |= dict(zip(("value", "low", "high"), value, strict=True))
    assert scripts.proof.verdict(difference) == told
    side = scripts.proof.side(value, metric)
    first_is_better = (value[0] > 0) == (metric == "psnr")  # from here on the seeds don't count
    expected = "this VAE is better" if first_is_better else "this autoencoder is better"
    assert side == (expected if value[1] * value[2] > 0 else "not told apart")
    assert scripts.proof.verdict(difference | {"low": None, "high": None}) == "not told apart"
    names = {"first": "tiny-ft-mse", "second": "tiny-ft-ema", "metric": "fd_small"}
    sentence = scripts.proof.frechet_verdict(difference | names)
    if told == "not told apart":
        assert "not resolved" in sentence
    else:
        assert ("as published" in sentence) == (value[0] > 0)


def test_the_committed_page_is_that_of_the_committed_record(scripts: SimpleNamespace) -> None:
    record = json.loads((ROOT / "docs" / "proof.json").read_text())
    assert scripts.proof.page(record) == (ROOT / "docs" / "proof.md").read_text()
