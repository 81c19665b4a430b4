"""The arms' scores from RUNS/measured: means over images, and differences between arms over all seeds.

A difference is computed per image and averaged over the seeds; so its interval (BCa bootstrap, 95 %) is over images,
and each seed's own mean is recorded too. Of Frechet distances, which belong to a dataset, the jackknife values
are averaged over the seeds.
"""

import math
import statistics
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from arms import ARMS, BASE, BATCH, loaded, row_name
from check import held_out, scores

from vaelens.errors import UsageError
from vaelens.evaluation.evaluation_folder import COMMAND, EvaluationFolder
from vaelens.evaluation.feature_files import ORIGINALS
from vaelens.evaluation.results import Row
from vaelens.images.datasets.items import Dataset
from vaelens.metrics.frechet import Jackknife, jackknife
from vaelens.metrics.statistics import paired
from vaelens.report.tables import Better
from vaelens.runs.plan import read_plan

FRECHET = "fd_small"
BETTER: dict[str, Better] = {
    "fd_small": "lower",
    "letters": "higher",
    "eyes": "higher",
    "psnr": "higher",
    "ssim": "higher",
    "psim_small": "lower",
}
ON_SOME = ("letters", "eyes")  # NaN for images without any
PAIRS = (
    ("control", BASE),
    ("tiny-ft-ema", "control"),
    ("tiny-ft-mse", "control-twice"),
    ("tiny-ft-mse", "tiny-ft-ema"),
)
Value = tuple[float, float, float]  # with its 95 % interval


@dataclass(frozen=True)
class Rows:
    """The scores of some VAEs in RUNS/measured: each metric's values per image, and their Frechet distances."""

    values: Mapping[str, Mapping[str, np.ndarray]]
    distances: Mapping[str, Jackknife]
    originals_read: float  # % of the letters read on the originals
    weights: Mapping[str, str]  # fingerprints

    @classmethod
    def of(cls, runs: Path, dataset: Dataset, names: Sequence[str]) -> "Rows":
        """Raises UsageError where rows are missing, or a score that every image has is NaN."""
        path = runs / "measured"
        folder = EvaluationFolder(path, [item.id for item in dataset.items], BATCH)
        folder.refresh()
        if folder.missing(names):
            raise UsageError(f"{path} lacks rows of {' or '.join(names)}. Run arms.py and distribution.py to the end.")
        rows = {name: folder.rows([name]) for name in names}
        values = {name: _columns(of) for name, of in rows.items()}
        for name, columns in values.items():
            for key, column in columns.items():
                if key not in ON_SOME and not np.isfinite(column).all():
                    raise UsageError(f"{path}: {key} of {name} is NaN on some image. Check the images.")
        reference = folder.moments(ORIGINALS, "fd-small")
        distances = jackknife(reference, {name: folder.moments(name, "fd-small") for name in names})
        own = [row.letters for row in rows[names[0]] if row.letters and row.letters[2]]
        plan = read_plan(path, COMMAND)
        assert plan is not None  # its rows are there
        weights = {name: plan["vaes"][name]["weights"] for name in names}
        return cls(values, distances, mean(100 * top / count for _, top, count in own), weights)

    def value(self, name: str, metric: str) -> float:
        """A VAE's mean over images, or its distance."""
        return self.distances[name].value if metric == FRECHET else mean(self.values[name][metric])

    def difference(self, pairs: Sequence[tuple[str, str]], metric: str) -> Value:
        """First - second, averaged over the pairs of VAEs, with its 95 % interval."""
        if metric == FRECHET:
            found = averaged([self.distances[a].minus(self.distances[b]) for a, b in pairs]).interval()
            return found.value, found.low, found.high
        a, b = (np.mean([self.values[pair[side]][metric] for pair in pairs], axis=0) for side in (0, 1))
        pair = paired(a.tolist(), b.tolist(), BETTER[metric])
        return pair.difference, pair.low, pair.high


@dataclass(frozen=True)
class Difference:
    """first - second with its 95 % interval, and each seed's own."""

    first: str
    second: str
    metric: str
    value: float
    low: float
    high: float
    by_seed: tuple[float, ...]


def compared(runs: Path, dataset: Dataset, seeds: Sequence[int]) -> dict[str, Any]:
    """The arms' part of the record. Raises UsageError where rows are missing or are of other weights than the files."""
    vaes = {name: {row_name(name, seed): loaded(runs, name, seed) for seed in seeds} for name in (BASE, *ARMS)}
    rows = Rows.of(runs, dataset, [name for of in vaes.values() for name in of])
    for of in vaes.values():
        for name, vae in of.items():
            if rows.weights[name] != vae.fingerprint.short:
                raise UsageError(
                    f"{runs}/measured has rows of other weights than the file of {name}. Measure it in a new folder."
                )
    photos = held_out()
    bicubic = {name: base for name, (_, base) in scores(lambda image: image, photos.items()).items()}
    found = {arm: [scores(vae.reconstruct, photos.items()) for vae in of.values()] for arm, of in vaes.items()}
    return {
        "images": len(dataset.items),
        "seeds": list(seeds),
        "weights": dict(rows.weights),
        "originals_read": rows.originals_read,
        "arms": {arm: {key: [rows.value(name, key) for name in of] for key in BETTER} for arm, of in vaes.items()},
        "differences": [asdict(difference) for difference in differences(rows, seeds)],
        "photos": {
            photo: {"bicubic": bicubic[photo]} | {arm: [one[photo][0] for one in each] for arm, each in found.items()}
            for photo in photos
        },
    }


def differences(rows: Rows, seeds: Sequence[int]) -> list[Difference]:
    """Each of PAIRS in each metric, each seed's arm against that of the same seed."""
    found: list[Difference] = []
    for first, second in PAIRS:
        pairs = [(row_name(first, seed), row_name(second, seed)) for seed in seeds]
        for metric in BETTER:
            apart = tuple(rows.difference([pair], metric)[0] for pair in pairs)
            found.append(Difference(first, second, metric, *rows.difference(pairs, metric), apart))
    return found


def _columns(rows: Sequence[Row]) -> dict[str, np.ndarray]:
    """Each metric's values per image; letters: % of a page's letters that are read, eyes: PSNR inside their boxes."""
    found = {key: [_number(row.scores[key]) for row in rows] for key in ("psnr", "ssim", "psim_small")}
    eyes = [[_number(region["psnr"]) for region in row.regions if region["label"] == "eye"] for row in rows]
    found["eyes"] = [mean(of) if of else math.nan for of in eyes]
    letters = [row.letters if row.letters and row.letters[2] else None for row in rows]
    found["letters"] = [math.nan if of is None else 100 * of[0] / of[2] for of in letters]
    return {key: np.array(column, dtype=np.float64) for key, column in found.items()}


def _number(value: float | None) -> float:
    return math.nan if value is None else value


def mean(values: Iterable[float]) -> float:
    """Of the values that aren't NaN; NaN where there are none."""
    known = [value for value in map(float, values) if not math.isnan(value)]
    return statistics.fmean(known) if known else math.nan


def averaged(each: Sequence[Jackknife]) -> Jackknife:
    """The mean of several distances on the same images, group by group."""
    groups = zip(*(one.left_out for one in each), strict=True)
    return Jackknife(statistics.fmean(one.value for one in each), tuple(statistics.fmean(group) for group in groups))
