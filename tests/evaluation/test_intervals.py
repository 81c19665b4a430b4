"""An interval lies in the range of its metric; where images are too few for one, that is said in its place."""

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml

from support.reports import aggregated, simple
from vaelens.evaluation.feature_files import ORIGINALS
from vaelens.evaluation.metric_table import METRICS, REGION_METRICS
from vaelens.evaluation.report.report_files import report_files
from vaelens.evaluation.report.score_tables import pairs_table, summary_table
from vaelens.evaluation.results import Results
from vaelens.metrics.statistics import Interval

PSNR = [20.0, 21.0, 22.0, 23.0, 24.0, 25.0]


def note(results: Results, metric: str) -> list[str]:
    """What stands below the first VAE's score."""
    table = summary_table(results)
    column = [column.name for column in table.columns].index(metric)
    return [line.replace("\u00a0", " ") for line in table.notes.get((0, column), ())]


@pytest.mark.parametrize("ssim", [[1.0, 1.0, 1.0, 1.0, 1.0, 0.0], [0.9, 1.0] * 3], ids=["lopsided", "at the edge"])
def test_the_interval_of_a_bounded_metric_never_leaves_its_range(tmp_path: Path, ssim: list[float]) -> None:
    results = aggregated(tmp_path, {"one": PSNR}, ssim=ssim)
    spread = results.spreads["one", "ssim"]
    assert not spread.high > 1
    assert note(results, "SSIM") == (
        [f"[{spread.low:.4f}, {spread.high:.4f}]"] if spread.high <= 1 else ["too few images"]
    )
    files = report_files(results, [])
    stored = json.loads(files["results.json"])["scores"]["one"]["ssim"]
    assert stored["high"] is None or stored["high"] <= 1
    assert ("too few images" in files["report.html"].decode()) == ("too few images" in files["report.md"].decode())
    (index,) = yaml.safe_load(files["model-index/one.yml"])["model-index"]
    arguments = index["results"][0]["metrics"][1]["args"]
    assert arguments.get("interval_95", [0, 0])[1] <= 1


def test_intervals_of_any_scores_lie_in_the_range(tmp_path: Path) -> None:
    rng, shown = np.random.default_rng(0), 0
    for trial in range(12):
        count = int(rng.integers(2, 14))
        ssim, psnr = rng.beta(0.4, 0.2, count).tolist(), rng.gamma(0.3, 9, count).tolist()
        results = aggregated(tmp_path / str(trial), {"one": psnr}, ssim=ssim)
        for metric in ("psnr", "ssim"):
            spread, (low, high) = results.spreads["one", metric], METRICS[metric].bounds
            assert math.isnan(spread.low) == math.isnan(spread.high)
            if not math.isnan(spread.low):
                shown += 1
                assert low <= spread.low <= spread.mean <= spread.high <= high
    assert shown, "some have an interval"


def test_the_interval_of_a_distance_is_never_negative(tmp_path: Path) -> None:
    """One far image among twelve: the jackknife alone gives an interval that reaches below 0."""
    originals = torch.randn(12, 2, generator=torch.Generator().manual_seed(0))
    near = originals.clone()
    near[0] += 5.0
    features = {ORIGINALS: originals, "one": near, "two": originals + 1.0}
    results = aggregated(tmp_path, {"one": PSNR * 2, "two": PSNR * 2}, features=features)
    score = results.dataset_scores["one", "fd_small"]
    assert score.value is not None
    assert score.value > 0
    assert score.interval is None
    assert note(results, "fd-small") == ["too few images"]
    other = results.dataset_scores["two", "fd_small"].interval
    assert other is not None
    assert 0 <= other.low <= other.high
    assert math.isfinite(results.dataset_differences["two", "one", "fd_small"].low), "a difference may be negative"


def test_many_regions_of_few_images_have_no_interval(tmp_path: Path) -> None:
    """They aren't independent: of forty eyes in five images, five are."""

    def eyes(count: int) -> list[list[dict[str, Any]]]:
        rng = np.random.default_rng(0)
        box = {"label": "eye", "stratum": "8-16", "box": [0, 0, 9, 9], "ssim": 0.5, "gradient_energy": 1.0}
        return [[box | {"psnr": 20.0 + image + rng.normal()} for _ in range(8)] for image in range(count)]

    few = aggregated(tmp_path / "few", {"one": PSNR[:5]}, {"one": eyes(5)})
    assert {one.metric for one in few.regions} == {"psnr", "ssim", "gradient_energy"}
    for one in few.regions:
        assert one.spread.count == 40
        assert math.isnan(one.spread.low), one
    enough = aggregated(tmp_path / "enough", {"one": PSNR}, {"one": eyes(6)})
    found = next(one.spread for one in enough.regions if one.metric == "psnr" and one.stratum == "all")
    images = [np.mean([eye["psnr"] for eye in image]) for image in eyes(6)]
    half = 2.5706 * np.std(images, ddof=1) / math.sqrt(6)  # as large as that of six means
    assert found.high - found.mean == pytest.approx(half, rel=1e-3)


def test_a_difference_of_few_images_says_so_in_the_place_of_its_interval(tmp_path: Path) -> None:
    results = aggregated(tmp_path, {"one": PSNR[:2], "two": PSNR[1:3]})
    assert {row[4] for row in pairs_table(results).rows} == {"too few images"}
    unknown = simple(differences={}, dataset_differences={("A", "B", "rfid"): Interval(1.0, math.nan, math.nan)})
    assert [row[4] for row in pairs_table(unknown).rows] == ["too few images"]


def test_one_image_has_no_standard_deviation(tmp_path: Path) -> None:
    results = aggregated(tmp_path, {"one": PSNR[:1]})
    assert summary_table(results).rows[0][1:] == ("20.00", "0.5000")


def test_every_metric_names_its_range() -> None:
    for metric in (*METRICS.values(), *REGION_METRICS.values()):
        low, high = metric.bounds
        assert low < high
        assert math.isinf(low) == (metric.key == "kid"), (
            f"{metric.key}: only KID's estimate may be negative without limit"
        )
