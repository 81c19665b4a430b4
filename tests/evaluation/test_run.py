"""`evaluate` as a whole: its folder, rows, record and examples, unreadable images and values that aren't finite.

What interrupts and resumes it is in test_resuming.py, what it refuses in test_run_refusals.py.
"""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from support.reports import files_with_folder
from support.small_run import FAST, IMAGES, SIDE, SMALL, Run, assert_same, rows
from support.vaes import random_vae
from vaelens.errors import BadInputError, UsageError
from vaelens.evaluation.measurement import Measurement
from vaelens.evaluation.report.examples import choose_examples, make_examples
from vaelens.evaluation.results import Example, Results
from vaelens.files import checked_json

pytestmark = pytest.mark.usefixtures("small_runs")
Measure = Callable[..., Results]


def test_an_evaluation_leaves_rows_record_and_report(whole: Run) -> None:
    folder, results = whole
    lines = [json.loads(line) for line in rows(folder)]
    assert len(lines) == IMAGES * 2
    assert {line["vae"] for line in lines} == {"one", "two"}
    assert {line["id"] for line in lines} == {f"{n:02d}.png" for n in range(IMAGES)}
    assert set(lines[0]) == {"id", "vae", "sha256", "finite", "psnr", "ssim", "psim_small", "checksum"}
    for name in ("report.html", "report.md", "rows.csv", "run.json", "plan.json", "rows.jsonl"):
        assert (folder / name).stat().st_size > 0
    record = json.loads((folder / "run.json").read_text())
    assert record["settings"]["preset"]["name"] == "offline"
    assert (record["settings"]["batch"], record["settings"]["threads"]) == (FAST["batch"], 1)
    assert [vae["name"] for vae in record["vaes"]] == ["one", "two"]
    assert all(vae["fingerprint"] for vae in record["vaes"])
    assert results.count == IMAGES
    psnrs = [line["psnr"] for line in lines if line["vae"] == "one"]
    assert results.spreads["one", "psnr"].mean == pytest.approx(np.mean(psnrs), rel=1e-12)
    assert results.spreads["one", "psnr"].std == pytest.approx(np.std(psnrs), rel=1e-12)
    assert ("two", "one", "psnr") in results.differences
    assert results.dataset_scores["one", "fd_small"].value > 0
    exported = json.loads((folder / "results.json").read_text())
    scores = exported["scores"]["one"]
    assert scores["psnr"]["mean"] == results.spreads["one", "psnr"].mean
    assert scores["fd_small"]["interval"]["low"] < scores["fd_small"]["value"]
    assert {d["metric"] for d in exported["differences"]} == {"psnr", "ssim", "psim_small", "fd_small"}


def test_a_row_has_the_scores_of_its_image(whole: Run, photos: Path) -> None:
    """One row, computed again with Pillow and scikit-image from the protocol's words."""
    from skimage.metrics import peak_signal_noise_ratio, structural_similarity

    name = "05.png"
    image = Image.open(photos / name)
    w, h = (round(side * SIDE / min(image.size)) for side in image.size)
    left, top = (w - SIDE) // 2, (h - SIDE) // 2
    box = (left, top, left + SIDE, top + SIDE)
    original = np.asarray(image.resize((w, h), Image.Resampling.BICUBIC).crop(box))
    network = random_vae(SMALL, seed=1).network
    with torch.no_grad():
        x = torch.from_numpy(original.astype(np.float32)).permute(2, 0, 1)[None] / 127.5 - 1
        y = network.decode(network.posterior(x).mode())
    again = np.floor(((y[0].permute(1, 2, 0).clamp(-1, 1) + 1) / 2 * 255).numpy() + 0.5).astype(np.uint8)
    row = next(row for row in whole.results.rows if (row.id, row.vae) == (name, "one"))
    assert row.scores["psnr"] == pytest.approx(peak_signal_noise_ratio(original, again), abs=1e-3)
    expected = structural_similarity(
        original, again, channel_axis=2, data_range=255, gaussian_weights=True, sigma=1.5, use_sample_covariance=False
    )
    assert row.scores["ssim"] == pytest.approx(expected, abs=2e-4)  # a pixel may be rounded the other way


def test_rows_do_not_depend_on_the_order_and_folder_of_files(
    whole: Run, photos: Path, tmp_path: Path, measure: Measure
) -> None:
    moved = tmp_path / "elsewhere"
    moved.mkdir()
    for file in sorted(photos.iterdir(), reverse=True):
        (moved / file.name).write_bytes(file.read_bytes())
    assert_same(tmp_path / "run", measure(source=moved), whole)


