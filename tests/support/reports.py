"""Made-up results of an evaluation, as `evaluate` would give them, and what reports may not hold."""

import dataclasses
import itertools
import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor

from vaelens.evaluation.aggregation import aggregate
from vaelens.evaluation.evaluation_folder import EvaluationFolder
from vaelens.evaluation.feature_files import ORIGINALS
from vaelens.evaluation.metric_table import METRICS, image_metrics
from vaelens.evaluation.presets import find_preset
from vaelens.evaluation.results import DatasetScore, Example, Letters, RegionSpread, Results, Row
from vaelens.images.datasets.items import Dataset, Item, Source
from vaelens.images.faces import draw_face
from vaelens.images.reading import read_text
from vaelens.metrics.statistics import Interval, Paired, Spread, paired, spread

NAMES = ("kl-f8", "ft-ema", "ft-mse", "tiny-kl-f8")

GAINS = (0.0, 0.4, 1.1, -2.0)

BASE = {"psnr": (24, 3.5), "ssim": (0.7, 0.12), "psim": (0.95, 0.25), "lpips_vgg": (0.14, 0.05),
        "lpips_alex": (0.09, 0.04), "psim_small": (0.4, 0.1)}  # fmt: skip

SETS = {"rfid": 4.7, "kid": 0.31, "fd_small": 0.8}

LONG = "x" * 300

FINGERPRINT = {
    half: {"stored": "ab" * 32, "float16": "cd" * 32, "bfloat16": "ef" * 32} for half in ("encoder", "decoder")
}

RECORD = {
    "command": "evaluate",
    "finished": "2030-01-01T00:00:00+00:00",
    "settings": {
        "batch": 4,
        "seed": 0,
        "manifest_sha256": "12" * 32,
        "networks": {
            "vgg16": {"sha256": "34" * 32, "source": "published"},
            "inception": {"sha256": "56" * 32, "source": "given"},
        },
    },
    "versions": {"vaelens": "0.1.0", "torch": "2.13.0"},
    "threads": 2,
    "seconds": 123.4,
    "peak_memory_bytes": 3_210_000_000,
    "calls": [
        {"images": 150, "reconstructions": 300, "seconds": 80.0, "measuring_seconds": 70.0},
        {"images": 50, "reconstructions": 100, "seconds": 43.4, "measuring_seconds": 30.0},
    ],
    "skipped": {"broken.jpg": "cut off"},
}


def made_up(
    vaes: Sequence[str] = NAMES[:2],
    count: int = 40,
    preset: str = "modern",
    full: bool = True,
    name: Callable[[int], str] = "{:012d}.jpg".format,
    source: str = "coco-val2017",
) -> Results:
    """Results as `evaluate` would give them: correlated scores, and with `full` regions, letters, published values."""
    rng = np.random.default_rng(0)
    metrics = find_preset(preset).metrics
    of_images = [metric.key for metric in image_metrics(metrics)]
    ease, scores = rng.normal(size=count), {}
    for number, vae in enumerate(vaes):
        own = GAINS[number % 4] / 3.5 + 0.15 * rng.normal(size=count)
        for key in of_images:
            mean, std = BASE[key]
            sign = 1 if METRICS[key].better == "higher" else -1
            scores[vae, key] = mean + sign * std * (ease + own + 0.1 * rng.normal(size=count))
    regions = ("eye", "iris", "mouth") if full else ()
    rows = [
        Row(
            name(n),
            vae,
            f"{n:064x}",
            True,
            {key: float(scores[vae, key][n]) for key in of_images},
            tuple(
                {"label": label, "box": [3 * n, 4, 3 * n + 9, 14], "stratum": "8-16", "psnr": 20 + n / 7, "ssim": None}
                for label in regions
            ),
            (n % 3, n % 3 + 1, 4) if full else None,
        )
        for n in range(count)
        for vae in vaes
    ]
    spreads = {place: spread(values) for place, values in scores.items()}
    pairs = [(later, earlier) for earlier, later in itertools.combinations(vaes, 2)]
    sets = {
        (vae, key): DatasetScore(SETS[key] - GAINS[i % 4] / 3, Interval(SETS[key], SETS[key] - 0.5, SETS[key] + 0.4))
        for i, vae in enumerate(vaes)
        for key in metrics
        if key in SETS
    }
    return Results(
        source=source,
        preset=find_preset(preset),
        count=count,
        vaes=tuple(vaes),
        metrics=metrics,
        rows=tuple(rows),
        spreads=spreads,
        dataset_scores=sets,
        differences={
            (a, b, key): paired(scores[a, key], scores[b, key], METRICS[key].better, resamples=200)
            for a, b in pairs
            for key in of_images
        },
        dataset_differences={
            (a, b, key): Interval(0.31, 0.12, 0.5) for a, b in pairs for key in metrics if key in SETS
        },
        regions=tuple(
            RegionSpread(vae, label, stratum, key, spread(20 + i + rng.normal(size=30)))
            for label in regions
            for stratum in ("<8", "8-16", "16-32", "all")
            for i, vae in enumerate(vaes)
            for key in ("psnr", "ssim", "gradient_energy")
        ),
        letters=tuple(
            Letters(vae, stratum, 300, 0.42 + 0.1 * i, 0.981)
            for stratum in (("<8", "8-16", "all") if full else ())
            for i, vae in enumerate(vaes)
        ),
        published={(vaes[0], "psnr"): "23.4 ± 3.8", (vaes[0], "rfid"): "4.99"} if full else {},
        warnings=(f"{count} images are few for rFID in 2048 dimensions.",) if full else (),
        record=RECORD | {"vaes": [{"name": vae, "dtype": "float32", "fingerprint": FINGERPRINT} for vae in vaes]},
    )


