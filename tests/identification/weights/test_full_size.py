"""A full-size VAE, 335 MB, through the installed command. How long it takes: `benchmarks/identify.py`."""

from pathlib import Path

import pytest

from support.commands import vaelens
from support.vaes import random_vae
from vaelens.weights.registry import registry


@pytest.mark.slow
def test_a_full_vae(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setenv("VAELENS_CACHE", str(tmp_path / "cache"))
    spec = registry().space_spec("sd1")
    assert spec is not None
    path = random_vae(spec.config).save(tmp_path / "full.safetensors", layout="ldm")
    assert "fp32 in LDM layout, 335 MB" in vaelens("identify", path).stdout
