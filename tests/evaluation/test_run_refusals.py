"""What `evaluate` refuses, and that nothing in the folder is lost then."""

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from support.small_run import SMALL, Run
from support.vaes import random_vae
from vaelens.errors import BadInputError, NetworkError, UsageError, VaelensError
from vaelens.evaluation.evaluation_folder import EvaluationFolder
from vaelens.evaluation.results import Results
from vaelens.files import checked_json
from vaelens.kernels.paths import available_paths, choose_fp32_path

pytestmark = pytest.mark.usefixtures("small_runs")
Measure = Callable[..., Results]


def test_a_run_that_fails_before_its_first_result_leaves_no_folder(
    photos: Path, tmp_path: Path, measure: Measure
) -> None:
    source = tmp_path / "source"
    source.mkdir()
    (source / "a.png").write_text("no image")
    with pytest.raises(BadInputError, match=r"a\.png is a text file, not an image"):
        measure(source=source, output=tmp_path / "new" / "run")
    assert not (tmp_path / "new").exists()
    (tmp_path / "empty").mkdir()
    with pytest.raises(BadInputError, match=r"a\.png is a text file, not an image"):
        measure(source=source, output=tmp_path / "empty")
    assert list((tmp_path / "empty").iterdir()) == [], "with images that are mended the same call runs"
    for number, photo in enumerate(sorted(photos.glob("*.png"))[:2]):
        shutil.copy(photo, source / f"{number}.png")
    with pytest.raises(BadInputError, match=r"a\.png is a text file, not an image"):
        measure(source=source, output=tmp_path / "new", batch=1)
    assert (tmp_path / "new" / "rows.jsonl").exists(), "what was measured is there to be resumed"


def test_a_run_whose_folder_another_failed_run_removed_writes_its_plan_again(tmp_path: Path) -> None:
    folder = EvaluationFolder(tmp_path / "run", ["a.png"], 1)
    folder.start({"command": "evaluate", "vaes": {"one": {}}})
    plan = (tmp_path / "run" / "plan.json").read_bytes()
    shutil.rmtree(tmp_path / "run")
    folder.add(0, "one", [], [("a.png", "damaged")], {"": {}, "one": {}})
    assert (tmp_path / "run" / "plan.json").read_bytes() == plan


def test_a_folder_of_images_is_not_an_output(tmp_path: Path, measure: Measure) -> None:
    images = tmp_path / "set" / "deeper" / "a.png"
    images.parent.mkdir(parents=True)
    images.write_bytes(b"x")
    with pytest.raises(UsageError, match=r"deeper is itself an input: .* Choose another folder\."):
        measure(source=images.parent, output=images.parent)
    assert [path.name for path in tmp_path.rglob("*") if path.is_file()] == ["a.png"]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"preset": "modern"}, r"preset\.name was"),
        ({"seed": 5}, "other settings: .*seed"),
        ({"batch": 3}, "other settings: .*batch"),
        ({"threads": 2}, "other settings: .*threads"),
        ({"take": 3}, "other settings: .*images"),
    ],
)
def test_other_settings_are_refused_by_name(
    whole: Run, measure: Measure, change: dict[str, object], message: str
) -> None:
    before = (whole.folder / "rows.jsonl").read_bytes()
    with pytest.raises(UsageError, match=message):
        measure(output=whole.folder, **change)
    assert (whole.folder / "rows.jsonl").read_bytes() == before


