"""Means that stand side by side are over the same images, wherever a VAE has no finite value for some of them."""

import csv
import io
import json
import math
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
import yaml

from support.reports import LOST, Images, aggregated
from vaelens.evaluation.published_scores import published_matches
from vaelens.evaluation.report.report_files import report_files
from vaelens.evaluation.report.score_tables import letters_table, pairs_table, regions_table, summary_table
from vaelens.evaluation.results import Results
from vaelens.report.tables import best_cells

HARD = [20.0, 21.0, 22.0, 23.0, 24.0, 25.0, 26.0]
EASY = 50.0  # of flat images


def cell(results: Results, vae: str, metric: str = "PSNR") -> tuple[str, list[str]]:
    """The summary's cell and its notes."""
    table = summary_table(results)
    place = (results.vaes.index(vae), [column.name for column in table.columns].index(metric))
    return table.rows[place[0]][place[1]], [note.replace("\u00a0", " ") for note in table.notes.get(place, ())]


def test_exact_images_are_counted_and_leave_every_mean_not_one(tmp_path: Path) -> None:
    """A VAE that reproduces the easy half exactly, beside one that is 0.05 dB worse everywhere."""
    better, worse = [*HARD, *[None] * 7], [*(value - 0.05 for value in HARD), *[EASY] * 7]
    results = aggregated(tmp_path, {"better": better, "worse": worse})
    first, second = results.spreads["better", "psnr"], results.spreads["worse", "psnr"]
    assert first.mean - second.mean == pytest.approx(0.05)
    assert (first.mean, first.count, first.exact, first.unshared) == (23, 7, 7, 0)
    assert (second.count, second.exact, second.unshared) == (7, 0, 7)
    assert cell(results, "better")[0] == "23.00 ± 2.00"
    assert cell(results, "better")[1][1:] == ["7 of 14 exact", "mean of 7 of 14"]
    assert cell(results, "worse")[1][1:] == ["mean of 7 of 14"]
    assert cell(results, "better", "SSIM")[1] == ["[0.5000, 0.5000]"]
    assert any("reproduces an image exactly" in warning for warning in results.warnings)
    (pair,) = [pair for pair in pairs_table(results).rows if pair[2] == "PSNR"]
    assert (pair[:2], pair[5], pair[6]) == (("worse", "better"), "0.0", "better is better")


def test_every_form_of_the_report_says_how_many_images_were_exact(tmp_path: Path) -> None:
    results = aggregated(tmp_path, {"better": [*HARD, *[None] * 7], "worse": [*HARD, *[EASY] * 7]})
    files = {name: content.decode() for name, content in report_files(results, []).items()}
    for name in ("report.html", "report.md"):
        assert files[name].count("7 of 14 exact") == 1, name
        assert files[name].count("mean of 7 of 14") == 2, name
        assert "7 exact with the second only" in files[name], name
    found = json.loads(files["results.json"])
    assert [found["scores"][vae]["psnr"]["mean"] for vae in results.vaes] == [23, 23]
    assert found["scores"]["better"]["psnr"]["exact"] == 7
    assert next(one for one in found["differences"] if one["metric"] == "psnr")["exact_second"] == 7
    (index,) = yaml.safe_load(files["model-index/better.yml"])["model-index"]
    arguments = index["results"][0]["metrics"][0]["args"]
    assert (arguments["images"], arguments["exact"]) == (7, 7)
    lines = list(csv.DictReader(io.StringIO(files["rows.csv"])))
    assert [line["psnr"] for line in lines if line["vae"] == "better"].count("inf") == 7


def test_a_vae_that_reproduces_every_image_exactly_is_best(tmp_path: Path) -> None:
    results = aggregated(tmp_path, {"all": [None] * 7, "none": HARD})
    assert cell(results, "all") == ("inf", ["all exact"])
    assert cell(results, "none")[0] == "23.00 ± 2.00", "there is no other mean to compare it with"
    assert (0, 1) in best_cells(summary_table(results))
    (pair,) = [pair for pair in pairs_table(results).rows if pair[2] == "PSNR"]
    assert (pair[3], pair[5], pair[6]) == ("", "0.0", "all is better")


