"""From rows and stored features to results: a pure function, so neither order, shards nor a stop can change it."""

import math
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from vaelens.evaluation.folder import ORIGINALS, RunFolder
from vaelens.evaluation.instruments import EXTRACTORS
from vaelens.evaluation.measures import MEASURES
from vaelens.evaluation.presets import PRESETS, Preset
from vaelens.evaluation.results import Letters, RegionSpread, Results, Row, SetScore
from vaelens.images.datasets.items import Dataset
from vaelens.metrics.frechet import Jackknife, jackknife
from vaelens.metrics.kid import kid_each
from vaelens.metrics.regions import STRATA
from vaelens.metrics.statistics import Interval, Paired, few_images_warning, paired, spread
from vaelens.runtime import Progress, silent
from vaelens.weights.registry import registry

THOUSAND = 1000  # KID is printed a thousandfold
REGION_MEASURES = {
    "psnr": "psnr",
    "ssim": "ssim",
    "psim": "psim",
    "psim_small": "psim",
    "gradient_energy": "gradient",
}  # in rows, in tables
LETTER = "letter"  # what all glyphs together are called
ALL_SIZES = "all"
FEW = 30  # images
FEWEST_GROUPS = 10  # for a jackknife whose interval means something

Scores = dict[tuple[str, str], SetScore]
Differences = dict[tuple[str, str, str], Interval]


def summarise(
    folder: RunFolder,
    dataset: Dataset,
    preset: Preset,
    record: Mapping[str, Any],
    progress: Progress = silent,
) -> Results:
    """Everything that a report says, from a folder in which all units are done; the VAEs are the record's."""
    vaes = [vae["name"] for vae in record["vaes"]]
    rows = folder.rows(vaes)
    of_image = [key for key in preset.measures if MEASURES[key].of == "image"]
    of_set = [key for key in preset.measures if MEASURES[key].of == "set"]
    columns = {(vae, key): [_number(row, key) for row in rows if row.vae == vae] for vae in vaes for key in of_image}
    pairs: dict[tuple[str, str, str], Paired] = {}
    compared = [(first, second, key) for first, second in _couples(vaes) for key in of_image]
    for first, second, key in compared:
        progress(len(pairs), len(compared), f"{MEASURES[key].title} of {first} against {second}, by bootstrap")
        pairs[first, second, key] = paired(columns[first, key], columns[second, key], MEASURES[key].better)
    sets: Scores = {}
    set_pairs: Differences = {}
    warnings = _cautions(folder, dataset, rows, vaes)
    for key in of_set:
        measured = _kid(folder, vaes) if key == "kid" else _frechet(folder, key, vaes, progress)
        sets |= measured[0]
        set_pairs |= measured[1]
        warnings += measured[2]
    lost = sum(not row.finite for row in rows)
    if lost:
        warnings.append(f"{lost} reconstructions held NaN or infinite values; they count in no mean.")
    return Results(
        source=dataset.name,
        preset=preset,
        count=len(folder.ids) - len(folder.bad()),
        vaes=tuple(vaes),
        measures=preset.measures,
        rows=tuple(rows),
        spreads={of: spread(values) for of, values in columns.items()},
        sets=sets,
        pairs=pairs,
        set_pairs=set_pairs,
        regions=_regions(rows),
        letters=_letters(rows),
        published={} if folder.bad() else _published(dataset, preset, record),
        warnings=tuple(dict.fromkeys(warnings)),
        record=record,
    )


def _cautions(folder: RunFolder, dataset: Dataset, rows: Sequence[Row], vaes: Sequence[str]) -> list[str]:
    """What a reader should know of the set before the numbers."""
    bad = len(folder.bad())
    found = [f"{bad} image{'s' * (bad > 1)} couldn't be read and {'are' if bad > 1 else 'is'} left out."] if bad else []
    count = len(folder.ids) - len(folder.bad())
    if count < FEW:
        found.append(f"{count} images are few: what differs here may not differ on others.")
    boxes = sum(len(item.boxes) for item in dataset.items if item.id not in folder.bad())
    measured = sum(len(row.regions) for row in rows if row.vae == vaes[0])
    if measured < boxes and all(row.finite for row in rows):
        lost = boxes - measured
        found.append(f"{lost} of {boxes} boxes lie outside the square that is measured, or are too small in it.")
    return found


def _number(row: Row, key: str) -> float:
    """A score as a number: infinite for the PSNR of equal images, NaN where there is none."""
    value = row.scores[key]
    return value if value is not None else math.inf if row.finite and key == "psnr" else math.nan


def _couples(vaes: Sequence[str]) -> list[tuple[str, str]]:
    """Each pair of VAEs, the later one first: differences read "B against A"."""
    return [(vaes[b], vaes[a]) for a in range(len(vaes)) for b in range(a + 1, len(vaes))]