@pytest.mark.parametrize("change", [{"seed": 5}, {"batch": 3}, {"threads": 2}, {"dtype": "bfloat16"}])
def test_settings_that_a_call_names_are_compared_before_images_are_read(
    whole: Run, measure: Measure, change: dict[str, object], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("vaelens.evaluation.run.open_images", lambda *_, **__: pytest.fail("read"))
    with pytest.raises(UsageError, match=f"other settings: {next(iter(change))} was"):
        measure(output=whole.folder, **change)


def test_other_kernels_of_the_networks_are_refused_by_name(
    whole: Run, measure: Measure, monkeypatch: pytest.MonkeyPatch
) -> None:
    """They change the last digits of the scores, so that rows of both never stand in one folder."""
    used = whole.results.record["settings"]["networks"]["fd-small"]["kernels"]
    assert used == choose_fp32_path(torch.device("cpu"))
    other = next((path for path in available_paths() if path in ("portable", "torch") and path != used), None)
    if other is None:
        pytest.skip("there is no other path here")
    monkeypatch.setenv("VAELENS_KERNELS", other)
    with pytest.raises(UsageError, match=rf'networks\.fd-small\.kernels was "{used}", now "{other}"'):
        measure(output=whole.folder)


def test_another_vae_of_the_same_name_is_refused(whole: Run, tmp_path: Path, measure: Measure) -> None:
    other = random_vae(SMALL, seed=9).save(tmp_path / "one.safetensors")
    with pytest.raises(UsageError, match=r"VAE one\.weights was"):
        measure(other, output=whole.folder)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{}", "is damaged"),
        ('"plan"', "is damaged"),
        (checked_json({"command": "evaluate", "vaes": [], "batch": 2, "threads": 1}).decode(), "is damaged"),
        (checked_json({"command": "evaluate", "vaes": {}, "batch": "x", "threads": 1}).decode(), "is damaged"),
        (checked_json({"command": "finetune", "vaes": {}}).decode(), "holds a run of `vaelens finetune`"),
        ('{"command": "evaluate", "vaes": {}, "batch": 2, "threads": 1}', "it has no checksum"),
        ("{", "can't be read"),
        ("[" * 100_000, "can't be read"),
    ],
)
def test_a_folder_without_a_readable_plan_is_left_alone(
    tmp_path: Path, measure: Measure, text: str, message: str
) -> None:
    (tmp_path / "plan.json").write_text(text)
    with pytest.raises(VaelensError, match=f"{message}.* Choose another folder with -o") as caught:
        measure(output=tmp_path)
    assert str(tmp_path) in str(caught.value)
    assert [file.name for file in tmp_path.iterdir()] == ["plan.json"]


def test_an_output_that_is_no_evaluation_is_left_alone(tmp_path: Path, measure: Measure) -> None:
    (tmp_path / "run.json").write_text("mine")
    with pytest.raises(UsageError, match=r"run\.json was not written by vaelens"):
        measure(output=tmp_path)
    assert (tmp_path / "run.json").read_text() == "mine"
    (tmp_path / "run.json").rename(tmp_path / "rows.csv")
    with pytest.raises(UsageError, match=r"rows\.csv was not written by vaelens and would be overwritten"):
        measure(output=tmp_path)
    with pytest.raises(UsageError, match="is a file"):
        measure(output=tmp_path / "rows.csv")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"preset": "moden"}, "Did you mean modern"),
        ({"shard": "4/3"}, "Write it like 2/3"),
        ({"batch": 0}, "at least 1"),
        ({"metrics": ["fd_dinov2"]}, "FD-DINOv2 needs a download"),
        ({"preset": "modern", "networks": {"vgg19": "x.pth"}}, "needs no network called vgg19"),
    ],
)
def test_options_without_a_meaning_are_refused(
    tmp_path: Path, measure: Measure, change: dict[str, object], message: str
) -> None:
    with pytest.raises(UsageError, match=message):
        measure(**change)
    assert not (tmp_path / "run").exists()


def test_a_missing_network_is_refused_with_its_alternative(
    tmp_path: Path, measure: Measure, monkeypatch: pytest.MonkeyPatch
) -> None:
    def no_network(*_args: object, **_options: object) -> Path:
        raise NetworkError("no network here.")

    notices: list[str] = []
    with pytest.raises(NetworkError, match=r"needs inception, vgg16.* MB, not on this machine.*--preset offline"):
        measure(preset="modern", offline=True)
    monkeypatch.setattr("vaelens.metrics.pretrained.fetch_web", no_network)
    with pytest.raises(NetworkError, match=r"no network here\. --preset offline"):
        measure(preset="modern", notify=notices.append)
    assert any("needs inception, vgg16" in notice and "MB, downloaded once" in notice for notice in notices)
    assert not (tmp_path / "run").exists()
