"""PSIM and LPIPS against lpips 0.1.4 and by hand, on random weights."""

import math
from collections.abc import Callable
from typing import Literal, TypeVar

import pytest
import torch
from torch import Tensor, nn

from support import oracles
from support.random_trunks import random_alexnet, random_heads, random_vgg16
from vaelens.metrics.lpips import LPIPSHeads, lpips
from vaelens.metrics.psim import normalised, psim, psim_maps
from vaelens.networks.alexnet import AlexNet
from vaelens.networks.native_layers import use_native_convolutions
from vaelens.networks.vgg import VGG16

Network = TypeVar("Network", bound=nn.Module)
NETWORKS = {"vgg": (VGG16, random_vgg16), "alex": (AlexNet, random_alexnet)}


def filled(build: Callable[[], Network], state: dict[str, Tensor]) -> Network:
    with torch.device("meta"):  # its own random start would take longer than the test
        module = build()
    module.load_state_dict(state, assign=True)
    return module.eval().requires_grad_(False)


def heads_of(network: type[VGG16 | AlexNet]) -> LPIPSHeads:
    return filled(lambda: LPIPSHeads(network.WIDTHS), random_heads(network.WIDTHS))


@pytest.fixture(scope="module")
def images() -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    return torch.rand(2, 3, 64, 72, generator=generator), torch.rand(2, 3, 64, 72, generator=generator)


@pytest.fixture(scope="module", params=["torch", "native"])
def kernels(request: pytest.FixtureRequest) -> Callable[[nn.Module], nn.Module]:
    """A network on PyTorch's operations, and as `evaluate` runs it on this machine."""

    def prepared(network: nn.Module) -> nn.Module:
        if request.param == "native":
            use_native_convolutions(network, torch.device("cpu"))
        return network

    return prepared


@pytest.fixture(scope="module")
def vgg(kernels: Callable[[nn.Module], nn.Module]) -> nn.Module:
    return kernels(filled(VGG16, random_vgg16()))


def test_psim_is_half_the_lpips_baseline(vgg: nn.Module, images: tuple[Tensor, Tensor]) -> None:
    x, y = images
    oracle = oracles.lpips_model("vgg", random_vgg16(), heads=None)
    expected = oracle(2 * x - 1, 2 * y - 1).flatten().double() / 2
    measured = psim(vgg(normalised(x)), vgg(normalised(y)))
    assert measured.dtype == torch.float64
    assert measured.shape == (2,)
    assert expected.min() > 0.5, "a distance of the baseline above 1"
    torch.testing.assert_close(measured, expected, rtol=1e-5, atol=0)


@pytest.mark.parametrize("net", ["vgg", "alex"])
def test_lpips_against_lpips(
    net: Literal["vgg", "alex"], images: tuple[Tensor, Tensor], kernels: Callable[[nn.Module], nn.Module]
) -> None:
    build, random_trunk = NETWORKS[net]
    x, y = images
    state, heads = random_trunk(), random_heads(build.WIDTHS)
    expected = oracles.lpips_model(net, state, heads)(2 * x - 1, 2 * y - 1).flatten().double()
    network = kernels(filled(build, state))
    measured = lpips(network(normalised(x)), network(normalised(y)), heads_of(build))
    assert expected.min() > 1
    torch.testing.assert_close(measured, expected, rtol=0, atol=1e-6)


def test_equal_images_have_no_distance(vgg: nn.Module, images: tuple[Tensor, Tensor]) -> None:
    taps = vgg(normalised(images[0]))
    assert psim(taps, taps).abs().max() < 1e-9
    assert lpips(taps, taps, heads_of(VGG16)).abs().max() == 0


def test_psim_by_hand() -> None:
    """Right angle, the same direction, the opposite one, and a vector of zeros against one and against zeros."""
    x = [[1.0, 0.0], [2.0, 2.0], [3.0, 0.0], [0.0, 0.0], [0.0, 0.0]]
    y = [[0.0, 5.0], [1.0, 1.0], [-1.0, 0.0], [1.0, 2.0], [0.0, 0.0]]
    taps = [torch.tensor(v).T.reshape(1, 2, 1, 5) for v in (x, y)]
    (distances,) = psim_maps([taps[0]], [taps[1]])
    torch.testing.assert_close(distances, torch.tensor([[[1.0, 0.0, 2.0, 1.0, 1.0]]], dtype=torch.float64))
    assert math.isclose(psim([taps[0]] * 3, [taps[1]] * 3), 3 * 5 / 5, rel_tol=1e-9)


def test_the_epsilon_is_added_to_each_norm() -> None:
    x = torch.full((1, 1, 1, 1), 1e-10)
    assert math.isclose(psim([x], [x]), 1 - 0.25, rel_tol=1e-6)
    assert math.isclose(psim([x], [torch.ones(1, 1, 1, 1)]), 1 - 0.5, rel_tol=1e-6)


def test_maps_have_the_taps_sizes_and_their_means_are_psim(vgg: nn.Module, images: tuple[Tensor, Tensor]) -> None:
    x, y = (vgg(normalised(image)) for image in images)
    maps = psim_maps(x, y)
    assert [tuple(m.shape) for m in maps] == [(2, 64, 72), (2, 32, 36), (2, 16, 18), (2, 8, 9), (2, 4, 4)]
    torch.testing.assert_close(sum(m.mean(dim=(1, 2)) for m in maps), psim(x, y), rtol=1e-12, atol=0)


def test_taps_must_belong_together() -> None:
    tap = torch.rand(1, 4, 8, 8)
    heads = LPIPSHeads((4,))
    for x, y in (([tap], [tap[:, :, :4]]), ([tap], [tap, tap]), ([], [])):
        for measure in (psim, lambda a, b: lpips(a, b, heads)):
            with pytest.raises(ValueError, match="one shape"):
                measure(x, y)
    with pytest.raises(ValueError, match="zip"):
        lpips([tap, tap], [tap, tap], heads)
