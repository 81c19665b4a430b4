"""Inception and its two inputs, against torch-fidelity and pytorch-fid, on the same random weights."""

from collections.abc import Generator
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from support import oracles
from support.random_trunks import random_inception
from vaelens.metrics.inception_input import PREPROCESSINGS, pytorch_fid, torch_fidelity
from vaelens.metrics.pretrained import read_network
from vaelens.networks.native_layers import NativeConv2d, use_native_convolutions


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("inception") / "inception.pth"
    torch.save(random_inception(), path)
    return path


@pytest.fixture(autouse=True)
def without_gradients() -> Generator[None]:
    with torch.inference_mode():
        yield


@pytest.fixture(scope="module", params=["torch", "native"])
def inception(weights: Path, request: pytest.FixtureRequest) -> nn.Module:
    """On PyTorch's operations, as the oracles are, and as `evaluate` runs it on this machine."""
    network = read_network("inception", weights).module
    if request.param == "native":
        use_native_convolutions(network, torch.device("cpu"))
    return network


def bytes_of(*shape: int, seed: int = 0) -> Tensor:
    return torch.randint(0, 256, shape, dtype=torch.uint8, generator=torch.Generator().manual_seed(seed))


def smooth(size: int, count: int = 2) -> Tensor:
    """Images with broad shapes and some noise, so that pooling leaves something to tell them by."""
    small = torch.rand(count, 3, 6, 6, generator=torch.Generator().manual_seed(1))
    large = torch.nn.functional.interpolate(small, size=(size, size), mode="bicubic").clamp(0, 1)
    return (large * 200 + bytes_of(count, 3, size, size) / 5).to(torch.uint8)


@pytest.fixture
def tolerance(inception: nn.Module) -> float:
    """In another order of sums: of these features any fp32 network is 1e-5 off one in float64, the oracles too."""
    return 3e-5 if any(isinstance(layer, NativeConv2d) for layer in inception.modules()) else 1e-6


def relative(measured: Tensor, expected: Tensor) -> float:
    """The largest difference against the spread of the features over images, the part that FID sees."""
    assert (expected[0] - expected[1]).norm() > 1, "features that don't differ prove nothing"
    return float((measured - expected).abs().max() / (expected[0] - expected[1]).abs().max())


@pytest.fixture(scope="module")
def by_torch_fidelity(weights: Path) -> nn.Module:
    return oracles.torch_fidelity_inception(weights)


@pytest.fixture(scope="module")
def by_pytorch_fid(weights: Path) -> nn.Module:
    return oracles.pytorch_fid_inception(weights)


def test_the_trunk_against_both(
    inception: nn.Module, by_torch_fidelity: nn.Module, by_pytorch_fid: nn.Module, tolerance: float
) -> None:
    images = smooth(299)
    x = (images.float() - 128) / 128  # both resize 299 pixels to what they were
    measured = inception(x)
    assert measured.shape == (2, 2048)
    assert relative(measured, by_torch_fidelity(images)[0]) < tolerance
    assert relative(measured, by_pytorch_fid((x + 1) / 2)[0].flatten(1)) < tolerance


def test_features_of_bytes(
    inception: nn.Module, by_torch_fidelity: nn.Module, by_pytorch_fid: nn.Module, tolerance: float
) -> None:
    images = smooth(256)
    one = inception(torch_fidelity(images))
    assert relative(one, by_torch_fidelity(images)[0]) < max(1e-5, tolerance)
    other = inception(pytorch_fid(images))
    assert relative(other, by_pytorch_fid(images / 255)[0].flatten(1)) < max(1e-5, tolerance)
    assert relative(other, one) > 1e-4, "the two ways must stay two"


@pytest.mark.parametrize("size", [(256, 256), (299, 299), (32, 32), (64, 100), (300, 601), (1, 7)])
def test_the_resize_of_tensorflow_1_exactly(size: tuple[int, int]) -> None:
    images = bytes_of(2, 3, *size)
    assert torch.equal(torch_fidelity(images), (oracles.torch_fidelity_resize(images.float()) - 128) / 128)


@pytest.mark.parametrize("name", PREPROCESSINGS)
def test_inputs_lie_in_their_range_and_only_bytes_are_taken(name: str) -> None:
    prepare = PREPROCESSINGS[name]
    ends = torch.tensor([0, 255], dtype=torch.uint8).view(2, 1, 1, 1).expand(2, 3, 8, 8)
    low, high = prepare(ends)
    torch.testing.assert_close(low, torch.full((3, 299, 299), -1.0), rtol=0, atol=1e-6)
    white = 127 / 128 if name == "torch_fidelity" else 1.0
    torch.testing.assert_close(high, torch.full((3, 299, 299), white), rtol=0, atol=1e-6)
    for wrong in (ends.float() / 255, ends[:, :1], ends[0], ends[:0]):
        with pytest.raises(ValueError, match="8-bit images"):
            prepare(wrong)