def _frechet(
    folder: RunFolder, key: str, vaes: Sequence[str], progress: Progress
) -> tuple[Scores, Differences, list[str]]:
    """A Frechet distance of each VAE, with the jackknife's intervals for it and for differences."""
    extractor, title = EXTRACTORS[key], MEASURES[key].title
    reference = folder.moments(ORIGINALS, extractor)
    sets = {vae: folder.moments(vae, extractor) for vae in vaes}
    finite = {vae: groups for vae, groups in sets.items() if all(g.outer.isfinite().all() for g in groups)}
    scores: Scores = {
        (vae, key): SetScore(None, None, "not all reconstructions are finite") for vae in vaes if vae not in finite
    }
    count, dimension = sum(group.count for group in reference), len(reference[0].total)
    largest = max(group.count for group in reference)
    if count - largest < 2:  # are left when a group is left out
        return scores | {(vae, key): SetScore(None, None, "too few images") for vae in finite}, {}, []

    def step(done: int, total: int) -> None:
        progress(done, total, f"{title}, leaving out groups of images")

    found: dict[str, Jackknife] = jackknife(reference, finite, step)
    enough = len(next(iter(found.values())).left_out) >= FEWEST_GROUPS if found else False
    for vae, one in found.items():
        scores[vae, key] = SetScore(one.value, one.interval() if enough else None)
    differences = {
        (first, second, key): found[first].minus(found[second]).interval()
        for first, second in _couples(vaes)
        if enough and first in found and second in found
    }
    warning = few_images_warning(count, dimension)
    return scores, differences, [f"{title}: {warning}"] if warning else []


def _kid(folder: RunFolder, vaes: Sequence[str]) -> tuple[Scores, Differences, list[str]]:
    """KID of each VAE, a thousandfold; differences on the same subsets have a mean but no interval of their own."""
    extractor = EXTRACTORS["kid"]
    originals = folder.features(ORIGINALS, extractor)
    if originals is None:
        return {(vae, "kid"): SetScore(None, None, "features aren't kept for so many images") for vae in vaes}, {}, []
    if len(originals) < 2:
        return {(vae, "kid"): SetScore(None, None, "too few images") for vae in vaes}, {}, []
    sets = {vae: folder.features(vae, extractor) for vae in vaes}
    finite = {vae: values for vae, values in sets.items() if values is not None and values.isfinite().all()}
    scores: Scores = {
        (vae, "kid"): SetScore(None, None, "not all reconstructions are finite") for vae in vaes if vae not in finite
    }
    found = kid_each(finite, originals) if finite else {}
    for vae, one in found.items():
        if one.std is None:
            note = f"{one.subset_size} images"
        else:
            note = f"± {one.std * THOUSAND:.3f}, {len(one.values)} x {one.subset_size}"
        if vae != vaes[0] and vaes[0] in found:
            difference = one.minus(found[vaes[0]])
            over = "" if difference.std is None else f" ± {difference.std * THOUSAND:.3f}"
            note += f"; {difference.mean * THOUSAND:+.3f}{over} to the first"
        scores[vae, "kid"] = SetScore(one.mean * THOUSAND, None, note)
    return scores, {}, []


def _regions(rows: Sequence[Row]) -> tuple[RegionSpread, ...]:
    """The spread of each measure over all regions of a kind, of each size and of all."""
    values: dict[tuple[str, str, str, str], list[float]] = defaultdict(list)
    for row in rows:
        for region in row.regions:
            label = LETTER if "read" in region else region["label"]
            for key, measure in REGION_MEASURES.items():
                value = region.get(key)
                if value is not None:
                    for stratum in (region["stratum"], ALL_SIZES):
                        values[row.vae, label, stratum, measure].append(value)
    return tuple(RegionSpread(*key, spread(values[key])) for key in sorted(values, key=_order))


def _letters(rows: Sequence[Row]) -> tuple[Letters, ...]:
    """The share of glyphs that can be read, of each size and of all."""
    counts: dict[tuple[str, str], list[int]] = defaultdict(lambda: [0, 0, 0])
    for row in rows:
        for region in row.regions:
            if "read" in region:
                for stratum in (region["stratum"], ALL_SIZES):
                    of = counts[row.vae, stratum]
                    of[0] += 1
                    of[1] += bool(region["read"])
                    of[2] += bool(region["ceiling"])
    ordered = sorted(counts.items(), key=lambda item: (item[0][0], _size(item[0][1])))
    return tuple(Letters(vae, stratum, n, read / n, top / n) for (vae, stratum), (n, read, top) in ordered)


def _order(key: tuple[str, str, str, str]) -> tuple[str, int, int, str]:
    vae, label, stratum, measure = key
    return label, _size(stratum), list(REGION_MEASURES.values()).index(measure), vae


def _size(stratum: str) -> int:
    return -1 if stratum == ALL_SIZES else STRATA.index(stratum)


def _published(dataset: Dataset, preset: Preset, record: Mapping[str, Any]) -> dict[tuple[str, str], str]:
    """What the model cards print, where the set and all of the protocol are theirs, for each measure its networks."""
    measures = tuple(key for key in preset.measures if key != "fd_dinov2")  # one more column changes no other
    if replace(preset, measures=measures) != PRESETS["card-2022"]:
        return {}
    networks = record["settings"]["networks"]
    theirs = [
        key for key in measures if all(networks[name]["source"] == "published" for name in MEASURES[key].networks)
    ]
    found: dict[tuple[str, str], str] = {}
    for vae in record["vaes"]:
        entry = registry().vaes.get(vae["name"]) if vae.get("published") and vae["dtype"] == "float32" else None
        for score in entry.scores if entry else ():
            if score.set == dataset.origin and score.images == len(dataset.items):
                printed = {
                    "rfid": f"{score.rfid:.2f}",
                    "psnr": f"{score.psnr:.1f} ± {score.psnr_std:.1f}",
                    "ssim": f"{score.ssim:.2f} ± {score.ssim_std:.2f}",
                    "psim": f"{score.psim:.2f} ± {score.psim_std:.2f}",
                }
                found |= {(vae["name"], key): text for key, text in printed.items() if key in theirs}
    return found
