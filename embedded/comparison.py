"""From the rows of RUNS/measured to what docs/proof.md says of the arms: means, and differences over all seeds.

A difference is taken picture by picture, and each picture's averaged over the seeds; so its interval (BCa bootstrap,
95 %) is that of the pictures, and each seed's own mean stands beside it. A Frechet distance belongs to a set: there the
distances' jackknife values are averaged over the seeds.
"""

import math
import statistics
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from arms import ARMS, BASE, BATCH, loaded, row_name
from check import held_out, scores

from vaelens.evaluation.folder import ORIGINALS, RunFolder
from vaelens.evaluation.results import Row
from vaelens.images.datasets.items import DataSet
from vaelens.metrics.frechet import Jackknife, jackknife
from vaelens.metrics.statistics import paired
from vaelens.report.tables import Better

FRECHET = "fd_small"
BETTER: dict[str, Better] = {
    "psnr": "higher",
    "ssim": "higher",
    "psim_small": "lower",
    "eyes": "higher",
    "letters": "higher",
    FRECHET: "lower",
}
PAIRS = (
    ("control", BASE),
    ("tiny-ft-ema", "control"),
    ("tiny-ft-mse", "control-twice"),
    ("tiny-ft-mse", "tiny-ft-ema"),
)


@dataclass(frozen=True)
class Difference:
    """first - second with its 95 % interval, and each seed's own."""

    first: str
    second: str
    measure: str
    value: float
    low: float
    high: float
    by_seed: tuple[float, ...]


def compared(runs: Path, dataset: DataSet, seeds: Sequence[int]) -> dict[str, Any]:
    """The arms' part of the record."""
    folder = RunFolder(runs / "measured", [item.id for item in dataset.items], BATCH)
    folder.refresh()
    names = {(arm, seed): row_name(arm, seed) for arm in (BASE, *ARMS) for seed in seeds}
    values = {name: columns(folder.rows([name])) for name in set(names.values())}
    reference = folder.moments(ORIGINALS, "small")
    distances = jackknife(reference, {name: folder.moments(name, "small") for name in sorted(set(names.values()))})

    def by_seed(arm: str, measure: str) -> list[float]:
        each = dict.fromkeys(names[arm, seed] for seed in seeds)
        if measure == FRECHET:
            return [distances[name].value for name in each]
        return [mean(values[name][measure]) for name in each]

    differences: list[Difference] = []
    for first, second in PAIRS:
        own = [(names[first, seed], names[second, seed]) for seed in seeds]
        for measure, better in BETTER.items():
            if measure == FRECHET:
                each = [distances[a].minus(distances[b]) for a, b in own]
                interval = averaged(each).interval()
                found = interval.value, interval.low, interval.high
                apart = [one.value for one in each]
            else:
                a, b = (np.mean([values[pair[side]][measure] for pair in own], axis=0) for side in (0, 1))
                pair = paired(a.tolist(), b.tolist(), better)
                found = pair.difference, pair.low, pair.high
                apart = [mean(values[x][measure] - values[y][measure]) for x, y in own]
            differences.append(Difference(first, second, measure, *found, tuple(apart)))
    return {
        "pictures": len(dataset.items),
        "seeds": list(seeds),
        "arms": {arm: {measure: by_seed(arm, measure) for measure in BETTER} for arm in (BASE, *ARMS)},
        "differences": [asdict(difference) for difference in differences],
        "photographs": photographs(runs, seeds),
    }


def columns(rows: Sequence[Row]) -> dict[str, np.ndarray]:
    """Each measure's values, one a picture; eyes and letters are NaN on pictures that have none."""
    found = {key: [row.scores[key] for row in rows] for key in ("psnr", "ssim", "psim_small")}
    eyes = [[region["psnr"] for region in row.regions if region["label"] == "eye"] for row in rows]
    found["eyes"] = [mean(of) if of else math.nan for of in eyes]
    found["letters"] = [100 * row.letters[0] / row.letters[2] if row.letters and row.letters[2] else math.nan
                        for row in rows]  # fmt: skip
    return {key: np.array(column, dtype=np.float64) for key, column in found.items()}


def mean(values: Iterable[float]) -> float:
    """Of the numbers among them."""
    return statistics.fmean(value for value in map(float, values) if math.isfinite(value))


def averaged(each: Sequence[Jackknife]) -> Jackknife:
    """The mean of several distances on the same pictures, group by group."""
    groups = zip(*(one.left_out for one in each), strict=True)
    return Jackknife(mean(one.value for one in each), tuple(mean(group) for group in groups))


def photographs(runs: Path, seeds: Sequence[int]) -> dict[str, dict[str, Any]]:
    """PSNR in dB on photographs that none was trained on, one by one: of bicubic, and of each arm by seed."""
    photos = held_out()
    found: dict[str, dict[str, Any]] = {name: {} for name in photos}
    for arm in (BASE, *ARMS):
        once = seeds[:1] if arm == BASE else seeds
        each = [scores(loaded(runs, arm, seed).reconstruct, photos.items()) for seed in once]
        for name in photos:
            found[name]["bicubic"] = each[0][name][1]
            found[name][arm] = [one[name][0] for one in each]
    return found
