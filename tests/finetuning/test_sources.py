"""Which images a training gets, and which are held out."""

import dataclasses
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import pytest

from support.training import NO_GAN, folder, short_recipe, stop_after, train
from vaelens.errors import BadInputError, UsageError
from vaelens.evaluation.presets import PRESETS
from vaelens.finetuning.data.sources import SourceOptions, Sources, open_sources
from vaelens.finetuning.data.training_sample import TrainingSample
from vaelens.finetuning.recipe import Recipe
from vaelens.finetuning.recipe_files import find_recipe
from vaelens.finetuning.training import Interrupted
from vaelens.images.datasets import Dataset, open_dataset
from vaelens.images.datasets.synthetic import EVALUATION_FIRST
from vaelens.runtime import Runtime


def opened(data: Path | str | Dataset, measured: int, notify: Callable[[str], object] = print, **more: Any) -> Sources:
    """By a recipe that measures on so many images."""
    recipe, runtime = short_recipe(run__held_out=measured), Runtime(offline=True, notify=notify)
    return open_sources(SourceOptions.of(data, **more), recipe, runtime)


def ids(dataset: Dataset) -> list[str]:
    return [item.id for item in dataset.items]


def test_images_held_out_by_name_are_not_training(tmp_path: Path) -> None:
    data, others = folder(tmp_path / "data", 8), folder(tmp_path / "others", 6, first=5)  # 5 to 7 in both
    notices: list[str] = []
    found = opened(data, 6, notices.append, held_out=others)
    assert ids(found.held_out) == [f"{n:02d}.png" for n in range(5, 11)]
    assert ids(found.training[0]) == [f"{n:02d}.png" for n in range(5)]
    contents = {item.sha256 for item in found.held_out.items}
    assert not any(item.sha256 in contents for source in found.training for item in source.items)
    assert [notice for notice in notices if notice.startswith("3 images are in others")], notices


def test_too_few_images_are_refused_before_any_is_read_where_their_number_is_known(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"holds out 24 .*half of its 12 .* at least 48 images, .*run.held_out=6"):
        SourceOptions.of("synthetic", take=12).check_counts(24)
    with pytest.raises(UsageError, match="half of its 1000"):
        SourceOptions.of(["synthetic", tmp_path]).check_counts(2000)
    SourceOptions.of(["synthetic", tmp_path]).check_counts(24)
    SourceOptions.of("synthetic", take=12, held_out="synthetic").check_counts(24)


def test_synthetic_training_images_differ_from_those_of_evaluations() -> None:
    found = opened("synthetic", 2, take=3, held_out="synthetic")
    trained, held_out = ids(found.training[0]), ids(found.held_out)
    assert (len(trained), len(held_out)) == (3, 2)
    assert not {*trained} & {*held_out}
    assert all(int(name.rpartition("-")[2]) < EVALUATION_FIRST for name in trained)
    assert all(int(name.rpartition("-")[2]) >= EVALUATION_FIRST for name in held_out)
    opened(open_dataset("synthetic", take=1, training=True), 2, held_out="synthetic")
    with pytest.raises(UsageError, match="for evaluation"):
        opened(open_dataset("synthetic", take=1), 2)


def test_take_limits_the_images_of_a_folder(tmp_path: Path) -> None:
    data, others = folder(tmp_path / "data", 12), folder(tmp_path / "others", 3, first=20)
    found = opened(data, 3, take=5, held_out=others)
    assert len(found.training[0].items) == 5
    assert ids(found.training[0]) == ids(opened(data, 3, take=5, held_out=others).training[0])
    assert ids(found.training[0]) != ids(opened(data, 3, take=5, held_out=others, seed=1).training[0])
    assert len(opened(data, 3, take=50, held_out=others).training[0].items) == 12
    parted = opened(data, 2, take=5)
    assert (len(parted.training[0].items), len(parted.held_out.items)) == (3, 2)


def test_open_datasets_are_used_as_they_are(tmp_path: Path) -> None:
    data, others = folder(tmp_path / "data", 8), folder(tmp_path / "others", 6, first=5)
    by_name = opened(data, 2, take=4, held_out=others)
    given = opened(open_dataset(data), 2, take=4, held_out=open_dataset(others))
    assert ids(given.training[0]) == ids(by_name.training[0])
    assert ids(given.held_out) == ids(by_name.held_out)
    with pytest.raises(UsageError, match="already open"):
        opened(open_dataset(data), 2, boxes=[tmp_path / "boxes.jsonl"])


def by_recipe(data: Any, recipe: Recipe) -> Sources:
    return open_sources(SourceOptions.of(data), recipe, Runtime(offline=True))


@pytest.mark.parametrize(("images", "held_out"), [(2, 1), (3, 1), (5, 1), (8, 2), (24, 6), (100, 24)])
def test_the_held_out_images_follow_the_number_of_images(tmp_path: Path, images: int, held_out: int) -> None:
    found = by_recipe(folder(tmp_path / "photos", images, side=8), find_recipe("tiny-ft-ema"))
    assert (len(found.held_out.items), len(found.training[0].items)) == (held_out, images - held_out)


def test_a_source_of_one_image_is_trained_on_and_others_are_held_out(tmp_path: Path) -> None:
    one, many = folder(tmp_path / "one", 1), folder(tmp_path / "many", 8, first=10)
    found = by_recipe([one, many], find_recipe("tiny-ft-ema"))
    assert ([len(source.items) for source in found.training], len(found.held_out.items)) == ([1, 6], 2)


