"""Small comparisons: a narrow random model with a safety checker, five random VAEs, and a photo."""

from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from support import pipelines
from support.vaes import random_vae
from vaelens.comparison.results import Comparison
from vaelens.comparison.workflow import compare
from vaelens.images.faces import draw_face
from vaelens.latents import Latent, latents_bytes
from vaelens.vae import VAE

PROMPT = "a photo of a cat"


@pytest.fixture(scope="session")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return pipelines.write(pipelines.sd(with_safety_checker=True), tmp_path_factory.mktemp("models") / "narrow-sd")


@pytest.fixture
def vaes() -> list[VAE]:
    return [named(random_vae(seed=seed), f"v{seed}") for seed in range(5)]


@pytest.fixture
def photo(tmp_path: Path) -> Path:
    return face_photo(tmp_path / "face.png", 40, 36)


def face_photo(path: Path, width: int, height: int) -> Path:
    """A synthetic face, cut at the bottom."""
    Image.fromarray(draw_face(0, width).pixels[:height]).save(path)
    return path


def named(vae: VAE, name: str) -> VAE:
    vae.name = name
    return vae


def save_latents(path: Path, latent: Latent) -> Path:
    path.write_bytes(latents_bytes(latent))
    return path


def run(model: Path, vaes: Any, seeds: Any = (0,), **more: Any) -> Comparison:
    options = {"model": model, "steps": 3, "safety_checker": False} | more
    return compare(PROMPT, vaes, seeds=seeds, **options)