def test_a_vae_may_have_any_name(tmp_path: Path, measure: Measure) -> None:
    """Names that are special to us or alike to a file system keep features of their own."""
    names = ("originals", "A", "a", "../x", "é" * 90)
    vaes = [random_vae(SMALL, seed) for seed in range(len(names))]
    for vae, name in zip(vaes, names, strict=True):
        vae.name = name
    results = measure(vaes, take=4)
    values = [results.dataset_scores[name, "fd_small"].value for name in names]
    assert len(set(values)) == len(names)
    assert all(value > 0.01 for value in values)
    folders = [folder.name.lower() for folder in (tmp_path / "run" / "features").iterdir()]
    assert len(set(folders)) == len(names) + 1
    assert not (tmp_path / "x").exists()


def test_the_record_lists_every_call_that_measured(two_vaes: list[Path], tmp_path: Path, measure: Measure) -> None:
    file = tmp_path / "run" / "run.json"

    def record_of_call(vaes: list[Path]) -> dict[str, Any]:
        results = measure(vaes, take=4)
        record = json.loads(file.read_text())
        assert results.record["calls"] == record["calls"]
        return record

    first, second = record_of_call(two_vaes[:1]), record_of_call(two_vaes)
    counts = [(one["images"], one["reconstructions"]) for one in second["calls"]]
    assert counts == [(4, 4), (4, 4)], "the second measured the other VAE"
    assert second["calls"][0] == first["calls"][0]
    assert "measured: 8 reconstructions in " in (tmp_path / "run" / "report.md").read_text()
    second["calls"][0] |= {"seconds": 100.0, "peak_memory_bytes": 2**50}
    file.write_bytes(checked_json({key: value for key, value in second.items() if key != "checksum"}))
    idle = record_of_call(two_vaes)
    assert idle["calls"] == second["calls"], "a call that measured nothing adds none"
    assert idle["seconds"] == pytest.approx(100 + second["calls"][1]["seconds"], abs=1e-3)
    assert idle["peak_memory_bytes"] == 2**50


@pytest.mark.parametrize("changed", ["report.html", "rows.csv", "run.json", "model-index/one.yml"])
def test_a_file_of_the_report_that_was_changed_is_never_replaced(
    whole: Run, tmp_path: Path, measure: Measure, changed: str
) -> None:
    shutil.copytree(whole.folder, tmp_path / "run")
    file = tmp_path / "run" / changed
    file.write_bytes(before := file.read_bytes() + b"mine")
    with pytest.raises(UsageError, match=f"{file}.* not made by vaelens, or changed since"):
        measure()
    assert file.read_bytes() == before


def test_no_file_of_an_evaluation_names_a_folder_of_this_machine(
    photos: Path, two_vaes: list[Path], tmp_path: Path, measure: Measure
) -> None:
    images = tmp_path / "images"
    shutil.copytree(photos, images)
    (images / "00.png").write_bytes(b"no image")
    measure(source=images, skip_bad=True)
    base = tmp_path.parent
    assert two_vaes[0].is_relative_to(base)
    assert files_with_folder(tmp_path / "run", base) == []
    record = json.loads((tmp_path / "run" / "run.json").read_text())
    assert [vae["source"] for vae in record["vaes"]] == ["one.safetensors", "two.safetensors"]
    assert "00.png" in record["skipped"]


def test_a_report_leaves_other_files_of_its_folder_alone(whole: Run, tmp_path: Path, measure: Measure) -> None:
    shutil.copytree(whole.folder, tmp_path / "run")
    (mine := tmp_path / "run" / "model-index" / "mine.yml").write_text("mine")
    measure()
    assert mine.read_text() == "mine"


