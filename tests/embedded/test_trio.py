"""The scripts that train the embedded VAEs and write docs/proof.md, end to end with a few steps and images."""

import json
import statistics
from collections.abc import Callable, Generator
from pathlib import Path
from types import ModuleType, SimpleNamespace
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
from vaelens.files import json_text
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
WHOLE = ("tiny-scratch", "tiny-kl-f8", "tiny-ae")
Record = tuple[dict[str, Any], dict[str, np.ndarray]]  # and the sheets by file name


@pytest.fixture(scope="module")
def scripts(script: Callable[[str], ModuleType]) -> SimpleNamespace:
    return SimpleNamespace(**{name: script(name) for name in ("trio", "distribution", "proof", "proof_page")})


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> list[Dataset]:
    photos = tmp_path_factory.mktemp("data") / "photos"
    photos.mkdir()
    for name in ("astronaut", "chelsea"):
        Image.open(ROOT / "examples" / f"{name}.png").resize((96, 96)).save(photos / f"{name}.png")
    return [open_dataset(photos), open_dataset("synthetic", take=2, training=True)]


def train(scripts: SimpleNamespace, name: str, runs: Path, data: list[Dataset], seed: int = 0) -> None:
    overrides = SHORT if name in WHOLE else SHORT | OF_DECODERS
    scripts.trio.train(name, runs, seed, dtype="float32", data=data, overrides=overrides)


@pytest.fixture(scope="module")
def runs(scripts: SimpleNamespace, data: list[Dataset], tmp_path_factory: pytest.TempPathFactory) -> Generator[Path]:
    """Every training with seed 0."""
    path = tmp_path_factory.mktemp("runs")
    with pytest.MonkeyPatch.context() as patch, small_presets():
        patch.setattr(scripts.proof, "PRESET", "smaller")
        for name in scripts.trio.TRAININGS:
            train(scripts, name, path, data)
        yield path


@pytest.fixture(scope="module")
def record(scripts: SimpleNamespace, runs: Path) -> Record:
    """What `proof.py record` writes, with few images and noise levels."""
    photo = next(iter(scripts.proof.held_out().values())).resize((64, 64))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(scripts.distribution, "PROBED", 3)
        patch.setattr(scripts.distribution, "NOISE", (0.05, 0.4))
        content, sheets = scripts.proof.make_record(runs, [0], unseen(), {"one": photo})
    return json.loads(json_text(content)), sheets


def unseen() -> Dataset:
    return open_dataset("synthetic", take=12, seed=9)


def test_decoders_share_one_encoder_and_each_file_names_its_command(scripts: SimpleNamespace, runs: Path) -> None:
    assert [name for name in scripts.trio.TRAININGS if scripts.trio.is_whole(name)] == list(WHOLE)
    read = {name: read_vae(scripts.trio.place(runs, name, 0)) for name in scripts.trio.TRAININGS}
    encoders = {name: vae.fingerprint.encoder.stored for name, vae in read.items()}
    assert {encoders[name] for name in encoders if name not in WHOLE} == {encoders["tiny-kl-f8"]}
    assert len({encoders[name] for name in WHOLE}) == len(WHOLE), "each whole training trains the encoder too"
    decoders = [vae.fingerprint.decoder.stored for vae in read.values()]
    assert len(set(decoders)) == len(decoders), "each training changes the decoder in its own way"
    for name, vae in read.items():
        assert {tensor.dtype for tensor in vae.tensors.values()} == {torch.float16}
        assert vae.metadata["command"] == f"embedded/trio.py train {name} --seed 0 --dtype float32 --threads 1"
        assert vae.metadata["images"] == "photos (2 images), weight 2; synthetic faces and letters (2 images), weight 1"
    assert len({vae.spec.scaling_factor for name, vae in read.items() if name not in WHOLE}) == 1


