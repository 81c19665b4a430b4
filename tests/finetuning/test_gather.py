"""Which images a training gets, and which are kept from it."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from vaelens.finetuning.initialization import Material, Wanted, gather

from support.training import folder, recipe
from vaelens.errors import UsageError
from vaelens.evaluation.equipment import Access
from vaelens.images.datasets import Dataset, open_dataset
from vaelens.images.datasets.synthetic import FIRST


def gathered(data: Path | str | Dataset, measured: int, say: Callable[[str], None] = print, **more: Any) -> Material:
    """By a recipe that measures on so many images."""
    options: dict[str, Any] = {"weights": None, "boxes": None, "held_out": None, "take": None, "seed": 0}
    access = Access(torch.device("cpu"), True, say)
    return gather(Wanted.of(data, **options | more), recipe(run__held_out=measured), access, None)


def ids(dataset: Dataset) -> list[str]:
    return [item.id for item in dataset.items]


def test_images_held_out_by_name_are_not_trained_on(tmp_path: Path) -> None:
    data, others = folder(tmp_path / "data", 8), folder(tmp_path / "others", 6, first=5)  # 5 to 7 in both
    said: list[str] = []
    found = gathered(data, 6, said.append, held_out=others)
    assert ids(found.held_out) == [f"{n:02d}.png" for n in range(5, 11)]
    assert ids(found.sources[0]) == [f"{n:02d}.png" for n in range(5)]
    contents = {item.sha256 for item in found.held_out.items}
    assert not any(item.sha256 in contents for source in found.sources for item in source.items)
    assert [line for line in said if line.startswith("3 of the images stand in others") and "too" in line], said


def test_drawn_images_to_train_on_are_others_than_those_measured_on() -> None:
    found = gathered("synthetic", 2, take=4, held_out="synthetic")
    trained, kept = ids(found.sources[0]), ids(found.held_out)
    assert (len(trained), len(kept)) == (4, 2)
    assert not {*trained} & {*kept}
    assert all(int(name.rpartition("-")[2]) < FIRST for name in trained)
    assert all(int(name.rpartition("-")[2]) >= FIRST for name in kept)
    gathered(open_dataset("synthetic", take=4, training=True), 2, held_out="synthetic")
    with pytest.raises(UsageError, match="measured on"):
        gathered(open_dataset("synthetic", take=4), 2)


def test_of_a_folder_as_many_images_are_taken_as_were_asked_for(tmp_path: Path) -> None:
    data, others = folder(tmp_path / "data", 12), folder(tmp_path / "others", 3, first=20)
    found = gathered(data, 3, take=5, held_out=others)
    assert len(found.sources[0].items) == 5
    assert ids(found.sources[0]) == ids(gathered(data, 3, take=5, held_out=others).sources[0])
    assert ids(found.sources[0]) != ids(gathered(data, 3, take=5, held_out=others, seed=1).sources[0])
    assert len(gathered(data, 3, take=50, held_out=others).sources[0].items) == 12
    parted = gathered(data, 2, take=5)
    assert (len(parted.sources[0].items), len(parted.held_out.items)) == (3, 2)


def test_sets_that_are_open_already_serve_as_they_are(tmp_path: Path) -> None:
    data, others = folder(tmp_path / "data", 8), folder(tmp_path / "others", 6, first=5)
    by_name = gathered(data, 2, take=4, held_out=others)
    opened = gathered(open_dataset(data), 2, take=4, held_out=open_dataset(others))
    assert ids(opened.sources[0]) == ids(by_name.sources[0])
    assert ids(opened.held_out) == ids(by_name.held_out)
    with pytest.raises(UsageError, match="open already"):
        gathered(open_dataset(data), 2, boxes=[tmp_path / "boxes.jsonl"])
