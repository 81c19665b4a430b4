"""Whole evaluations against libraries that others wrote, on the same images and the same random weights.

What `evaluate` says from files on disk is measured again from PNGs of its originals and reconstructions: rFID and
KID by torch-fidelity, rFID by pytorch-fid, PSNR and SSIM by scikit-image, PSIM and LPIPS by lpips. The images
themselves are made again by the steps of the published script, written out in numpy, OpenCV and Pillow.
"""

import contextlib
import dataclasses
import hashlib
import io
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from PIL import Image
from skimage.metrics import peak_signal_noise_ratio, structural_similarity
from torch import Tensor

from support import oracles
from support.small_run import SKIMAGE, SMALL, patch_small_runs
from support.vaes import random_vae
from vaelens.evaluation.chunks import quantize_originals, read_chunk
from vaelens.evaluation.measurement import noise_seed, reconstruct_chunk
from vaelens.evaluation.presets import PRESETS, Preset
from vaelens.evaluation.report.score_tables import pairs_table, summary_table
from vaelens.evaluation.results import Results
from vaelens.evaluation.run import evaluate
from vaelens.images.datasets.opening import open_dataset
from vaelens.images.faces import draw_face
from vaelens.images.writing import encode_png
from vaelens.loading import load

pytestmark = pytest.mark.slow

CARD, MODERN = PRESETS["card-2022"], PRESETS["modern"]
BATCH, SEED, MODERN_COUNT = 2, 5, 3
Pixels = NDArray[np.uint8]  # [h,w,3]
Trunks = dict[str, Path]
Pairs = list[tuple[str, Pixels, Pixels]]  # id, original, reconstruction


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two photos and a drawing of several sizes; one is grey and turned by its EXIF, one has alpha."""
    folder = tmp_path_factory.mktemp("photos")
    cat = Image.open(SKIMAGE / "chelsea.png").convert("RGB")
    exif = Image.Exif()
    exif[0x0112] = 6
    cat.convert("L").save(folder / "cat-turned.jpg", exif=exif, quality=95)
    see_through = cat.crop((0, 0, 256, 256))
    see_through.putalpha(90)
    see_through.save(folder / "cat-alpha.png")
    Image.fromarray(draw_face(1, 300).pixels).save(folder / "face.png")
    return folder


def measured(vaes: list[Path], photos: Path, preset: Preset, networks: Trunks, folder: Path, **options: int) -> Results:
    with pytest.MonkeyPatch.context() as patch:
        patch_small_runs(patch, folder)
        results = evaluate(
            vaes, photos, preset=preset, networks=networks, output=folder / "run",
            batch=BATCH, threads=1, seed=SEED, offline=True, **options,
        )  # type: ignore[arg-type]  # fmt: skip
    assert results is not None
    return results


@pytest.fixture(scope="module")
def card(photos: Path, two_vaes: list[Path], trunks: Trunks, tmp_path_factory: pytest.TempPathFactory) -> Results:
    networks = {name: trunks[name] for name in ("inception", "vgg16")}
    return measured(two_vaes, photos, CARD, networks, tmp_path_factory.mktemp("card"))


@pytest.fixture(scope="module")
def modern(photos: Path, two_vaes: list[Path], trunks: Trunks, tmp_path_factory: pytest.TempPathFactory) -> Results:
    return measured(two_vaes, photos, MODERN, trunks, tmp_path_factory.mktemp("modern"), take=MODERN_COUNT)


def pairs(photos: Path, vae: Path, preset: Preset, take: int | None = None) -> Pairs:
    """The images that an evaluation compares."""
    dataset, loaded = open_dataset(photos, take=take, seed=SEED), load(vae, device="cpu")
    found: Pairs = []
    for number in range(-(-len(dataset.items) // BATCH)):
        chunk = read_chunk(dataset, number, BATCH, preset, skip_bad=False)
        originals = quantize_originals(chunk.pixels, preset)
        made = reconstruct_chunk(loaded, chunk, preset, SEED).pixels
        for b, item in enumerate(chunk.items):
            found.append((item.id, *(np.ascontiguousarray(p[b].permute(1, 2, 0).numpy()) for p in (originals, made))))
    return found


@pytest.fixture(scope="module")
def card_pairs(photos: Path, two_vaes: list[Path]) -> Pairs:
    return pairs(photos, two_vaes[0], CARD)


@pytest.fixture(scope="module")
def folders(card_pairs: Pairs, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """Originals and reconstructions as a user saves them for another tool."""
    root = tmp_path_factory.mktemp("saved")
    for place in ("originals", "reconstructions"):
        (root / place).mkdir()
    for name, original, again in card_pairs:
        (root / "originals" / f"{name}.png").write_bytes(encode_png(original))
        (root / "reconstructions" / f"{name}.png").write_bytes(encode_png(again))
    return root / "originals", root / "reconstructions"


def in_their_span(x: NDArray[np.floating], y: NDArray[np.floating]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Both sets of features in coordinates of the space that they span, which changes no distance.

    So the oracles take the square root of a matrix of 6x6; of 2048x2048 they take minutes.
    """
    x, y = x.astype(np.float64), y.astype(np.float64)
    basis = np.linalg.qr(np.concatenate([x, y]).T)[0]
    return x @ basis, y @ basis


