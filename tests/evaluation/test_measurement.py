"""What `evaluate` writes of boxes, letters, equal images and changed weights, computed again from the images."""

import io
import json
import math
import os
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from PIL import Image, ImageOps
from skimage.data import chelsea
from skimage.metrics import peak_signal_noise_ratio
from torch import Tensor

import vaelens as vl
from support.small_run import SMALL
from support.vaes import random_vae
from vaelens.errors import BadInputError, CheckFailedError, UsageError
from vaelens.evaluation import measurement, metric_table
from vaelens.evaluation.chunks import size_rule
from vaelens.evaluation.presets import PRESETS, Preset
from vaelens.evaluation.results import Results
from vaelens.images.boxes import read_boxes
from vaelens.images.datasets.opening import open_dataset
from vaelens.images.drawing import Box
from vaelens.images.size_rules import SizeRule, Square
from vaelens.images.writing import from_uint8
from vaelens.metrics.glyph_reader import readable
from vaelens.vae import VAE

pytestmark = pytest.mark.usefixtures("small_runs")
CSV = "id,label,left,top,right,bottom\nturned.jpg,L,200,200,280,280\nturned.jpg,R,130,180,180,260\n"
Pixels = NDArray[np.uint8]
Measure = Callable[..., Results]


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    """Four crops of a photo."""
    folder = tmp_path / "photos"
    folder.mkdir()
    whole = Image.fromarray(chelsea())
    for number in range(4):
        whole.crop((40 * number, 20 * number, 40 * number + 150, 20 * number + 130)).save(folder / f"{number}.png")
    return folder


@pytest.fixture
def turned(tmp_path: Path) -> Path:
    """One image, stored 520 wide and 300 high, and upright by its EXIF."""
    folder = tmp_path / "turned"
    folder.mkdir()
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.fromarray(chelsea()).resize((520, 300)).save(folder / "turned.jpg", exif=exif, quality=95)
    return folder


def test_boxes_are_scaled_and_cropped_with_their_image(turned: Path, tmp_path: Path) -> None:
    """Scaled to 444x256, the middle 256 cut out at 94; the card doesn't turn the image, and modern does."""
    (tmp_path / "boxes.csv").write_text(CSV)
    boxes = read_boxes(tmp_path / "boxes.csv")["turned.jpg"]
    data = (turned / "turned.jpg").read_bytes()
    long = [200 * 444 / 520 - 94, 280 * 444 / 520 - 94], [180 * 444 / 520 - 94, 260 * 444 / 520 - 94]
    short = [200 * 256 / 300, 280 * 256 / 300], [130 * 256 / 300, 180 * 256 / 300]
    upright = size_rule(PRESETS["modern"]).square(data, "turned.jpg", boxes)
    assert upright.pixels.shape == (256, 256, 3)
    assert_boxes(upright.boxes, [("L", short[0], long[0]), ("R", short[1], long[1])])
    lying = size_rule(PRESETS["card-2022"]).square(data, "turned.jpg", boxes)
    right = [130 * 444 / 520 - 94, 180 * 444 / 520 - 94], [180 * 256 / 300, 260 * 256 / 300]
    assert_boxes(lying.boxes, [("L", long[0], short[0]), ("R", *right)])


def assert_boxes(found: Sequence[Box], expected: Sequence[tuple[str, list[float], list[float]]]) -> None:
    assert [box.label for box in found] == [label for label, _, _ in expected]
    for box, (_, across, down) in zip(found, expected, strict=True):
        assert [box.left, box.right, box.top, box.bottom] == pytest.approx([*across, *down], abs=1e-9)


def test_given_boxes_are_regions_whatever_their_labels(turned: Path, tmp_path: Path, measure: Measure) -> None:
    """L and R are a left and a right eye here, and no letters; the box is that of both images' crops."""
    (tmp_path / "boxes.csv").write_text(CSV)
    results = measure(random_vae(SMALL), turned, preset="offline", boxes=tmp_path / "boxes.csv")
    assert {region.label for region in results.regions} == {"L", "R"}
    assert not results.letters
    (row,) = results.rows
    assert row.letters is None
    image = ImageOps.exif_transpose(Image.open(turned / "turned.jpg"))
    original = np.asarray(image.resize((256, 444), Image.Resampling.BICUBIC).crop((0, 94, 256, 350)))
    again = through(random_vae(SMALL), original)
    crop = slice(76, 146), slice(170, 239)  # L, by hand
    assert row.regions[0]["psnr"] == pytest.approx(peak_signal_noise_ratio(original[crop], again[crop]), abs=0.01)


def through(vae: VAE, original: Pixels) -> Pixels:
    """The image through the VAE's network, alone, rounded half up."""
    with torch.no_grad():
        x = torch.from_numpy(original.astype(np.float32)).permute(2, 0, 1)[None] / 127.5 - 1
        y = vae.network.decode(vae.network.posterior(x).mode())
    return np.floor(((y[0].permute(1, 2, 0).clamp(-1, 1) + 1) / 2 * 255).numpy() + 0.5).astype(np.uint8)


