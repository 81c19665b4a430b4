"""What an examination measures, without verdicts."""

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from vaelens.health.latent_statistics import LatentStatistics
from vaelens.health.spectra import BANDS, NYQUIST, band_power, grid_cells, pattern_by_period

LEVELS = 255.0
NO_POWER = (0.01 / LEVELS) ** 2  # a band with less than a hundredth of a level has no ratio


@dataclass(frozen=True)
class Band:
    """Power of the reconstructions over that of the originals, between two wavelengths in pixels.

    `longest` is None where there is no limit; `ratio` where the originals have no power.
    """

    longest: float | None
    shortest: float
    ratio: float | None


@dataclass(frozen=True)
class Plain:
    """A plain colour (RGB in [0,1]) encoded and decoded, away from the borders; all else in 8-bit levels."""

    colour: tuple[float, ...]
    shift: tuple[float, ...]  # of the mean colour, per channel
    unevenness: float  # the largest standard deviation of a channel
    grid: dict[int, float]  # RMS of what repeats, by period in pixels


@dataclass(frozen=True)
class Trip:
    """After `number` round trips: the mean PSNR in dB to the original and to the trip before.

    Over the images for which it is finite after every trip; infinite where it is infinite for all images.
    """

    number: int
    to_original: float
    to_previous: float


@dataclass(frozen=True)
class Timing:
    """Median seconds for one square image, and the device's peak of memory meanwhile (None on a CPU)."""

    side: int
    encode: float
    decode: float
    device_memory_bytes: int | None


@dataclass(frozen=True)
class Measurements:
    """All that was measured; None and empty where nothing finite came out. Levels are 8-bit levels."""

    images: str  # which, in words
    failures: tuple[str, ...]  # every pass that gave NaN or infinity
    latents: LatentStatistics | None
    scaling_factor: float  # as the file or the registry states it
    shift_factor: float
    registered_scale: float | None  # the latent space's own, where the network gives raw z
    colour_bias: tuple[float, ...] | None  # mean signed error of R, G, B, in levels
    bands: tuple[Band, ...]
    image_grid: dict[int, float]  # RMS of the pattern in the images' errors, by period, in levels
    plain: tuple[Plain, ...]
    drift: tuple[Trip, ...]
    activations: dict[str, float]  # largest absolute output per layer
    timings: tuple[Timing, ...]


class ImageSums:
    """Running sums over originals and reconstructions of any size: colour, spectrum, grid."""

    def __init__(self, factor: int) -> None:
        self._factor = factor
        self._pixels = 0
        self._error = torch.zeros(3, dtype=torch.float64)
        self._before = torch.zeros(len(BANDS), dtype=torch.float64)
        self._after = torch.zeros(len(BANDS), dtype=torch.float64)
        self._cells = 0
        self._pattern = torch.zeros(3, factor, factor, dtype=torch.float64)
        self._squares = 0.0

    def add(self, image: Tensor, again: Tensor) -> None:
        """Add one pair; both [1,3,h,w] in [0,1], on the CPU. Images weigh by their pixels."""
        pixels = image.shape[2] * image.shape[3]
        error = (again[0].double() - image[0].double()) * LEVELS
        self._pixels += pixels
        self._error += error.sum(dim=(1, 2))
        self._before += band_power(image[0]) * pixels
        self._after += band_power(again[0]) * pixels
        cells = grid_cells(error, self._factor)
        if cells is not None:
            self._pattern += cells.sum(dim=0)
            self._squares += float(cells.square().sum(dim=0).mean())
            self._cells += len(cells)

    def colour_bias(self) -> tuple[float, ...] | None:
        """Mean signed error of R, G and B in levels; None before the first pair."""
        return tuple(map(float, self._error / self._pixels)) if self._pixels else None

    def bands(self) -> tuple[Band, ...]:
        """The ratio of powers, band by band, coarse to fine; empty before the first pair."""
        if not self._pixels:
            return ()
        edges = [None, *BANDS[1:]]
        return tuple(
            Band(longest, shortest, float(after / before) if before / self._pixels > NO_POWER else None)
            for longest, shortest, before, after in zip(
                edges, (*BANDS[1:], NYQUIST), self._before, self._after, strict=True
            )
        )

    def grid(self) -> dict[int, float]:
        """RMS in levels of the mean error's pattern, by period, less what chance gives; empty without two cells."""
        if self._cells < 2:
            return {}
        pattern = self._pattern / self._cells
        spread = self._squares / self._cells - float(pattern.square().mean())
        return pattern_by_period(pattern, math.sqrt(max(spread, 0.0) / (self._cells - 1)))


def measure_plain(colour: tuple[float, ...], again: Tensor, factor: int, margin: int) -> Plain:
    """Of a plain colour's reconstruction [1,3,h,w] in [0,1]; `margin` pixels (whole cells) at the edges don't count."""
    inner = again[0, :, margin:-margin, margin:-margin].double() * LEVELS
    shift = inner.mean(dim=(1, 2)) - torch.tensor(colour, dtype=torch.float64) * LEVELS
    cells = grid_cells(inner, factor)
    return Plain(
        colour=colour,
        shift=tuple(map(float, shift)),
        unevenness=float(inner.std(dim=(1, 2), correction=0).max()),
        grid={} if cells is None else pattern_by_period(cells.mean(dim=0)),
    )
