"""The folder of a run by itself: what it takes, what it refuses, and the sums that it makes of features."""

import functools
import operator
from collections.abc import Sequence
from pathlib import Path

import pytest
import torch
from torch import Tensor

from vaelens.errors import BadInputError, CheckFailedError
from vaelens.evaluation import feature_files
from vaelens.evaluation.evaluation_folder import EvaluationFolder
from vaelens.evaluation.feature_files import ORIGINALS, FeatureFiles
from vaelens.evaluation.results import Row
from vaelens.metrics.frechet import Moments
from vaelens.runs.records import JsonLines

COUNT, BATCH = 14, 2
PLAN = {"command": "evaluate", "preset": {"name": "made up"}, "batch": 1, "threads": 1, "vaes": {"a": {}}}
ORDER = (5, 0, 3, 6, 2, 4, 1)  # of its chunks
NAMES = (ORIGINALS, "a")


@pytest.fixture
def few_stored(monkeypatch: pytest.MonkeyPatch) -> None:
    """Sums from 11 images on, in three groups of up to three chunks, each chunk a block."""
    for name, value in (("MAX_STORED", 10), ("GROUPS", 3), ("BLOCK", 2)):
        monkeypatch.setattr(feature_files, name, value)


def started(path: Path, count: int = COUNT, batch: int = BATCH) -> EvaluationFolder:
    folder = EvaluationFolder(path, [f"{n:03d}" for n in range(count)], batch)
    folder.start(PLAN)
    return folder


def features_of(name: str, count: int = COUNT) -> Tensor:
    return torch.randn(count, 3, generator=torch.Generator().manual_seed(len(name)))


def add(folder: EvaluationFolder, chunk: int, vae: str = "a", bad: Sequence[str] = ()) -> None:
    """A unit as `Measurement` adds it: features and rows of the images that aren't bad."""
    ids = folder.ids_of(chunk)
    good = [name not in bad for name in ids]
    part = slice(chunk * folder.batch, chunk * folder.batch + len(ids))
    features = {name: {"x": features_of(name, len(folder.ids))[part][good]} for name in (ORIGINALS, vae)}
    if not any(good):
        features = {ORIGINALS: {}, vae: {}}
    rows = [Row(name, vae, "0" * 64, True, {"psnr": 20.0}) for name in ids if name not in bad]
    folder.add(chunk, vae, rows, [(name, "unreadable") for name in bad if name in ids], features)


def measured(path: Path, bad: Sequence[str] = ()) -> EvaluationFolder:
    """All of its units."""
    folder = started(path)
    for chunk in ORDER:
        add(folder, chunk, bad=bad)
    return folder