def test_a_corrupt_image_stops_the_run_or_is_listed(
    photos: Path, two_vaes: list[Path], tmp_path: Path, measure: Measure
) -> None:
    folder, stopped, skipped = (tmp_path / name for name in ("photos", "stopped", "skipped"))
    folder.mkdir()
    for number in range(5):
        data = (photos / f"{number:02d}.png").read_bytes()
        (folder / f"{number:02d}.png").write_bytes(data[: len(data) // 2] if number in {2, 3} else data)
    with pytest.raises(BadInputError, match=r"02\.png.*--skip-bad leaves .* All scores measured so far are saved\.$"):
        measure(two_vaes[:1], folder, stopped)
    assert len(rows(stopped)) == 2, "the chunk before it is saved"
    results = measure(two_vaes[:1], folder, skipped, skip_bad=True)
    assert results.count == 3
    assert {row.id for row in results.rows} == {"00.png", "01.png", "04.png"}
    assert list(results.record["skipped"]) == ["02.png", "03.png"]
    assert any("2 images couldn't be read" in warning for warning in results.warnings)
    with pytest.raises(BadInputError, match=r"leaves them out\. The first: 02\.png: a damaged"):
        measure(two_vaes[:1], folder, skipped)
    with pytest.raises(BadInputError, match="All scores measured so far are saved"):
        measure(two_vaes[:1], folder, stopped)
    measure(two_vaes[:1], folder, stopped, skip_bad=True)
    assert rows(stopped) == rows(skipped), "the advice of the error resumes the stopped run"
    for number in (0, 1, 4):
        (folder / f"{number:02d}.png").write_bytes(b"no image")
    with pytest.raises(BadInputError, match=r"00\.png.*--skip-bad leaves such images out and lists them\.$"):
        measure(two_vaes[:1], folder, tmp_path / "nothing saved")
    with pytest.raises(BadInputError, match="none of the images can be read"):
        measure(two_vaes[:1], folder, tmp_path / "none", skip_bad=True)


def test_reconstructions_that_are_not_finite_count_nowhere(tmp_path: Path, measure: Measure) -> None:
    vae = random_vae(SMALL, seed=3)
    means: list[torch.Tensor] = []

    def explode(_module: object, _inputs: object, output: torch.Tensor) -> torch.Tensor:
        return torch.where(output.mean(dim=(1, 2, 3), keepdim=True) > threshold, torch.inf, output)

    hook = vae.network.decoder.register_forward_hook(lambda m, i, o: means.append(o.detach().mean(dim=(1, 2, 3))))
    measure(vae, output=tmp_path / "before")
    hook.remove()
    threshold = float(torch.cat(means)[:IMAGES].median())
    vae.network.decoder.register_forward_hook(explode)
    results = measure(vae)
    finite = [row for row in results.rows if row.finite]
    assert 0 < len(finite) < IMAGES
    assert results.spreads["random", "psnr"].count == len(finite)
    assert results.dataset_scores["random", "fd_small"].value is None
    assert any("NaN or infinite" in warning for warning in results.warnings)
    lost = {row.id for row in results.rows if not row.finite}
    chosen = choose_examples(results)
    assert "best" not in "".join(why for name, why in chosen.items() if name in lost)


def test_a_chosen_image_that_is_gone_is_no_example(
    photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, measure: Measure
) -> None:
    """An example that can't be made must not cost the scores of a finished run.

    Of the three chunks of two, the first loses an image, the second both, and in the third one has changed.
    """
    folder = tmp_path / "photos"
    folder.mkdir()
    for number in range(6):
        (folder / f"{number}.png").write_bytes((photos / f"{number:02d}.png").read_bytes())

    def examples_of_spoiled(chosen: dict[str, str], run: Measurement) -> list[Example]:
        assert len(chosen) == 6
        for number in (1, 2, 3):
            (folder / f"{number}.png").unlink()
        (folder / "5.png").write_bytes(b"no image")
        examples = make_examples(chosen, run)
        assert [example.id for example in examples] == ["0.png"]
        return examples

    monkeypatch.setattr("vaelens.evaluation.run.make_examples", examples_of_spoiled)
    measure(source=folder)
    assert (tmp_path / "run" / "report.md").exists()


def test_an_example_has_the_boxes_that_were_measured_in_it(
    two_vaes: list[Path], monkeypatch: pytest.MonkeyPatch, measure: Measure
) -> None:
    examples: list[Example] = []

    def recorded_examples(chosen: dict[str, str], run: Measurement) -> list[Example]:
        examples.extend(make_examples(chosen, run))
        return examples

    monkeypatch.setattr("vaelens.evaluation.run.make_examples", recorded_examples)
    results = measure(two_vaes[:1], "synthetic", take=2, preset="offline")
    measured = {row.id: row.regions for row in results.rows}
    assert examples
    assert all(len(example.boxes) == len(measured[example.id]) > 0 for example in examples)
