"""The engine against the plain network: decode, encode, for every shape of an AutoencoderKL."""

import copy
import dataclasses

import pytest
import torch
from torch import Tensor

from vaelens import engine
from vaelens.errors import UsageError
from vaelens.families.kl import FAMILY
from vaelens.families.spec import VAESpec
from vaelens.networks.autoencoder_kl import AutoencoderKL, AutoencoderKLConfig
from vaelens.weights.registry import registry

TOLERANCE = 1e-4  # docs/exactness.md


def narrow(space: str, widths: tuple[int, ...], groups: int) -> AutoencoderKLConfig:
    """The config of a latent space with fewer channels."""
    config = registry().space_spec(space).config
    assert isinstance(config, AutoencoderKLConfig)
    return dataclasses.replace(config, block_out_channels=widths, norm_num_groups=groups)


CONFIGS = {
    "sd1": narrow("sd1", (16, 32, 64, 64), 8),
    "sdxl": narrow("sdxl", (16, 32, 32, 64), 16),
    "sd3": narrow("sd3", (8, 16, 24, 24), 8),
    "flux1": narrow("flux1", (24, 24, 24, 96), 12),
    "no attention": AutoencoderKLConfig(
        block_out_channels=(8, 24), layers_per_block=1, norm_num_groups=4, mid_block_add_attention=False
    ),
}


def random_network(config: AutoencoderKLConfig) -> AutoencoderKL:
    """With norms that scale and shift, as trained ones do."""
    network = AutoencoderKL(config).eval().requires_grad_(False)
    for module in network.modules():
        if isinstance(module, torch.nn.GroupNorm):
            module.weight.uniform_(0.5, 1.5)
            module.bias.normal_(0, 0.3)
    return network


def relative(found: Tensor, wanted: Tensor) -> float:
    return ((found - wanted).norm() / wanted.norm()).item()


def in_double(network: AutoencoderKL) -> AutoencoderKL:
    return copy.deepcopy(network).double()


@pytest.mark.parametrize(("size", "batch"), [((1, 1), 1), ((5, 3), 3), ((8, 13), 1)])
@pytest.mark.parametrize("name", CONFIGS)
def test_decode_and_encode_are_those_of_the_plain_network(name: str, size: tuple[int, int], batch: int) -> None:
    config = CONFIGS[name]
    network, (h, w), f = random_network(config), size, config.factor
    z, pixels = torch.randn(batch, config.latent_channels, h, w), torch.rand(batch, 3, h * f, w * f) * 2 - 1
    wide = in_double(network)
    found = engine.decode(network, z)
    assert found.dtype == torch.float32
    assert found.shape == (batch, 3, h * f, w * f)
    assert (found - wide.decode(z.double())).abs().max() / 2 < TOLERANCE  # on [0,1]
    assert relative(engine.encode(network, pixels), wide.moments(pixels.double())) < TOLERANCE


def test_an_image_is_the_same_alone_and_in_company() -> None:
    network = random_network(CONFIGS["sd1"])
    z = torch.randn(3, 4, 4, 6)
    together = engine.decode(network, z)
    assert all(torch.equal(together[i : i + 1], engine.decode(network, z[i : i + 1])) for i in range(3))


def test_changed_weights_are_used() -> None:
    network, z = random_network(CONFIGS["sd1"]), torch.randn(1, 4, 3, 3)
    engine.decode(network, z)
    for parameter in network.parameters():
        parameter.mul_(0.9)  # in place: the same tensors, another version
    assert relative(engine.decode(network, z), network.decode(z)) < TOLERANCE
    other = random_network(CONFIGS["sd1"])
    network.load_state_dict(other.state_dict(), assign=True)
    assert relative(engine.decode(network, z), other.decode(z)) < TOLERANCE


def test_diffusers_network_is_run_as_ours() -> None:
    from diffusers import AutoencoderKL as DiffusersKL

    config = CONFIGS["sd1"]
    network = random_network(config)
    theirs = DiffusersKL.from_config(FAMILY.to_config_json(VAESpec(config, "sd1", 1.0, 0.0, (-1.0, 1.0))))
    theirs.load_state_dict(network.state_dict())
    z, pixels = torch.randn(1, 4, 4, 5), torch.rand(1, 3, 32, 24)
    assert torch.equal(engine.decode(theirs, z), engine.decode(network, z))
    assert torch.equal(engine.encode(theirs, pixels), engine.encode(network, pixels))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_reduced_precision_is_as_near_as_the_plain_network(dtype: torch.dtype) -> None:
    network = random_network(CONFIGS["sd1"])
    z, wanted = torch.randn(1, 4, 6, 6), None
    wanted = network.decode(z)
    reduced = copy.deepcopy(network).to(dtype)
    plain = relative(reduced.decode(z.to(dtype)).float(), wanted)
    assert relative(engine.decode(reduced, z), wanted) < 1.1 * plain


def test_other_networks_are_refused() -> None:
    with pytest.raises(UsageError, match=r"it has no decoder, so the engine can't run this network"):
        engine.decode(torch.nn.Conv2d(1, 1, 1), torch.zeros(1, 4, 1, 1))
    network = random_network(CONFIGS["sd1"])
    network.decoder.conv_in = torch.nn.Conv2d(4, 64, 5, padding=2)
    with pytest.raises(UsageError, match=r"decoder.conv_in: it isn't a plain 3x3 convolution"):
        engine.decode(network, torch.zeros(1, 4, 1, 1))
    with pytest.raises(UsageError, match=r"its weights are float64"):
        engine.decode(in_double(random_network(CONFIGS["sd1"])), torch.zeros(1, 4, 1, 1))
