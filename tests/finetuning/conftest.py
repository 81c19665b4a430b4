"""What the tests of training share: presets that measure small squares, images, a narrow VAE, and a short report."""

import json
from collections.abc import Generator
from pathlib import Path

import pytest

import vaelens as vl
from support.training import OTHER_FIELDS, SMALL_CONFIG, folder, small_presets
from support.vaes import random_vae


@pytest.fixture(scope="module", autouse=True)
def _presets() -> Generator[None]:
    with small_presets():
        yield


@pytest.fixture
def plain_report(monkeypatch: pytest.MonkeyPatch) -> None:
    """An evaluation writes an empty page: a real one takes longer than a short training."""
    monkeypatch.setattr("vaelens.evaluation.run.make_examples", lambda chosen, work: [])
    monkeypatch.setattr("vaelens.evaluation.report.report_files.report_html", lambda results, examples: "")


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """The folder of a training."""
    return tmp_path / "run"


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return folder(tmp_path_factory.mktemp("data") / "photos", 14, side=44)


@pytest.fixture(scope="module")
def narrow(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A VAE's file that remembers fields of its config.json which training doesn't use."""
    place = tmp_path_factory.mktemp("vae")
    config = random_vae(SMALL_CONFIG).save(place / "narrow") / "config.json"
    config.write_text(json.dumps(json.loads(config.read_text()) | OTHER_FIELDS))
    return vl.load(place / "narrow", device="cpu").save(place / "narrow.safetensors")
