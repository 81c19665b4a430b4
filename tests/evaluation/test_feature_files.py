"""The cache of originals' features: a chunk's own, and no other chunk's or protocol's."""

import errno
import os
from pathlib import Path

import pytest
import torch

from support.small_run import BATCH, IMAGES, PRESET, Run
from vaelens.errors import BadInputError
from vaelens.evaluation import run
from vaelens.evaluation.chunks import Chunk, quantize_originals, read_chunk
from vaelens.evaluation.evaluation_folder import EvaluationFolder
from vaelens.evaluation.feature_files import ORIGINALS, FeatureFiles, OriginalsCache
from vaelens.evaluation.loaded_preset import load_preset
from vaelens.images.datasets.opening import open_dataset
from vaelens.runtime import Runtime


@pytest.fixture
def chunks(photos: Path) -> list[Chunk]:
    images = open_dataset(photos)
    return [read_chunk(images, number, BATCH, PRESET, skip_bad=False) for number in range(IMAGES // BATCH)]


def test_a_chunk_finds_its_own_features_only(chunks: list[Chunk], tmp_path: Path) -> None:
    cache = OriginalsCache(tmp_path, {"threads": 1}, ["fd-small"])
    features = {"fd-small": torch.rand(BATCH, 3)}
    cache.store(chunks[0], features)
    found = cache.load(chunks[0])
    assert found is not None
    assert torch.equal(found["fd-small"], features["fd-small"])
    assert cache.load(chunks[1]) is None, "of equal size, but other images"
    assert OriginalsCache(tmp_path, {"threads": 2}, ["fd-small"]).load(chunks[0]) is None
    assert OriginalsCache(tmp_path, {"threads": 1}, ["fd-small", "dinov2"]).load(chunks[0]) is None


@pytest.mark.parametrize("key", ["preset", "threads", "device", "networks", "versions"])
def test_features_of_another_protocol_are_not_found(
    chunks: list[Chunk], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, key: str
) -> None:
    monkeypatch.setenv("VAELENS_CACHE", str(tmp_path))
    monkeypatch.setattr("vaelens.evaluation.run.processor", lambda device: "one")
    preset = load_preset(PRESET, {}, Runtime())
    plan = {"preset": PRESET.as_dict(), "threads": 1, "device": "cpu", "networks": {}, "versions": {"torch": "2"}}
    run._originals_cache(plan, preset).store(chunks[0], {"fd-small": torch.rand(BATCH, 3)})
    assert run._originals_cache(plan, preset).load(chunks[0]) is not None
    others = {
        "preset": PRESET.as_dict() | {"rounding": "truncate"}, "threads": 2, "device": "cuda",
        "networks": {"fd-small": {"sha256": "0" * 64}}, "versions": {"torch": "3"},
    }  # fmt: skip
    assert run._originals_cache(plan | {key: others[key]}, preset).load(chunks[0]) is None
    monkeypatch.setattr("vaelens.evaluation.run.processor", lambda device: "another")
    assert run._originals_cache(plan, preset).load(chunks[0]) is None


def test_an_evaluation_has_the_features_of_each_chunk(whole: Run, chunks: list[Chunk]) -> None:
    folder = EvaluationFolder(whole.folder, [f"{n:02d}.png" for n in range(IMAGES)], BATCH)
    folder.refresh()
    preset = load_preset(PRESET, {}, Runtime())
    expected = [preset.features(quantize_originals(chunk.pixels, PRESET))["fd-small"] for chunk in chunks]
    found = folder.features(ORIGINALS, "fd-small")
    assert found is not None
    torch.testing.assert_close(found, torch.cat(expected), rtol=1e-4, atol=1e-5)


def test_features_that_can_not_be_read_stay_and_only_damaged_ones_are_removed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    files = FeatureFiles(tmp_path, 10, 5)
    for chunk in range(4):
        files.write(chunk, ORIGINALS, {"fd-small": torch.rand(2, 3)})
    paths = sorted(tmp_path.rglob("*.safetensors"))
    paths[0].write_bytes(paths[0].read_bytes()[:-1])
    whole, read = paths[2].read_bytes(), Path.read_bytes
    failures = {paths[1]: errno.ENOENT, paths[2]: errno.EACCES}

    def refusing(path: Path) -> bytes:
        if path in failures:
            raise OSError(failures[path], os.strerror(failures[path]), str(path))
        return read(path)

    with monkeypatch.context() as patch:
        patch.setattr(Path, "read_bytes", refusing)
        with pytest.raises(BadInputError, match=rf"{paths[2]}: can't be read"):
            files.remove_damaged([ORIGINALS])
        del failures[paths[2]]
        assert files.remove_damaged([ORIGINALS]) == []
    assert not paths[0].exists()
    assert paths[2].read_bytes() == whole