def test_exact_images_of_two_vaes_without_one_in_common_have_no_means_to_compare(tmp_path: Path) -> None:
    results = aggregated(tmp_path, {"a": [*HARD[:3], *[None] * 4], "b": [*[None] * 3, *HARD[3:]]})
    assert cell(results, "a") == ("", ["4 of 7 exact", "none with a value from every VAE"])
    assert cell(results, "b") == ("", ["3 of 7 exact", "none with a value from every VAE"])


def test_the_better_mean_is_neither_bold_nor_a_verdict_where_exact_images_say_the_opposite(tmp_path: Path) -> None:
    often = [*[value - 1 for value in HARD], *[None] * 20]
    results = aggregated(tmp_path, {"often": often, "never": [*HARD, *[EASY] * 20]})
    assert {place for place in best_cells(summary_table(results)) if place[1] == 1} == set()
    (pair,) = [pair for pair in pairs_table(results).rows if pair[2] == "PSNR"]
    assert pair[6].startswith("mixed: often wins more images, never is better")


def test_lost_images_leave_every_mean_too(tmp_path: Path) -> None:
    """The VAE that loses the hard images doesn't look better for it."""
    results = aggregated(tmp_path, {"loses": [*HARD, *[LOST] * 3], "keeps": [*HARD, 5.0, 5.0, 5.0]})
    assert results.spreads["loses", "psnr"].mean == results.spreads["keeps", "psnr"].mean == 23
    assert cell(results, "loses")[1][1:] == ["3 not finite", "mean of 7 of 10"]
    assert cell(results, "keeps")[1][1:] == ["mean of 7 of 10"]
    assert {place for place in best_cells(summary_table(results)) if place[1] == 1} <= {(1, 1)}
    assert any(warning.startswith("3 reconstructions have NaN") for warning in results.warnings)


def test_a_vae_without_any_finite_image_takes_no_image_from_the_others(tmp_path: Path) -> None:
    results = aggregated(tmp_path, {"dead": [LOST] * 7, "alive": HARD})
    assert cell(results, "dead") == ("", ["7 not finite"])
    assert (results.spreads["alive", "psnr"].mean, results.spreads["alive", "psnr"].count) == (23, 7)


def region(psnr: float | None, **more: Any) -> dict[str, Any]:
    return {"label": "eye", "stratum": "8-16", "box": [0, 0, 9, 9], "psnr": psnr, "ssim": 0.5} | more


def test_regions_are_compared_on_the_regions_that_all_vaes_share(tmp_path: Path) -> None:
    """As images are: an exact eye leaves every VAE's mean, and so do the eyes of a lost image."""
    images: dict[str, Images] = {"better": HARD, "worse": [*HARD[:6], LOST]}
    easy = {"better": None, "worse": EASY}
    regions = {vae: [[region(20.0 + n), region(easy[vae])] for n in range(7)] for vae in images}
    results = aggregated(tmp_path, images, regions)
    found = {r.vae: r.spread for r in results.regions if r.metric == "psnr" and r.stratum == "all"}
    assert found["better"].mean == found["worse"].mean == 22.5
    assert (found["better"].count, found["better"].exact, found["worse"].lost) == (6, 7, 2)
    table = regions_table(results)
    assert [row[3] for row in table.rows] == ["14", "14"]
    assert "7 of 14 exact" in table.notes[0, 4]
    assert "2 not finite" in table.notes[1, 4]
    assert "inf" in report_files(results, [])["regions.csv"].decode()


def test_letters_are_those_that_all_vaes_share(tmp_path: Path) -> None:
    letters = [[region(20.0, read=n < 6, ceiling=True)] for n in range(7)]
    results = aggregated(tmp_path, {"keeps": HARD, "loses": [*HARD[:6], LOST]}, {"keeps": letters, "loses": letters})
    assert [row[2:5] for row in letters_table(results).rows] == [("6", "100.0", "100.0")] * 2


def test_a_published_row_leaves_out_its_own_exact_images_only(tmp_path: Path) -> None:
    """The published script drops infinite values, and never saw another VAE."""
    results = aggregated(tmp_path, {"better": [*HARD, *[None] * 7], "worse": [*HARD, *[EASY] * 7]})
    better, worse = published_matches(results, [{"psnr": Decimal("23.0")}, {"psnr": Decimal("36.5")}])
    assert (better.ours, worse.ours) == (23, math.fsum([*HARD, *[EASY] * 7]) / 14)
