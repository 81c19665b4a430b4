"""From rows and stored features to results: a pure function, so neither order, shards nor interruptions change it."""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any, TypeVar

from vaelens.evaluation.dataset_scores import Step, vae_pairs
from vaelens.evaluation.evaluation_folder import EvaluationFolder
from vaelens.evaluation.metric_table import METRICS, REGION_METRICS, ImageMetric, dataset_metrics, image_metrics
from vaelens.evaluation.presets import PRESETS, Preset
from vaelens.evaluation.results import ALL_SIZES, DatasetScore, Letters, RegionSpread, Results, Row
from vaelens.images.datasets.items import Dataset
from vaelens.metrics.regions import STRATA
from vaelens.metrics.statistics import Interval, Paired, Spread, paired, shared_images, spread
from vaelens.runtime import Progress, silent
from vaelens.text.numbers import counted
from vaelens.weights.registry import registry

LETTER = "letter"  # what all glyphs together are called
FEW = 30  # images

T = TypeVar("T")
Key = tuple[str, str]  # label and metric
ByVae = dict[str, list[T | None]]  # the values of the same regions, None where a VAE has none


def aggregate(
    folder: EvaluationFolder,
    dataset: Dataset,
    preset: Preset,
    record: Mapping[str, Any],
    progress: Progress = silent,
) -> Results:
    """Everything that a report says, from a folder in which all units are done; the VAEs are the record's."""
    vaes = [vae["name"] for vae in record["vaes"]]
    rows = folder.rows(vaes)
    metrics = image_metrics(preset.metrics)
    columns = {(vae, m.key): [row.value(m.key) for row in rows if row.vae == vae] for vae in vaes for m in metrics}
    shared = {m.key: shared_images([columns[vae, m.key] for vae in vaes]) for m in metrics}
    spreads = {
        (vae, m.key): spread(columns[vae, m.key], shared[m.key], bounds=m.bounds) for vae in vaes for m in metrics
    }
    differences: dict[tuple[str, str, str], Paired] = {}
    compared = [(first, second, metric) for first, second in vae_pairs(vaes) for metric in metrics]
    for first, second, metric in compared:
        progress(len(differences), len(compared), f"{metric.title} of {first} against {second}, by bootstrap")
        a, b = columns[first, metric.key], columns[second, metric.key]
        differences[first, second, metric.key] = paired(a, b, metric.better or "higher")
    warnings = _warnings(folder, dataset, rows, vaes)
    dataset_scores: dict[tuple[str, str], DatasetScore] = {}
    dataset_differences: dict[tuple[str, str, str], Interval] = {}
    for metric in dataset_metrics(preset.metrics):
        step = _step(progress, f"{metric.title}, leaving out groups of images")
        found = metric.scores(folder, metric.extractor, vaes, step)
        for vae, score in found.scores.items():
            interval = score.interval and score.interval.within(metric.bounds)
            dataset_scores[vae, metric.key] = replace(score, interval=interval)
        dataset_differences |= {(*pair, metric.key): interval for pair, interval in found.differences.items()}
        warnings += [f"{metric.title}: {warning}" for warning in found.warnings]
    warnings += _left_out(rows, metrics, spreads)
    return Results(
        source=dataset.name,
        preset=preset,
        count=len(folder.ids) - len(folder.bad()),
        vaes=tuple(vaes),
        metrics=preset.metrics,
        rows=tuple(rows),
        spreads=spreads,
        dataset_scores=dataset_scores,
        differences=differences,
        dataset_differences=dataset_differences,
        regions=_regions(rows),
        letters=_letters(rows),
        published={} if folder.bad() else _comparable(_published(dataset, preset, record), spreads),
        warnings=tuple(dict.fromkeys(warnings)),
        record=record,
    )


def _step(progress: Progress, what: str) -> Step:
    return lambda done, total: progress(done, total, what)


def _warnings(folder: EvaluationFolder, dataset: Dataset, rows: Sequence[Row], vaes: Sequence[str]) -> list[str]:
    """What a reader should know of the dataset before the numbers."""
    bad = len(folder.bad())
    found = [f"{counted(bad, 'image')} couldn't be read and {'are' if bad > 1 else 'is'} left out."] if bad else []
    count = len(folder.ids) - bad
    if count < FEW:
        few = f"{counted(count, 'image')} {'is' if count == 1 else 'are'}"
        found.append(f"{few} too few to generalize from. Other images may show other differences.")
    boxes = sum(len(item.boxes) for item in dataset.items if item.id not in folder.bad())
    measured = sum(len(row.regions) for row in rows if row.vae == vaes[0])
    if measured < boxes and all(row.finite for row in rows):
        lost = boxes - measured
        found.append(
            f"{lost} of {counted(boxes, 'box', 'boxes')} {'lies' if lost == 1 else 'lie'} outside the square that "
            f"is measured, or {'is' if lost == 1 else 'are'} too small in it."
        )
    return found


