"""What a column of values says, and what it doesn't: spread, 95 % intervals, paired differences.

Values that are infinite or not numbers (the PSNR of two equal images is infinite) are left out and counted.
Sums are exactly rounded, so a mean is the same for any order of the images and any number of shards. The
bootstrap draws by position: give it values in the manifest's order, and it gives the same interval again.
"""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from statistics import NormalDist
from typing import Literal

import numpy as np
from numpy.typing import NDArray

LEVEL = 0.95
RESAMPLES = 10_000
FEWEST = 6  # images for an interval: fewer say too little
BLOCK = 4_000_000  # positions drawn at a time: 32 MB of float64
SERIES = 200  # degrees of freedom from which the expansion of Student's t is exact to 1e-9


@dataclass(frozen=True)
class Interval:
    """A value with its 95 % interval, in the value's unit."""

    value: float
    low: float
    high: float

    @property
    def excludes_zero(self) -> bool:
        return self.low > 0 or self.high < 0


@dataclass(frozen=True)
class Spread:
    """`mean` +/- `std` over `count` images as the model cards print it (ddof 0; how images differ, no error).

    low, high: the 95 % interval of the mean by Student's t, NaN for fewer than FEWEST values.
    dropped: how many values were infinite or not numbers and count nowhere. No value at all: mean and std are NaN.
    """

    mean: float
    std: float
    low: float
    high: float
    count: int
    dropped: int


@dataclass(frozen=True)
class Paired:
    """Two VAEs on the same images: the mean of first - second, with its 95 % bootstrap interval (BCa).

    won, ties: shares of the images, 0 to 1, on which the first is better, and on which both are equal; an infinite
    PSNR beats any other. dropped: images left out of the difference since one of the two values was infinite or not
    a number. None left: difference, low and high are NaN; no two numbers at all: won and ties too. Below FEWEST pairs
    low and high are NaN: resampling them says nothing.
    """

    difference: float
    low: float
    high: float
    won: float
    ties: float
    count: int
    dropped: int

    @property
    def decided(self) -> bool:
        """Whether the interval excludes 0."""
        return self.low > 0 or self.high < 0


def spread(values: Iterable[float]) -> Spread:
    """Mean, spread and the mean's interval; the same bit for bit in any order."""
    every = list(values)
    finite = [value for value in every if math.isfinite(value)]
    n, dropped = len(finite), len(every) - len(finite)
    if not n:
        return Spread(math.nan, math.nan, math.nan, math.nan, 0, dropped)
    mean = math.fsum(finite) / n
    squares = math.fsum((value - mean) ** 2 for value in finite)
    half = student_t(n - 1) * math.sqrt(squares / (n - 1) / n) if n >= FEWEST else math.nan
    return Spread(mean, math.sqrt(squares / n), mean - half, mean + half, n, dropped)


def paired(
    first: Sequence[float],
    second: Sequence[float],
    better: Literal["higher", "lower"],
    seed: int = 0,
    resamples: int = RESAMPLES,
) -> Paired:
    """Compare two VAEs image by image; the same images in the same order in both (else ValueError).

    The interval is Efron's BCa bootstrap of the mean difference over resampled images (1987,
    https://doi.org/10.1080/01621459.1987.10478410): a few images on which a VAE fails make differences
    lopsided, and the plain percentiles lag behind that.
    """
    if len(first) != len(second):
        raise ValueError(f"paired values come from the same images, not from {len(first)} and {len(second)}")
    a, b = np.asarray(first, dtype=np.float64), np.asarray(second, dtype=np.float64)
    both = np.isfinite(a) & np.isfinite(b)
    difference = a[both] - b[both]
    n, dropped = len(difference), len(first) - len(difference)
    pairs = np.count_nonzero(~(np.isnan(a) | np.isnan(b)))  # NaN wins, loses and ties with nothing
    won, ties = (
        float(np.count_nonzero(where) / pairs) if pairs else math.nan
        for where in (a > b if better == "higher" else a < b, a == b)
    )
    if not n:
        return Paired(math.nan, math.nan, math.nan, won, ties, 0, dropped)
    low, high = _bca(difference, seed, resamples) if n >= FEWEST else (math.nan, math.nan)
    return Paired(math.fsum(difference) / n, low, high, won, ties, n, dropped)