@pytest.mark.slow
def test_rfid_and_kid_from_files_against_torch_fidelity(
    card: Results, folders: tuple[Path, Path], trunks: Trunks
) -> None:
    from torch_fidelity.metric_fid import fid_features_to_statistics, fid_statistics_to_metric
    from torch_fidelity.metric_kid import kid_features_to_metric
    from torch_fidelity.utils import extract_featuresdict_from_input_id

    extractor = oracles.torch_fidelity_inception(trunks["inception"])
    settings = {"cuda": False, "save_cpu_ram": True, "verbose": False, "cache": False, "batch_size": 3}
    with oracles.silence():
        x, y = (
            extract_featuresdict_from_input_id(1, extractor, input1=str(folder), **settings)["2048"]
            for folder in folders
        )
        statistics = [fid_features_to_statistics(torch.from_numpy(f)) for f in in_their_span(x.numpy(), y.numpy())]
        fid = fid_statistics_to_metric(*statistics, verbose=False)["frechet_inception_distance"]
        kid = kid_features_to_metric(
            y.double(), x.double(), kid_subsets=1, kid_subset_size=len(x), kid_degree=3, kid_gamma=None, kid_coef0=1,
            rng_seed=2020, verbose=False,
        )["kernel_inception_distance_mean"]  # fmt: skip
    assert relative(card.dataset_scores["one", "rfid"].value, fid) < 1e-5
    assert relative(card.dataset_scores["one", "kid"].value, 1000 * kid) < 1e-5


def relative(value: float | None, expected: float) -> float:
    assert expected > 1, f"{expected} is too small to prove anything"
    assert value is not None
    return abs(value / expected - 1)


@pytest.mark.slow
def test_rfid_from_files_against_pytorch_fid(
    card: Results, photos: Path, two_vaes: list[Path], trunks: Trunks, folders: tuple[Path, Path], tmp_path: Path
) -> None:
    """In pytorch-fid's mode, which is another number than the card's."""
    from pytorch_fid.fid_score import calculate_frechet_distance, get_activations

    preset = dataclasses.replace(CARD, name="as pytorch-fid", inception="pytorch_fid", metrics=("rfid", "psnr"))
    networks = {"inception": trunks["inception"]}
    ours = measured(two_vaes[:1], photos, preset, networks, tmp_path).dataset_scores["one", "rfid"].value
    model = oracles.pytorch_fid_inception(trunks["inception"])
    with oracles.silence(), contextlib.redirect_stderr(io.StringIO()):
        x, y = (get_activations(sorted(folder.iterdir()), model, 3, 2048, "cpu", 0) for folder in folders)
        x, y = in_their_span(x, y)
        expected = calculate_frechet_distance(x.mean(0), np.cov(x.T), y.mean(0), np.cov(y.T))
    assert relative(ours, float(expected)) < 1e-4
    assert relative(ours, card.dataset_scores["one", "rfid"].value or 0) > 1e-4, "the two ways must stay two"


