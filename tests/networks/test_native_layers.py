"""The metric networks on the native kernels, against themselves in float64 on PyTorch's operations."""

import copy
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from support.random_trunks import random_alexnet, random_inception, random_vgg16
from vaelens.kernels import library
from vaelens.kernels.paths import available_paths
from vaelens.metrics.small import load_small_frechet, load_small_perceptual
from vaelens.networks.alexnet import AlexNet
from vaelens.networks.inception import InceptionV3
from vaelens.networks.native_layers import NativeConv2d, use_native_convolutions
from vaelens.networks.vgg import VGG16

CPU = torch.device("cpu")
FP32 = [path for path in available_paths() if path in ("avx512", "avx2", "portable")]
# Native layers: 3x3 of stride 1 that read at least 16 channels; and the image's side.
NETWORKS: dict[str, tuple[Callable[[], nn.Module], int, int]] = {
    "vgg16": (lambda: filled(VGG16, random_vgg16()), 12, 48),
    "alexnet": (lambda: filled(AlexNet, random_alexnet()), 3, 67),
    "inception": (lambda: filled(InceptionV3, random_inception()), 12, 107),
    "psim-small": (load_small_perceptual, 9, 50),
    "fd-small": (load_small_frechet, 7, 50),
}

pytestmark = pytest.mark.skipif(not FP32, reason=library.unavailable() or "")


def filled(build: Callable[[], nn.Module], state: dict[str, Tensor]) -> nn.Module:
    with torch.device("meta"):
        module = build()
    module.load_state_dict({name: state[name] for name in module.state_dict() if name in state}, False, assign=True)
    return module.eval().requires_grad_(False)


def image(side: int) -> Tensor:
    """With broad shapes, around [-1,1]."""
    small = torch.randn(1, 3, 6, 6, generator=torch.Generator().manual_seed(0))
    return F.interpolate(small, size=(side, side + 3), mode="bicubic")


def outputs(network: nn.Module, x: Tensor) -> list[Tensor]:
    found = network(x.clone())
    return [found] if isinstance(found, Tensor) else list(found)


@pytest.fixture(params=NETWORKS)
def case(request: pytest.FixtureRequest) -> tuple[nn.Module, int, Tensor]:
    build, native, side = NETWORKS[request.param]
    return build(), native, image(side)


def test_the_same_features(case: tuple[nn.Module, int, Tensor], monkeypatch: pytest.MonkeyPatch) -> None:
    network, native, x = case
    expected = outputs(copy.deepcopy(network).double(), x.double())
    for path in FP32:
        fast = copy.deepcopy(network)
        monkeypatch.setenv("VAELENS_KERNELS", path)
        assert use_native_convolutions(fast, CPU) == path
        assert sum(isinstance(layer, NativeConv2d) for layer in fast.modules()) == native
        for measured, exact in zip(outputs(fast, x), expected, strict=True):
            assert measured.shape == exact.shape
            error = float(torch.linalg.vector_norm(measured - exact) / torch.linalg.vector_norm(exact))
            assert error < 5e-6, f"{path}: relative error {error:.1e}"


def test_the_path_torch_changes_nothing(case: tuple[nn.Module, int, Tensor], monkeypatch: pytest.MonkeyPatch) -> None:
    network, _, x = case
    expected, layers = outputs(network, x), list(network.modules())
    monkeypatch.setenv("VAELENS_KERNELS", "torch")
    assert use_native_convolutions(network, CPU) == "torch"
    assert list(network.modules()) == layers
    assert all(torch.equal(a, b) for a, b in zip(outputs(network, x), expected, strict=True))


@pytest.mark.parametrize("forced", ["tiles", "amx"])
def test_products_of_bf16_are_never_used(forced: str, monkeypatch: pytest.MonkeyPatch) -> None:
    if forced not in available_paths():
        pytest.skip(f"this machine has no path {forced}")
    monkeypatch.setenv("VAELENS_KERNELS", forced)
    network = load_small_perceptual()
    path = use_native_convolutions(network, CPU)
    assert path in FP32
    assert {layer.convolution.kernel.path for layer in network.modules() if isinstance(layer, NativeConv2d)} == {path}


def test_an_image_is_bit_identical_in_company_and_on_more_threads(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("VAELENS_KERNELS", FP32[0])
    network, x = nn.Sequential(nn.Conv2d(20, 24, 3, padding=1).requires_grad_(False)), torch.randn(3, 20, 21, 34)
    use_native_convolutions(network, CPU)
    assert isinstance(network[0], NativeConv2d)
    together = network(x)
    torch.testing.assert_close(network(x.contiguous(memory_format=torch.channels_last)), together, rtol=0, atol=0)
    for i in range(3):
        assert torch.equal(network(x[i : i + 1])[0], together[i])
    threads = torch.get_num_threads()
    try:
        torch.set_num_threads(threads + 1)
        assert torch.equal(network(x), together)
    finally:
        torch.set_num_threads(threads)