def _bca(values: NDArray[np.float64], seed: int, resamples: int) -> tuple[float, float]:
    """The 95 % interval of the mean of values [n]."""
    n = len(values)
    mean = math.fsum(values) / n
    centred = values - mean  # so that equal differences resample to exactly 0
    rng = np.random.default_rng(seed)
    means = np.empty(resamples)
    rows = max(1, BLOCK // n)
    for start in range(0, resamples, rows):
        drawn = rng.integers(0, n, size=(min(rows, resamples - start), n), dtype=np.uint32)
        means[start : start + len(drawn)] = centred.take(drawn).mean(axis=1)
    means.sort()
    normal = NormalDist()
    below = (np.count_nonzero(means < 0) + np.count_nonzero(means == 0) / 2) / resamples
    if not 0 < below < 1:  # fewer resamples than it takes to see both sides
        return mean + float(means[0]), mean + float(means[-1])
    bias = normal.inv_cdf(float(below))
    squares = math.fsum(centred**2)
    acceleration = math.fsum(centred**3) / (6 * squares**1.5) if squares else 0.0
    ends: list[float] = []
    for tail in ((1 - LEVEL) / 2, (1 + LEVEL) / 2):
        z = bias + normal.inv_cdf(tail)
        ends.append(mean + float(np.quantile(means, normal.cdf(bias + z / (1 - acceleration * z)))))
    return ends[0], ends[1]


def student_t(degrees: int) -> float:
    """How many standard errors a 95 % interval reaches to each side, for so many degrees of freedom (at least 1).

    Abramowitz and Stegun 26.7.3 and 26.7.4 (the finite series) turned round by bisection, and above 200
    degrees 26.7.5 (the expansion around the normal distribution).
    """
    if degrees < 1:
        raise ValueError(f"Student's t needs at least 1 degree of freedom, not {degrees}")
    if degrees > SERIES:
        z = NormalDist().inv_cdf((1 + LEVEL) / 2)
        terms = (z**3 + z) / 4, (5 * z**5 + 16 * z**3 + 3 * z) / 96, (3 * z**7 + 19 * z**5 + 17 * z**3 - 15 * z) / 384
        return z + sum(term / degrees ** (i + 1) for i, term in enumerate(terms))
    low, high = 0.0, math.pi / 2
    for _ in range(60):
        middle = (low + high) / 2
        low, high = (middle, high) if _within(middle, degrees) < LEVEL else (low, middle)
    return math.sqrt(degrees) * math.tan(low)


def _within(angle: float, degrees: int) -> float:
    """The probability that |t| is below sqrt(degrees) tan(angle)."""
    odd = degrees % 2
    term = math.cos(angle) if odd else 1.0
    total = 0.0
    for k in range(1 + odd, degrees, 2):
        total += term
        term *= k / (k + 1) * math.cos(angle) ** 2
    return 2 / math.pi * (angle + math.sin(angle) * total) if odd else math.sin(angle) * total


def too_high_percent(count: int, dimension: int) -> float:
    """By how many percent a Frechet distance from `count` images in `dimension` features is about too high.

    A toy's with a known distance, paired as reconstructions are: 11 % at 2.6 images per dimension, 6 % at 5.2, 1 % at
    26, that is about 29 over their ratio. It says nothing below 2.6.
    """
    return 29 / (count / dimension)


def few_images_warning(count: int, dimension: int) -> str | None:
    """What to say beside a Frechet distance from `count` images in `dimension` features; None from 26 to 1 on."""
    ratio = count / dimension
    if ratio >= 26:
        return None
    what = f"{count} images for {dimension} features"
    if count <= dimension:
        return (
            f"{what} are too few for a Fréchet distance, so its value is strongly biased upwards. Compare it only "
            f"between VAEs on these same images, or measure at least {dimension * 5:,}."
        )
    much = f"by about {too_high_percent(count, dimension):.0f} %" if ratio >= 2.6 else "by more than 11 %"
    return f"{what}: this Fréchet distance is too high {much}; compare it only with values from as many images."