def assert_equal(found: Moments, features: Tensor) -> None:
    expected = Moments.of(features)
    assert found.count == expected.count
    torch.testing.assert_close(found.total, expected.total, rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(found.outer, expected.outer, rtol=1e-12, atol=1e-12)


def total(groups: Sequence[Moments]) -> Moments:
    return functools.reduce(operator.add, groups)


def files(folder: EvaluationFolder, kind: str) -> list[Path]:
    return sorted((folder.path / kind).rglob("*.safetensors"))


@pytest.mark.usefixtures("few_stored")
def test_sums_are_those_of_all_images(tmp_path: Path) -> None:
    folder = measured(tmp_path)
    assert not files(folder, "features")
    assert len(files(folder, "sums")) == 2 * 3
    for name in NAMES:
        groups = folder.moments(name, "x")
        assert sorted(group.count for group in groups) == [4, 4, 6]
        assert_equal(total(groups), features_of(name))


def test_groups_are_of_images_from_the_whole_set(tmp_path: Path) -> None:
    folder = started(tmp_path, 45, 4)
    for chunk in range(folder.chunks):
        add(folder, chunk)
    groups = folder.moments("a", "x")
    assert len(groups) == 20
    for number, group in enumerate(groups):
        assert_equal(group, features_of("a", 45)[number::20])


def test_of_fewer_images_than_groups_each_is_one(tmp_path: Path) -> None:
    folder = measured(tmp_path)
    assert [group.count for group in folder.moments("a", "x")] == [1] * COUNT


def test_summed_groups_are_of_chunks_from_the_whole_set(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """And no rank of torchrun, which takes every k-th chunk, has a whole one, which it would fold and couldn't send."""
    monkeypatch.setattr(feature_files, "MAX_STORED", 10)
    folder = started(tmp_path, 90, 1)
    for chunk in range(45):
        add(folder, chunk)
        add(folder, 89 - chunk)
    groups = folder.moments("a", "x")
    assert len(groups) == 20
    assert_equal(total(groups), features_of("a", 90))
    outers = [torch.outer(one, one) for one in features_of("a", 90).double()]
    for number, group in enumerate(groups):
        chunks = [20 * turn + (number - turn) % 20 for turn in range(5)]
        chunks = [chunk for chunk in chunks if chunk < 90]
        torch.testing.assert_close(group.outer, functools.reduce(operator.add, [outers[c] for c in chunks]))
    for ranks in (2, 3, 4, 5, 10, 20):
        part = started(tmp_path / str(ranks), 90, 1)
        for chunk in range(1, 90, ranks):
            add(part, chunk)
        assert not files(part, "sums")
        assert len(part.unit(1, "a")[0]) == 1


@pytest.mark.usefixtures("few_stored")
def test_a_chunk_in_a_sum_cannot_be_sent(tmp_path: Path) -> None:
    folder = measured(tmp_path)
    assert folder.is_done(0, "a")
    with pytest.raises(BadInputError, match=r"was replaced by a sum.*one folder that they share"):
        folder.unit(0, "a")


@pytest.mark.usefixtures("few_stored")
def test_damaged_and_missing_sums_are_named_and_made_again(tmp_path: Path) -> None:
    folder = measured(tmp_path)
    broken = files(folder, "sums")[0]
    broken.write_bytes(broken.read_bytes()[:100])
    with pytest.raises(CheckFailedError, match=rf"{broken} is damaged.* Run the same command again"):
        folder.moments(ORIGINALS, "x")
    with pytest.raises(BadInputError, match="no sums of y"):
        folder.moments("a", "y")
    notices: list[str] = []
    folder.start(PLAN, notices.append)
    assert "sums/originals/00.safetensors had a wrong checksum and are measured again" in notices[0]
    with pytest.raises(BadInputError, match=rf"{broken} is missing"):
        folder.moments(ORIGINALS, "x")
    for chunk in ORDER:
        if not folder.is_done(chunk, "a"):
            add(folder, chunk)
    assert_equal(total(folder.moments(ORIGINALS, "x")), features_of(ORIGINALS))
    assert (tmp_path / "rows.jsonl").read_text().count("\n") == COUNT


@pytest.mark.usefixtures("few_stored")
def test_a_group_without_readable_images(tmp_path: Path) -> None:
    bad = [f"{chunk * BATCH + n:03d}" for chunk in (1, 3) for n in range(BATCH)]  # all chunks of a group
    folder = measured(tmp_path, bad)
    good = [n for n, name in enumerate(folder.ids) if name not in bad]
    for name in NAMES:
        groups = folder.moments(name, "x")
        assert len(groups) == 2
        assert_equal(total(groups), features_of(name)[good])


@pytest.mark.usefixtures("few_stored")
def test_sums_that_a_killed_process_left_out_are_made(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """By whichever process finds them missing: one that adds the same unit, or one that needs the sums."""
    folder = started(tmp_path)
    with monkeypatch.context() as patch:
        patch.setattr(FeatureFiles, "_sum_up_group", lambda self, group, name: None)
        measured(tmp_path)
    assert not files(folder, "sums")
    add(folder, 6)
    assert len(files(folder, "sums")) == 2
    assert_equal(total(folder.moments("a", "x")), features_of("a"))


@pytest.mark.parametrize("chunk", [0, 1])
def test_an_image_whose_readability_changed_is_refused(tmp_path: Path, chunk: int) -> None:
    folder = started(tmp_path)
    add(folder, 0, bad=["000"])
    add(folder, 1)
    before, features = (tmp_path / "rows.jsonl").read_bytes(), files(folder, "features")
    other = started(tmp_path)
    if chunk == 0:
        with pytest.raises(BadInputError, match=r"000 was unreadable before.*another folder"):
            add(other, 0, "b")
    else:
        with pytest.raises(BadInputError, match=r"003 was readable before.*Check the disk"):
            add(other, 1, "b", bad=["003"])
    assert (tmp_path / "rows.jsonl").read_bytes() == before
    assert files(folder, "features") == features
    add(other, 0, "b", bad=["000"])
    add(other, 1, "b")
    assert [row.id for row in other.rows(["a", "b"])] == ["001"] * 2 + ["002"] * 2 + ["003"] * 2


def test_features_of_a_process_that_was_killed_before_its_rows(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """They may be of other images than can be read now."""

    def interrupt(*_args: object) -> None:
        raise KeyboardInterrupt

    folder = started(tmp_path)
    with monkeypatch.context() as patch:
        patch.setattr(JsonLines, "append", interrupt)
        with pytest.raises(KeyboardInterrupt):
            add(folder, 0)
    add(folder, 0, bad=["000"])
    for chunk in range(1, 7):
        add(folder, chunk)
    for name in NAMES:
        features = folder.features(name, "x")
        assert features is not None
        assert torch.equal(features, features_of(name)[1:])
