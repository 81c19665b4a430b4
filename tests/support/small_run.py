"""A small evaluation to compare others with: 14 photos through two random VAEs, and what tests do with it."""

import os
from pathlib import Path

import pytest
import skimage
from PIL import Image

from support.vaes import random_vae
from vaelens.evaluation.results import Results
from vaelens.evaluation.run import evaluate
from vaelens.networks.autoencoder_kl import AutoencoderKLConfig

SKIMAGE = Path(skimage.__file__).parent / "data"
IMAGES = 14
BATCH = 2  # 7 chunks
SMALL = AutoencoderKLConfig(block_out_channels=(4, 4, 8, 8), layers_per_block=1, norm_num_groups=4)
FAST = {"preset": "offline", "batch": BATCH, "threads": 1}


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


def make_whole(vaes: list[Path], photos: Path, folder: Path) -> tuple[Path, Results]:
    """One process, one go, with its report."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("VAELENS_CACHE", str(folder / "cache"))
        results = evaluate(vaes, photos, output=folder / "run", **FAST)
    assert results is not None
    return folder / "run", results


def rows(folder: Path) -> list[str]:
    return sorted((folder / "rows.jsonl").read_text().splitlines())


def assert_same(folder: Path, results: Results | None, reference: tuple[Path, Results]) -> None:
    """The same rows bit for bit, the same report to 1e-9."""
    assert rows(folder) == rows(reference[0])
    assert (folder / "rows.csv").read_bytes() == (reference[0] / "rows.csv").read_bytes()
    assert results is not None
    for name in ("spreads", "differences", "dataset_scores", "dataset_differences"):
        ours, theirs = getattr(results, name), getattr(reference[1], name)
        assert list(ours) == list(theirs)
        for key in ours:
            assert numbers(ours[key]) == pytest.approx(numbers(theirs[key]), rel=1e-9, abs=1e-12), (name, key)


def numbers(value: object) -> list[float]:
    found: list[float] = []
    for one in vars(value).values():
        found += [one] if isinstance(one, int | float) else numbers(one) if hasattr(one, "__dict__") else []
    return found


def quick() -> dict[str, str]:
    return os.environ | {"OMP_NUM_THREADS": "1"}
