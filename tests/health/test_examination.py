"""Examinations of whole VAEs with one known fault each, of sound ones, and what an examination refuses."""

import json
import math
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from support.health import lively, noise, quick, result, verdict
from support.vaes import TINY, random_vae
from vaelens.errors import BadInputError, ResourceError, UsageError
from vaelens.health import examination, examine
from vaelens.health.spectra import pattern_rms
from vaelens.health.thresholds import THRESHOLDS, Threshold
from vaelens.images.faces import draw_face
from vaelens.loading import load
from vaelens.vae import VAE


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


class Fading(VAE):
    """Loses 1 % of its brightness a trip."""

    def encode(self, image: Tensor):  # type: ignore[no-untyped-def]
        self.last = image
        return super().encode(image)

    def decode(self, latents: Tensor, size: tuple[int, int] | None = None) -> Tensor:
        return self.last * 0.99


def test_round_trips_of_a_vae_that_loses_brightness() -> None:
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


def test_the_identity_is_fine() -> None:
    class Identity(Fading):
        def decode(self, latents: Tensor, size: tuple[int, int] | None = None) -> Tensor:
            return self.last.clone()

    base = lively()
    health = examine(Identity(base.network, base.spec, "identity"), noise(), round_trips=2, time_at=())
    assert [band.ratio for band in health.measured.bands if band.ratio is not None] == pytest.approx([1.0] * 7)
    assert health.measured.drift[-1].to_original == math.inf
    for check in ("colour bias", "coarse structure", "detail retained", "detail invented", "grid in images",
                  "grid on plain", "plain colours", "round trips"):  # fmt: skip
        assert verdict(health, check) == "fine", check
    json.dumps(examination.Health.as_dict(health), default=str)


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


def test_one_failing_image_leaves_the_others_measured() -> None:
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


def test_a_tiny_autoencoder_has_no_posterior_findings() -> None:
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


def test_calls_without_images_or_memory_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
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


def test_thresholds_rise_or_fall() -> None:
    rising, falling = Threshold(1, 3, "", ""), Threshold(0.5, 0.1, "", "")
    assert [rising.verdict(v) for v in (-math.inf, 0.9, 1, 2.9, 3, math.inf, math.nan)] == [
        "fine", "fine", "worth a look", "worth a look", "bad", "bad", "bad",
    ]  # fmt: skip
    assert [falling.verdict(v) for v in (math.inf, 0.6, 0.5, 0.11, 0.1, 0, math.nan)] == [
        "fine", "fine", "worth a look", "worth a look", "bad", "bad", "bad",
    ]  # fmt: skip
    assert all(threshold.reason.endswith(".") for threshold in THRESHOLDS.values())


def test_the_embedded_vae_is_sound() -> None:
    health = quick(
        load("tiny-kl-f8", device="cpu"), [torch.as_tensor(draw_face(5).pixels).permute(2, 0, 1)[None] / 255]
    )
    for check in ("finite values", "KL", "posterior noise", "latent scale", "latent centre", "dead channels",
                  "coarse structure", "grid on plain", "float16 range"):  # fmt: skip
        assert verdict(health, check) == "fine", check


def test_an_image_that_comes_back_equal_once_leaves_the_mean_of_every_trip(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its infinite PSNR would make one trip's mean infinite, and the trips not comparable."""
    found = iter([[30.0, math.inf], [30.0, math.inf], [28.0, 40.0], [29.0, 41.0]])
    monkeypatch.setattr(examination, "psnr", lambda a, b: next(values))
    values = (value for pair in found for value in pair)
    health = examine(lively(), [noise()[0], noise()[0]], round_trips=2, time_at=())
    assert [(trip.to_original, trip.to_previous) for trip in health.measured.drift] == [(30, 30), (28, 29)]
