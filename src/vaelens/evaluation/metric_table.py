"""All metrics by key, each with its function, its networks and its column.

A new image metric is a function in `vaelens/metrics/` and one entry here; `evaluate --metric KEY` adds it to a preset.
"""

import difflib
import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass

from torch import Tensor

from vaelens.errors import UsageError
from vaelens.evaluation.dataset_scores import DatasetScores, Step, StoredFeatures, frechet_scores, kid_scores
from vaelens.evaluation.image_pairs import ImagePairs
from vaelens.metrics.frechet import Moments, frechet_distance
from vaelens.metrics.lpips import lpips
from vaelens.metrics.psim import psim, psim_maps
from vaelens.metrics.psnr import psnr
from vaelens.metrics.statistics import UNBOUNDED
from vaelens.report.tables import Better


@dataclass(frozen=True, kw_only=True)
class Metric:
    """A column: `digits` is the number of decimals; `better` is None where neither more nor less is.

    bounds: the range of the values, which no interval leaves
    """

    key: str
    title: str
    better: Better | None
    digits: int
    bounds: tuple[float, float]
    unit: str = ""
    about: str
    networks: tuple[str, ...] = ()  # names of `loaded_preset`

    @property
    def label(self) -> str:
        """The title with the unit."""
        return f"{self.title}, {self.unit}" if self.unit else self.title


@dataclass(frozen=True, kw_only=True)
class ImageMetric(Metric):
    """One score per image.

    score: from image pairs to [b], float64
    infinite_if_equal: whether equal images have an infinite score, which is stored as None
    maps: where the images differ, a list of [b,h_i,w_i], for a metric that is also taken in regions
    """

    score: Callable[[ImagePairs], Tensor]
    infinite_if_equal: bool = False
    maps: Callable[[ImagePairs], list[Tensor]] | None = None


@dataclass(frozen=True, kw_only=True)
class DatasetMetric(Metric):
    """One score per dataset, from the features of its only network.

    scores: from the stored features of originals and VAEs to the scores of all VAEs
    distance: from the moments of both sets of features, for a metric that needs no more
    """

    scores: Callable[[StoredFeatures, str, list[str], Step], DatasetScores]
    distance: Callable[[Moments, Moments], float] | None = None

    @property
    def extractor(self) -> str:
        """The network that gives the features."""
        return self.networks[0]


POSITIVE, CORRELATION = (0.0, math.inf), (-1.0, 1.0)

METRICS: dict[str, ImageMetric | DatasetMetric] = {
    metric.key: metric
    for metric in (
        DatasetMetric(key="rfid", title="rFID", better="lower", digits=2, bounds=POSITIVE, networks=("inception",),
                      scores=frechet_scores, distance=frechet_distance,
                      about="Fréchet distance between Inception features of originals and reconstructions"),
        DatasetMetric(key="kid", title="KID x1000", better="lower", digits=3, bounds=UNBOUNDED, networks=("inception",),
                      scores=kid_scores,
                      about="polynomial maximum mean discrepancy of the same features, unbiased for few images"),
        DatasetMetric(key="fd_dinov2", title="FD-DINOv2", better="lower", digits=2,
                      bounds=POSITIVE, networks=("dinov2",),
                      scores=frechet_scores, distance=frechet_distance,
                      about="Fréchet distance between DINOv2 features"),
        DatasetMetric(key="fd_small", title="fd-small", better="lower", digits=3,
                      bounds=POSITIVE, networks=("fd-small",),
                      scores=frechet_scores, distance=frechet_distance,
                      about="Fréchet distance between the features of vaelens' own small network; not an rFID"),
        ImageMetric(key="psnr", title="PSNR", better="higher", digits=2,
                    bounds=POSITIVE, unit="dB", infinite_if_equal=True,
                    score=lambda pairs: psnr(*pairs.images),
                    about="peak signal-to-noise ratio, from the mean squared error"),
        ImageMetric(key="ssim", title="SSIM", better="higher", digits=4, bounds=CORRELATION,
                    score=lambda pairs: pairs.ssim_map().mean(dim=(1, 2, 3)),
                    about="structural similarity in Gaussian windows, 1 for equal images"),
        ImageMetric(key="ssim_zero", title="SSIM zero", better="higher", digits=4, bounds=CORRELATION,
                    score=lambda pairs: pairs.ssim_map("zero").mean(dim=(1, 2, 3)),
                    about="SSIM with zero-padded borders"),
        ImageMetric(key="ssim_valid", title="SSIM valid", better="higher", digits=4, bounds=CORRELATION,
                    score=lambda pairs: pairs.ssim_map("valid").mean(dim=(1, 2, 3)),
                    about="SSIM of the windows that lie inside the image"),
        ImageMetric(key="lpips_vgg", title="LPIPS-VGG", better="lower", digits=4,
                    bounds=POSITIVE, networks=("vgg16", "lpips-vgg"),
                    score=lambda pairs: lpips(*pairs.taps("vgg16"), pairs.module("lpips-vgg")),
                    about="learned distance of VGG16 features"),
        ImageMetric(key="lpips_alex", title="LPIPS-Alex", better="lower", digits=4,
                    bounds=POSITIVE, networks=("alexnet", "lpips-alex"),
                    score=lambda pairs: lpips(*pairs.taps("alexnet"), pairs.module("lpips-alex")),
                    about="learned distance of AlexNet features"),
        ImageMetric(key="psim", title="PSIM", better="lower", digits=4, bounds=POSITIVE, networks=("vgg16",),
                    score=lambda pairs: psim(*pairs.taps("vgg16")), maps=lambda pairs: psim_maps(*pairs.taps("vgg16")),
                    about="cosine distance of VGG16 features, summed over five layers, without learned weights"),
        ImageMetric(key="psim_small", title="psim-small", better="lower", digits=4,
                    bounds=POSITIVE, networks=("psim-small",),
                    score=lambda pairs: psim(*pairs.taps("psim-small")),
                    maps=lambda pairs: psim_maps(*pairs.taps("psim-small")),
                    about="cosine distance of the features of vaelens' own small network; not a PSIM"),
    )
}  # fmt: skip

REGION_METRICS: dict[str, Metric] = {
    **{key: METRICS[key] for key in ("psnr", "ssim", "psim", "psim_small")},
    "gradient_energy": Metric(
        key="gradient_energy", title="gradient energy", better=None, digits=3, bounds=POSITIVE,
        about="gradient energy of the reconstruction over that of the original, in a region: below 1 it is smoother, "
        "above 1 sharper or noisier; nearest to 1 is best",
    ),
}  # fmt: skip


def find_metric(key: str) -> ImageMetric | DatasetMetric:
    """The metric of that key. Raises UsageError with the nearest known one."""
    if key not in METRICS:
        near = difflib.get_close_matches(key.lower(), METRICS, n=1)
        hint = f"Did you mean {near[0]}?" if near else f"Known: {', '.join(METRICS)}."
        raise UsageError(f"there is no metric {key!r}. {hint}")
    return METRICS[key]


def image_metrics(keys: Iterable[str]) -> list[ImageMetric]:
    """Those of these metrics that score images, in order."""
    return [metric for key in keys if isinstance(metric := METRICS[key], ImageMetric)]


def dataset_metrics(keys: Iterable[str]) -> list[DatasetMetric]:
    """Those of these metrics that score datasets, in order."""
    return [metric for key in keys if isinstance(metric := METRICS[key], DatasetMetric)]


def networks_of(keys: Iterable[str]) -> list[str]:
    """The networks that these metrics need, each once."""
    return list(dict.fromkeys(name for key in keys for name in METRICS[key].networks))
