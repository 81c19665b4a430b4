"""Power spectra by scale, and patterns that repeat on the latent grid, as pure functions."""

import math
from collections.abc import Mapping

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

# Longest wavelength of each band, in pixels: octaves, and half octaves where decoders lose detail. The shortest
# of a band is the next one's longest; the last ends at 2, Nyquist's limit, and holds the diagonals beyond it too.
BANDS = (math.inf, 64.0, 32.0, 16.0, 8.0, 4 * math.sqrt(2), 4.0, 2 * math.sqrt(2))
NYQUIST = 2.0


def band_power(image: Tensor) -> Tensor:
    """The mean power in each of BANDS of an image [c,h,w], float64, [8].

    The mean is taken away and a Hann window laid over it, without which the jump from one edge to the
    opposite one passes for fine detail. Divided by the window's power, so that the bands add up to the
    image's variance under the window (Parseval).
    """
    x = image.cpu().double().numpy()
    h, w = x.shape[1:]
    window = _hann(h)[:, None] * _hann(w)
    x = (x - (x * window).sum(axis=(1, 2), keepdims=True) / window.sum()) * window
    power = np.square(np.abs(np.fft.fft2(x))).mean(axis=0) / (h * w * np.square(window).sum())
    frequency = np.hypot(np.fft.fftfreq(h)[:, None], np.fft.fftfreq(w))
    edges = [1 / longest * (1 - 1e-9) for longest in BANDS[1:]]  # a wavelength on the edge is in the finer band
    band = np.digitize(frequency, edges)
    return torch.as_tensor(np.bincount(band.ravel(), weights=power.ravel(), minlength=len(BANDS)))


def grid_cells(image: Tensor, factor: int) -> Tensor | None:
    """The cells of `factor` pixels a side, without what varies slowly: [n,c,factor,factor], float64, about 0.

    image is [c,h,w], aligned with the grid at its top left corner. What is taken away is a centred moving
    average over one period: exact for a linear slope, and blind to what repeats. So the mean over n is the
    pattern that repeats in every cell. None where the image has fewer than two cells, or the factor is
    odd or 1.
    """
    c, h, w = image.shape
    if factor % 2 or min(h, w) < 2 * factor:
        return None
    x = image.cpu().double()
    kernel = torch.full((factor + 1,), 1 / factor, dtype=x.dtype)
    kernel[0] = kernel[-1] = 0.5 / factor  # an even period has no middle: half a pixel at either end
    slow = F.conv2d(x[:, None], kernel.view(1, 1, -1, 1))
    slow = F.conv2d(slow, kernel.view(1, 1, 1, -1))[:, 0]
    edge = factor // 2
    fast = x[:, edge:-edge, edge:-edge] - slow
    rows, columns = fast.shape[1] // factor, fast.shape[2] // factor
    cells = fast[:, : rows * factor, : columns * factor].reshape(c, rows, factor, columns, factor)
    cells = cells.permute(1, 3, 0, 2, 4).flatten(0, 1)
    return torch.roll(cells, (edge, edge), dims=(2, 3))  # each starts half a cell late


def pattern_by_period(pattern: Tensor, noise: float = 0.0) -> dict[int, float]:
    """Root mean square of a pattern [c,f,f] (f a power of 2), divided among the periods 2, 4, ..., f.

    Each has what repeats with that period and with no shorter one; their squares add up to the whole.
    `noise` is the root mean square that chance gives a mean of so many cells; each period's share of it, by
    its number of freedoms, is taken away.
    """
    parts: dict[int, float] = {}
    cells = pattern.shape[1]
    coarser = pattern.mean(dim=(1, 2), keepdim=True)
    period = 2
    while period <= cells:
        here = _folded(pattern, period)
        repeats = period // coarser.shape[1]
        power = float((here - coarser.repeat(1, repeats, repeats)).square().mean())
        chance = noise**2 * (period**2 - (period // 2) ** 2) / cells**2
        parts[period] = math.sqrt(max(power - chance, 0.0))
        coarser, period = here, period * 2
    return parts


def pattern_rms(parts: Mapping[int, float]) -> float:
    """The whole pattern's root mean square from its parts."""
    return math.sqrt(sum(part**2 for part in parts.values()))


def _folded(pattern: Tensor, period: int) -> Tensor:
    c, side = pattern.shape[:2]
    return pattern.reshape(c, side // period, period, side // period, period).mean(dim=(1, 3))


def _hann(n: int) -> np.ndarray:
    """A Hann window of n samples at the pixels' centres, so that none is zero however small the image."""
    return np.sin((np.arange(n) + 0.5) * (math.pi / n)) ** 2
