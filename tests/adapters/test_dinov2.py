"""DINOv2's features against transformers' own preprocessing, with a small random network behind a hub stand-in."""

import warnings
from collections.abc import Generator
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from support import oracles  # noqa: F401  (transformers imports torchvision, which needs its operators)
from support.standins.hub import HubStandin
from vaelens.adapters.dinov2 import REPOSITORY, load_dinov2
from vaelens.errors import BadInputError, NetworkError
from vaelens.evaluation.loaded_preset import with_metrics
from vaelens.evaluation.presets import PRESETS
from vaelens.runtime import Runtime

CPU = torch.device("cpu")
FILES = ("config.json", "model.safetensors")


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A network of DINOv2's kind, saved as the real one is."""
    with warnings.catch_warnings():  # what transformers deprecates while it loads
        warnings.simplefilter("ignore")
        from transformers import Dinov2Config, Dinov2Model
    torch.manual_seed(0)
    config = Dinov2Config(hidden_size=32, num_hidden_layers=2, num_attention_heads=2, image_size=518, patch_size=14)
    folder = tmp_path_factory.mktemp("dinov2")
    Dinov2Model(config).eval().save_pretrained(folder)
    return folder


@pytest.fixture
def served(small: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Generator[HubStandin]:
    with HubStandin() as hub:
        hub.use(monkeypatch, tmp_path)
        for name in FILES:
            hub.add(REPOSITORY, name, (small / name).read_bytes())
        yield hub


def test_features_are_the_class_token_of_pillows_resize(served: HubStandin, small: Path) -> None:
    from transformers import Dinov2Model

    notices: list[str] = []
    dinov2 = load_dinov2(CPU, runtime=Runtime(notify=notices.append))
    assert any(REPOSITORY in notice for notice in notices)
    images = np.random.default_rng(0).integers(0, 256, (2, 256, 256, 3), dtype=np.uint8)
    found = dinov2.features(torch.from_numpy(images).permute(0, 3, 1, 2))
    assert found.shape == (2, 32)
    resized = np.stack([np.asarray(Image.fromarray(p).resize((224, 224), Image.Resampling.BICUBIC)) for p in images])
    x = (resized / 255 - [0.485, 0.456, 0.406]) / [0.229, 0.224, 0.225]
    oracle = Dinov2Model.from_pretrained(small).eval()
    with torch.no_grad():
        expected = oracle(torch.from_numpy(x).float().permute(0, 3, 1, 2)).last_hidden_state[:, 0]
    assert torch.allclose(found, expected, rtol=1e-4, atol=1e-5)
    assert float((found[0] - found[1]).abs().max()) > 1e-3
    before = len(served.requests)
    again = load_dinov2(CPU, runtime=Runtime(offline=True))
    assert len(served.requests) == before
    assert again.sha256 == dinov2.sha256


def test_other_weights_are_refused(served: HubStandin, small: Path) -> None:
    from safetensors.torch import load_file, save

    tensors = load_file(small / "model.safetensors")
    del tensors["layernorm.weight"]
    served.add(REPOSITORY, "model.safetensors", save(tensors, {"format": "pt"}))
    with pytest.raises(BadInputError, match=r"not the weights of DINOv2.*layernorm\.weight"):
        load_dinov2(CPU)


def test_without_a_network_it_says_so(served: HubStandin) -> None:
    with pytest.raises(NetworkError, match=REPOSITORY):
        load_dinov2(CPU, runtime=Runtime(offline=True))


def test_the_metric_is_added_to_a_preset() -> None:
    assert with_metrics(PRESETS["modern"], ["fd_dinov2"]).metrics[:3] == ("rfid", "kid", "fd_dinov2")
