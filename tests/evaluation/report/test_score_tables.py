"""The tables of a report: scores, differences, regions and letters, as cells, HTML and Markdown."""

import dataclasses
import math
import re

import pytest

from support.reports import simple
from vaelens.evaluation.report.report_files import report_markdown
from vaelens.evaluation.report.score_tables import letters_table, pairs_table, regions_table, summary_table
from vaelens.evaluation.results import Letters, RegionSpread
from vaelens.metrics.statistics import Interval, Paired, Spread
from vaelens.report.tables import Column, Table, best_cells, table_html, table_markdown


def cells(table: Table, vae: str) -> dict[str, str]:
    (row,) = [row for row in table.rows if row[0] == vae]
    return {column.name: cell for column, cell in zip(table.columns, row, strict=True)}


def test_the_summary_has_a_row_per_vae_with_the_best_in_bold() -> None:
    table = summary_table(simple())
    assert cells(table, "A") == {"VAE": "A", "rFID": "4.70", "PSNR": "24.50 ± 3.70", "SSIM": "0.7100 ± 0.1300"}
    assert cells(table, "B") == {"VAE": "B", "rFID": "", "PSNR": "23.40 ± 3.80", "SSIM": ""}
    assert best_cells(table) == {(0, 2)}, "with one number in a column there is no best"
    notes = {place: [line.replace("\u00a0", " ") for line in lines] for place, lines in table.notes.items()}
    assert notes == {
        (0, 1): ["[4.50, 4.90]"],
        (0, 2): ["[24.40, 24.61]", "2 of 12 exact", "mean of 10 of 12"],
        (0, 3): ["too few images"],
        (1, 1): ["too few images"],
        (1, 2): ["[23.30, 23.50]", "mean of 10 of 12", "published 23.4 ± 3.8"],
        (1, 3): ["2 not finite"],
    }


def test_a_pair_has_its_difference_and_a_verdict() -> None:
    table = pairs_table(simple())
    assert [column.name for column in table.columns][3:] == [
        "first \N{MINUS SIGN} second",
        "95 % interval",
        "first wins, %",
        "verdict",
    ]
    assert table.rows == (
        ("A", "B", "rFID", "\N{MINUS SIGN}0.300", "[\N{MINUS SIGN}0.500, \N{MINUS SIGN}0.100]", "", "A is better"),
        ("A", "B", "PSNR", "+1.100", "[\N{MINUS SIGN}0.250, +2.500]", "62.5", "not distinguishable"),
    )
    assert table.notes == {(1, 5): ("12.5 equal",)}


@pytest.mark.parametrize(
    ("key", "low", "high", "verdict"),
    [
        ("psnr", 0.1, 0.2, "A is better"),
        ("psnr", -0.2, -0.1, "B is better"),
        ("rfid", 0.1, 0.2, "B is better"),
        ("rfid", -0.2, -0.1, "A is better"),
        ("rfid", -0.1, 0.1, "not distinguishable"),
        ("psnr", 0.0, 0.1, "not distinguishable"),
        ("psnr", math.nan, math.nan, "too few images to say"),
    ],
)
def test_the_verdict_follows_the_interval_and_the_metric(key: str, low: float, high: float, verdict: str) -> None:
    middle = (low + high) / 2
    pairs = {("A", "B", "psnr"): Paired(middle, low, high, 0.5, 0.0, 10, 0)} if key == "psnr" else {}
    set_pairs = {("A", "B", "rfid"): Interval(middle, low, high)} if key == "rfid" else {}
    (row,) = pairs_table(simple(differences=pairs, dataset_differences=set_pairs)).rows
    assert row[-1] == verdict


def test_a_difference_that_rounds_to_zero_has_no_minus() -> None:
    (row,) = pairs_table(
        simple(differences={}, dataset_differences={("A", "B", "rfid"): Interval(-1e-6, -1e-5, 1e-6)})
    ).rows
    assert row[3:5] == ("+0.000", "[+0.000, +0.000]")