def test_synthetic_boxes_and_letters_are_those_of_their_own_image(measure: Measure) -> None:
    images = open_dataset("synthetic", take=4)
    results = measure(random_vae(SMALL), images, preset="offline")
    assert [row.id for row in results.rows] == [item.id for item in images.items]
    for row, item in zip(results.rows[1::2], images.items[1::2], strict=True):  # the second of each chunk
        original = np.asarray(Image.open(io.BytesIO(images.read(item))))
        again = through(random_vae(SMALL), original)
        assert len(row.regions) == len(item.boxes)
        for region, box in zip(row.regions, item.boxes, strict=True):
            crop = (
                slice(math.floor(box.top), math.ceil(box.bottom)),
                slice(math.floor(box.left), math.ceil(box.right)),
            )
            assert region["label"] == box.label
            assert region["psnr"] == pytest.approx(peak_signal_noise_ratio(original[crop], again[crop]), abs=0.05)
    assert [row.letters is None for row in results.rows] == [True, True, False, False]
    for row, item in zip(results.rows[2:], images.items[2:], strict=True):
        image = from_uint8(
            torch.from_numpy(np.asarray(Image.open(io.BytesIO(images.read(item)))).copy()).permute(2, 0, 1)
        )
        ceiling = readable(image[None], item.boxes)
        assert [region["ceiling"] for region in row.regions] == ceiling
        assert row.letters is not None
        assert row.letters[1:] == (sum(ceiling), len(item.boxes))
        assert row.letters[0] < row.letters[1], "what is read of a random VAE's output isn't what is on the original"
    assert {region.label for region in results.regions} >= {"eye", "letter"}
    assert "L" not in {region.label for region in results.regions}


def test_equal_images_have_no_psnr_and_win(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, measure: Measure) -> None:
    """One VAE gives back all of its images, one the first of each chunk, one none."""
    real = measurement._reconstruct

    def reconstruct(vae: VAE, image: Tensor, seeds: list[int], preset: Preset, posterior: None) -> Tensor:
        equal = {"all": len(image), "half": 1, "none": 0}[vae.name]
        return torch.cat([image[:equal], real(vae, image, seeds, preset, posterior)[equal:]])

    monkeypatch.setattr(measurement, "_reconstruct", reconstruct)
    vaes = [random_vae(SMALL) for _ in range(3)]
    for vae, name in zip(vaes, ("all", "half", "none"), strict=True):
        vae.name = name
    results = measure(vaes)
    lines = [json.loads(line) for line in (tmp_path / "run" / "rows.jsonl").read_text().splitlines()]
    assert sum(line["psnr"] is None for line in lines) == 4 + 2
    assert all(line["ssim"] == pytest.approx(1) for line in lines if line["psnr"] is None)
    spreads = [results.spreads[name, "psnr"] for name in ("all", "half", "none")]
    assert [(one.exact, one.count, one.unshared) for one in spreads] == [(4, 0, 0), (2, 2, 0), (0, 2, 2)]
    assert spreads[0].mean == math.inf
    assert spreads[1].mean == spreads[2].mean
    half, none = results.differences["half", "all", "psnr"], results.differences["none", "all", "psnr"]
    assert (half.won, half.ties, half.dropped) == (0, 0.5, 4)
    assert (none.won, none.ties, none.dropped) == (0, 0, 4)
    mixed = results.differences["none", "half", "psnr"]
    assert (mixed.won, mixed.ties, mixed.count, mixed.dropped) == (0, 0.5, 2, 2)
    assert mixed.difference == 0


def test_a_score_that_is_nan_is_an_error(monkeypatch: pytest.MonkeyPatch, measure: Measure) -> None:
    real = metric_table.psim_maps

    def broken(taps: Sequence[Tensor], other: Sequence[Tensor]) -> Tensor:
        scores = real(taps, other)[0].mean(dim=(1, 2))
        scores[1] = torch.nan
        return scores

    monkeypatch.setattr(metric_table, "psim", broken)
    with pytest.raises(CheckFailedError, match=r"1\.png through random: psim-small is nan"):
        measure(random_vae(SMALL))


def test_a_vae_changed_in_place_is_another(tmp_path: Path, measure: Measure) -> None:
    vae = vl.load(random_vae(SMALL).save(tmp_path / "one.safetensors"), device="cpu")
    before = measure(vae)
    with torch.no_grad():
        vae.network.decoder.conv_out.weight.mul_(1.5)
    with pytest.raises(UsageError, match=r"VAE one\.weights was"):
        measure(vae)
    after = measure(vae, output=tmp_path / "other")
    assert after.record["vaes"][0]["fingerprint"] != before.record["vaes"][0]["fingerprint"]
    assert after.spreads["one", "psnr"].mean != before.spreads["one", "psnr"].mean


def test_an_image_that_fails_when_a_vae_is_added(
    two_vaes: list[Path], monkeypatch: pytest.MonkeyPatch, measure: Measure
) -> None:
    """A disk that fails once doesn't cost the folder: the same command resumes when it reads again."""
    measure(two_vaes[:1], skip_bad=True)

    square = SizeRule.square

    def fail(rule: SizeRule, data: bytes, name: str, boxes: tuple[Box, ...]) -> Square:
        if name == "2.png":
            raise BadInputError("2.png: input/output error.")
        return square(rule, data, name, boxes)

    with monkeypatch.context() as patch:
        patch.setattr(SizeRule, "square", fail)
        with pytest.raises(BadInputError, match=r"2\.png was readable before"):
            measure(skip_bad=True)
    results = measure(skip_bad=True)
    assert results.count == 4
    assert results.differences["two", "one", "psnr"].count == 4


def test_a_vae_may_have_a_name_that_is_no_unicode(measure: Measure) -> None:
    """As the file may have after which it is named."""
    vae = random_vae(SMALL)
    vae.name = os.fsdecode(b"caf\xe9")
    results = measure(vae, take=2)
    assert results.vaes == (vae.name,)
    again = measure(vae, take=2)
    assert again.rows == results.rows
    assert again.record["calls"] == results.record["calls"], "nothing was measured again"
