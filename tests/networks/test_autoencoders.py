"""Our networks against diffusers' on the same random weights: moments, decode and every gradient."""

import dataclasses

import pytest
import torch
from diffusers import AutoencoderKL as DiffusersKL
from diffusers import AutoencoderTiny as DiffusersTiny
from torch import Tensor, nn

from vaelens.families.spec import VAESpec
from vaelens.families.tiny import FAMILY
from vaelens.networks.autoencoder_kl import AutoencoderKL, AutoencoderKLConfig, DiagonalGaussian
from vaelens.networks.tiny import TinyAutoencoder, TinyAutoencoderConfig
from vaelens.weights.registry import registry

TOLERANCE = 1e-5


def of_space(name: str, narrower: int) -> VAESpec:
    """As in the registry, with a fraction of the channels: the one with all of them takes the longest."""
    spec = registry().space_spec(name)
    assert isinstance(spec.config, AutoencoderKLConfig)
    widths = tuple(width // narrower for width in spec.config.block_out_channels)
    return dataclasses.replace(spec, config=dataclasses.replace(spec.config, block_out_channels=widths))


KL_CONFIGS = {
    "sd1": of_space("sd1", 1),
    "sdxl": of_space("sdxl", 2),
    "sd3": of_space("sd3", 2),
    "flux1": of_space("flux1", 2),
    "narrow": VAESpec(
        AutoencoderKLConfig(
            latent_channels=3,
            block_out_channels=(8, 16, 24),
            layers_per_block=1,
            norm_num_groups=4,
            use_quant_conv=False,
            mid_block_add_attention=False,
        ),
        None, 1.0, 0.0, (-1.0, 1.0),
    ),
}  # fmt: skip


def relative(ours: Tensor, theirs: Tensor) -> float:
    return ((ours - theirs).norm() / theirs.norm()).item()


def compare_gradients(ours: nn.Module, theirs: nn.Module) -> None:
    """Each parameter's gradient; to_k's bias has none in exact arithmetic (softmax doesn't see a shift)."""
    expected = dict(theirs.named_parameters())
    assert set(expected) == {name for name, _ in ours.named_parameters()}
    for name, parameter in ours.named_parameters():
        assert parameter.grad is not None, name
        assert expected[name].grad is not None, name
        if name.endswith("to_k.bias"):
            key = expected[name.replace("bias", "weight")].grad
            assert parameter.grad.norm() < 1e-4 * key.norm(), name
        else:
            assert relative(parameter.grad, expected[name].grad) < TOLERANCE, name


@pytest.mark.parametrize("name", KL_CONFIGS)
def test_autoencoder_kl_agrees_with_diffusers(name: str) -> None:
    spec = KL_CONFIGS[name]
    torch.manual_seed(0)
    ours = AutoencoderKL(spec.config)
    theirs = DiffusersKL.from_config(spec.family.to_config_json(spec))
    theirs.load_state_dict(ours.state_dict(), strict=True)

    pixels = torch.rand(1, 3, 40, 32) * 2 - 1
    x, y = pixels.clone().requires_grad_(), pixels.clone().requires_grad_()
    moments, expected = ours.moments(x), theirs.encode(y).latent_dist.parameters
    assert relative(moments, expected) < TOLERANCE
    image = ours.decode(DiagonalGaussian.from_moments(moments).mode())
    expected_image = theirs.decode(theirs.encode(y).latent_dist.mode()).sample
    assert relative(image, expected_image) < TOLERANCE

    # a target that depends on every output, the log-variance included
    weights = torch.randn_like(image)
    ((image * weights).sum() + moments.square().sum()).backward()
    ((expected_image * weights).sum() + expected.square().sum()).backward()
    assert relative(x.grad, y.grad) < TOLERANCE
    compare_gradients(ours, theirs)


@pytest.mark.parametrize("channels", [4, 16])
def test_tiny_autoencoder_agrees_with_diffusers(channels: int) -> None:
    torch.manual_seed(0)
    config = TinyAutoencoderConfig(latent_channels=channels)
    ours = TinyAutoencoder(config)
    theirs = DiffusersTiny(**FAMILY.diffusers_arguments(config))
    theirs.load_state_dict(ours.state_dict(), strict=True)

    pixels = torch.rand(1, 3, 40, 32)
    x, y = pixels.clone().requires_grad_(), pixels.clone().requires_grad_()
    latents, expected = ours.posterior(x).mode(), theirs.encode(2 * y - 1).latents  # diffusers' pixels lie in [-1,1]
    assert relative(latents, expected) < TOLERANCE
    image, expected_image = ours.decode(latents), theirs.decode(expected).sample / 2 + 0.5
    assert relative(image, expected_image) < TOLERANCE
    weights = torch.randn_like(image)
    (image * weights).sum().backward()
    (expected_image * weights).sum().backward()
    assert relative(x.grad, y.grad) < TOLERANCE
    compare_gradients(ours, theirs)


def test_kl_f8_has_the_published_size() -> None:
    with torch.device("meta"):
        network = AutoencoderKL(registry().spec("kl-f8").config)
    assert sum(p.numel() for p in network.parameters()) == 83_653_863
    assert len(network.state_dict()) == 248
    sizes = {n: sum(p.numel() for p in m.parameters()) for n, m in network.named_children()}
    assert sizes == {"encoder": 34_163_592, "decoder": 49_490_179, "quant_conv": 72, "post_quant_conv": 20}


def test_taef2_pools_at_the_lowest_resolution_only() -> None:
    config = registry().spec("taef2").config
    with torch.device("meta"):
        names = TinyAutoencoder(config).state_dict()
    pooled = sorted({n.split(".pool.")[0] for n in names if ".pool." in n})
    assert pooled == [f"decoder.layers.{i}" for i in (2, 3, 4)] + [f"encoder.layers.{i}" for i in (11, 12, 13)]
    assert names["encoder.layers.11.pool.0.weight"].shape == (256, 64, 1, 1)


def test_gaussian_against_closed_forms() -> None:
    torch.manual_seed(0)
    mean, logvar = torch.randn(2, 4, 3, 3, dtype=torch.float64), torch.randn(2, 4, 3, 3, dtype=torch.float64)
    gaussian = DiagonalGaussian.from_moments(torch.cat([mean, logvar], dim=1))
    q = torch.distributions.Normal(mean, torch.exp(logvar / 2))
    expected = torch.distributions.kl_divergence(q, torch.distributions.Normal(0.0, 1.0)).sum(dim=(1, 2, 3))
    assert torch.allclose(gaussian.kl(), expected, rtol=1e-12)
    draw = gaussian.sample(torch.Generator().manual_seed(3))
    noise = torch.randn(mean.shape, generator=torch.Generator().manual_seed(3), dtype=torch.float64)
    assert torch.equal(draw, mean + torch.exp(logvar / 2) * noise)


def test_gaussian_clamps_the_log_variance() -> None:
    gaussian = DiagonalGaussian.from_moments(torch.tensor([0.0, 0.0, 99.0, -99.0]).reshape(1, 4, 1, 1))
    assert gaussian.logvar is not None
    assert gaussian.logvar.flatten().tolist() == [20.0, -30.0]


def test_a_deterministic_posterior_has_no_spread_and_draws_no_random_numbers() -> None:
    """So that what is drawn after it, an img2img's noise, is what it is in diffusers."""
    z = torch.randn(2, 4, 3, 3)
    gaussian = DiagonalGaussian.deterministic(z)
    generators = [torch.Generator().manual_seed(seed) for seed in (0, 1)]
    before = [generator.get_state() for generator in generators]
    assert torch.equal(gaussian.sample(generators[0]), z)
    assert torch.equal(gaussian.sample(generators), z)
    assert all(torch.equal(g.get_state(), state) for g, state in zip(generators, before, strict=True))
    assert gaussian.kl().tolist() == [0.0, 0.0]
    with pytest.raises(ValueError, match="1 generators for 2 images"):
        gaussian.sample(generators[:1])


@pytest.mark.parametrize(
    "fields",
    [{"norm_num_groups": 3}, {"block_out_channels": ()}, {"latent_channels": 0}, {"norm_eps": 0.0}],
)
def test_impossible_configs_are_refused(fields: dict[str, object]) -> None:
    with pytest.raises(ValueError, match=r"\d|channels"):
        AutoencoderKLConfig(**fields)  # type: ignore[arg-type]
