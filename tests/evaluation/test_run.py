"""`evaluate` as a whole: what it leaves, and that shards, ranks, stops and additions can't change it."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from support.small_run import BATCH, FAST, IMAGES, SMALL, assert_same, quick, rows
from support.vaes import random_vae
from vaelens.errors import BadInputError, NetworkError, UsageError, VaelensError
from vaelens.evaluation.evaluation_folder import EvaluationFolder
from vaelens.evaluation.feature_files import FeatureFiles
from vaelens.evaluation.measurement import Measurement
from vaelens.evaluation.report.examples import choose_examples, make_examples
from vaelens.evaluation.results import Example, Results
from vaelens.evaluation.run import evaluate
from vaelens.runs.ranks import Ranks

pytestmark = pytest.mark.usefixtures("whole", "plain_report")  # in this order


@pytest.fixture(autouse=True)
def own_cache(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("VAELENS_CACHE", str(tmp_path_factory.getbasetemp() / "cache"))


@pytest.fixture
def plain_report(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without plots and examples, which take longer than the rest of a small run; `whole` has them."""
    monkeypatch.setattr("vaelens.evaluation.run.make_examples", lambda chosen, run: [])
    monkeypatch.setattr("vaelens.evaluation.report.report_files.report_html", lambda results, examples: "")


def command(photos: Path, vaes: list[Path], output: Path, *more: str) -> list[str]:
    named = [part for vae in vaes for part in ("--vae", str(vae))]
    options = ["--preset", "offline", "--batch", str(BATCH), "--threads", "1", "-o", str(output)]
    return ["-m", "vaelens", "evaluate", str(photos), *named, *options, *more]


def test_what_a_run_leaves(whole: tuple[Path, Results], two_vaes: list[Path]) -> None:
    folder, results = whole
    lines = [json.loads(line) for line in rows(folder)]
    assert len(lines) == IMAGES * 2
    assert {line["vae"] for line in lines} == {"one", "two"}
    assert {line["id"] for line in lines} == {f"{n:02d}.png" for n in range(IMAGES)}
    assert set(lines[0]) == {"id", "vae", "sha256", "finite", "psnr", "ssim", "psim_small"}
    for name in ("report.html", "report.md", "rows.csv", "run.json", "plan.json", "rows.jsonl"):
        assert (folder / name).stat().st_size > 0
    record = json.loads((folder / "run.json").read_text())
    assert record["settings"]["preset"]["name"] == "offline"
    assert (record["settings"]["batch"], record["settings"]["threads"]) == (BATCH, 1)
    assert [vae["name"] for vae in record["vaes"]] == ["one", "two"]
    assert all(vae["fingerprint"] for vae in record["vaes"])
    assert results.count == IMAGES
    psnrs = [line["psnr"] for line in lines if line["vae"] == "one"]
    assert results.spreads["one", "psnr"].mean == pytest.approx(np.mean(psnrs), rel=1e-12)
    assert results.spreads["one", "psnr"].std == pytest.approx(np.std(psnrs), rel=1e-12)
    assert ("two", "one", "psnr") in results.differences
    assert results.dataset_scores["one", "fd_small"].value > 0
    found = json.loads((folder / "results.json").read_text())
    assert found["scores"]["one"]["psnr"]["mean"] == results.spreads["one", "psnr"].mean
    assert found["scores"]["one"]["fd_small"]["interval"]["low"] < found["scores"]["one"]["fd_small"]["value"]
    assert {d["metric"] for d in found["differences"]} == {"psnr", "ssim", "psim_small", "fd_small"}


def test_a_row_is_what_the_measures_say_of_the_saved_images(whole: tuple[Path, Results], photos: Path) -> None:
    """One row, computed anew with Pillow and scikit-image from the protocol's words."""
    from skimage.metrics import peak_signal_noise_ratio, structural_similarity

    number = 5
    image = Image.open(photos / f"{number:02d}.png")
    w, h = (round(side * 256 / min(image.size)) for side in image.size)
    left, top = (w - 256) // 2, (h - 256) // 2
    original = np.asarray(image.resize((w, h), Image.Resampling.BICUBIC).crop((left, top, left + 256, top + 256)))
    network = random_vae(SMALL, seed=1).network
    with torch.no_grad():
        x = torch.from_numpy(original.astype(np.float32)).permute(2, 0, 1)[None] / 127.5 - 1
        y = network.decode(network.posterior(x).mode())
    again = np.floor(((y[0].permute(1, 2, 0).clamp(-1, 1) + 1) / 2 * 255).numpy() + 0.5).astype(np.uint8)
    row = next(row for row in whole[1].rows if (row.id, row.vae) == (f"{number:02d}.png", "one"))
    assert row.scores["psnr"] == pytest.approx(peak_signal_noise_ratio(original, again), abs=1e-3)
    expected = structural_similarity(
        original, again, channel_axis=2, data_range=255, gaussian_weights=True, sigma=1.5, use_sample_covariance=False
    )
    assert row.scores["ssim"] == pytest.approx(expected, abs=2e-4)  # a pixel may be rounded the other way


