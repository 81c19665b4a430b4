"""From stored features to the scores of a dataset: Frechet distances and KID, with intervals and differences."""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol

from torch import Tensor

from vaelens.evaluation.feature_files import ORIGINALS
from vaelens.evaluation.results import DatasetScore
from vaelens.metrics.frechet import Moments, jackknife
from vaelens.metrics.kid import kid_each
from vaelens.metrics.statistics import Interval, few_images_warning
from vaelens.text.numbers import counted

Step = Callable[[int, int], object]  # done, total

THOUSAND = 1000  # KID is printed a thousandfold
FEWEST_GROUPS = 10  # for a jackknife whose interval means something


class StoredFeatures(Protocol):
    """Features of the originals (ORIGINALS) and of each VAE's reconstructions; `EvaluationFolder` has them."""

    def features(self, name: str, extractor: str) -> Tensor | None:
        """[n,d]; None where only sums are stored."""
        ...

    def moments(self, name: str, extractor: str) -> list[Moments]:
        """Of each group of images."""
        ...


@dataclass(frozen=True)
class DatasetScores:
    """Each VAE's score, the differences (first, second), whose interval is NaN for too few images, and warnings."""

    scores: Mapping[str, DatasetScore]
    differences: Mapping[tuple[str, str], Interval] = field(default_factory=dict[tuple[str, str], Interval])
    warnings: tuple[str, ...] = ()


def vae_pairs(vaes: Sequence[str]) -> list[tuple[str, str]]:
    """Each pair of VAEs, the later one first: differences read "B against A"."""
    return [(vaes[b], vaes[a]) for a in range(len(vaes)) for b in range(a + 1, len(vaes))]


def frechet_scores(stored: StoredFeatures, extractor: str, vaes: list[str], step: Step) -> DatasetScores:
    """A Frechet distance of each VAE, with jackknife intervals for it and for differences."""
    reference = stored.moments(ORIGINALS, extractor)
    moments = {vae: stored.moments(vae, extractor) for vae in vaes}
    finite = {vae: groups for vae, groups in moments.items() if all(g.outer.isfinite().all() for g in groups)}
    scores = _not_finite(vaes, finite)
    count, dimension = sum(group.count for group in reference), len(reference[0].total)
    if count - max(group.count for group in reference) < 2:  # images are left when a group is left out
        unknown = Interval(math.nan, math.nan, math.nan)
        return DatasetScores(scores | _too_few(finite), dict.fromkeys(vae_pairs([*finite]), unknown))
    found = jackknife(reference, finite, step)
    enough = bool(found) and len(next(iter(found.values())).left_out) >= FEWEST_GROUPS
    scores |= {vae: DatasetScore(one.value, one.interval() if enough else None) for vae, one in found.items()}
    differences = {
        pair: one.interval() if enough else Interval(one.value, math.nan, math.nan)
        for pair in vae_pairs([*found])
        for one in [found[pair[0]].minus(found[pair[1]])]
    }
    warning = few_images_warning(count, dimension)
    return DatasetScores(scores, differences, (warning,) if warning else ())


def kid_scores(stored: StoredFeatures, extractor: str, vaes: list[str], step: Step) -> DatasetScores:
    """KID of each VAE, a thousandfold; differences on the same subsets are noted, but have no interval."""
    originals = stored.features(ORIGINALS, extractor)
    if originals is None:
        return DatasetScores(dict.fromkeys(vaes, DatasetScore(None, note="features aren't stored for so many images")))
    if len(originals) < 2:
        return DatasetScores(_too_few(vaes))
    features = {vae: stored.features(vae, extractor) for vae in vaes}
    finite = {vae: values for vae, values in features.items() if values is not None and values.isfinite().all()}
    scores = _not_finite(vaes, finite)
    found = kid_each(finite, originals) if finite else {}
    for vae, one in found.items():
        if one.std is None:
            note = counted(one.subset_size, "image")
        else:
            note = f"± {one.std * THOUSAND:.3f}, {len(one.values)} x {one.subset_size}"
        if vae != vaes[0] and vaes[0] in found:
            difference = one.minus(found[vaes[0]])
            spread = "" if difference.std is None else f" ± {difference.std * THOUSAND:.3f}"
            note += f"; {difference.mean * THOUSAND:+.3f}{spread} to the first"
        scores[vae] = DatasetScore(one.mean * THOUSAND, note=note)
    return DatasetScores(scores)


def _not_finite(vaes: Sequence[str], finite: Mapping[str, object]) -> dict[str, DatasetScore]:
    return {vae: DatasetScore(None, note="not all reconstructions are finite") for vae in vaes if vae not in finite}


def _too_few(vaes: Sequence[str] | Mapping[str, object]) -> dict[str, DatasetScore]:
    return {vae: DatasetScore(None, note="too few images") for vae in vaes}
