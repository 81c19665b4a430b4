"""What a column of values says, and what it doesn't: spread, 95 % intervals, paired differences.

Values that are infinite (the PSNR of equal images is) or not numbers are left out and counted. Means that stand side by
side are over the same images, `shared_images`: a VAE whose best images are left out of its own mean alone would look
worse than one that is worse. Sums are exactly rounded, so a mean is the same for any order of the images and any number
of shards. The bootstrap draws by position: values in the manifest's order give the same interval again.
"""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from statistics import NormalDist
from typing import Any, Literal

import numpy as np
import scipy.special  # pyright: ignore[reportMissingTypeStubs]
from numpy.typing import NDArray

from vaelens.text.numbers import counted

special: Any = scipy.special  # which has no types; scipy.stats would take 1 s to load

LEVEL = 0.95
RESAMPLES = 10_000
FEWEST = 6  # images for an interval: fewer say too little
UNBOUNDED = (-math.inf, math.inf)
ROUNDING = 1e-9  # equal images may have an SSIM this far above 1
BLOCK = 4_000_000  # positions drawn at a time: 32 MB of float64


@dataclass(frozen=True)
class Interval:
    """A value with its 95 % interval, in the value's unit."""

    value: float
    low: float
    high: float

    @property
    def excludes_zero(self) -> bool:
        return self.low > 0 or self.high < 0

    def within(self, bounds: tuple[float, float]) -> "Interval | None":
        """The interval of a value that lies between these bounds; None where it would leave them.

        That happens where images are too few: neither Student's t nor the jackknife holds for so few.
        """
        if self.low < bounds[0] - ROUNDING or self.high > bounds[1] + ROUNDING:
            return None
        return Interval(self.value, max(self.low, bounds[0]), min(self.high, bounds[1]))


@dataclass(frozen=True)
class Spread:
    """`mean` +/- `std` over `count` images as the model cards print it (ddof 0; how images differ, no error).

    low, high: the 95 % interval of the mean by Student's t; NaN where images are too few for one, see `spread`.
    Left out of the mean are `exact` infinite values, `lost` ones that aren't numbers, and `unshared` ones of images
    that aren't shared. No value left: mean and std are NaN; all that are numbers infinite: so is the mean.
    """

    mean: float
    std: float
    low: float
    high: float
    count: int
    exact: int = 0
    lost: int = 0
    unshared: int = 0

    @property
    def total(self) -> int:
        """All images, those left out included."""
        return self.count + self.exact + self.lost + self.unshared


@dataclass(frozen=True)
class Paired:
    """Two VAEs on the same images: the mean of first - second, with its 95 % bootstrap interval (BCa).

    won, ties: shares of the images, 0 to 1, on which the first is better, and on which both are equal; an infinite
    PSNR beats any other. dropped: images left out of the difference since one of the two values was infinite or not
    a number; of these, how many values are infinite with the first alone, the second alone, and with both. None left:
    difference, low and high are NaN; no two numbers at all: won and ties too. Below FEWEST pairs low and high are NaN:
    resampling them says nothing.
    """

    difference: float
    low: float
    high: float
    won: float
    ties: float
    count: int
    dropped: int
    exact_first: int = 0
    exact_second: int = 0
    exact_both: int = 0

    @property
    def decided(self) -> bool:
        """Whether the interval excludes 0."""
        return self.low > 0 or self.high < 0

    @property
    def wins(self) -> tuple[int, int]:
        """On how many images the first is better, and on how many the second."""
        pairs = self.count + self.exact_first + self.exact_second + self.exact_both
        won, ties = (round(share * pairs) if pairs else 0 for share in (self.won, self.ties))
        return won, pairs - won - ties


def shared_images(columns: Sequence[Sequence[float]]) -> list[bool]:
    """For each image, whether it has a finite value in every column: one column or more, of the same images in order.

    Columns without any finite value don't count: they have no mean that others could be compared with.
    """
    finite = [[math.isfinite(value) for value in column] for column in columns]
    counted = [column for column in finite if any(column)]
    return [all(values) for values in zip(*counted, strict=True)] if counted else [False] * len(finite[0])


def spread(
    values: Iterable[float],
    shared: Sequence[bool] | None = None,
    *,
    groups: Sequence[object] | None = None,
    bounds: tuple[float, float] = UNBOUNDED,
) -> Spread:
    """Mean, spread and the mean's interval over the shared values, by default all; the same bit for bit in any order.

    groups: which values belong together, the regions of one image: the interval is then over groups, which are
    independent where the values of one aren't (with a group of its own for each value it is the usual one). bounds:
    the metric's range. There is no interval below FEWEST values or groups, nor where it would leave the range.
    """
    every = list(values)
    finite = [i for i, value in enumerate(every) if math.isfinite(value)]
    used = finite if shared is None else [i for i in finite if shared[i]]
    n, exact = len(used), every.count(math.inf)
    left_out = exact, len(every) - len(finite) - exact, len(finite) - n
    if not n:
        none = math.inf if exact and not finite else math.nan
        return Spread(none, math.nan, math.nan, math.nan, 0, *left_out)
    mean = math.fsum(every[i] for i in used) / n
    std = math.sqrt(math.fsum((every[i] - mean) ** 2 for i in used) / n)
    together: dict[object, list[float]] = {}
    for i in used:
        together.setdefault(i if groups is None else groups[i], []).append(every[i] - mean)
    low = high = math.nan
    if (g := len(together)) >= FEWEST:
        squares = math.fsum(math.fsum(deviations) ** 2 for deviations in together.values())
        half = student_t(g - 1) * math.sqrt(g / (g - 1) * squares) / n
        if interval := Interval(mean, mean - half, mean + half).within(bounds):
            low, high = interval.low, interval.high
    return Spread(mean, std, low, high, n, *left_out)


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
    infinite = np.isposinf(a), np.isposinf(b)
    only, other = (int(np.count_nonzero(x & np.isfinite(y))) for x, y in ((infinite[0], b), (infinite[1], a)))
    exact = only, other, int(np.count_nonzero(infinite[0] & infinite[1]))
    if not n:
        return Paired(math.nan, math.nan, math.nan, won, ties, 0, dropped, *exact)
    low, high = _bca(difference, seed, resamples) if n >= FEWEST else (math.nan, math.nan)
    return Paired(math.fsum(difference) / n, low, high, won, ties, n, dropped, *exact)


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
    """How many standard errors a 95 % interval reaches to each side, for so many degrees of freedom (at least 1)."""
    if degrees < 1:
        raise ValueError(f"Student's t needs at least 1 degree of freedom, not {degrees}")
    return float(special.stdtrit(float(degrees), (1 + LEVEL) / 2))


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
    what = f"{counted(count, 'image')} for {dimension:,} features"
    if count <= dimension:
        return (
            f"{what} {'is' if count == 1 else 'are'} too few for a Fréchet distance, so its value is strongly "
            "biased upwards. Compare it only "
            f"between VAEs on these same images, or measure at least {dimension * 5:,}."
        )
    much = f"by about {too_high_percent(count, dimension):.0f} %" if ratio >= 2.6 else "by more than 11 %"
    return f"{what}: this Fréchet distance is too high {much}; compare it only with values from as many images."
