"""Packed weights: used again while the parameters are the same, and no longer than the network lives."""

import gc
import weakref
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch

from support.vaes import CONFIGS, random_network
from vaelens import engine
from vaelens.engine.architecture import Convolve, decoder_steps
from vaelens.engine.packed_weights import prepare
from vaelens.kernels.convolution import Convolution
from vaelens.kernels.torch_convolution import TorchKernel
from vaelens.networks.autoencoder_kl import AutoencoderKL


def upsample(network: AutoencoderKL, keep: bool) -> Convolution:
    """The convolution of the first upsampling, whose weights are made from the network's."""
    step = next(step for step in decoder_steps(network) if step.name.endswith("upsample"))
    assert isinstance(step, Convolve)
    layer = step.layer
    kernel = TorchKernel(layer.geometry, layer.in_channels, layer.out_channels, torch.float32, "cpu")
    return prepare(layer, kernel, keep)


def replaced(network: AutoencoderKL) -> None:
    layer = network.decoder.up_blocks[0].upsamplers[0].conv
    layer.weight = torch.nn.Parameter(layer.weight.detach().clone())


CHANGES: dict[str, Callable[[AutoencoderKL], object]] = {
    "in place": lambda network: network.decoder.up_blocks[0].upsamplers[0].conv.weight.mul_(2),
    "in place, uncounted": lambda network: network.decoder.up_blocks[0].upsamplers[0].conv.weight.data.mul_(2),
    "the bias": lambda network: network.decoder.up_blocks[0].upsamplers[0].conv.bias.zero_(),
    "another tensor": replaced,
    "another dtype": lambda network: network.bfloat16(),
}


@pytest.mark.parametrize("name", CHANGES)
def test_weights_are_packed_again_when_a_parameter_changes(name: str) -> None:
    network = random_network(CONFIGS["sd1"])
    first = upsample(network, keep=True)
    assert upsample(network, keep=True) is first
    assert upsample(network, keep=False) is first  # what is there is used
    CHANGES[name](network)
    assert upsample(network, keep=True) is not first


def test_nothing_stays_where_it_is_not_kept() -> None:
    network = random_network(CONFIGS["sd1"])
    assert upsample(network, keep=False) is not upsample(network, keep=False)


def test_packed_weights_go_with_their_network() -> None:
    network = random_network(CONFIGS["sd1"])
    packed = weakref.ref(upsample(network, keep=True))
    assert packed() is not None
    del network
    gc.collect()
    assert packed() is None


def test_several_threads_decode_with_one_network() -> None:
    network, z = random_network(CONFIGS["sd1"]), torch.randn(1, 4, 5, 5)
    with ThreadPoolExecutor(3) as pool:
        images = list(pool.map(lambda _: engine.decode(network, z), range(6)))
    assert all(torch.equal(image, images[0]) for image in images)