def test_unreadable_images_and_copies_dont_count(tmp_path: Path) -> None:
    photos = folder(tmp_path / "photos", 3)
    for n in range(3, 20):
        (photos / f"{n:02d}.png").write_bytes(b"\x89PNG\r\n\x1a\n" + bytes([n]))
    assert len(by_recipe(photos, find_recipe("tiny-ft-ema")).held_out.items) == 1
    for n in range(3, 20):
        (photos / f"{n:02d}.png").write_bytes((photos / "00.png").read_bytes())
    assert len(by_recipe(photos, find_recipe("tiny-ft-ema")).training[0].items) >= 1


def damaged(photos: Path, numbers: Iterable[int]) -> Path:
    """The folder with images of these numbers that begin as PNG files."""
    for n in numbers:
        (photos / f"{n:02d}.png").write_bytes(b"\x89PNG\r\n\x1a\n" + bytes([n]))
    return photos


def counting(dataset: Dataset, reads: list[str]) -> Dataset:
    """The dataset, which notes what is read."""

    def pieces(name: str) -> Iterable[bytes]:
        reads.append(name)
        return dataset.source.pieces(name)

    return dataclasses.replace(dataset, source=dataclasses.replace(dataset.source, pieces=pieces))


def test_the_sample_of_training_images_holds_only_images_that_can_be_read(tmp_path: Path) -> None:
    photos = damaged(folder(tmp_path / "photos", 3), range(3, 20))
    (photos / "pipe.png").symlink_to(photos / "missing.png")
    (training,) = by_recipe(photos, find_recipe("tiny-ft-ema")).training
    good, preset = {"00.png", "01.png", "02.png"} & {*ids(training)}, PRESETS["small"]
    assert len(good) == 2
    (one,) = TrainingSample([training], 1, seed=0).read(preset)
    assert {item.id for item in one.items} < good
    (both,) = TrainingSample([training], 9, seed=0).chunks(preset, 4)
    assert {item.id for item in both.items} == good
    bad = dataclasses.replace(training, items=tuple(item for item in training.items if item.id not in good))
    with pytest.raises(BadInputError, match=r"photos .*: none of the training images can be read\. Give others\."):
        list(TrainingSample([bad], 2, seed=0).read(preset))


def test_the_sample_of_training_images_is_read_when_it_is_scored_and_no_sooner(tmp_path: Path) -> None:
    reads: list[str] = []
    dataset = counting(open_dataset(damaged(folder(tmp_path / "photos", 12), range(0, 12, 2)), skip_bad=True), reads)
    sample = TrainingSample([dataset], 4, seed=0)
    assert reads == []
    first = [chunk.items for chunk in sample.chunks(PRESETS["small"], 3)]
    assert [len(items) for items in first] == [3, 1]
    assert 4 < len(reads) <= 10
    reads.clear()
    assert [chunk.items for chunk in sample.chunks(PRESETS["small"], 3)] == first
    assert reads == [item.id for items in first for item in items], "damaged ones aren't tried again"
    assert [chunk.items for chunk in TrainingSample([dataset], 4, seed=0).chunks(PRESETS["small"], 3)] == first
    assert [chunk.items for chunk in TrainingSample([dataset], 4, seed=1).chunks(PRESETS["small"], 3)] != first


@pytest.mark.usefixtures("plain_report")
def test_a_resumed_training_scores_the_same_images_where_some_are_damaged(
    narrow: Path, photos: Path, tmp_path: Path
) -> None:
    data = damaged(folder(tmp_path / "data", 9, side=44), range(4, 9))
    options: dict[str, Any] = {"overrides": NO_GAN | {"run.steps": 2, "run.evaluate_every": 2}, "held_out": photos}
    whole = train(narrow, data, tmp_path / "whole", **options)
    with pytest.raises(Interrupted):
        train(narrow, data, tmp_path / "run", should_stop=stop_after(1), **options)
    resumed = train(narrow, data, tmp_path / "run", **options)
    assert resumed.vae.fingerprint == whole.vae.fingerprint
    lines = [(run.path / "evaluations.jsonl").read_bytes() for run in (whole, resumed)]
    assert lines[0] == lines[1]
    assert lines[0].count(b'"training"') == 2


def test_one_image_is_refused_in_a_sentence_that_helps(tmp_path: Path) -> None:
    photos = folder(tmp_path / "one", 1)
    with pytest.raises(UsageError, match=r"one: a training needs an image to train on and another one .*--held-out\."):
        by_recipe(photos, find_recipe("tiny-ft-ema"))


def test_a_named_number_of_held_out_images_holds(tmp_path: Path) -> None:
    photos = folder(tmp_path / "photos", 6)
    assert len(by_recipe(photos, find_recipe("tiny-ft-ema", {"run.held_out": 3})).held_out.items) == 3
    assert len(by_recipe(photos, find_recipe("tiny-ft-ema", {"run.held_out": 1})).held_out.items) == 1
    with pytest.raises(UsageError, match="holds out 4 images of photos, but at most half of its 6"):
        by_recipe(photos, find_recipe("tiny-ft-ema", {"run.held_out": 4}))
