"""The report's files as a whole, from made-up results: page, Markdown and the words for a protocol.

Its tables are in test_score_tables.py, its plots in test_report_plots.py, its exports in test_exports.py, and what a
browser makes of report.html in test_report_html.py.
"""

import dataclasses
import json
import re
from pathlib import Path

import pytest

from support.browser.pages import HOSTILE, Parsed
from support.reports import NAMES, examples_of, made_up, simple
from vaelens.evaluation.report.html import report_html
from vaelens.evaluation.report.report_files import report_files, report_markdown, write_report
from vaelens.evaluation.report.score_tables import pairs_table
from vaelens.evaluation.report.wording import facts, name_and_reason
from vaelens.images.faces import draw_face


def test_each_example_has_the_scores_of_its_image() -> None:
    results = simple(metrics=("psnr",))
    rows = list(results.rows)
    rows[0] = dataclasses.replace(rows[0], scores={"psnr": None, "ssim": 1.0}, letters=(1, 2, 3))
    rows[1] = dataclasses.replace(rows[1], finite=False)
    page = report_html(dataclasses.replace(results, rows=tuple(rows)), examples_of(results, 1))
    (panel,) = json.loads(Parsed(page).texts["data"])["panels"]
    notes = ["", "PSNR infinite\nSSIM 1.0000\n1 of 3 letters read, 2 on the original", "not finite"]
    assert [layer["note"] for layer in panel["layers"]] == notes
    assert panel["boxes"] == [dataclasses.asdict(box) for box in draw_face(0, 128).boxes]


def test_of_many_vaes_only_pairs_with_the_first_are_plotted() -> None:
    names = tuple("ABCDE")
    results = dataclasses.replace(made_up(names, 3, full=False), metrics=("psnr",))
    page = report_html(results, [])
    assert re.findall(r"<summary>(.) <span>and</span> (.)</summary>", page) == [(name, "A") for name in names[1:]]
    assert "Of 10 pairs, only those with A are plotted" in page
    assert len(pairs_table(results).rows) == 10


def test_a_name_that_is_no_unicode_is_replaced() -> None:
    """A file's name may be none, and a VAE is called by it."""
    files = report_files(made_up(("caf\udce9", "b"), 4), [])
    assert b"caf?" in files["report.html"]
    assert b"caf?" in files["report.md"]


def test_markdown_has_tables_warnings_and_provenance() -> None:
    page = report_markdown(made_up(count=12))
    for part in (
        "# 2 VAEs on coco-val2017",
        "> 12 images are few for rFID",
        "## Differences",
        "published 23.4 ± 3.8",
        "network vgg16: the published weights, sha256 3434",
        "network inception: other weights than",
        "3.21 GB",
        "broken.jpg: cut off",
        "- measured: 400 reconstructions in 100.0 s, 4.00 per second\n- total time: 123.4 s, in 2 calls\n",
        f"- VAE kl-f8: float32. encoder {'ab' * 32}, decoder {'ab' * 32}",
    ):
        assert part in page


def test_the_speed_counts_only_calls_with_known_times() -> None:
    def facts_of(calls: list[dict[str, object]], seconds: float | None) -> dict[str, str]:
        return facts(dataclasses.replace(simple(), record={"calls": calls, "seconds": seconds}))

    one = {"images": 10, "reconstructions": 20, "seconds": 5.0, "measuring_seconds": 4.0}
    found = facts_of([one], 5.0)
    assert found["measured"] == (
        "20 reconstructions in 4.0 s, 5.00 per second; 4 more by shards or interrupted calls, whose times aren't known"
    )
    assert found["total time"] == "5.0 s"
    assert facts_of([one | {"reconstructions": 24}], 5.0)["measured"] == "24 reconstructions in 4.0 s, 6.00 per second"
    assert not {"measured", "total time"} & set(facts_of([], None))


def test_a_long_list_of_skipped_images_is_cut_and_counted() -> None:
    for count, cut in ((20, False), (21, True)):
        record = {"skipped": {f"{n}.jpg": "cut off" for n in range(count)}}
        text = facts(dataclasses.replace(simple(), record=record))["skipped"]
        assert text.startswith(f"{count} unreadable: 0.jpg: cut off; ")
        assert text.endswith("...") == cut
        assert "19.jpg" in text
        assert "20.jpg" not in text


@pytest.mark.parametrize(
    ("name", "why", "shown"),
    [
        ("a.png", "a.png: a damaged or incomplete image", "a.png: a damaged or incomplete image"),
        ("a.png", "a.png has 9x9 pixels", "a.png has 9x9 pixels"),
        ("b/a.png", "data/b/a.png: can't be read", "data/b/a.png: can't be read"),
        ("a.png", "photos.zip: a.png is damaged", "photos.zip: a.png is damaged"),
        ("(1).png", "(1).png: empty", "(1).png: empty"),
        ("a", "bad tar", "a: bad tar"),
        ("a", "a tar archive ends too soon", "a: a tar archive ends too soon"),
        ("1.png", "01.png: empty", "1.png: 01.png: empty"),
        ("0", "photos.parquet is shorter than it was", "0: photos.parquet is shorter than it was"),
    ],
)  # fmt: skip
def test_a_skipped_image_is_named_once(name: str, why: str, shown: str) -> None:
    assert name_and_reason(name, why) == shown


@pytest.mark.parametrize("preset", ["card-2022", "modern", "offline"])
def test_the_protocol_is_described_in_words(preset: str) -> None:
    page = report_markdown(made_up(count=3, preset=preset, full=False))
    expected = {
        "card-2022": ("OpenCV's bilinear", "truncated", "zero-padded", "as in torch-fidelity", "a sample"),
        "modern": ("Pillow's antialiased", "rounded", "whole window", "as in torch-fidelity", "the posterior's mode"),
        "offline": ("Pillow's antialiased", "rounded", "whole window"),
    }
    for part in expected[preset]:
        assert part.lower() in page.lower(), part
    assert ("Inception's input" in page) == (preset != "offline")


def test_the_same_results_give_the_same_bytes_and_every_file_is_written(tmp_path: Path) -> None:
    results = dataclasses.replace(made_up(count=6), metrics=("rfid", "psnr"))
    examples = examples_of(results)
    files = report_files(results, examples)
    assert files == report_files(results, examples)
    written = write_report(results, examples, tmp_path / "new")
    assert [path.relative_to(tmp_path / "new").as_posix() for path in written] == list(files)
    assert [path.read_bytes() for path in written] == list(files.values())
    indexes = {"model-index/kl-f8.yml", "model-index/ft-ema.yml"}
    assert set(files) == {"report.html", "report.md", "results.json", "rows.csv", "regions.csv"} | indexes


def test_names_add_no_element_to_the_page() -> None:
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
def test_a_report_of_no_or_one_image(count: int) -> None:
    results = made_up(NAMES[:1], count, full=False)
    files = report_files(results, [])
    assert b"Differences" not in files["report.html"]
    assert files["rows.csv"].count(b"\n") == 1 + count
