"""A small evaluation to compare others with: 14 photos through two random VAEs, and what tests do with it.

As a script it is the command `vaelens` with this evaluation's preset: python -m support.small_run evaluate ...
"""

import dataclasses
import os
from pathlib import Path
from typing import NamedTuple

import pytest
import skimage
from PIL import Image

from support.vaes import random_vae
from vaelens.evaluation.presets import PRESETS
from vaelens.evaluation.results import Results
from vaelens.evaluation.run import evaluate
from vaelens.networks.autoencoder_kl import AutoencoderKLConfig

SKIMAGE = Path(skimage.__file__).parent / "data"
IMAGES = 14
BATCH = 2  # 7 chunks
SMALL = AutoencoderKLConfig(block_out_channels=(4, 4, 8, 8), layers_per_block=1, norm_num_groups=4)
SIDE = 64  # a sixteenth of the pixels
PRESET = dataclasses.replace(PRESETS["offline"], side=SIDE)
FAST = {"preset": PRESET, "batch": BATCH, "threads": 1}


class Run(NamedTuple):
    """A finished evaluation: its folder and its results."""

    folder: Path
    results: Results


def make_photos(folder: Path) -> Path:
    """Crops of photos, of several sizes."""
    for number in range(IMAGES):
        whole = Image.open(SKIMAGE / ("astronaut.png", "chelsea.png", "coffee.png")[number % 3]).convert("RGB")
        x, y, side = 11 * number, 7 * number, 60 + 9 * number
        whole.crop((x, y, x + side + 20 * (number % 2), y + side)).save(folder / f"{number:02d}.png")
    return folder


def make_vaes(folder: Path) -> list[Path]:
    return [
        random_vae(SMALL, seed=seed).save(folder / f"{name}.safetensors") for seed, name in ((1, "one"), (2, "two"))
    ]


def make_whole(vaes: list[Path], photos: Path, folder: Path) -> Run:
    """Measured by one process in one call, with its report."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("VAELENS_CACHE", str(folder / "cache"))
        results = evaluate(vaes, photos, output=folder / "run", **FAST)
    assert results is not None
    return Run(folder / "run", results)


def patch_small_runs(patch: pytest.MonkeyPatch, folder: Path) -> None:
    """With a cache in `folder`, and without a page and its examples, which take longer than the rest."""
    patch.setenv("VAELENS_CACHE", str(folder / "cache"))
    patch.setattr("vaelens.evaluation.run.make_examples", lambda chosen, run: [])
    patch.setattr("vaelens.evaluation.report.report_files.report_html", lambda results, examples: "")


def vae_options(vaes: list[Path]) -> list[str]:
    return [part for vae in vaes for part in ("--vae", str(vae))]


def command(photos: Path, vaes: list[Path], output: Path, *more: str) -> list[str]:
    """The arguments of `vaelens` for the evaluation that `evaluate(vaes, photos, output=output, **FAST)` makes."""
    options = ["--preset", "offline", "--batch", str(BATCH), "--threads", "1", "-o", str(output)]
    return ["evaluate", str(photos), *vae_options(vaes), *options, *more]


def rows(folder: Path) -> list[str]:
    return sorted((folder / "rows.jsonl").read_text().splitlines())


def assert_same(folder: Path, results: Results | None, reference: Run) -> None:
    """The same rows bit for bit, the same report to 1e-9."""
    assert rows(folder) == rows(reference.folder)
    assert (folder / "rows.csv").read_bytes() == (reference.folder / "rows.csv").read_bytes()
    assert results is not None
    for name in ("spreads", "differences", "dataset_scores", "dataset_differences"):
        values, expected = getattr(results, name), getattr(reference.results, name)
        assert list(values) == list(expected)
        for key in values:
            assert numbers(values[key]) == pytest.approx(numbers(expected[key]), rel=1e-9, abs=1e-12, nan_ok=True), (
                name,
                key,
            )


def numbers(value: object) -> list[float]:
    found: list[float] = []
    for field in vars(value).values():
        found += [field] if isinstance(field, int | float) else numbers(field) if hasattr(field, "__dict__") else []
    return found


def subprocess_environment() -> dict[str, str]:
    """For a process of one thread that can run this script."""
    paths = [str(Path(__file__).parents[1]), *filter(None, [os.environ.get("PYTHONPATH")])]
    return os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": os.pathsep.join(paths)}


if __name__ == "__main__":
    from vaelens.cli.main import main

    PRESETS["offline"] = PRESET
    main()
