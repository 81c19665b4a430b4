"""report.html in a browser: its numbers, its plots, its slider, and that it asks for nothing.

Without a Chromium on the PATH the tests are skipped (viewing.py).
"""

import dataclasses
from pathlib import Path

import numpy as np
import pytest

from support.browser.pages import HOSTILE
from support.browser.viewing import STACK, Open
from support.reports import LONG, examples_of, made_up
from vaelens.evaluation.report.report_files import write_report
from vaelens.evaluation.report.score_tables import pairs_table, regions_table, summary_table

RESULTS = made_up(count=30, preset="card-2022")


@pytest.fixture(scope="module")
def report(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The report of two VAEs, with everything that a report may have."""
    return write_report(RESULTS, examples_of(RESULTS), tmp_path_factory.mktemp("report"))[0]


def test_the_tables_hold_the_values(report: Path, open_path: Open) -> None:
    page = open_path(report).page
    shown = page.locator("#scores table").inner_text()
    for row in summary_table(RESULTS).rows:
        for cell in row:
            assert cell in shown
    assert "published 23.4 ± 3.8" in shown.replace("\u00a0", " ")
    best = page.eval_on_selector_all("#scores b", "all => all.map(b => b.parentElement.cellIndex)")
    assert best == [1, 2, 3, 4, 5], "of the two VAEs the second is better in everything"
    for table, section in ((pairs_table(RESULTS), "differences"), (regions_table(RESULTS), "regions")):
        text = page.locator(f"#{section} table").inner_text()
        assert all(cell in text for row in table.rows for cell in row)
    assert page.locator("#letters-read tbody tr").count() == 6
    headings = page.eval_on_selector_all("nav a", "all => all.map(a => document.querySelector(a.hash).textContent)")
    assert len(headings) == 9, "every link leads to its section"


def test_the_slider_moves_and_the_measures_stand_under_each_image(report: Path, open_path: Open) -> None:
    view = open_path(report)
    view.page.locator(".panel").first.scroll_into_view_if_needed()
    panel = view.page.locator(".panel").first
    assert panel.locator(".why").inner_text() == "among the best by PSIM"
    handle = panel.locator(".handle")
    assert handle.get_attribute("aria-valuenow") == "50"
    clip = view.page.eval_on_selector(".over", "e => getComputedStyle(e).clipPath")
    view.drag(view.point(".handle", 0.5, 0.2), view.point(STACK, 0.2, 0.5))
    assert handle.get_attribute("aria-valuenow") == "20"
    assert view.page.eval_on_selector(".over", "e => getComputedStyle(e).clipPath") != clip
    row = RESULTS.rows[0]
    notes = panel.locator(".row figure:nth-child(2) .note").inner_text().split("\n")
    assert notes[:2] == [f"PSNR {row.scores['psnr']:.2f} dB", f"SSIM {row.scores['ssim']:.4f}"]
    assert notes[-1] == "0 of 4 letters read, 1 on the original"


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_the_plots_follow_the_colour_scheme(report: Path, open_path: Open, scheme: str) -> None:
    view = open_path(report, color_scheme=scheme)
    figures = view.page.locator(".plots figure")
    assert figures.count() == 3 + 2 * 3
    figures.first.scroll_into_view_if_needed()
    x, y, width, height = view.box(".plots img")
    pixels = view.pixels()[int(y) : int(y + height), int(x) : int(x + width)].astype(int)
    page = pixels[2, 2]
    assert (page.mean() > 128) == (scheme == "light"), "the plot's ground is the page's"
    contrast = np.abs(pixels - page).max(axis=2)
    assert (contrast > 150).mean() > 0.005, "labels that can be read"
    key = view.page.eval_on_selector_all(".legend i", "all => all.map(i => getComputedStyle(i).borderTopColor)")
    assert key[0] != key[1]
    colour = np.array([int(part) for part in key[0][4:-1].split(",")])
    assert (np.abs(pixels - colour).max(axis=2) < 12).sum() > 50, "lines have the colours of the legend"


@pytest.mark.parametrize("width", [360, 1600])
def test_the_page_is_no_wider_than_the_window(report: Path, open_path: Open, width: int) -> None:
    page = open_path(report, width=width).page
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    assert min(page.eval_on_selector_all("#distributions img", "all => all.map(i => i.clientWidth)")) >= 300


def test_any_name_fits_and_does_nothing(tmp_path: Path, open_path: Open) -> None:
    results = made_up((HOSTILE, LONG), 3, "offline", name=lambda n: f"{n}{LONG}{HOSTILE}", source=LONG)
    results = dataclasses.replace(
        results, metrics=("psnr",), warnings=(HOSTILE, LONG), published={(LONG, "psnr"): LONG}
    )
    path = write_report(results, examples_of(results, 1), tmp_path)[0]
    page = open_path(path, width=360).page
    assert page.evaluate("document.documentElement.scrollWidth") <= 360
    assert page.evaluate("window.owned") is None
    for place in ("#scores tbody td", ".warnings li", ".legend li", ".left option:nth-child(2)"):
        assert page.locator(place).first.text_content().startswith(HOSTILE), place
    assert page.locator("#pairs summary").first.text_content() == f"{LONG} and {HOSTILE}"
