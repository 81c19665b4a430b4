"""From rows and stored features to results: a pure function, so neither order, shards nor interruptions change it."""

import math
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any, TypeVar

from vaelens.evaluation.dataset_scores import Step, vae_pairs
from vaelens.evaluation.evaluation_folder import EvaluationFolder
from vaelens.evaluation.metric_table import METRICS, REGION_METRICS, dataset_metrics, image_metrics
from vaelens.evaluation.presets import PRESETS, Preset
from vaelens.evaluation.results import ALL_SIZES, DatasetScore, Letters, RegionSpread, Results, Row
from vaelens.images.datasets.items import Dataset
from vaelens.metrics.regions import STRATA
from vaelens.metrics.statistics import Interval, Paired, paired, spread
from vaelens.runtime import Progress, silent
from vaelens.weights.registry import registry

LETTER = "letter"  # what all glyphs together are called
FEW = 30  # images

T = TypeVar("T")


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
    columns = {(vae, m.key): [_number(row, m.key) for row in rows if row.vae == vae] for vae in vaes for m in metrics}
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
        dataset_scores |= {(vae, metric.key): score for vae, score in found.scores.items()}
        dataset_differences |= {(*pair, metric.key): interval for pair, interval in found.differences.items()}
        warnings += [f"{metric.title}: {warning}" for warning in found.warnings]
    lost = sum(not row.finite for row in rows)
    if lost:
        warnings.append(f"{lost} reconstructions have NaN or infinite values; they are left out of every mean.")
    return Results(
        source=dataset.name,
        preset=preset,
        count=len(folder.ids) - len(folder.bad()),
        vaes=tuple(vaes),
        metrics=preset.metrics,
        rows=tuple(rows),
        spreads={key: spread(values) for key, values in columns.items()},
        dataset_scores=dataset_scores,
        differences=differences,
        dataset_differences=dataset_differences,
        regions=_regions(rows),
        letters=_letters(rows),
        published={} if folder.bad() else _published(dataset, preset, record),
        warnings=tuple(dict.fromkeys(warnings)),
        record=record,
    )


def _step(progress: Progress, what: str) -> Step:
    return lambda done, total: progress(done, total, what)


def _warnings(folder: EvaluationFolder, dataset: Dataset, rows: Sequence[Row], vaes: Sequence[str]) -> list[str]:
    """What a reader should know of the dataset before the numbers."""
    bad = len(folder.bad())
    found = [f"{bad} image{'s' * (bad > 1)} couldn't be read and {'are' if bad > 1 else 'is'} left out."] if bad else []
    count = len(folder.ids) - bad
    if count < FEW:
        found.append(f"{count} images are few: what differs here may not differ on others.")
    boxes = sum(len(item.boxes) for item in dataset.items if item.id not in folder.bad())
    measured = sum(len(row.regions) for row in rows if row.vae == vaes[0])
    if measured < boxes and all(row.finite for row in rows):
        lost = boxes - measured
        found.append(f"{lost} of {boxes} boxes lie outside the square that is measured, or are too small in it.")
    return found


def _number(row: Row, key: str) -> float:
    """A score as a number: infinite for equal images, NaN where the reconstruction isn't finite."""
    value = row.scores[key]
    return value if value is not None else math.inf if row.finite else math.nan


def _by_size(rows: Sequence[Row], values: Callable[[Mapping[str, Any]], Mapping[T, Any]]) -> dict[Any, list[Any]]:
    """By (VAE, stratum, key of `values`): the values of all regions of that size, and of all sizes."""
    found: dict[tuple[str, str, T], list[Any]] = defaultdict(list)
    for row in rows:
        for region in row.regions:
            for key, value in values(region).items():
                for stratum in (region["stratum"], ALL_SIZES):
                    found[row.vae, stratum, key].append(value)
    return found


def _regions(rows: Sequence[Row]) -> tuple[RegionSpread, ...]:
    """The spread of each metric over all regions of a kind, of each size and of all."""

    def scores(region: Mapping[str, Any]) -> dict[tuple[str, str], float]:
        label = LETTER if "read" in region else region["label"]
        return {(label, key): region[key] for key in REGION_METRICS if region.get(key) is not None}

    spreads = [
        RegionSpread(vae, label, stratum, key, spread(values))
        for (vae, stratum, (label, key)), values in _by_size(rows, scores).items()
    ]
    order = list(REGION_METRICS)
    return tuple(sorted(spreads, key=lambda one: (one.label, _size(one.stratum), order.index(one.metric), one.vae)))


def _letters(rows: Sequence[Row]) -> tuple[Letters, ...]:
    """The share of glyphs that can be read, of each size and of all."""
    reads = _by_size(rows, lambda region: {None: (region["read"], region["ceiling"])} if "read" in region else {})
    letters = [
        Letters(
            vae, stratum, len(of), sum(read for read, _ in of) / len(of), sum(ceiling for _, ceiling in of) / len(of)
        )
        for (vae, stratum, _), of in reads.items()
    ]
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
