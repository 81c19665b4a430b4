"""Datasets that have names: the synthetic ones and COCO."""

import hashlib
import json
import tomllib
import zipfile
from functools import partial
from importlib.resources import files
from pathlib import Path

import numpy as np
import pytest

from support.images.stored_images import content, folder, ids, zipped
from vaelens.download.web_files import WebFile
from vaelens.errors import UsageError
from vaelens.images.datasets import coco, items, manifest_sha256, open_dataset, synthetic
from vaelens.images.reading import decode_plain
from vaelens.runtime import Runtime


@pytest.fixture
def small_images(monkeypatch: pytest.MonkeyPatch) -> None:
    small = {name: partial(draw, side=24) for name, draw in synthetic.GENERATORS.items()}
    monkeypatch.setattr(synthetic, "GENERATORS", small)


@pytest.mark.usefixtures("small_images")
def test_synthetic_images_alternate_and_bring_their_boxes() -> None:
    data = open_dataset("synthetic", take=5, seed=2)
    assert ids(data) == ["face-1200000", "face-1200001", "face-1200002", "letters-1200000", "letters-1200001"]
    assert (data.origin, data.name) == ("synthetic", "synthetic faces and letters (5 images)")
    assert data.notes == ("generated with seed 2",)
    for item in data.items:
        name, _, seed = item.id.partition("-")
        drawing = synthetic.GENERATORS[name](int(seed))
        assert np.array_equal(decode_plain(data.read(item), item.id), drawing.pixels)
        assert item.boxes == drawing.boxes
        assert item.boxes
    assert open_dataset("synthetic", take=5, seed=2).items == data.items
    assert ids(open_dataset("synthetic-letters", take=2)) == ["letters-1000000", "letters-1000001"]
    assert ids(open_dataset("synthetic-faces", take=1)) == ["face-1000000"]
    assert len(synthetic.open_synthetic("synthetic", None, 0).ids) == 200


@pytest.mark.usefixtures("small_images")
def test_images_that_do_not_fit_in_memory_are_generated_again(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(synthetic, "CACHE_BYTES", 0)
    data = open_dataset("synthetic", take=2)
    assert all(hashlib.sha256(data.read(item)).hexdigest() == item.sha256 for item in data.items)


def test_options_without_a_meaning_for_synthetic_are_refused() -> None:
    """With more images or negative seeds, two datasets could share images."""
    for options in ({"take": 100_001}, {"take": 1, "seed": -1}):
        with pytest.raises(UsageError, match="1 to 100,000 images for each seed from 0 up"):
            open_dataset("synthetic-faces", **options)
    with pytest.raises(UsageError, match="neither aesthetic scores nor splits"):
        open_dataset("synthetic", min_aesthetic=5)


def test_a_folder_called_synthetic_is_named_by_a_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    folder(tmp_path / "synthetic", "a.png")
    for source in ("./synthetic", "synthetic/", Path("synthetic")):
        assert ids(open_dataset(source)) == ["a.png"]


def test_coco_comes_from_its_two_archives(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    images = zipped(tmp_path / "val2017.zip", "val2017/000000000139.jpg", "val2017/000000000285.jpg")
    table = {
        "images": [{"id": 285, "file_name": "000000000285.jpg"}],
        "categories": [{"id": 1, "keypoints": ["left_eye", "right_eye"]}],
        "annotations": [{"id": 1, "image_id": 285, "category_id": 1, "keypoints": [20, 10, 2, 10, 10, 2]}],
    }
    with zipfile.ZipFile(tmp_path / "annotations.zip", "w") as archive:
        archive.writestr("annotations/person_keypoints_val2017.json", json.dumps(table))
    requests: list[tuple[str, bool]] = []

    def fetch(file: WebFile, runtime: Runtime) -> Path:
        requests.append((file.name, runtime.offline))
        return tmp_path / "annotations.zip" if "annotations" in file.name else images

    monkeypatch.setattr(coco, "fetch_web", fetch)
    data = open_dataset("coco-val2017", runtime=Runtime(offline=True))
    assert ids(data) == ["000000000139.jpg", "000000000285.jpg"]
    assert (data.origin, data.name) == ("coco-val2017", "coco-val2017 (2 images)")
    assert data.read(data.items[1]) == content("val2017/000000000285.jpg")
    assert data.items[0].boxes == ()
    assert [box.label for box in data.items[1].boxes] == ["eye", "eye"]
    assert requests == [("coco/val2017.zip", True), ("coco/annotations_trainval2017.zip", True)]

    with zipfile.ZipFile(images) as archive:
        archive.extractall(tmp_path / "unpacked")
    assert manifest_sha256(open_dataset(tmp_path / "unpacked" / "val2017").items) == manifest_sha256(data.items)

    (tmp_path / "own.jsonl").write_text(
        '{"id": "000000000139.jpg", "label": "cat", "left": 0, "top": 0, "right": 9, "bottom": 9}\n'
    )
    requests.clear()
    own = open_dataset("coco-val2017", boxes=tmp_path / "own.jsonl")
    assert [len(item.boxes) for item in own.items] == [1, 0]
    assert requests == [("coco/val2017.zip", False)]


def test_coco_has_its_published_sizes_and_checksums() -> None:
    """The same as the published lists of checksums say; a digit lost here would cost a gigabyte of download."""
    table = tomllib.loads(files("vaelens.images.datasets").joinpath("coco.toml").read_text())
    assert {name: (file["size"], file["md5"][:6], len(file["sha256"])) for name, file in table.items()} == {
        "images": (815_585_330, "442b8d", 64),
        "annotations": (252_907_541, "f4bbac", 64),
    }
    assert items.MAX_BYTES < 815_585_330
