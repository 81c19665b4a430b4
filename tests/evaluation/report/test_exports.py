"""The exports of an evaluation: rows.csv, regions.csv and the model index of each VAE, read back."""

import csv
import dataclasses
import io

import pytest
import yaml
from huggingface_hub import ModelCard
from huggingface_hub.repocard_data import EvalResult, ModelCardData

from support.browser.pages import HOSTILE
from support.reports import LONG, made_up, simple
from vaelens.evaluation.report.exports import model_indexes, regions_csv, rows_csv


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


def test_regions_csv_has_a_row_per_region_and_exists_only_with_regions() -> None:
    results = made_up(count=3)
    read = list(csv.DictReader(io.StringIO((regions_csv(results) or b"").decode())))
    assert len(read) == 3 * 2 * 3
    last = {"id": results.rows[-1].id, "vae": "ft-ema", "label": "mouth", "box": "[6, 4, 15, 14]", "stratum": "8-16"}
    assert read[-1] == last | {"psnr": repr(20 + 2 / 7), "ssim": ""}
    without = made_up(count=3, full=False)
    assert regions_csv(without) is None
    assert b"letters" not in rows_csv(without)


@pytest.mark.parametrize("vae", ["kl-f8", HOSTILE, LONG, "模型 🙂: 'x' # y", "12", "null", "\udcff\x00"])
def test_the_hub_reads_the_model_index(vae: str) -> None:
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


def test_model_indexes_have_different_names_on_every_file_system() -> None:
    results = made_up(("A?b", "a/b", "..", "\u00e9"), 4)
    assert list(model_indexes(results)) == ["A-b.yml", "a-b-2.yml", "unnamed.yml", "unnamed-2.yml"]


def test_metrics_without_a_value_are_not_in_the_model_index() -> None:
    metrics = yaml.safe_load(model_indexes(simple())["B.yml"])["model-index"][0]["results"][0]["metrics"]
    assert [(metric["type"], metric["value"]) for metric in metrics] == [("psnr", 23.4)]
