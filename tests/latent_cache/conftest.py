"""What the tests of caches share: photos of several sizes, a narrow VAE, and others with its encoder or another one."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from support.latents import FAST
from support.small_run import make_photos
from support.training import SMALL_CONFIG
from support.vaes import random_vae
from vaelens.latent_cache.cache import LatentCache
from vaelens.latent_cache.encoding import encode_dataset
from vaelens.vae import VAE


@pytest.fixture(scope="session")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """14 of them."""
    return make_photos(tmp_path_factory.mktemp("photos"))


@pytest.fixture(scope="session")
def vae() -> VAE:
    return random_vae(SMALL_CONFIG, seed=1)


@pytest.fixture(scope="session")
def other_decoder(vae: VAE) -> VAE:
    """With the same encoder."""
    other = random_vae(SMALL_CONFIG, seed=2)
    weights = vae.network.state_dict() | {
        name: tensor
        for name, tensor in other.network.state_dict().items()
        if name.startswith(("decoder.", "post_quant_conv."))
    }
    other.network.load_state_dict(weights)
    return other.named("sibling")


@pytest.fixture(scope="session")
def stranger() -> VAE:
    """With another encoder."""
    return random_vae(SMALL_CONFIG, seed=3).named("stranger")


@pytest.fixture
def encode(vae: VAE, photos: Path, tmp_path: Path) -> Callable[..., LatentCache]:
    def encode(output: str = "latents", images_of: Path = photos, of: VAE = vae, **options: Any) -> LatentCache:
        cache = encode_dataset(of, images_of, output=tmp_path / output, **FAST | options)
        assert cache is not None
        return cache

    return encode


@pytest.fixture(autouse=True)
def _one_thread() -> None:
    torch.set_num_threads(1)