@pytest.mark.parametrize("count", [pytest.param(2, marks=pytest.mark.slow), 3, pytest.param(7, marks=pytest.mark.slow)])
def test_shards_change_nothing(
    whole: tuple[Path, Results], photos: Path, two_vaes: list[Path], tmp_path: Path, count: int
) -> None:
    results = None
    for shard in range(count, 0, -1):
        assert results is None
        results = evaluate(two_vaes, photos, output=tmp_path / "run", shard=f"{shard}/{count}", **FAST)
    assert_same(tmp_path / "run", results, whole)


def test_a_shard_that_is_not_the_last_says_what_is_left_as_json(
    photos: Path, two_vaes: list[Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from vaelens.cli.main import app

    shards = [[*command(photos, two_vaes, tmp_path / "run", "--take", "4", "--json")[2:], "--shard"] for _ in "12"]
    app([*shards[0], "1/2"], standalone_mode=False)
    (left,) = json.loads(capsys.readouterr().out).values()
    assert left | {"measured": None} == {
        "output": str(tmp_path / "run"), "shard": "1/2", "chunks": 2, "chunks_left": 1, "reconstructions_left": 4,
        "measured": None,
    }  # fmt: skip
    assert (left["measured"]["images"], left["measured"]["reconstructions"]) == (2, 4)
    app([*shards[1], "2/2"], standalone_mode=False)
    assert "unfinished" not in (found := json.loads(capsys.readouterr().out))
    assert found["images"] == 4


@pytest.mark.slow
def test_killed_at_random_moments_and_continued(
    whole: tuple[Path, Results], photos: Path, two_vaes: list[Path], tmp_path: Path
) -> None:
    output = tmp_path / "run"
    rng = np.random.default_rng(int(os.environ.get("VAELENS_KILL_SEED", "0")))
    stops = 0
    for _ in range(int(os.environ.get("VAELENS_KILLS", "3"))):
        process = subprocess.Popen(
            [sys.executable, *command(photos, two_vaes, output, "-q")],
            env=quick(), stdout=subprocess.PIPE, stderr=subprocess.PIPE,
        )  # fmt: skip
        before = count_lines(output)
        while process.poll() is None and count_lines(output) == before:  # until it writes
            time.sleep(0.002)
        time.sleep(float(rng.uniform(0, 0.3)))
        stops += process.poll() is None
        process.send_signal(signal.SIGKILL)
        process.communicate()
    assert stops, "every run was over before it could be killed"
    results = evaluate(two_vaes, photos, output=output, **FAST)
    assert_same(output, results, whole)


def count_lines(output: Path) -> int:
    file = output / "rows.jsonl"
    return file.read_bytes().count(b"\n") if file.exists() else 0


def test_features_that_were_lost_are_made_again(
    whole: tuple[Path, Results], photos: Path, two_vaes: list[Path], tmp_path: Path
) -> None:
    output = tmp_path / "run"
    shutil.copytree(whole[0], output)
    files = sorted((output / "features").rglob("*.safetensors"))
    assert len(files) == 3 * IMAGES // BATCH
    kept = [file.read_bytes() for file in files]
    for lost in (files[2], files[9]):  # an original's and a VAE's
        lost.unlink()
    assert_same(output, evaluate(two_vaes, photos, output=output, **FAST), whole)
    assert [file.read_bytes() for file in files] == kept


def test_a_vae_can_be_added(whole: tuple[Path, Results], photos: Path, two_vaes: list[Path], tmp_path: Path) -> None:
    output = tmp_path / "run"
    evaluate(two_vaes[:1], photos, output=output, **FAST)
    said: list[str] = []
    results = evaluate(two_vaes, photos, output=output, progress=lambda d, t, w: said.append(f"{d}/{t}"), **FAST)
    assert f"0/{IMAGES}" in said, "only the new VAE is measured"
    assert_same(output, results, whole)


def test_beyond_what_is_kept_sums_give_the_same(
    whole: tuple[Path, Results], photos: Path, two_vaes: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("vaelens.evaluation.feature_files.MAX_STORED", 10)
    results = evaluate(two_vaes, photos, output=tmp_path / "run", **FAST)
    assert results is not None
    assert not list((tmp_path / "run" / "features").rglob("*.safetensors"))
    assert len(list((tmp_path / "run" / "sums").rglob("*.safetensors"))) == 3 * 7
    assert distance(results) == pytest.approx(distance(whole[1]), rel=1e-8)
    assert rows(tmp_path / "run") == rows(whole[0])


def distance(results: Results) -> float | None:
    return results.dataset_scores["one", "fd_small"].value


def test_killed_while_summing_up(
    whole: tuple[Path, Results], photos: Path, two_vaes: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Rows and features are there, sums are not, or features are left beside them: the next call mends both."""
    monkeypatch.setattr("vaelens.evaluation.feature_files.MAX_STORED", 10)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(FeatureFiles, "_sum_up_group", lambda self, group, name: None)
        with pytest.raises(BadInputError, match=r"is missing\. Run the same command again"):  # summarising without sums
            evaluate(two_vaes, photos, output=tmp_path / "run", **FAST)
    left = next((tmp_path / "run" / "features" / "originals").iterdir())
    kept = left.read_bytes()
    results = evaluate(two_vaes, photos, output=tmp_path / "run", **FAST)
    assert results is not None
    left.write_bytes(kept)
    again = evaluate(two_vaes, photos, output=tmp_path / "run", **FAST)
    assert again is not None
    assert again.dataset_scores == results.dataset_scores
    assert distance(again) == pytest.approx(distance(whole[1]), rel=1e-8)


def test_a_vae_may_have_any_name(photos: Path, two_vaes: list[Path], tmp_path: Path) -> None:
    """Names that are special to us or alike to a file system keep features of their own."""
    names = ("originals", "A", "a", "../x", "é" * 90)
    vaes = []
    for number, name in enumerate(names):
        vae = random_vae(SMALL, seed=number)
        vae.name = name
        vaes.append(vae)
    results = evaluate(vaes, photos, output=tmp_path / "run", take=4, **FAST)
    assert results is not None
    values = [results.dataset_scores[name, "fd_small"].value for name in names]
    assert len(set(values)) == len(names)
    assert all(value > 0.01 for value in values)
    folders = [folder.name.lower() for folder in (tmp_path / "run" / "features").iterdir()]
    assert len(set(folders)) == len(names) + 1
    assert not (tmp_path / "x").exists()


def test_the_order_and_place_of_files_have_no_meaning(
    whole: tuple[Path, Results], photos: Path, two_vaes: list[Path], tmp_path: Path
) -> None:
    moved = tmp_path / "elsewhere"
    moved.mkdir()
    for file in sorted(photos.iterdir(), reverse=True):
        (moved / file.name).write_bytes(file.read_bytes())
    results = evaluate(two_vaes, moved, output=tmp_path / "run", **FAST)
    assert_same(tmp_path / "run", results, whole)


def test_nothing_is_measured_twice(whole: tuple[Path, Results], photos: Path, two_vaes: list[Path]) -> None:
    before = (whole[0] / "rows.jsonl").read_bytes()
    said: list[str] = []
    results = evaluate(two_vaes, photos, output=whole[0], progress=lambda d, t, w: said.append(w), **FAST)
    assert_same(whole[0], results, whole)
    assert (whole[0] / "rows.jsonl").read_bytes() == before
    assert not any(word.endswith(".png") for word in said)


def test_the_record_keeps_every_call_that_measured(photos: Path, two_vaes: list[Path], tmp_path: Path) -> None:
    options = {"output": tmp_path, "take": 4, **FAST}
    file = tmp_path / "run.json"

    def call(vaes: list[Path]) -> dict[str, Any]:
        results = evaluate(vaes, photos, **options)
        assert results is not None
        record = json.loads(file.read_text())
        assert results.record["calls"] == record["calls"]
        return record

    first, second = call(two_vaes[:1]), call(two_vaes)
    counts = [(one["images"], one["reconstructions"]) for one in second["calls"]]
    assert counts == [(4, 4), (4, 4)], "the second measured the other VAE"
    assert second["calls"][0] == first["calls"][0]
    assert "measured: 8 reconstructions in " in (tmp_path / "report.md").read_text()
    raised = json.loads(file.read_text())
    raised["calls"][0] |= {"seconds": 100.0, "peak_memory_bytes": 2**50}
    file.write_text(json.dumps(raised))
    idle = call(two_vaes)
    assert idle["calls"] == raised["calls"], "a call that measured nothing adds none"
    assert idle["seconds"] == pytest.approx(100 + raised["calls"][1]["seconds"], abs=1e-3)
    assert idle["peak_memory_bytes"] == 2**50


@pytest.mark.parametrize(
    "damaged", ["", "[]", "{}", '{"calls": 3}', '{"calls": [3]}', '{"calls": [{"seconds": "x"}]}', "[" * 100_000]
)
def test_a_damaged_record_stops_no_run(
    whole: tuple[Path, Results], photos: Path, two_vaes: list[Path], tmp_path: Path, damaged: str
) -> None:
    shutil.copytree(whole[0], tmp_path / "run")
    file = tmp_path / "run" / "run.json"
    file.write_text(damaged)
    said: list[str] = []
    results = evaluate(two_vaes, photos, output=tmp_path / "run", notify=said.append, **FAST)
    assert results is not None
    assert any("run.json is damaged, so the times of earlier calls are lost" in word for word in said)
    record = json.loads(file.read_text())
    assert (record["calls"], record["seconds"], record["peak_memory_bytes"]) == ([], None, None)


def test_two_presets_never_share_a_folder(whole: tuple[Path, Results], photos: Path, two_vaes: list[Path]) -> None:
    before = (whole[0] / "rows.jsonl").read_bytes()
    with pytest.raises(UsageError, match=r"preset\.name was"):
        evaluate(two_vaes, photos, output=whole[0], **{**FAST, "preset": "modern"})
    assert (whole[0] / "rows.jsonl").read_bytes() == before


@pytest.mark.parametrize("change", [{"seed": 5}, {"batch": 3}, {"threads": 2}, {"take": 3}])
def test_another_plan_is_refused_by_name(
    whole: tuple[Path, Results], photos: Path, two_vaes: list[Path], change: dict[str, int]
) -> None:
    with pytest.raises(UsageError, match=f"other settings: .*{'images' if 'take' in change else next(iter(change))}"):
        evaluate(two_vaes, photos, output=whole[0], **{**FAST, **change})


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{}", "is damaged"),
        ('"plan"', "is damaged"),
        ('{"command": "evaluate", "vaes": [], "batch": 2, "threads": 1}', "is damaged"),
        ('{"command": "evaluate", "vaes": {}, "batch": "x", "threads": 1}', "is damaged"),
        ('{"command": "finetune", "vaes": {}}', "holds a run of `vaelens finetune`"),
        ("{", "can't be read"),
        ("[" * 100_000, "can't be read"),
    ],
)
def test_a_folder_whose_plan_is_none(
    photos: Path, two_vaes: list[Path], tmp_path: Path, text: str, message: str
) -> None:
    (tmp_path / "plan.json").write_text(text)
    with pytest.raises(VaelensError, match=f"{message}.* Choose another folder with -o") as caught:
        evaluate(two_vaes, photos, output=tmp_path, **FAST)
    assert str(tmp_path) in str(caught.value)
    assert [file.name for file in tmp_path.iterdir()] == ["plan.json"]


def test_another_vae_of_the_same_name_is_refused(whole: tuple[Path, Results], photos: Path, tmp_path: Path) -> None:
    other = random_vae(SMALL, seed=9).save(tmp_path / "one.safetensors")
    with pytest.raises(UsageError, match=r"VAE one\.weights was"):
        evaluate([other], photos, output=whole[0], **FAST)


def test_a_corrupt_image_stops_the_run_or_is_listed(photos: Path, two_vaes: list[Path], tmp_path: Path) -> None:
    folder = tmp_path / "photos"
    folder.mkdir()
    for number in (0, 1, 2, 3, 4):
        data = (photos / f"{number:02d}.png").read_bytes()
        (folder / f"{number:02d}.png").write_bytes(data[: len(data) // 2] if number in {2, 3} else data)
    with pytest.raises(BadInputError, match=r"02\.png.*--skip-bad"):
        evaluate(two_vaes[:1], folder, output=tmp_path / "stopped", **FAST)
    assert count_lines(tmp_path / "stopped") == 2, "the chunk before it is kept"
    results = evaluate(two_vaes[:1], folder, output=tmp_path / "skipped", skip_bad=True, **FAST)
    assert results is not None
    assert results.count == 3
    assert {row.id for row in results.rows} == {"00.png", "01.png", "04.png"}
    assert list(results.record["skipped"]) == ["02.png", "03.png"]
    assert any("2 images couldn't be read" in warning for warning in results.warnings)
    with pytest.raises(BadInputError, match=r"--skip-bad leaves them out. The first is 02\.png"):
        evaluate(two_vaes[:1], folder, output=tmp_path / "skipped", **FAST)
    with pytest.raises(BadInputError, match="All scores measured so far are saved"):
        evaluate(two_vaes[:1], folder, output=tmp_path / "stopped", **FAST)
    again = evaluate(two_vaes[:1], folder, output=tmp_path / "stopped", skip_bad=True, **FAST)
    assert rows(tmp_path / "stopped") == rows(tmp_path / "skipped"), "as it was advised"
    assert again is not None
    for name in (0, 1, 4):
        (folder / f"{name:02d}.png").write_bytes(b"no image")
    with pytest.raises(BadInputError, match="none of the images can be read"):
        evaluate(two_vaes[:1], folder, output=tmp_path / "none", skip_bad=True, **FAST)


def test_a_chosen_image_that_is_gone_is_no_example(
    photos: Path, two_vaes: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """After the whole run, nothing may be lost for an image to look at.

    Of the three chunks of two, the first loses an image, the second both, and in the third one has changed.
    """
    folder = tmp_path / "photos"
    folder.mkdir()
    for number in range(6):
        (folder / f"{number}.png").write_bytes((photos / f"{number:02d}.png").read_bytes())

    def spoiled(chosen: dict[str, str], run: Measurement) -> list[Example]:
        assert len(chosen) == 6
        for number in (1, 2, 3):
            (folder / f"{number}.png").unlink()
        (folder / "5.png").write_bytes(b"no image")
        shown = make_examples(chosen, run)
        assert [example.id for example in shown] == ["0.png"]
        return shown

    monkeypatch.setattr("vaelens.evaluation.run.make_examples", spoiled)
    assert evaluate(two_vaes, folder, output=tmp_path / "run", **FAST) is not None
    assert (tmp_path / "run" / "report.md").exists()


def test_an_example_has_the_boxes_that_were_measured_in_it(
    two_vaes: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made: list[Example] = []

    def kept(chosen: dict[str, str], run: Measurement) -> list[Example]:
        made.extend(make_examples(chosen, run))
        return made

    monkeypatch.setattr("vaelens.evaluation.run.make_examples", kept)
    results = evaluate(two_vaes[:1], "synthetic", output=tmp_path / "run", **FAST | {"take": 2, "preset": "offline"})
    assert results is not None
    measured = {row.id: row.regions for row in results.rows}
    assert made
    assert all(len(example.boxes) == len(measured[example.id]) > 0 for example in made)


def test_ranks_that_differ_are_told_what_to_give(monkeypatch: pytest.MonkeyPatch) -> None:
    """Rank 0 alone has an old folder, whose batch it takes."""
    import accelerate.utils

    plans = [{"batch": 2, "seed": 0}, {"batch": 4, "seed": 0}]
    monkeypatch.setattr(accelerate.utils, "gather_object", lambda _: plans)
    with pytest.raises(UsageError, match=r"rank 1 .* differ in batch"):
        Ranks(0, 2).require_same(plans[0])


def test_reconstructions_that_are_not_finite_count_nowhere(photos: Path, tmp_path: Path) -> None:
    vae = random_vae(SMALL, seed=3)

    def explode(_module: object, _inputs: object, output: torch.Tensor) -> torch.Tensor:
        return torch.where(output.mean(dim=(1, 2, 3), keepdim=True) > threshold, torch.inf, output)

    with torch.no_grad():
        means = []
        hook = vae.network.decoder.register_forward_hook(lambda m, i, o: means.append(o.mean(dim=(1, 2, 3))))
        evaluate(vae, photos, output=tmp_path / "before", **FAST)
        hook.remove()
    threshold = float(torch.cat(means)[:IMAGES].median())
    vae.network.decoder.register_forward_hook(explode)
    results = evaluate(vae, photos, output=tmp_path / "run", **FAST)
    assert results is not None
    finite = [row for row in results.rows if row.finite]
    assert 0 < len(finite) < IMAGES
    assert results.spreads["random", "psnr"].count == len(finite)
    assert results.dataset_scores["random", "fd_small"].value is None
    assert any("NaN or infinite" in warning for warning in results.warnings)
    lost = {row.id for row in results.rows if not row.finite}
    chosen = choose_examples(results)
    assert "best" not in "".join(why for name, why in chosen.items() if name in lost)


def test_a_missing_network_names_the_way_out(
    photos: Path, two_vaes: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("VAELENS_CACHE", str(tmp_path / "empty"))
    said: list[str] = []
    with pytest.raises(NetworkError, match=r"needs inception, vgg16.* MB, not on this machine.*--preset offline"):
        evaluate(two_vaes, photos, output=tmp_path / "run", preset="modern", offline=True)
    monkeypatch.setattr("vaelens.metrics.pretrained.fetch_web", no_network)
    with pytest.raises(NetworkError, match=r"no network here\. --preset offline"):
        evaluate(two_vaes, photos, output=tmp_path / "run", preset="modern", notify=said.append)
    assert any("needs inception, vgg16" in word and "MB, downloaded once" in word for word in said)
    assert not (tmp_path / "run").exists()
    with pytest.raises(UsageError, match="needs no network called vgg19"):
        evaluate(two_vaes, photos, output=tmp_path / "run", preset="modern", networks={"vgg19": "x.pth"})


def no_network(*_args: object, **_options: object) -> Path:
    raise NetworkError("no network here.")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"preset": "moden"}, "Did you mean modern"),
        ({"shard": "4/3"}, "Write it like 2/3"),
        ({"batch": 0}, "at least 1"),
        ({"metrics": ["fd_dinov2"]}, "FD-DINOv2 needs a download"),
    ],
)
def test_what_cannot_be_asked(
    photos: Path, two_vaes: list[Path], tmp_path: Path, change: dict[str, object], message: str
) -> None:
    with pytest.raises(UsageError, match=message):
        evaluate(two_vaes, photos, output=tmp_path / "run", **{**FAST, **change})
    assert not (tmp_path / "run").exists()


def test_an_output_that_is_no_evaluation_is_left_alone(photos: Path, two_vaes: list[Path], tmp_path: Path) -> None:
    (tmp_path / "run.json").write_text("mine")
    with pytest.raises(UsageError, match=r"run\.json is not an evaluation"):
        evaluate(two_vaes, photos, output=tmp_path, **FAST)
    assert (tmp_path / "run.json").read_text() == "mine"
    (tmp_path / "run.json").rename(tmp_path / "rows.csv")
    with pytest.raises(UsageError, match=r"rows\.csv is not an evaluation's and would be replaced"):
        evaluate(two_vaes, photos, output=tmp_path, **FAST)
    (tmp_path / "rows.csv").rename(tmp_path / "run.json")
    with pytest.raises(UsageError, match="is a file"):
        evaluate(two_vaes, photos, output=tmp_path / "run.json", **FAST)


def test_units_go_from_one_folder_to_another(whole: tuple[Path, Results], tmp_path: Path) -> None:
    """What a rank without a shared disk sends is what rank 0 would have had."""
    ids = [f"{n:02d}.png" for n in range(IMAGES)]
    source, target = EvaluationFolder(whole[0], ids, BATCH), EvaluationFolder(tmp_path / "run", ids, BATCH)
    target.start(json.loads((whole[0] / "plan.json").read_text()))
    source.refresh()
    for chunk in range(source.chunks):
        for vae in ("one", "two"):
            target.add(chunk, vae, *source.unit(chunk, vae))
            assert target.is_done(chunk, vae)
    assert rows(tmp_path / "run") == rows(whole[0])
    assert torch.equal(target.features("two", "fd-small"), source.features("two", "fd-small"))