def published_script(file: Path, network: torch.nn.Module, seed: int) -> tuple[Pixels, NDArray[np.floating]]:
    """The published script's steps: the original as saved, and the levels of the reconstruction before truncation."""
    pixels = np.array(Image.open(file).convert("RGB")).astype(np.uint8)
    scale = 256 / min(pixels.shape[:2])
    height, width = (round(side * scale) for side in pixels.shape[:2])
    pixels = cv2.resize(pixels, (width, height), interpolation=cv2.INTER_LINEAR)
    top, left = (height - 256) // 2, (width - 256) // 2
    pixels = pixels[top : top + 256, left : left + 256]
    x = (pixels / 127.5 - 1.0).astype(np.float32)
    with torch.no_grad():
        posterior = network.posterior(torch.from_numpy(x).permute(2, 0, 1)[None])
        noise = torch.randn(posterior.mean.shape, generator=torch.Generator().manual_seed(seed))
        y = network.decode(posterior.mean + torch.exp(0.5 * posterior.logvar) * noise)
    again = y[0].permute(1, 2, 0).numpy()
    original, again = ((np.clip(v, -1, 1) + 1) / 2 * 255 for v in (x, again))
    return original.astype(np.uint8), again


def test_card_images_are_those_of_the_published_script(card_pairs: Pairs, photos: Path) -> None:
    network = random_vae(SMALL, 1).network
    lowered = 0
    for name, original, again in card_pairs:
        file = photos / name
        content = hashlib.sha256(file.read_bytes()).hexdigest()
        expected, levels = published_script(file, network, noise_seed(SEED, content))
        assert np.array_equal(original, expected), name
        off = np.abs(again - np.floor(levels))
        assert off.max() <= 1
        assert (off > 0).mean() < 1e-3, "only where a level lies on an integer"
        assert (again != np.round(levels)).mean() > 0.3, "truncated, not rounded"
        other = np.floor(published_script(file, network, noise_seed(SEED + 1, content))[1])
        assert np.abs(again - other).mean() > 1, "a sample of this seed"
        plain = np.asarray(Image.open(file).convert("RGB"))
        if plain.shape[:2] == (256, 256):
            lowered += int((original != plain).sum())
            assert (original.astype(int) - plain).min() >= -1
    assert lowered, "the originals go through the same saving, which lowers some values by one"


def test_a_cards_row_against_scikit_image_and_lpips(card: Results, card_pairs: Pairs, trunks: Trunks) -> None:
    vgg = torch.load(trunks["vgg16"], weights_only=True)
    oracle = oracles.lpips_model("vgg", vgg, heads=None)
    rows = {row.id: row.scores for row in card.rows if row.vae == "one"}
    assert list(rows) == [name for name, _, _ in card_pairs]
    for number, (name, original, again) in enumerate(card_pairs):
        assert relative(rows[name]["psnr"], peak_signal_noise_ratio(original, again)) < 1e-6
        padded = [np.pad(pixels, ((5, 5), (5, 5), (0, 0))) / 255 for pixels in (original, again)]
        zero = ssim_map(*padded)[5:-5, 5:-5].mean()
        valid = ssim_map(original / 255, again / 255)[5:-5, 5:-5].mean()
        assert abs((rows[name]["ssim"] or 0) - zero) < 1e-6
        assert abs(zero - valid) > 1e-3, "the two paddings must stay two"
        if number < 2:
            with torch.inference_mode():
                baseline = float(oracle(as_lpips(original), as_lpips(again)))
            assert relative(2 * (rows[name]["psim"] or 0), baseline) < 1e-5


