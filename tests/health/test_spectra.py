"""Spectra of images by wavelength, and patterns that repeat with the grid of latents, against closed forms."""

import math

import numpy as np
import pytest
import torch

from vaelens.health.measurements import ImageSums
from vaelens.health.spectra import BANDS, band_power, grid_cells, pattern_by_period, pattern_rms


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
def test_a_wave_is_in_its_band_and_half_its_amplitude_has_a_quarter_of_the_power(wavelength: float, band: int) -> None:
    wave = torch.cos(2 * math.pi * torch.arange(256) / wavelength).expand(3, 200, 256)
    power, halved = band_power(wave), band_power(wave / 2)
    assert int(power.argmax()) == band
    assert float(power[band]) > 0.9 * float(power.sum())
    assert float(halved[band] / power[band]) == pytest.approx(0.25, rel=1e-6)


def test_a_wave_at_the_border_of_two_bands_is_in_the_finer_one() -> None:
    for band, longest in ((1, 64.0), (2, 32.0), (4, 8.0), (6, 4.0)):
        wave = torch.cos(2 * math.pi * torch.arange(256) / longest).expand(1, 64, 256)
        assert BANDS[band] == longest
        assert float(band_power(wave)[band]) > 0.6 * float(band_power(wave).sum())  # Hann spreads to both neighbours


def test_blur_reduces_each_band_by_its_transfer_function() -> None:
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


def test_a_slope_has_no_power_in_fine_bands() -> None:
    power = band_power(torch.linspace(0, 1, 256).expand(3, 256, 256))
    assert float(power[3:].sum()) < 1e-6 * float(power.sum())


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


def test_patterns_are_separated_by_their_period() -> None:
    checker = torch.tensor([[1.0, -1.0], [-1.0, 1.0]]).repeat(4, 4)
    stripes = torch.tensor([1.0, 1.0, -1.0, -1.0]).repeat(8, 2)
    halves = torch.cat([torch.ones(4), -torch.ones(4)]).repeat(8, 1)
    for cell, expected in ((checker, [3, 0, 0]), (stripes, [0, 3, 0]), (halves, [0, 0, 3])):
        parts = pattern_by_period((3 * cell).expand(3, 8, 8))
        assert list(parts.values()) == pytest.approx(expected)


def test_noise_has_no_grid_and_a_faint_grid_is_found_under_noise() -> None:
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


def test_small_images_and_factor_1_have_no_grid() -> None:
    assert grid_cells(torch.rand(3, 15, 64), 8) is None
    assert grid_cells(torch.rand(3, 64, 64), 1) is None
