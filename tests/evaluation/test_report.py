"""The report's files: what stands in the tables, the exports and the model card, from made-up results.

What a browser makes of report.html is in test_report_html.py.
"""

import csv
import dataclasses
import io
import json
import math
import re
from pathlib import Path

import matplotlib as mpl
import numpy as np
import pytest
import yaml
from huggingface_hub import ModelCard
from huggingface_hub.repocard_data import EvalResult, ModelCardData

from support.pages import HOSTILE, Parsed
from support.reports import BASE, FINGERPRINT, GAINS, LONG, NAMES, RECORD, SETS, examples_of, made_up  # noqa: F401
from vaelens.evaluation.report.exports import model_indexes, regions_csv, rows_csv
from vaelens.evaluation.report.html import report_html
from vaelens.evaluation.report.report_files import report_files, report_markdown, write_report
from vaelens.evaluation.report.score_tables import letters_table, pairs_table, regions_table, summary_table
from vaelens.evaluation.report.wording import facts
from vaelens.evaluation.results import DatasetScore, Letters, RegionSpread, Results
from vaelens.images.faces import draw_face
from vaelens.metrics.statistics import Interval, Paired, Spread
from vaelens.report import plots
from vaelens.report.tables import Column, Table, best_cells, table_html, table_markdown


def cells(table: Table, vae: str) -> dict[str, str]:
    (row,) = [row for row in table.rows if row[0] == vae]
    return {column.name: cell for column, cell in zip(table.columns, row, strict=True)}


def simple(**changes: object) -> Results:
    """Two VAEs with round numbers, so that every cell can be written down."""
    spreads = {
        ("A", "psnr"): Spread(24.5049, 3.7, 24.4, 24.61, 10, 2),
        ("B", "psnr"): Spread(23.4, 3.801, 23.3, 23.5, 12, 0),
        ("A", "ssim"): Spread(0.71, 0.13, math.nan, math.nan, 1, 0),
        ("B", "ssim"): Spread(math.nan, math.nan, math.nan, math.nan, 0, 12),
    }
    sets = {
        ("A", "rfid"): DatasetScore(4.7, Interval(4.7, 4.5, 4.9)),
        ("B", "rfid"): DatasetScore(None, note="too few images"),
    }
    pairs = {("A", "B", "psnr"): Paired(1.1, -0.25, 2.5, 0.625, 0.125, 10, 2)}
    of = {
        "vaes": ("A", "B"),
        "metrics": ("rfid", "psnr", "ssim"),
        "spreads": spreads,
        "dataset_scores": sets,
        "differences": pairs,
    }
    of |= {
        "dataset_differences": {("A", "B", "rfid"): Interval(-0.3, -0.5, -0.1)},
        "published": {("B", "psnr"): "23.4 ± 3.8"},
    }
    return dataclasses.replace(made_up(("A", "B"), 12, "card-2022", full=False), **{**of, **changes})


def test_the_summary_is_a_row_a_vae_with_the_best_in_bold_over_all() -> None:
    table = summary_table(simple())
    assert cells(table, "A") == {"VAE": "A", "rFID": "4.70", "PSNR": "24.50 ± 3.70", "SSIM": "0.7100 ± 0.1300"}
    assert cells(table, "B") == {"VAE": "B", "rFID": "", "PSNR": "23.40 ± 3.80", "SSIM": ""}
    assert best_cells(table) == {(0, 2)}, "with one number in a column there is no best"
    notes = {place: [line.replace("\u00a0", " ") for line in lines] for place, lines in table.notes.items()}
    assert notes == {
        (0, 1): ["[4.50, 4.90]"],
        (0, 2): ["[24.40, 24.61]", "2 without a value"],
        (1, 1): ["too few images"],
        (1, 2): ["[23.30, 23.50]", "published 23.4 ± 3.8"],
        (1, 3): ["12 without a value"],
    }


def test_a_pair_is_said_in_numbers_and_in_words() -> None:
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
    ("key", "low", "high", "says"),
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
def test_which_is_better_follows_the_interval_and_the_measure(key: str, low: float, high: float, says: str) -> None:
    middle = (low + high) / 2
    pairs = {("A", "B", "psnr"): Paired(middle, low, high, 0.5, 0.0, 10, 0)} if key == "psnr" else {}
    set_pairs = {("A", "B", "rfid"): Interval(middle, low, high)} if key == "rfid" else {}
    (row,) = pairs_table(simple(differences=pairs, dataset_differences=set_pairs)).rows
    assert row[-1] == says