def _left_out(
    rows: Sequence[Row], metrics: Sequence[ImageMetric], spreads: Mapping[tuple[str, str], Spread]
) -> list[str]:
    """Why means aren't over all images."""
    found: list[str] = []
    lost = sum(not row.finite for row in rows)
    if lost:
        what = f"{counted(lost, 'reconstruction')} {'has' if lost == 1 else 'have'}"
        found.append(f"{what} NaN or infinite values. Such an image is left out of every mean, of all VAEs.")
    found += [
        f"{metric.title} is infinite where a VAE reproduces an image exactly. Means are over the images that no VAE "
        "here reproduces exactly; how often a VAE wins is over all images."
        for metric in metrics
        if any(spread.exact for (_, key), spread in spreads.items() if key == metric.key)
    ]
    return found


def _comparable(
    published: Mapping[tuple[str, str], str], spreads: Mapping[tuple[str, str], Spread]
) -> dict[tuple[str, str], str]:
    """Without the scores beside means that leave out images of other VAEs, which the published ones don't."""
    return {place: text for place, text in published.items() if place not in spreads or not spreads[place].unshared}


def _by_size(
    rows: Sequence[Row], values: Callable[[Mapping[str, Any]], Mapping[Key, T]]
) -> dict[tuple[str, Key], tuple[list[str], ByVae[T]]]:
    """By (stratum, key of `values`): the image of each region of that size, and of all sizes, and the values."""
    vaes = list(dict.fromkeys(row.vae for row in rows))
    found: dict[tuple[str, Key], dict[tuple[str, int], dict[str, T]]] = {}
    for row in rows:
        for number, region in enumerate(row.regions):
            for key, value in values(region).items():
                for stratum in (region["stratum"], ALL_SIZES):
                    found.setdefault((stratum, key), {}).setdefault((row.id, number), {})[row.vae] = value
    return {
        place: ([image for image, _ in regions], {vae: [of.get(vae) for of in regions.values()] for vae in vaes})
        for place, regions in found.items()
    }


def _regions(rows: Sequence[Row]) -> tuple[RegionSpread, ...]:
    """The spread of each metric over all regions of a kind, of each size and of all; the same regions for all VAEs."""

    def scores(region: Mapping[str, Any]) -> dict[tuple[str, str], float]:
        label = LETTER if "read" in region else region["label"]
        values = {key: region[key] for key in REGION_METRICS if key in region}
        if values.get("psnr", 0.0) is None:  # equal
            values["psnr"] = math.inf
        return {(label, key): value for key, value in values.items() if value is not None}

    spreads: list[RegionSpread] = []
    for (stratum, (label, key)), (images, by_vae) in _by_size(rows, scores).items():
        columns = {vae: [math.nan if one is None else one for one in values] for vae, values in by_vae.items()}
        shared, bounds = shared_images(list(columns.values())), REGION_METRICS[key].bounds
        spreads += [
            RegionSpread(vae, label, stratum, key, spread(values, shared, groups=images, bounds=bounds))
            for vae, values in columns.items()
        ]
    order = list(REGION_METRICS)
    return tuple(sorted(spreads, key=lambda one: (one.label, _size(one.stratum), order.index(one.metric), one.vae)))


def _letters(rows: Sequence[Row]) -> tuple[Letters, ...]:
    """The share of glyphs that can be read, of each size and of all; the same glyphs for all VAEs."""

    def reads(region: Mapping[str, Any]) -> dict[Key, tuple[bool, bool]]:
        return {(LETTER, "read"): (region["read"], region["ceiling"])} if "read" in region else {}

    letters: list[Letters] = []
    for (stratum, _), (_, by_vae) in _by_size(rows, reads).items():
        given = {vae: values for vae, values in by_vae.items() if any(values)}
        shared = [i for i, values in enumerate(zip(*given.values(), strict=True)) if all(values)]
        for vae, values in given.items():
            of = [value for i in shared if (value := values[i])]
            if of:
                read, ceiling = (sum(column) / len(of) for column in zip(*of, strict=True))
                letters.append(Letters(vae, stratum, len(of), read, ceiling))
    return tuple(sorted(letters, key=lambda one: (one.vae, _size(one.stratum))))


def _size(stratum: str) -> int:
    return -1 if stratum == ALL_SIZES else STRATA.index(stratum)


def _published(dataset: Dataset, preset: Preset, record: Mapping[str, Any]) -> dict[tuple[str, str], str]:
    """What the model cards print, where dataset and protocol are theirs, for each metric with published networks."""
    card = PRESETS["card-2022"]
    if replace(preset, metrics=card.metrics) != card or not {*card.metrics} <= {*preset.metrics}:
        return {}
    networks = record["settings"]["networks"]
    comparable = [
        key for key in card.metrics if all(networks[name]["source"] == "published" for name in METRICS[key].networks)
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
                found |= {(vae["name"], key): text for key, text in printed.items() if key in comparable}
    return found
