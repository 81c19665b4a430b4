"""The engine against the plain network: decode, encode, for every shape of an AutoencoderKL."""

import copy

import pytest
import torch

from support.vaes import CONFIGS, random_network, relative
from vaelens import engine
from vaelens.errors import UsageError
from vaelens.families.kl import FAMILY
from vaelens.families.spec import VAESpec
from vaelens.networks.autoencoder_kl import AutoencoderKL

TOLERANCE = 1e-4  # docs/exactness.md


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
    z = torch.randn(1, 4, 6, 6)
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


def hard_inputs() -> dict[str, torch.Tensor]:
    strips = torch.randn(1, 4, 12, 5) + torch.tensor([0.0, 50.0, -20.0]).repeat_interleave(4)[None, None, :, None]
    return {"constant": torch.full((1, 4, 6, 5), 0.3), "strips with different means": strips}


@pytest.mark.parametrize("name", hard_inputs())
def test_hard_inputs(name: str) -> None:
    network, z = random_network(CONFIGS["sd1"]), hard_inputs()[name]
    assert (engine.decode(network, z) - in_double(network).decode(z.double())).abs().max() / 2 < TOLERANCE


def test_maps_whose_mean_is_a_thousand_deviations() -> None:
    """torch's own group norm is off by 1e-3 there in fp32, channels last."""
    network = random_network(CONFIGS["no attention"])
    network.decoder.conv_in.bias.fill_(1000)
    z = torch.randn(1, 4, 6, 5)
    assert (engine.decode(network, z) - in_double(network).decode(z.double())).abs().max() / 2 < TOLERANCE


def test_inputs_that_are_too_small_are_refused() -> None:
    with pytest.raises(UsageError, match=r"an input of 9x1 is too small"):
        engine.encode(random_network(CONFIGS["sd1"]), torch.zeros(1, 3, 1, 9))


def test_inputs_of_other_channels_are_refused() -> None:
    network = random_network(CONFIGS["sd1"])
    for shape in ((1, 3, 4, 4), (1, 5, 4, 4), (4, 4, 4)):
        with pytest.raises(UsageError, match=r"this network decodes \[b,4,h,w\], not \["):
            engine.decode(network, torch.zeros(shape))
    with pytest.raises(UsageError, match=r"this network encodes \[b,3,h,w\], not \[1, 1, 16, 16\]"):
        engine.encode(network, torch.zeros(1, 1, 16, 16))


def test_a_plan_for_another_input_is_refused() -> None:
    network, half = random_network(CONFIGS["sd1"]), random_network(CONFIGS["sd1"]).bfloat16()
    z, plan = torch.zeros(2, 4, 16, 8), engine.plan_decode(network, (16, 8), batch=2)
    others = {
        "size": (z.transpose(2, 3), plan),
        "batch": (torch.zeros(3, 4, 16, 8), plan),
        "direction": (z, engine.plan_encode(network, (16, 8), batch=2)),
        "dtype": (z, engine.plan_decode(half, (16, 8), batch=2)),
    }
    for image, other in others.values():
        with pytest.raises(UsageError, match=r"the plan is to (de|en)code .* Make one for this input\."):
            engine.decode(network, image, plan=other)
    assert len(engine.decode(network, z[:1], plan=plan)) == 1