def test_regions_and_letters_are_listed_by_size_with_the_ceiling() -> None:
    found = [
        RegionSpread(vae, "eye", size, key, Spread(value + 2 * (size == "all"), 1.0, 0, 0, 7))
        for vae, value in (("A", 20.0), ("B", 21.0))
        for size in ("<8", "all")
        for key in ("psnr", "gradient_energy")
    ]
    letters = (Letters("A", "8-16", 40, 0.4, 0.8), Letters("B", "8-16", 40, 0.1, 0.0))
    page = report_markdown(simple(regions=tuple(found), letters=letters))
    assert "| eye | \\<8 | A | 7 | 20.00 ± 1.00 | 20.000 ± 1.000 |" in page
    assert "| eye | \\<8 | B | 7 | **21.00 ± 1.00** | 21.000 ± 1.000 |" in page
    assert "| 8-16 | A | 40 | **40.0** | 80.0 | 50.0 |" in page
    assert "| 8-16 | B | 40 | 10.0 | 0.0 |  |" in page
    assert "nearest to 1 is best." in page


def test_regions_and_letters_are_in_the_order_of_the_vaes() -> None:
    found = tuple(RegionSpread(vae, "eye", "all", "psim_small", Spread(1, 0, 0, 0, 7)) for vae in ("B", "A"))
    sizes = ("all", "<8", ">=32")
    letters = tuple(Letters(vae, size, 4, 0.5, 1.0) for vae in ("B", "A") for size in sizes)
    results = simple(regions=found, letters=letters, metrics=("psnr", "psim_small"))
    table = regions_table(results)
    assert [row[2] for row in table.rows] == ["A", "B"]
    assert table.columns[-1] == Column("psim-small", "lower"), "a distance of our small network is never called PSIM"
    assert [row[:2] for row in letters_table(results).rows] == [(n, v) for n in ("all", "<8", "≥32") for v in "AB"]


def test_all_sizes_together_are_left_out_where_there_is_one_size() -> None:
    sizes = {"eye": ("all", "8-16"), "face": ("all", "16-32", ">=32")}
    found = [RegionSpread("A", label, s, "psnr", Spread(1, 0, 0, 0, 7)) for label in sizes for s in sizes[label]]
    results = simple(regions=tuple(found), letters=tuple(Letters("A", size, 4, 0.5, 1.0) for size in sizes["eye"]))
    shown = [row[:2] for row in regions_table(results).rows]
    assert shown == [("eye", "8-16"), ("face", "all"), ("face", "16-32"), ("face", "≥32")]
    assert [row[0] for row in letters_table(results).rows] == ["8-16"]


def test_means_and_intervals_are_compared_as_numbers() -> None:
    table = Table(
        (Column("VAE"), Column("x", "lower"), Column("y", "higher"), Column("z")),
        (
            ("a", "\N{MINUS SIGN}1.0 ± 0.5", "3", "[\N{MINUS SIGN}1.0, 2.0]"),
            ("b", "0.5 ± 9.0", "3", "[1, 2]"),
            ("a", "0.5", "2", ""),
        ),
        shared=0,
    )
    assert best_cells(table) == {(0, 1), (0, 2), (1, 2)}
    assert table_html(table).count('class="number"') == 4 * 3
    grouped = dataclasses.replace(table, shared=1)
    assert best_cells(grouped) == {(0, 1), (0, 2)}


def test_equal_cells_below_each_other_are_merged() -> None:
    table = Table(
        tuple(map(Column, "abc")), (("1", "x", "p"), ("1", "x", "q"), ("1", "y", "r"), ("2", "y", "s")), shared=2
    )
    html = table_html(table, merged=True)
    assert re.findall(r'<td class="number" rowspan="(\d)">1</td>|<td rowspan="(\d)">x</td>', html) == [
        ("3", ""),
        ("", "2"),
    ]
    assert html.count("<td") == 4 * 3 - 3
    assert html.count('<tr class="first">') == 3
    assert table_html(table).count("<td") == 4 * 3


def test_markdown_escapes_every_sign_in_a_name() -> None:
    name = "a|b`*_[x](y)<b>&amp;\n# ~~~ \\ \x00\udcff"
    table = Table((Column(name), Column("v", "lower")), ((name, "1"), ("b", "2")), shared=0, notes={(0, 1): (name,)})
    escaped = r"a\|b\`\*\_\[x\](y)\<b\>\&amp; \# \~\~\~ \\ ??"
    assert table_markdown(table).splitlines() == [
        f"| {escaped} | v ↓ |",
        "| --- | ---: |",
        f"| {escaped} | **1**<br><sub>{escaped}</sub> |",
        "| b | 2 |",
    ]