LOST = "lost"

Images = Sequence[float | str | None]  # a PSNR each: None where it is exact, LOST where it isn't finite


def aggregated(
    path: Path,
    vaes: Mapping[str, Images],
    regions: Mapping[str, list[list[dict[str, Any]]]] | None = None,
    ssim: Sequence[float] | None = None,
    features: Mapping[str, Tensor] | None = None,
) -> Results:
    """As `evaluate` aggregates these scores: PSNR by VAE, regions by VAE and image, every VAE's SSIM.

    features: [n,d] of the originals and of each VAE, for fd-small.
    """
    count = len(next(iter(vaes.values())))
    ids = tuple(f"{n:04d}" for n in range(count))
    source = Source("made up", "folder", ids, lambda _: b"")
    dataset = Dataset("made up", "folder", tuple(Item(name, "0" * 64) for name in ids), (), source)
    folder = EvaluationFolder(path / "run", list(ids), count)
    plan = {"command": "evaluate", "preset": {"name": "offline"}, "batch": count, "threads": 1}
    folder.start(plan | {"vaes": {vae: {} for vae in vaes}})
    for vae, values in vaes.items():
        rows = []
        for n, value in enumerate(values):
            finite = value != LOST
            scores = {"psnr": value, "ssim": ssim[n] if ssim else 0.5} if finite else {"psnr": None, "ssim": None}
            found = tuple(regions[vae][n]) if regions and finite else ()
            rows.append(Row(ids[n], vae, "0" * 64, finite, scores, found))
        stored = {name: {"fd-small": features[name]} if features else {} for name in (ORIGINALS, vae)}
        folder.add(0, vae, rows, [], stored)
    metrics = ("fd_small",) * bool(features) + ("psnr", "ssim")
    preset = dataclasses.replace(find_preset("offline"), metrics=metrics)
    return aggregate(folder, dataset, preset, {"vaes": [{"name": vae} for vae in vaes]})


def simple(**changes: object) -> Results:
    """Two VAEs with round numbers, so that every cell can be written down."""
    values: dict[str, object] = {
        "metrics": ("rfid", "psnr", "ssim"),
        "spreads": {
            ("A", "psnr"): Spread(24.5049, 3.7, 24.4, 24.61, 10, exact=2),
            ("B", "psnr"): Spread(23.4, 3.801, 23.3, 23.5, 10, unshared=2),
            ("A", "ssim"): Spread(0.71, 0.13, math.nan, math.nan, 2),
            ("B", "ssim"): Spread(math.nan, math.nan, math.nan, math.nan, 0, lost=2),
        },
        "dataset_scores": {
            ("A", "rfid"): DatasetScore(4.7, Interval(4.7, 4.5, 4.9)),
            ("B", "rfid"): DatasetScore(None, note="too few images"),
        },
        "differences": {("A", "B", "psnr"): Paired(1.1, -0.25, 2.5, 0.625, 0.125, 10, 2)},
        "dataset_differences": {("A", "B", "rfid"): Interval(-0.3, -0.5, -0.1)},
        "published": {("B", "psnr"): "23.4 ± 3.8"},
    }
    return dataclasses.replace(made_up(("A", "B"), 12, "card-2022", full=False), **values | changes)


def examples_of(results: Results, count: int = 2) -> list[Example]:
    """Synthetic faces, each VAE's reconstruction a little noisier than the one before."""
    found = []
    for number in range(count):
        rng = np.random.default_rng(number)
        face = draw_face(number, 128)
        original = face.pixels
        reconstructions = {
            vae: np.clip(original + rng.normal(0, 6 * (i + 1), original.shape), 0, 255).astype(np.uint8)
            for i, vae in enumerate(results.vaes)
        }
        why = "among the worst by PSIM" if number % 2 else "among the best by PSIM"
        found.append(Example(results.rows[number * len(results.vaes)].id, why, original, reconstructions, face.boxes))
    return found


def files_with_folder(output: Path, folder: Path) -> list[str]:
    """The files below `output`, locks aside, whose text, or PNG text, names `folder`."""
    found: list[str] = []
    for path in sorted(output.rglob("*")):
        if path.is_file() and not path.name.startswith(".lock"):
            text = path.read_bytes().decode("utf-8", "replace")
            if path.suffix == ".png":
                text += str(read_text(path))
            if str(folder) in text:
                found.append(path.relative_to(output).as_posix())
    return found
