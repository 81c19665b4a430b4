"""The health of a VAE: the measures against closed forms, and VAEs with one known fault each."""

import json
import math
import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor, nn

from support.vaes import NARROW, TINY, random_vae
from vaelens.errors import BadInputError, ResourceError, UsageError
from vaelens.health import Health, examination, examine
from vaelens.health.activations import HALF_LIMIT, block_of, recorded, worst_by_block
from vaelens.health.examination import COLOURS
from vaelens.health.latent_statistics import LatentSums
from vaelens.health.measurements import ImageSums
from vaelens.health.spectra import BANDS, band_power, grid_cells, pattern_by_period, pattern_rms
from vaelens.health.thresholds import THRESHOLDS, Threshold
from vaelens.images.faces import draw_face
from vaelens.loading import load
from vaelens.networks.autoencoder_kl import DiagonalGaussian
from vaelens.vae import VAE


def lively(seed: int = 0) -> VAE:
    """A random VAE whose posterior is narrow, as a trained one's is: a KL well above 0."""
    vae = random_vae(NARROW, seed)
    with torch.no_grad():
        vae.network.quant_conv.bias[4:] -= 10
        vae.network.quant_conv.weight[:4] *= 10
        vae.network.decoder.conv_out.weight *= 0.1  # no pixel reaches 0 or 1, where clamping would hide what is added
    return vae


@pytest.fixture(autouse=True)
def few_colours(monkeypatch: pytest.MonkeyPatch) -> None:
    """Three plain colours are as good as eleven for all but the command's own tests."""
    monkeypatch.setattr(examination, "COLOURS", COLOURS[:3])


def noise(count: int = 2, side: int = 64) -> list[Tensor]:
    generator = torch.Generator().manual_seed(1)
    return [torch.rand(1, 3, side, side, generator=generator) for _ in range(count)]


def quick(vae: VAE, images: Sequence[Tensor | Path | str] | None = None) -> Health:
    return examine(vae, noise() if images is None else images, round_trips=1, time_at=())


def verdict(health: Health, check: str) -> str | None:
    (found,) = (finding.verdict for finding in health.findings if finding.check == check)
    return found


def result(health: Health, check: str) -> str:
    (found,) = (finding.result for finding in health.findings if finding.check == check)
    return found


# --- spectra -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("size", [(64, 64), (37, 50), (1, 1), (2, 9)])
def test_the_bands_add_up_to_the_variance_under_the_window(size: tuple[int, int]) -> None:
    image = torch.rand(3, *size, dtype=torch.float64)
    rows, columns = (np.sin((np.arange(n) + 0.5) * np.pi / n) ** 2 for n in size)
    window = np.outer(rows, columns)
    around = image.numpy() - (image.numpy() * window).sum((1, 2), keepdims=True) / window.sum()
    expected = ((around * window) ** 2).sum((1, 2)).mean() / (window**2).sum()
    assert math.isclose(float(band_power(image).sum()), expected, rel_tol=1e-9, abs_tol=1e-15)


@pytest.mark.parametrize(
    ("wavelength", "band"), [(100, 0), (45, 1), (20, 2), (11, 3), (6.7, 4), (4.7, 5), (3.3, 6), (2.2, 7)]
)
def test_a_wave_lies_in_its_band_and_half_of_it_has_a_quarter_of_the_power(wavelength: float, band: int) -> None:
    wave = torch.cos(2 * math.pi * torch.arange(256) / wavelength).expand(3, 200, 256)
    power, halved = band_power(wave), band_power(wave / 2)
    assert int(power.argmax()) == band
    assert float(power[band]) > 0.9 * float(power.sum())
    assert float(halved[band] / power[band]) == pytest.approx(0.25, rel=1e-6)


