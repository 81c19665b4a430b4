"""The cache of what extractors said of originals: a chunk's own features, and no other chunk's or protocol's."""

from pathlib import Path

import pytest
import torch

from support.small_run import BATCH, IMAGES
from vaelens.evaluation.equipment import originals_cache
from vaelens.evaluation.folder import ORIGINALS, RunFolder
from vaelens.evaluation.images import Chunk, read_chunk
from vaelens.evaluation.instruments import Instruments
from vaelens.evaluation.originals import OriginalsCache
from vaelens.evaluation.preparation import saved_originals
from vaelens.evaluation.presets import PRESETS
from vaelens.evaluation.results import Results
from vaelens.images.datasets.opening import open_dataset

OFFLINE = PRESETS["offline"]


@pytest.fixture
def chunks(photos: Path) -> list[Chunk]:
    images = open_dataset(photos)
    return [read_chunk(images, number, BATCH, OFFLINE, skip_bad=False) for number in range(IMAGES // BATCH)]


def test_a_chunk_finds_its_own_features_only(chunks: list[Chunk], tmp_path: Path) -> None:
    cache = OriginalsCache(tmp_path, {"threads": 1}, ["small"])
    features = {"small": torch.rand(BATCH, 3)}
    cache.keep(chunks[0], features)
    found = cache.find(chunks[0])
    assert found is not None
    assert torch.equal(found["small"], features["small"])
    assert cache.find(chunks[1]) is None, "of equal size, but other images"
    assert OriginalsCache(tmp_path, {"threads": 2}, ["small"]).find(chunks[0]) is None
    assert OriginalsCache(tmp_path, {"threads": 1}, ["small", "dinov2"]).find(chunks[0]) is None


@pytest.mark.parametrize("key", ["preset", "threads", "device", "networks", "versions"])
def test_features_of_another_protocol_are_not_found(
    chunks: list[Chunk], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, key: str
) -> None:
    monkeypatch.setenv("VAELENS_CACHE", str(tmp_path))
    monkeypatch.setattr("vaelens.evaluation.equipment.processor", lambda device: "one")
    plan = {"preset": OFFLINE.as_dict(), "threads": 1, "device": "cpu", "networks": {}, "versions": {"torch": "2"}}
    originals_cache(plan).keep(chunks[0], {"small": torch.rand(BATCH, 3)})
    assert originals_cache(plan).find(chunks[0]) is not None
    others = {
        "preset": OFFLINE.as_dict() | {"rounding": "truncate"}, "threads": 2, "device": "cuda",
        "networks": {"fd-small": {"sha256": "0" * 64}}, "versions": {"torch": "3"},
    }  # fmt: skip
    assert originals_cache(plan | {key: others[key]}).find(chunks[0]) is None
    monkeypatch.setattr("vaelens.evaluation.equipment.processor", lambda device: "another")
    assert originals_cache(plan).find(chunks[0]) is None


def test_an_evaluation_has_the_features_of_each_chunk(whole: tuple[Path, Results], chunks: list[Chunk]) -> None:
    folder = RunFolder(whole[0], [f"{n:02d}.png" for n in range(IMAGES)], BATCH)
    folder.refresh()
    instruments = Instruments(OFFLINE, {}, torch.device("cpu"))
    expected = [instruments.features(saved_originals(chunk.pixels, OFFLINE))["small"] for chunk in chunks]
    found = folder.features(ORIGINALS, "small")
    assert found is not None
    torch.testing.assert_close(found, torch.cat(expected), rtol=1e-4, atol=1e-5)
