"""Statistics of latents against samples and torch's own divergence, and VAEs with one fault in their encoder each."""

import math

import pytest
import torch

from support.health import lively, quick, result, verdict
from support.vaes import NARROW, random_vae
from vaelens.health.latent_statistics import LatentStatistics, LatentSums
from vaelens.networks.autoencoder_kl import DiagonalGaussian
from vaelens.vae import VAE


def test_latent_statistics_are_those_of_many_samples_and_of_torchs_kl() -> None:
    generator = torch.Generator().manual_seed(0)
    gain = torch.tensor([1.0, 3.0, 0.5]).view(1, 3, 1, 1)
    sums, samples, divergence = LatentSums(), [], []
    for size in (30, 50):
        mean = torch.randn(2, 3, size, size, generator=generator) * gain + gain
        logvar = torch.randn(2, 3, size, size, generator=generator) * 0.3 - 1
        posterior = DiagonalGaussian(mean, logvar)
        sums.add(posterior)
        samples.append(posterior.sample(generator).transpose(0, 1).flatten(1))
        normal = torch.distributions.Normal(mean.double(), torch.exp(logvar.double() / 2))
        divergence.append(torch.distributions.kl_divergence(normal, torch.distributions.Normal(0.0, 1.0)))
    found = sums.result()
    assert found is not None
    z = torch.cat(samples, dim=1)
    assert found.implied_scale == pytest.approx(1 / float(z.std()), rel=0.02)
    for channel, sampled in zip(found.channels, z, strict=True):
        assert channel.std == pytest.approx(float(sampled.std()), rel=0.03)
        assert channel.mean == pytest.approx(float(sampled.mean()), abs=0.1)
    total = sum(float(d.sum()) for d in divergence)
    assert found.kl_per_image == pytest.approx(total / 4, rel=1e-6)
    assert found.kl_per_element == pytest.approx(total / sum(d.numel() for d in divergence), rel=1e-6)
    assert [c.dead for c in found.channels] == [None] * 3


def latents_of(vae: VAE) -> LatentStatistics:
    found = quick(vae).measured.latents
    assert found is not None
    return found


def test_a_vae_scaled_by_three_implies_a_third_of_the_scale() -> None:
    plain, scaled = lively(), lively()
    with torch.no_grad():
        convolution = scaled.network.quant_conv
        convolution.weight[:4] *= 3
        convolution.bias[:4] *= 3
        convolution.bias[4:] += 2 * math.log(3)
    before, after = latents_of(plain), latents_of(scaled)
    assert after.implied_scale == pytest.approx(before.implied_scale / 3, rel=1e-5)
    assert after.sigma == pytest.approx(3 * (before.sigma or 0), rel=1e-5)
    assert after.noise_share == pytest.approx(before.noise_share, rel=1e-5)
    for a, b in zip(after.channels, before.channels, strict=True):
        assert (a.mean, a.std) == pytest.approx((3 * b.mean, 3 * b.std), rel=1e-5)


def test_the_stated_scale_is_judged_by_the_implied_one_and_by_its_space() -> None:
    found = latents_of(lively())
    for stated, expected in ((found.implied_scale, "fine"), (found.implied_scale * 1.6, "worth a look")):
        vae = random_vae(NARROW, space=None, scale=stated)
        vae.network.load_state_dict(lively().network.state_dict())
        assert verdict(quick(vae), "latent scale") == expected
    foreign = random_vae(NARROW, space="sd3", scale=found.implied_scale)
    foreign.network.load_state_dict(lively().network.state_dict())
    assert f"stated {found.implied_scale:g}, its space's 1.5305" in result(quick(foreign), "latent scale")


def test_latents_far_from_the_centre_are_bad() -> None:
    vae = lively()
    assert verdict(quick(vae), "latent centre") != "bad"
    with torch.no_grad():
        vae.network.quant_conv.bias[:4] += 20
    assert verdict(quick(vae), "latent centre") == "bad"


def test_dead_channels_are_named() -> None:
    assert result(quick(lively()), "dead channels") == "none of 4"
    vae = lively()
    with torch.no_grad():
        vae.network.quant_conv.weight[2] = 0  # the mean says nothing, the posterior is narrow
        vae.network.quant_conv.weight[[3, 7]] = 0  # the prior itself
        vae.network.quant_conv.bias[[3, 7]] = 0
    health = quick(vae)
    assert verdict(health, "dead channels") == "bad"
    assert result(health, "dead channels") == "2 of 4: 2 constant, 3 collapsed to the prior"


def test_a_collapsed_posterior_is_bad_in_every_channel() -> None:
    vae = random_vae()
    with torch.no_grad():
        vae.network.quant_conv.weight.zero_()
        vae.network.quant_conv.bias.zero_()
    health = quick(vae)
    assert [verdict(health, check) for check in ("KL", "posterior noise", "dead channels")] == ["bad"] * 3
