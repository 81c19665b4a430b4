"""Results: what follows from the rows and the stored features, and from nothing else."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from vaelens.blind.pooling import PooledResults
from vaelens.evaluation.presets import Preset
from vaelens.images.drawing import Box
from vaelens.metrics.statistics import Interval, Paired, Spread


@dataclass(frozen=True)
class Row:
    """One image through one VAE; a score is None where it is infinite (PSNR of equal images) or has no value."""

    id: str
    vae: str
    sha256: str  # of the image's file
    finite: bool
    scores: Mapping[str, float | None]  # by metric
    regions: tuple[Mapping[str, Any], ...] = ()  # of `measure_regions`; a glyph's has read and ceiling too
    letters: tuple[int, int, int] | None = None  # glyphs read on the reconstruction, on the original, glyphs in all

    def value(self, key: str) -> float:
        """A score as a number: infinite for equal images, NaN where the reconstruction isn't finite."""
        value = self.scores[key]
        return value if value is not None else math.inf if self.finite else math.nan

    def as_dict(self) -> dict[str, Any]:
        """As a line of rows.jsonl."""
        line: dict[str, Any] = {
            "id": self.id,
            "vae": self.vae,
            "sha256": self.sha256,
            "finite": self.finite,
            **self.scores,
        }
        if self.regions:
            line["regions"] = [dict(region) for region in self.regions]
        if self.letters:
            line["letters"] = list(self.letters)
        return line

    @staticmethod
    def from_dict(line: Mapping[str, Any]) -> "Row":
        """From a line of rows.jsonl. Raises KeyError or TypeError for a damaged one."""
        scores = dict(line)
        fixed = {key: scores.pop(key) for key in ("id", "vae", "sha256", "finite")}
        regions, letters = scores.pop("regions", ()), scores.pop("letters", None)
        return Row(**fixed, scores=scores, regions=tuple(regions), letters=tuple(letters) if letters else None)


@dataclass(frozen=True)
class DatasetScore:
    """The score of a whole dataset; `interval` (95 %) where it has one; value None with a reason in `note`."""

    value: float | None
    interval: Interval | None = None
    note: str = ""


ALL_SIZES = "all"  # the stratum of regions of every size


@dataclass(frozen=True)
class RegionSpread:
    """One metric on one kind of region, of one size: the spread over all such regions that the VAEs share.

    Its interval is over images, since regions of one image aren't independent.
    """

    vae: str
    label: str  # eye, iris, mouth, face; "letter" for all glyphs
    stratum: str  # <8, 8-16, 16-32, >=32, or ALL_SIZES
    metric: str  # a key of REGION_METRICS
    spread: Spread


@dataclass(frozen=True)
class Letters:
    """Of the synthetic letters of one size, the share that the glyph reader reads correctly.

    Of those images only whose reconstruction is finite with every VAE that has a finite one.
    """

    vae: str
    stratum: str
    count: int
    read: float  # on the reconstructions
    ceiling: float  # on the originals


@dataclass(frozen=True)
class Example:
    """An image shown in the report: uint8 [h,w,3] original and reconstructions, and why it was chosen."""

    id: str
    why: str
    original: Any  # np.ndarray
    reconstructions: Mapping[str, Any]  # VAE -> np.ndarray
    boxes: tuple[Box, ...] = ()  # what is labelled in it, in its pixels


@dataclass(frozen=True, repr=False)
class Results:
    """Everything that a report says. `record` is the content of run.json."""

    source: str  # the dataset as a report names it
    preset: Preset
    count: int  # images
    vaes: tuple[str, ...]
    metrics: tuple[str, ...]  # keys, in the order of columns
    rows: tuple[Row, ...]  # in the manifest's order, each image through every VAE
    spreads: Mapping[tuple[str, str], Spread]  # (VAE, image metric); of a metric all over the same images
    dataset_scores: Mapping[tuple[str, str], DatasetScore]  # (VAE, dataset metric)
    differences: Mapping[tuple[str, str, str], Paired]  # (first, second, image metric); first is the later-named VAE
    dataset_differences: Mapping[tuple[str, str, str], Interval]  # (first, second, dataset metric): first - second
    regions: tuple[RegionSpread, ...]
    letters: tuple[Letters, ...]
    published: Mapping[tuple[str, str], str]  # (VAE, metric), for the cards' dataset and preset
    warnings: tuple[str, ...]
    record: Mapping[str, Any]
    blind: PooledResults | None = None  # of these VAEs, under these names

    def __repr__(self) -> str:
        means = "; ".join(
            f"{vae}: " + ", ".join(f"{k} {s.mean:.4g}" for (v, k), s in self.spreads.items() if v == vae)
            for vae in self.vaes
        )
        return f"Results({self.source}, preset {self.preset.name}; {means})"