def test_a_wave_at_the_border_of_two_bands_is_the_finer_ones() -> None:
    for band, longest in ((1, 64.0), (2, 32.0), (4, 8.0), (6, 4.0)):
        wave = torch.cos(2 * math.pi * torch.arange(256) / longest).expand(1, 64, 256)
        assert BANDS[band] == longest
        assert float(band_power(wave)[band]) > 0.6 * float(band_power(wave).sum())  # Hann spreads to both neighbours


def test_blur_keeps_what_its_transfer_function_result() -> None:
    noise = torch.randn(3, 256, 256, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    frequency = torch.fft.fftfreq(256, dtype=torch.float64)
    radius = torch.hypot(frequency[:, None], frequency)
    gain = torch.exp(-2 * (math.pi * 0.8 * radius) ** 2)  # a Gaussian of 0.8 pixels
    blurred = torch.fft.ifft2(torch.fft.fft2(noise) * gain).real
    ratios = band_power(blurred) / band_power(noise)
    edges = [0, *(1 / longest for longest in BANDS[1:]), 9]
    for band, ratio in enumerate(ratios.tolist()):
        inside = (radius >= edges[band]) & (radius < edges[band + 1])
        assert ratio == pytest.approx(float(gain[inside].square().mean()), rel=0.05), band


def test_a_slope_is_no_fine_detail_although_its_edges_do_not_meet() -> None:
    power = band_power(torch.linspace(0, 1, 256).expand(3, 256, 256))
    assert float(power[3:].sum()) < 1e-6 * float(power.sum())


# --- the grid ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("size", [(64, 64), (61, 43), (16, 90)])
def test_a_pattern_is_found_exactly_on_a_slope(size: tuple[int, int]) -> None:
    cell = torch.randn(3, 8, 8, dtype=torch.float64)
    cell -= cell.mean(dim=(1, 2), keepdim=True)
    h, w = size
    slope = torch.arange(h, dtype=torch.float64)[:, None] * 0.7 - torch.arange(w, dtype=torch.float64) * 0.3
    image = slope + cell.repeat(1, 12, 12)[:, :h, :w]
    found = grid_cells(image, 8)
    assert found is not None
    assert len(found) == ((h - 8) // 8) * ((w - 8) // 8)
    torch.testing.assert_close(found, cell.expand_as(found), rtol=0, atol=1e-9)
    parts = pattern_by_period(found.mean(dim=0))
    assert list(parts) == [2, 4, 8]
    assert pattern_rms(parts) == pytest.approx(float(cell.square().mean().sqrt()))


def test_each_period_is_told_from_the_others() -> None:
    checker = torch.tensor([[1.0, -1.0], [-1.0, 1.0]]).repeat(4, 4)
    stripes = torch.tensor([1.0, 1.0, -1.0, -1.0]).repeat(8, 2)
    halves = torch.cat([torch.ones(4), -torch.ones(4)]).repeat(8, 1)
    for cell, expected in ((checker, [3, 0, 0]), (stripes, [0, 3, 0]), (halves, [0, 0, 3])):
        parts = pattern_by_period((3 * cell).expand(3, 8, 8))
        assert list(parts.values()) == pytest.approx(expected)


def test_chance_is_no_grid_but_a_faint_grid_is_found_under_noise() -> None:
    noise = torch.randn(3, 256, 256, generator=torch.Generator().manual_seed(0)) * 14 / 255
    cell = torch.cat([torch.ones(4), -torch.ones(4)]) / 255
    black = torch.zeros(1, 3, 256, 256)
    for grid, expected in ((0.0, 0.0), (1.0, 1.0)):
        sums = ImageSums(8)
        sums.add(black, (noise + grid * cell.repeat(32))[None])
        assert pattern_rms(sums.grid()) == pytest.approx(expected, abs=0.2)
        cells = grid_cells(noise * 255, 8)
        assert cells is not None
        assert pattern_rms(pattern_by_period(cells.mean(dim=0))) > 0.4  # what 961 cells of noise look like


def test_images_too_small_for_a_grid_and_factors_without_one() -> None:
    assert grid_cells(torch.rand(3, 15, 64), 8) is None
    assert grid_cells(torch.rand(3, 64, 64), 1) is None


# --- latents -------------------------------------------------------------------------------------------------


def test_latent_statistics_are_those_of_many_draws_and_of_torchs_kl() -> None:
    generator = torch.Generator().manual_seed(0)
    gain = torch.tensor([1.0, 3.0, 0.5]).view(1, 3, 1, 1)
    sums, draws, divergence = LatentSums(), [], []
    for size in (30, 50):
        mean = torch.randn(2, 3, size, size, generator=generator) * gain + gain
        logvar = torch.randn(2, 3, size, size, generator=generator) * 0.3 - 1
        posterior = DiagonalGaussian(mean, logvar)
        sums.add(posterior)
        draws.append(posterior.sample(generator).transpose(0, 1).flatten(1))
        theirs = torch.distributions.Normal(mean.double(), torch.exp(logvar.double() / 2))
        divergence.append(torch.distributions.kl_divergence(theirs, torch.distributions.Normal(0.0, 1.0)))
    found = sums.result()
    assert found is not None
    z = torch.cat(draws, dim=1)
    assert found.implied_scale == pytest.approx(1 / float(z.std()), rel=0.02)
    for channel, sampled in zip(found.channels, z, strict=True):
        assert channel.std == pytest.approx(float(sampled.std()), rel=0.03)
        assert channel.mean == pytest.approx(float(sampled.mean()), abs=0.1)
    total = sum(float(d.sum()) for d in divergence)
    assert found.kl_per_image == pytest.approx(total / 4, rel=1e-6)
    assert found.kl_per_element == pytest.approx(total / sum(d.numel() for d in divergence), rel=1e-6)
    assert [c.dead for c in found.channels] == [None] * 3


def test_a_vae_scaled_by_three_implies_a_third_of_the_scale() -> None:
    plain, scaled = lively(), lively()
    with torch.no_grad():
        convolution = scaled.network.quant_conv
        convolution.weight[:4] *= 3
        convolution.bias[:4] *= 3
        convolution.bias[4:] += 2 * math.log(3)
    before, after = quick(plain).measured.latents, quick(scaled).measured.latents
    assert before is not None
    assert after is not None
    assert after.implied_scale == pytest.approx(before.implied_scale / 3, rel=1e-5)
    assert after.sigma == pytest.approx(3 * (before.sigma or 0), rel=1e-5)
    assert after.noise_share == pytest.approx(before.noise_share, rel=1e-5)
    for a, b in zip(after.channels, before.channels, strict=True):
        assert (a.mean, a.std) == pytest.approx((3 * b.mean, 3 * b.std), rel=1e-5)


def test_the_stated_scale_is_judged_by_the_implied_one_and_by_its_space() -> None:
    found = quick(lively()).measured.latents
    assert found is not None
    for stated, expected in ((found.implied_scale, "fine"), (found.implied_scale * 1.6, "worth a look")):
        vae = random_vae(NARROW, space=None, scale=stated)
        vae.network.load_state_dict(lively().network.state_dict())
        assert verdict(quick(vae), "latent scale") == expected
    foreign = random_vae(NARROW, space="sd3", scale=found.implied_scale)
    foreign.network.load_state_dict(lively().network.state_dict())
    assert f"stated {found.implied_scale:g}, its space's 1.5305" in result(quick(foreign), "latent scale")


def test_a_wrong_shift_is_off_centre() -> None:
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


def test_a_collapsed_posterior_is_bad_all_over() -> None:
    vae = random_vae()
    with torch.no_grad():
        vae.network.quant_conv.weight.zero_()
        vae.network.quant_conv.bias.zero_()
    health = quick(vae)
    assert [verdict(health, check) for check in ("KL", "posterior noise", "dead channels")] == ["bad"] * 3


# --- the decoder ---------------------------------------------------------------------------------------------


def test_a_colour_offset_is_measured_in_levels() -> None:
    vae = lively()
    before = quick(vae)
    with torch.no_grad():
        vae.network.decoder.conv_out.bias += torch.tensor([0.04, 0.0, -0.02])  # of [-1,1]: 127.5 levels a unit
    after = quick(vae)
    assert before.measured.colour_bias is not None
    assert after.measured.colour_bias is not None
    moved = np.subtract(after.measured.colour_bias, before.measured.colour_bias)
    np.testing.assert_allclose(moved, [5.1, 0, -2.55], atol=1e-3)
    for old, new in zip(before.measured.plain, after.measured.plain, strict=True):
        np.testing.assert_allclose(np.subtract(new.shift, old.shift), [5.1, 0, -2.55], atol=1e-3)


def add_pattern(layer: nn.Module, cell: Tensor) -> None:
    """What a transposed convolution does whose phases disagree: the same addition in every cell."""

    def hook(_layer: nn.Module, _inputs: object, output: Tensor) -> Tensor:
        h, w = output.shape[2:]
        return output + cell.repeat(h // cell.shape[0], w // cell.shape[1])

    layer.register_forward_hook(hook)


def test_a_checkerboard_is_measured_on_plain_colours_and_in_images() -> None:
    clean = quick(lively())
    assert verdict(clean, "grid on plain") == "fine"
    assert max(pattern_rms(plain.grid) for plain in clean.measured.plain) < 0.05
    vae = lively()
    add_pattern(vae.network.decoder.conv_out, torch.tensor([[1.0, -1.0], [-1.0, 1.0]]) * 3 / 127.5)
    health = quick(vae)
    assert len(health.measured.plain) == 3
    for plain in health.measured.plain:
        assert plain.grid[2] == pytest.approx(3, abs=0.05)
        assert max(plain.grid[4], plain.grid[8]) < 0.05
    assert verdict(health, "grid on plain") == "bad"
    assert "every 2 px" in result(health, "grid on plain")
    added = health.measured.image_grid[2] - clean.measured.image_grid[2]
    assert verdict(health, "grid in images") == "bad"
    assert added > 1.5


@pytest.mark.parametrize(("level", "period"), [(2, 2), (1, 4), (0, 8)])
def test_an_upsampler_whose_phases_disagree_shows_at_its_period(level: int, period: int) -> None:
    vae = lively()
    before = vae.network.decoder.up_blocks[level].upsamplers[0]
    add_pattern(before, torch.tensor([[4.0, -4.0], [0.0, 0.0]]))
    plain = quick(vae).measured.plain
    rms = {p: max(colour.grid[p] for colour in plain) for p in (2, 4, 8)}
    assert rms[period] > 0.5
    assert all(rms[p] < 0.05 for p in rms if p > period)  # what is made here can't repeat more slowly


def test_the_largest_activations_of_layers_and_sums() -> None:
    vae = lively()
    (image,) = noise(1)
    with recorded(vae.network, vae.spec.family.residual_blocks) as maxima:
        vae.reconstruct(image)
        vae.reconstruct(image / 2)
    found = maxima.largest()
    pixels = image * 2 - 1
    with torch.no_grad():
        first = vae.network.encoder.conv_in(pixels)
        both = max(float(first.abs().max()), float(vae.network.encoder.conv_in(image - 1).abs().max()))
        block = vae.network.encoder.down_blocks[0].resnets[0](first)
    assert found["encoder.conv_in"] == pytest.approx(both)
    assert found["encoder.down_blocks.0.resnets.0"] >= float(block.abs().max())
    assert {"quant_conv", "post_quant_conv", "decoder.mid_block.attentions.0", "decoder.conv_out"} <= set(found)
    assert not any(module._forward_hooks for module in vae.network.modules())


def test_an_activation_beyond_float16_is_named_and_float16_does_fail_there(monkeypatch: pytest.MonkeyPatch) -> None:
    vae = lively()
    health = quick(vae)
    assert verdict(health, "float16 range") == "fine"
    with torch.no_grad():
        vae.network.decoder.mid_block.resnets[0].conv1.weight *= 1e7
    health = quick(vae)
    layer, top = worst_by_block(health.measured.activations)[0]
    assert layer == "decoder.mid_block.resnets.0.conv1"
    assert top > HALF_LIMIT
    assert verdict(health, "float16 range") == "bad"
    assert "decoder.mid_block" in result(health, "float16 range")
    assert health.finite
    monkeypatch.setattr(examination, "COLOURS", ())  # a CPU is slow in float16
    vae.network.half()
    failed = quick(vae, noise(1, 16))
    assert not failed.finite
    assert failed.measured.activations["decoder.mid_block.resnets.0.conv1"] == math.inf


def test_blocks_of_layers() -> None:
    assert block_of("decoder.up_blocks.1.resnets.0.conv1") == "decoder.up_blocks.1"
    assert block_of("encoder.mid_block.attentions.0.to_q") == "encoder.mid_block"
    assert block_of("decoder.layers.12.conv.4") == "decoder.layers.12"
    assert block_of("quant_conv") == "quant_conv"
    found = worst_by_block({"a": 1.0, "decoder.layers.1.conv": 5.0, "decoder.layers.1": 7.0, "b": 6.0})
    assert found == [("decoder.layers.1", 7.0), ("b", 6.0), ("a", 1.0)]


class Fading(VAE):
    """Loses 1 % of its brightness a trip."""

    def encode(self, image: Tensor):  # type: ignore[no-untyped-def]
        self.last = image
        return super().encode(image)

    def decode(self, latents: Tensor, size: tuple[int, int] | None = None) -> Tensor:
        return self.last * 0.99


def test_drift_of_a_vae_that_fades() -> None:
    base = random_vae()
    vae = Fading(base.network, base.spec, "fading")
    health = examine(vae, [torch.full((1, 3, 16, 16), 0.8)], round_trips=6, time_at=())
    assert [trip.number for trip in health.measured.drift] == [1, 2, 4, 6]
    for trip in health.measured.drift:
        n = trip.number
        assert trip.to_original == pytest.approx(-20 * math.log10(0.8 * (1 - 0.99**n)), rel=1e-4)
        assert trip.to_previous == pytest.approx(-20 * math.log10(0.8 * (0.99 ** (n - 1) - 0.99**n)), rel=1e-4)
    assert verdict(health, "round trips") == "bad"
    band = health.measured.bands[0]
    assert band.ratio is None  # a plain image has no power anywhere


def test_a_function_that_gives_its_image_back_is_fine() -> None:
    class Identity(Fading):
        def decode(self, latents: Tensor, size: tuple[int, int] | None = None) -> Tensor:
            return self.last.clone()

    base = lively()
    health = examine(Identity(base.network, base.spec, "identity"), noise(), round_trips=2, time_at=())
    assert [band.ratio for band in health.measured.bands if band.ratio is not None] == pytest.approx([1.0] * 7)
    assert health.measured.drift[-1].to_original == math.inf
    for check in ("colour bias", "coarse structure", "detail kept", "detail invented", "grid in images",
                  "grid on plain", "plain colours", "round trips"):  # fmt: skip
        assert verdict(health, check) == "fine", check
    json.dumps(examination.Health.as_dict(health), default=str)


# --- what goes wrong -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("layer", "failure"),
    [("encoder", "encoding"), ("decoder", "decoding"), ("spread", r"encoding (the posterior's spread)")],
)
def test_what_is_not_finite_is_a_finding(layer: str, failure: str) -> None:
    vae = lively()
    with torch.no_grad():
        if layer == "spread":
            vae.network.quant_conv.bias[5] = float("nan")
        else:
            getattr(vae.network, layer).conv_out.bias.fill_(float("nan"))
    health = examine(vae, noise(), round_trips=4, time_at=(32,))
    assert not health.finite
    assert len(health.measured.failures) == 2 + 3
    assert health.measured.failures[0] == f"image 1: {failure}"
    assert verdict(health, "finite values") == "bad"
    assert health.measured.bands == ()
    assert (health.measured.latents is None) == (layer != "decoder")
    assert verdict(health, "colour bias") is None


def test_one_bad_image_spoils_only_itself() -> None:
    class Touchy(VAE):
        def decode(self, latents: Tensor, size: tuple[int, int] | None = None) -> Tensor:
            if size == (48, 48):
                latents = latents * math.nan
            return super().decode(latents, size)

    base = lively()
    whole = quick(base, noise(1))
    odd = quick(Touchy(base.network, base.spec, "touchy"), [torch.rand(1, 3, 48, 48), *noise(1)])
    assert odd.measured.failures == ("image 1: decoding",)
    assert odd.measured.colour_bias == whole.measured.colour_bias


def test_a_tiny_autoencoder_has_no_posterior_to_look_at() -> None:
    health = examine(random_vae(TINY), noise(), round_trips=2, time_at=(16, 24))
    assert "no posterior" in result(health, "KL")
    assert verdict(health, "KL") is None
    assert verdict(health, "posterior noise") is None
    assert verdict(health, "latent scale") is not None
    assert health.measured.latents is not None
    assert health.measured.latents.channels[0].sigma is None
    assert health.measured.registered_scale is None
    assert "decoder.layers.2" in health.measured.activations
    assert [timing.side for timing in health.measured.timings] == [16, 24]
    assert all(timing.encode > 0 < timing.decode for timing in health.measured.timings)


def test_without_images_synthetic_ones_are_used(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(examination, "SYNTHETIC_SIDE", 32)
    steps: list[tuple[int, int, str]] = []
    health = examine(lively(), round_trips=2, time_at=(16,), progress=lambda *step: steps.append(step))
    assert health.measured.images.startswith("16 synthetic images (faces and letters, seeds 1000000 to 1000007)")
    assert [step[0] for step in steps] == list(range(steps[0][1]))
    name, first = next(examination._images(None, 512))
    assert name == "synthetic face 1000000"
    assert np.array_equal((first[0].permute(1, 2, 0).numpy() * 255).round(), draw_face(1_000_000, 32).pixels)
    values = health.as_dict()
    assert values["vaes"][0]["name"] == "random"
    assert set(values["thresholds"]) >= {f["check"] for f in values["findings"] if f["verdict"]}


def test_calls_that_can_not_be_carried_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    vae = lively()
    with pytest.raises(UsageError, match="at least 1"):
        examine(vae, noise(), round_trips=0)
    with pytest.raises(UsageError, match="no image named"):
        examine(vae, [])
    with pytest.raises(BadInputError, match="holds no images"):
        examine(vae, [tmp_path])

    def full(_image: Tensor) -> None:
        raise RuntimeError("CUDA out of memory.")

    monkeypatch.setattr(vae, "encode", full)
    with pytest.raises(ResourceError, match="smaller images"):
        quick(vae)


def test_thresholds_work_from_either_side() -> None:
    rising, falling = Threshold(1, 3, "", ""), Threshold(0.5, 0.1, "", "")
    assert [rising.verdict(v) for v in (-math.inf, 0.9, 1, 2.9, 3, math.inf, math.nan)] == [
        "fine", "fine", "worth a look", "worth a look", "bad", "bad", "bad",
    ]  # fmt: skip
    assert [falling.verdict(v) for v in (math.inf, 0.6, 0.5, 0.11, 0.1, 0, math.nan)] == [
        "fine", "fine", "worth a look", "worth a look", "bad", "bad", "bad",
    ]  # fmt: skip
    assert all(threshold.reason.endswith(".") for threshold in THRESHOLDS.values())


# --- the command ---------------------------------------------------------------------------------------------


def inspect(*arguments: object) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-W", "error", "-m", "vaelens", "inspect", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, check=False, env={**os.environ})


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    folder = tmp_path / "photos"
    folder.mkdir()
    for seed in range(2):
        Image.fromarray(draw_face(seed, 80).pixels).save(folder / f"{seed}.png")
    (folder / "notes.txt").write_text("no image")
    return folder


def test_the_command_shows_what_the_library_finds(
    photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = lively().save(tmp_path / "mine.safetensors")
    ran = inspect(
        file, "--health", "--photos", photos, "--round-trips", 2, "--time-at", 32, "--max-side", 64, "--device", "cpu"
    )
    assert ran.returncode == 0, ran.stderr
    assert max(map(len, ran.stdout.splitlines())) <= 80
    lines = [" ".join(line.split()) for line in ran.stdout.splitlines()]
    assert "2 given images" in lines
    assert "finite values everywhere fine" in lines
    monkeypatch.setattr(examination, "COLOURS", COLOURS)
    health = examine(load(file, device="cpu"), [photos], max_side=64, round_trips=2, time_at=())
    assert health.record["settings"]["images"] == 2
    for finding in health.findings:
        if finding.check != "time":
            assert " ".join(filter(None, (finding.check, finding.result, finding.verdict or "-"))) in lines


def test_the_embedded_vae_is_sound() -> None:
    health = quick(
        load("tiny-kl-f8", device="cpu"), [torch.as_tensor(draw_face(5).pixels).permute(2, 0, 1)[None] / 255]
    )
    for check in ("finite values", "KL", "posterior noise", "latent scale", "latent centre", "dead channels",
                  "coarse structure", "grid on plain", "float16 range"):  # fmt: skip
        assert verdict(health, check) == "fine", check


def test_a_vae_that_overflows_ends_with_7_and_all_that_was_found(photos: Path, tmp_path: Path) -> None:
    vae = lively()
    with torch.no_grad():
        vae.network.decoder.conv_in.weight.fill_(1e38)
    file = vae.save(tmp_path / "hot.safetensors")
    ran = inspect(file, "--health", "--photos", photos, "--json", "-q")
    assert ran.returncode == 7
    assert "hot gave NaN or infinite values in 13 passes" in ran.stderr
    assert "Traceback" not in ran.stderr
    found = json.loads(ran.stdout)["health"]
    assert found["findings"][0]["verdict"] == "bad"
    assert found["measured"]["activations"]["decoder.conv_in"] is None


@pytest.mark.parametrize(
    ("option", "value"),
    [("--photos", "."), ("--max-side", "512"), ("--round-trips", "8"), ("--time-at", "256"), ("--device", "auto"),
     ("--dtype", "float32")],
)  # fmt: skip
def test_what_only_health_uses_is_refused_without_it(vae_file: Path, option: str, value: str) -> None:
    """The default value too: who names it expects a run."""
    from vaelens.cli.main import app

    with pytest.raises(UsageError, match=f"^{option}: no effect without --health"):
        app(["inspect", str(vae_file), option, value], standalone_mode=False)
    with pytest.raises(UsageError, match="no effect without --health"):
        app(["inspect", str(vae_file), option, value, "--photos", ".", "--device", "cpu"], standalone_mode=False)
    app(["inspect", str(vae_file), "--json", "--offline"], standalone_mode=False)


def test_the_command_refuses_with_2_what_only_health_uses(vae_file: Path) -> None:
    ran = inspect(vae_file, "--dtype", "float16", "--max-side", "64")
    assert ran.returncode == 2
    assert "--max-side, --dtype: no effect without --health" in ran.stderr
