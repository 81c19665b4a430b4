"""Results: what follows from the rows and the stored features, and from nothing else."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from vaelens.evaluation.presets import Preset
from vaelens.images.drawing import Box
from vaelens.metrics.statistics import Interval, Paired, Spread


@dataclass(frozen=True)
class Row:
    """One image through one VAE; a score is None where it is infinite (PSNR of equal images) or can't be had."""

    id: str
    vae: str
    sha256: str  # of the image's file
    finite: bool
    scores: Mapping[str, float | None]  # measure key -> value
    regions: tuple[Mapping[str, Any], ...] = ()  # measure_regions' dicts; a glyph's has read and ceiling too
    letters: tuple[int, int, int] | None = None  # glyphs read: here, on the original; of how many


@dataclass(frozen=True)
class SetScore:
    """A measure of the whole set; `interval` (95 %) where one can be had; value None with a reason in `note`."""

    value: float | None
    interval: Interval | None = None
    note: str = ""


@dataclass(frozen=True)
class RegionSpread:
    """One measure on one kind of region, of one size: the spread over all such regions of all images."""

    vae: str
    label: str  # eye, iris, mouth, face; "letter" for all glyphs
    stratum: str  # <8, 8-16, 16-32, >=32, or "all"
    measure: str  # psnr, ssim, psim (of psim-small's network with the preset offline), gradient
    spread: Spread


@dataclass(frozen=True)
class Letters:
    """Of the drawn letters of one size, the share that the glyph reader reads right."""

    vae: str
    stratum: str
    count: int
    read: float  # on the reconstructions
    ceiling: float  # on the originals


@dataclass(frozen=True)
class Example:
    """An image to look at: uint8 [h,w,3] originals and reconstructions, and why it was chosen."""

    id: str
    why: str
    original: Any  # np.ndarray
    reconstructions: Mapping[str, Any]  # VAE -> np.ndarray
    boxes: tuple[Box, ...] = ()  # what is labelled in it, in its pixels


@dataclass(frozen=True, repr=False)
class Results:
    """All that a report says. `record` is run.json's content."""

    source: str  # the dataset as a report names it
    preset: Preset
    count: int  # images
    vaes: tuple[str, ...]
    measures: tuple[str, ...]  # keys, in the order of columns
    rows: tuple[Row, ...]  # in the manifest's order, each image through every VAE
    spreads: Mapping[tuple[str, str], Spread]  # (VAE, measure of an image)
    sets: Mapping[tuple[str, str], SetScore]  # (VAE, measure of the set)
    pairs: Mapping[tuple[str, str, str], Paired]  # (first, second, measure of an image); first is the later-named VAE
    set_pairs: Mapping[tuple[str, str, str], Interval]  # (first, second, measure of the set): first - second
    regions: tuple[RegionSpread, ...]
    letters: tuple[Letters, ...]
    published: Mapping[tuple[str, str], str]  # (VAE, measure) -> the card's value, where set and preset are the card's
    warnings: tuple[str, ...]
    record: Mapping[str, Any]

    def __repr__(self) -> str:
        means = "; ".join(
            f"{vae}: " + ", ".join(f"{k} {s.mean:.4g}" for (v, k), s in self.spreads.items() if v == vae)
            for vae in self.vaes
        )
        return f"Results({self.source}, preset {self.preset.name}; {means})"