def test_shipping_splits_encoder_and_decoders(
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


def test_finished_trainings_and_measured_images_are_not_repeated(
    scripts: SimpleNamespace, data: list[Dataset], runs: Path, record: Record
) -> None:
    before = {path: path.stat().st_mtime_ns for path in (runs / "seed-0" / "control" / "checkpoints").rglob("*")}
    rows = (runs / "measured" / "rows.jsonl").read_bytes()
    train(scripts, "control", runs, data)
    assert {path: path.stat().st_mtime_ns for path in before} == before
    control = scripts.proof.load_trained(runs, "control")
    assert control.fingerprint.short == record[0]["arms"]["weights"]["control 0"]
    scripts.proof.measure([control], unseen(), runs / "measured")
    assert (runs / "measured" / "rows.jsonl").read_bytes() == rows
    with pytest.raises(UsageError, match="seed 0 only"):
        scripts.trio.train("tiny-kl-f8", runs, 1, data=data)


def test_rows_of_other_weights_are_refused(scripts: SimpleNamespace, runs: Path, record: object) -> None:
    other = scripts.proof.load_trained(runs, "control-twice")
    other.name = "control 0"
    with pytest.raises(UsageError, match="VAE control 0"):
        scripts.proof.measure([other], unseen(), runs / "measured")


def test_trainings_must_be_alike(scripts: SimpleNamespace, runs: Path) -> None:
    found = scripts.proof.training_conditions(runs, [0])
    assert found["steps"] == dict.fromkeys(scripts.trio.TRAININGS, 2)
    assert (found["trained"], found["torch"]) == (["float32", 1], torch.__version__)
    plan = runs / "seed-0" / "control" / "plan.json"
    before = plan.read_text()
    try:
        plan.write_text(json.dumps(json.loads(before) | {"threads": 2}))
        with pytest.raises(UsageError, match="control with seed 0 was trained in another way"):
            scripts.proof.training_conditions(runs, [0])
    finally:
        plan.write_text(before)


def test_the_page_has_the_numbers_of_the_rows(scripts: SimpleNamespace, runs: Path, record: Record) -> None:
    content, sheets = record
    rows = [json.loads(line) for line in (runs / "measured" / "rows.jsonl").read_text().splitlines()]
    psnr = {name: {row["id"]: row["psnr"] for row in rows if row["vae"] == name} for name in {r["vae"] for r in rows}}
    means = {name: statistics.fmean(of.values()) for name, of in psnr.items()}
    assert len(psnr) == 6
    assert content["arms"]["arms"]["control"]["psnr"] == pytest.approx([means["control 0"]])
    assert content["distribution"]["reconstruction"]["psnr"]["tiny-ae"] == pytest.approx(means["tiny-ae"])
    found = {(d["first"], d["second"], d["metric"]): d for d in content["arms"]["differences"]}
    assert len(found) == 4 * 6
    one = found["tiny-ft-mse", "tiny-ft-ema", "psnr"]
    value, low, high = one["difference"]
    assert value == pytest.approx(means["tiny-ft-mse 0"] - means["tiny-ft-ema 0"])
    assert one["by_seed"] == pytest.approx([value])
    assert low <= value <= high
    frechet, arms = found["tiny-ft-mse", "tiny-ft-ema", "fd_small"], content["arms"]["arms"]
    distances = [arms[name]["fd_small"][0] for name in ("tiny-ft-mse", "tiny-ft-ema")]
    assert frechet["difference"][0] == pytest.approx(distances[0] - distances[1])

    noise = content["distribution"]["noise"]
    assert [line["noise"] for line in noise] == [0.05, 0.4]
    change = noise[1]["psnr"]["change"]
    assert noise[1]["psnr"]["difference"][0] == pytest.approx(change["tiny-kl-f8"] - change["tiny-ae"])
    page = scripts.proof.page(content)
    (line,) = [line for line in page.splitlines() if line.startswith("| control | tiny")]
    assert f"{means['control 0']:.2f}" in line
    assert page.count("![") == 2
    assert all(f"(images/{name})" in page for name in sheets)
    assert sheets["proof-arms.png"].shape[1] > 5 * 96
    assert sheets["proof-distribution.png"].shape[1] > 6 * 256


def test_differences_pair_images_and_seeds(scripts: SimpleNamespace) -> None:
    """Each seed's arm against the same seed's, image by image."""
    rng = np.random.default_rng(0)
    base = {seed: 20 + 5 * rng.normal(size=40) for seed in range(3)}  # seeds lie far apart, the arms close together
    better = {seed: base[seed] + 0.5 + 0.01 * rng.normal(size=40) for seed in range(3)}
    values = {f"a {n}": {"psnr": better[n]} for n in base} | {f"b {n}": {"psnr": base[n]} for n in base}
    distances = {f"a {n}": Jackknife(2.0 + n, (2.1 + n, 1.9 + n)) for n in base}
    distances |= {f"b {n}": Jackknife(3.0 + n, (3.1 + n, 2.9 + n)) for n in base}
    scores = scripts.proof.Scores(values, distances)
    pairs = [(f"a {n}", f"b {n}") for n in base]
    found = scores.difference(pairs, "psnr")
    assert 0.49 < found.low < found.value < found.high < 0.51
    assert scores.difference([("a 0", "b 1")], "psnr").high > 0.6, "other seeds' images are other numbers"
    distance = scores.difference(pairs, "fd_small")
    assert (distance.value, distance.low, distance.high) == pytest.approx((-1, -1, -1))
    assert scores.value("b 2", "fd_small") == 5


def test_differences_are_recorded_of_each_seed_and_averaged(scripts: SimpleNamespace) -> None:
    """A whole VAE has one training, against which every seed's decoder stands."""
    steps = np.linspace(0, 1, 12)
    values = {"control 0": 21 + steps, "control 1": 23 + steps, "tiny-kl-f8": 20 + steps}
    scores = scripts.proof.Scores({name: {"psnr": of} for name, of in values.items()}, {})
    found = scripts.proof.difference_record(scores, "control", "tiny-kl-f8", "psnr", [0, 1])
    assert found["difference"][0] == pytest.approx(2)
    assert found["by_seed"] == pytest.approx([1, 3])


@pytest.mark.parametrize(
    ("metric", "difference", "by_seed", "expected"),
    [
        ("psnr", (0.5, 0.4, 0.6), (0.4, 0.5, 0.6), "a is better"),
        ("psnr", (-0.5, -0.6, -0.4), (-0.4, -0.5, -0.6), "b is better"),
        ("fd_small", (-0.5, -0.6, -0.4), (-0.4, -0.5, -0.6), "a is better"),
        ("fd_small", (0.5, 0.4, 0.6), (0.4, 0.5, 0.6), "b is better"),
        ("psnr", (0.5, 0.4, 0.6), (1.4, -0.2, 0.3), "not distinguishable"),  # seeds disagree
        ("psnr", (0.5, -0.1, 1.1), (0.4, 0.5, 0.6), "not distinguishable"),
        ("psnr", (0.5, None, None), (0.4, 0.5, 0.6), "too few images to say"),
        ("psnr", (0.5, 0.4, 0.6), (), "a is better"),  # one training of each
    ],
)
def test_a_verdict_needs_an_interval_without_0_and_seeds_that_agree(
    scripts: SimpleNamespace, metric: str, difference: tuple[float, ...], by_seed: tuple[float, ...], expected: str
) -> None:
    found = {"difference": difference, "by_seed": by_seed}
    assert scripts.proof_page.verdict(metric, found, "a", "b") == expected


def test_the_committed_page_is_that_of_the_committed_record(scripts: SimpleNamespace) -> None:
    record = json.loads((ROOT / "docs" / "proof.json").read_text())
    assert scripts.proof.page(record) == (ROOT / "docs" / "proof.md").read_text()