def ssim_map(x: NDArray[np.floating], y: NDArray[np.floating]) -> NDArray[np.floating]:
    return structural_similarity(
        x, y, channel_axis=2, data_range=1, gaussian_weights=True, sigma=1.5, use_sample_covariance=False, full=True
    )[1]


def as_lpips(pixels: Pixels) -> Tensor:
    return torch.from_numpy(pixels).permute(2, 0, 1)[None].float() / 255 * 2 - 1


@pytest.mark.slow
def test_a_modern_row_against_scikit_image_and_lpips(
    modern: Results, photos: Path, two_vaes: list[Path], trunks: Trunks
) -> None:
    name, original, again = pairs(photos, two_vaes[0], MODERN, take=MODERN_COUNT)[-1]
    row = next(row.scores for row in modern.rows if (row.id, row.vae) == (name, "one"))
    image = Image.open(photos / name).convert("RGB")
    width, height = (round(side * 256 / min(image.size)) for side in image.size)
    left, top = (width - 256) // 2, (height - 256) // 2
    small = image.resize((width, height), Image.Resampling.BICUBIC).crop((left, top, left + 256, top + 256))
    assert np.array_equal(original, np.asarray(small))
    network = random_vae(SMALL, 1).network
    with torch.no_grad():
        y = network.decode(network.posterior(as_lpips(original)).mode())[0].permute(1, 2, 0)
    levels = ((y.clamp(-1, 1) + 1) / 2 * 255).numpy()
    off = np.abs(again - np.floor(levels + 0.5))
    assert off.max() <= 1
    assert (off > 0).mean() < 1e-3, "of the mode, rounded half up"
    assert relative(row["psnr"], peak_signal_noise_ratio(original, again)) < 1e-6
    assert abs((row["ssim"] or 0) - ssim_map(original / 255, again / 255)[5:-5, 5:-5].mean()) < 1e-6
    for net, trunk in (("vgg", "vgg16"), ("alex", "alexnet")):
        weights, heads = (torch.load(trunks[key], weights_only=True) for key in (trunk, f"lpips-{net}"))
        with torch.inference_mode():
            expected = float(oracles.lpips_model(net, weights, heads)(as_lpips(original), as_lpips(again)))
        assert expected > 1
        assert row[f"lpips_{net}"] == pytest.approx(expected, abs=1e-6, rel=2e-7)


@pytest.mark.parametrize(
    ("name", "columns", "count"),
    [
        ("card-2022", ["rFID", "KID x1000", "PSNR", "SSIM", "PSIM"], 3),
        pytest.param(
            "modern",
            ["rFID", "KID x1000", "PSNR", "SSIM", "LPIPS-VGG", "LPIPS-Alex", "PSIM"],
            MODERN_COUNT,
            marks=pytest.mark.slow,
        ),
    ],
)
def test_a_preset_from_end_to_end(
    name: str, columns: list[str], count: int, trunks: Trunks, request: pytest.FixtureRequest
) -> None:
    results: Results = request.getfixturevalue(name.partition("-")[0])
    table = summary_table(results)
    assert [column.name for column in table.columns] == ["VAE", *columns]
    assert [row[0] for row in table.rows] == ["one", "two"]
    assert all(cell and "nan" not in cell for row in table.rows for cell in row)
    assert results.published == {}
    assert (results.count, len(results.rows)) == (count, 2 * count)
    assert {tuple(row.scores) for row in results.rows} == {PRESETS[name].metrics[2:]}
    assert all(row.finite and None not in row.scores.values() for row in results.rows)
    assert [row[2] for row in pairs_table(results).rows] == [c for c in columns if c != "KID x1000"]
    assert any("too few for a Fréchet distance" in warning for warning in results.warnings)
    used = results.record["settings"]["networks"]
    assert all(network["source"] == "given" for network in used.values())
    for network, entry in used.items():
        assert entry["sha256"] == hashlib.sha256(trunks[network].read_bytes()).hexdigest()