def test_regions_and_letters_stand_by_size_with_the_letters_ceiling() -> None:
    found = [
        RegionSpread(vae, "eye", size, key, Spread(value + 2 * (size == "all"), 1.0, 0, 0, 7, 0))
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


def test_regions_and_letters_come_in_the_order_of_the_vaes_whatever_that_of_the_results() -> None:
    found = tuple(RegionSpread(vae, "eye", "all", "psim_small", Spread(1, 0, 0, 0, 7, 0)) for vae in ("B", "A"))
    letters = tuple(Letters(vae, size, 4, 0.5, 1.0) for vae in ("B", "A") for size in ("all", "<8"))
    results = simple(regions=found, letters=letters, metrics=("psnr", "psim_small"))
    table = regions_table(results)
    assert [row[2] for row in table.rows] == ["A", "B"]
    assert table.columns[-1] == Column("psim-small", "lower"), "a distance of our small network is never called PSIM"
    assert [row[:2] for row in letters_table(results).rows] == [("all", "A"), ("all", "B"), ("<8", "A"), ("<8", "B")]


def test_under_a_image_stands_what_was_measured_on_it() -> None:
    results = simple(metrics=("psnr",))
    rows = list(results.rows)
    rows[0] = dataclasses.replace(rows[0], scores={"psnr": None, "ssim": 1.0}, letters=(1, 2, 3))
    rows[1] = dataclasses.replace(rows[1], finite=False)
    page = report_html(dataclasses.replace(results, rows=tuple(rows)), examples_of(results, 1))
    (panel,) = json.loads(Parsed(page).texts["data"])
    notes = ["", "PSNR infinite\nSSIM 1.0000\n1 of 3 letters read, 2 on the original", "not finite"]
    assert [layer["note"] for layer in panel["layers"]] == notes
    assert panel["boxes"] == [dataclasses.asdict(box) for box in draw_face(0, 128).boxes]


def test_of_many_vaes_the_pairs_with_the_first_are_drawn_and_all_are_in_the_table() -> None:
    names = tuple("ABCDE")
    results = dataclasses.replace(made_up(names, 3, full=False), metrics=("psnr",))
    page = report_html(results, [])
    assert re.findall(r"<summary>(.) <span>and</span> (.)</summary>", page) == [(name, "A") for name in names[1:]]
    assert "Of 10 pairs, only those with A are plotted" in page
    assert len(pairs_table(results).rows) == 10


def test_a_table_of_means_and_intervals_is_one_of_numbers() -> None:
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


def test_markdown_takes_nothing_in_a_name_for_a_sign() -> None:
    name = "a|b`*_[x](y)<b>&amp;\n# ~~~ \\ \x00\udcff"
    table = Table((Column(name), Column("v", "lower")), ((name, "1"), ("b", "2")), shared=0, notes={(0, 1): (name,)})
    escaped = r"a\|b\`\*\_\[x\](y)\<b\>\&amp; \# \~\~\~ \\ ??"
    assert table_markdown(table).splitlines() == [
        f"| {escaped} | v ↓ |",
        "| --- | ---: |",
        f"| {escaped} | **1**<br><sub>{escaped}</sub> |",
        "| b | 2 |",
    ]


def test_a_name_that_is_no_unicode_stops_no_file() -> None:
    """A file's name may be none, and a VAE is called by it."""
    files = report_files(made_up(("caf\udce9", "b"), 4), [])
    assert b"caf?" in files["report.html"]
    assert b"caf?" in files["report.md"]


def test_rows_csv_reads_back_to_the_same_floats() -> None:
    results = made_up(("kl-f8", 'a,"b\n'), 20)
    lost = dataclasses.replace(
        results.rows[0], finite=False, letters=None, scores=dict.fromkeys(results.rows[0].scores), id="\udcff,\n"
    )
    rows = (lost, *results.rows[1:])
    text = rows_csv(dataclasses.replace(results, rows=rows)).decode()
    read = list(csv.DictReader(io.StringIO(text)))
    assert list(read[0]) == [
        "id", "vae", "sha256", "finite", "psnr", "ssim", "lpips_vgg", "lpips_alex", "psim",
        "letters_read", "letters_ceiling", "letters",
    ]  # fmt: skip
    assert len(read) == len(rows)
    assert [value for name, value in read[0].items() if name not in {"id", "vae", "sha256"}] == ["false"] + [""] * 8
    assert read[0]["id"] == "\\udcff,\n"
    for line, row in zip(read[1:], rows[1:], strict=True):
        assert (line["id"], line["vae"], line["sha256"], line["finite"]) == (row.id, row.vae, row.sha256, "true")
        assert {key: float(line[key]) for key in row.scores} == row.scores
        assert tuple(int(line[name]) for name in ("letters_read", "letters_ceiling", "letters")) == row.letters


def test_regions_csv_has_a_row_a_region_and_is_there_only_with_regions() -> None:
    results = made_up(count=3)
    read = list(csv.DictReader(io.StringIO((regions_csv(results) or b"").decode())))
    assert len(read) == 3 * 2 * 3
    last = {"id": results.rows[-1].id, "vae": "ft-ema", "label": "mouth", "box": "[6, 4, 15, 14]", "stratum": "8-16"}
    assert read[-1] == last | {"psnr": repr(20 + 2 / 7), "ssim": ""}
    without = made_up(count=3, full=False)
    assert regions_csv(without) is None
    assert b"letters" not in rows_csv(without)


@pytest.mark.parametrize("vae", ["kl-f8", HOSTILE, LONG, "模型 🙂: 'x' # y", "12", "null", "\udcff\x00"])
def test_the_model_index_is_one_that_the_hub_reads(vae: str) -> None:
    results = made_up((vae, "other"), 30, source="Photos: #1 {a}")
    files = model_indexes(results)
    assert len(files) == 2
    content = next(iter(files.values())).decode()
    card = ModelCard(f"---\n{content}---\n# x\n", ignore_metadata_errors=False)
    assert card.data.model_name == vae
    found: dict[str, EvalResult] = {result.metric_type: result for result in card.data.eval_results}
    assert list(found) == list(results.metrics)
    psnr, rfid = found["psnr"], found["rfid"]
    assert (psnr.task_type, psnr.dataset_name, psnr.dataset_type) == ("image-to-image", "Photos: #1 {a}", "Photos-1-a")
    assert psnr.metric_name == "PSNR (modern)"
    assert psnr.metric_value == results.spreads[vae, "psnr"].mean
    assert psnr.metric_args["std"] == results.spreads[vae, "psnr"].std
    assert rfid.metric_value == results.dataset_scores[vae, "rfid"].value
    assert rfid.metric_args["interval_95"] == [4.2, 5.1000000000000005]
    again = ModelCardData(model_name=vae, eval_results=card.data.eval_results).to_dict()["model-index"]
    assert again == yaml.safe_load(content)["model-index"]


def test_model_indexes_have_names_that_no_file_system_confuses() -> None:
    results = made_up(("A?b", "a/b", "..", "\u00e9"), 4)
    names = list(model_indexes(results))
    assert names == [
        "A-b.yml",
        "a-b-2.yml",
        "unnamed.yml",
        "unnamed-2.yml",
    ]


def test_what_has_no_value_is_in_no_model_index() -> None:
    metrics = yaml.safe_load(model_indexes(simple())["B.yml"])["model-index"][0]["results"][0]["metrics"]
    assert [(metric["type"], metric["value"]) for metric in metrics] == [("psnr", 23.4)]


def test_markdown_has_the_same_tables_warnings_and_makings() -> None:
    page = report_markdown(made_up(count=12))
    for part in (
        "# 2 VAEs on coco-val2017",
        "> 12 images are few for rFID",
        "## Differences",
        "published 23.4 ± 3.8",
    ):
        assert part in page
    for part in (
        "network vgg16: the published weights, sha256 3434",
        "network inception: other weights than",
        "3.21 GB",
    ):
        assert part in page
    assert "broken.jpg (cut off)" in page
    assert "- measured: 400 reconstructions in 100.0 s, 4.00 per second\n- total time: 123.4 s, in 2 calls\n" in page
    assert f"- VAE kl-f8: float32. encoder {'ab' * 32}, decoder {'ab' * 32}" in page


def test_the_speed_is_of_the_calls_that_left_their_times() -> None:
    def said(calls: list[dict[str, object]], seconds: float | None) -> dict[str, str]:
        return facts(dataclasses.replace(simple(), record={"calls": calls, "seconds": seconds}))

    one = {"images": 10, "reconstructions": 20, "seconds": 5.0, "measuring_seconds": 4.0}
    found = said([one], 5.0)
    assert found["measured"] == (
        "20 reconstructions in 4.0 s, 5.00 per second; 4 more by shards or interrupted calls, whose times aren't known"
    )
    assert found["total time"] == "5.0 s"
    assert said([one | {"reconstructions": 24}], 5.0)["measured"] == "24 reconstructions in 4.0 s, 6.00 per second"
    assert not {"measured", "total time"} & set(said([], None))


def test_a_long_list_of_skipped_images_is_cut_and_counted() -> None:
    for count, cut in ((20, False), (21, True)):
        record = {"skipped": {f"{n}.jpg": "cut off" for n in range(count)}}
        text = facts(dataclasses.replace(simple(), record=record))["skipped"]
        assert text.startswith(f"{count} unreadable: 0.jpg (cut off); ")
        assert text.endswith("...") == cut
        assert "19.jpg" in text
        assert "20.jpg" not in text


def test_a_difference_of_nearly_nothing_has_no_minus() -> None:
    (row,) = pairs_table(
        simple(differences={}, dataset_differences={("A", "B", "rfid"): Interval(-1e-6, -1e-5, 1e-6)})
    ).rows
    assert row[3:5] == ("+0.000", "[+0.000, +0.000]")


def test_the_users_own_plot_settings_change_nothing() -> None:
    values = [np.arange(9.0)]
    plain = plots.distributions(values, "x")
    with mpl.rc_context({"font.size": 30, "axes.grid": True, "axes.titlesize": 40}):
        assert plots.distributions(values, "x") == plain
        assert mpl.rcParams["font.size"] == 30


@pytest.mark.parametrize("preset", ["card-2022", "modern", "offline"])
def test_the_protocol_is_told_in_words(preset: str) -> None:
    page = report_markdown(made_up(count=3, preset=preset, full=False))
    wanted = {
        "card-2022": ("OpenCV's bilinear", "truncated", "zero-padded", "as in torch-fidelity", "a sample"),
        "modern": (
            "Pillow's antialiased",
            "rounded",
            "whole window",
            "as in torch-fidelity",
            "the posterior's mode".title(),
        ),
        "offline": ("Pillow's antialiased", "rounded", "whole window"),
    }
    for part in wanted[preset]:
        assert part.lower() in page.lower(), part
    assert ("Inception's input" in page) == (preset != "offline")


def test_the_same_results_give_the_same_bytes_and_every_file_lands(tmp_path: Path) -> None:
    results = dataclasses.replace(made_up(count=6), metrics=("rfid", "psnr"))
    examples = examples_of(results)
    files = report_files(results, examples)
    assert files == report_files(results, examples)
    written = write_report(results, examples, tmp_path / "new")
    assert [path.relative_to(tmp_path / "new").as_posix() for path in written] == list(files)
    assert [path.read_bytes() for path in written] == list(files.values())
    assert sorted(files) == sorted(
        [
            "report.html",
            "report.md",
            "results.json",
            "rows.csv",
            "regions.csv",
            "model-index/kl-f8.yml",
            "model-index/ft-ema.yml",
        ]
    )


def test_names_add_no_element_to_the_page_and_no_meaning_to_the_markdown() -> None:
    def shapes(text: str) -> list[tuple[str, list[str]]]:
        results = made_up((text, text + "2"), 3, "offline", name=lambda n: f"{n}{text}", source=text)
        results = dataclasses.replace(
            results, metrics=("psnr",), warnings=(text,), record={"vaes": [{"name": text}], "skipped": {text: text}}
        )
        page = report_files(results, examples_of(results, 1))["report.html"].decode()
        return [(tag, sorted(attributes)) for tag, attributes in Parsed(page).tags]

    assert shapes(HOSTILE) == shapes("harmless")
    assert shapes("\udcff$`[\x00") == shapes("harmless")


@pytest.mark.parametrize("count", [0, 1])
def test_nearly_nothing_measured_is_still_a_report(count: int) -> None:
    results = made_up(NAMES[:1], count, full=False)
    files = report_files(results, [])
    assert b"Differences" not in files["report.html"]
    assert files["rows.csv"].count(b"\n") == 1 + count


def test_plots_are_small_for_many_images_and_have_no_dates() -> None:
    rng = np.random.default_rng(0)
    a = rng.normal(24, 3, 50_000)
    b = a + rng.normal(0.3, 0.5, 50_000)
    svgs = [plots.distributions([a, b], "PSNR, dB"), plots.scatter(a, b), plots.differences(a, b, "higher", (0, 1))]
    for svg in svgs:
        assert len(svg) < 40_000
        assert "prefers-color-scheme:dark" in svg
        assert not re.search(r"20\d\d-\d\d|#0[123]000|DejaVu|dc:date", svg)
    assert svgs[1] == plots.scatter(a, b)
    few = plots.scatter(a[:50], b[:50])
    assert len(re.findall(r"M [\d.]+ [\d.]+ ?L", few)) >= 50, "each image is a dot of its own"


def test_equal_vaes_and_constant_values_can_be_drawn() -> None:
    same = np.full(5, 0.25)
    assert "<svg" in plots.distributions([same, same[:0]], "SSIM")
    assert "<svg" in plots.scatter(same, same)
    assert "<svg" in plots.differences(same, same, "lower", (0, 1))
    for empty in (
        lambda: plots.distributions([same[:0]], "x"),
        lambda: plots.differences(same[:0], same[:0], "lower", (0, 1)),
    ):
        with pytest.raises(ValueError, match="no "):
            empty()


def test_the_colour_of_a_difference_is_that_of_the_better_vae() -> None:
    a, b = np.array([3.0, 4.0, 5.0]), np.array([1.0, 1.0, 1.0])
    for better, number in (("higher", 2), ("lower", 4)):
        filled = re.findall(r"fill: var\(--v(\d)\)", plots.differences(a, b, better, (2, 4)))
        assert set(filled) == {str(number)}, better
