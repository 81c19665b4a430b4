"""Exports for other programs: rows.csv and regions.csv in full precision, and a model card's model-index."""

import csv
import io
import json
import math
import re
from collections.abc import Iterable, Sequence
from dataclasses import asdict
from typing import Any

import yaml

from vaelens.evaluation.metric_table import METRICS, ImageMetric, image_metrics
from vaelens.evaluation.results import Results
from vaelens.metrics.statistics import Interval

TASK = "image-to-image"  # the hub's task that a reconstruction is nearest to


def rows_csv(results: Results) -> bytes:
    """One row per image and VAE: id, vae, sha256, finite, a column per metric, and letters where there are any.

    Numbers read back as the same floats; the PSNR of an exact reconstruction is inf. A missing score is empty.
    """
    keys = [metric.key for metric in image_metrics(results.metrics)]
    letters = ("letters_read", "letters_ceiling", "letters") if any(row.letters for row in results.rows) else ()
    head = ("id", "vae", "sha256", "finite", *keys, *letters)
    lines = (
        (row.id, row.vae, row.sha256, row.finite, *(_score(row.scores.get(key), key, row.finite) for key in keys))
        + ((row.letters or (None,) * len(letters)) if letters else ())
        for row in results.rows
    )
    return _csv(head, lines)


def regions_csv(results: Results) -> bytes | None:
    """One row per region and VAE, as it was measured; None where there are no regions."""
    keys = list(dict.fromkeys(key for row in results.rows for region in row.regions for key in region))
    if not keys:
        return None
    lines = (
        (row.id, row.vae, *(_score(region.get(key), key, key in region) for key in keys))
        for row in results.rows
        for region in row.regions
    )
    return _csv(("id", "vae", *keys), lines)


def results_dict(results: Results) -> dict[str, Any]:
    """Everything but the rows, for JSON: scores with intervals, differences, regions, letters and the blind test."""
    both = {**results.spreads, **results.dataset_scores}
    scores = {vae: {key: asdict(both[vae, key]) for key in results.metrics} for vae in results.vaes}
    differences = [
        {"first": first, "second": second, "metric": key, **asdict(found)}
        for (first, second, key), found in {**results.differences, **results.dataset_differences}.items()
    ]
    found = {
        "source": results.source,
        "preset": results.preset.name,
        "images": results.count,
        "scores": scores,
        "differences": differences,
        "regions": [asdict(region) for region in results.regions],
        "letters": [asdict(letters) for letters in results.letters],
        "warnings": list(results.warnings),
    }
    return found | ({"blind_test": results.blind.as_dict()} if results.blind else {})


def model_indexes(results: Results) -> dict[str, bytes]:
    """File name to YAML for each VAE with a score: `model-index`, for the metadata of its model card."""
    found: dict[str, bytes] = {}
    for vae in results.vaes:
        metrics = [entry for key in results.metrics if (entry := _entry(results, vae, key))]
        if not metrics:
            continue
        index = {
            "name": vae,
            "results": [
                {
                    "task": {"type": TASK, "name": "Reconstruction"},
                    "dataset": {
                        "name": results.source,
                        "type": slug(results.source),
                        "args": {"images": results.count, "side": results.preset.side},
                    },
                    "metrics": metrics,
                }
            ],
        }
        text = yaml.safe_dump({"model-index": [index]}, allow_unicode=True, sort_keys=False, width=1000)
        found[_free_name(slug(vae), found)] = text.encode()
    return found


def _entry(results: Results, vae: str, key: str) -> dict[str, Any] | None:
    metric, preset = METRICS[key], results.preset.name
    of: dict[str, Any] = {"preset": preset, "images": results.count}
    if isinstance(metric, ImageMetric):
        spread = results.spreads.get((vae, key))
        if spread is None:
            return None
        value, interval = spread.mean, Interval(spread.mean, spread.low, spread.high)
        of |= {"std": spread.std, "images": spread.count}
        of |= {"exact": spread.exact} if spread.exact else {}
    else:
        score = results.dataset_scores.get((vae, key))
        if score is None or score.value is None:
            return None
        value, interval = score.value, score.interval
    if not math.isfinite(value):
        return None
    if interval and math.isfinite(interval.low) and math.isfinite(interval.high):
        of["interval_95"] = [interval.low, interval.high]
    return {"type": key, "value": value, "name": f"{metric.title} ({preset})", "config": preset, "args": of}


def _score(value: Any, key: str, there: bool) -> Any:
    """As stored, where None stands for the infinite score of equal images too."""
    metric = METRICS.get(key)
    equal = value is None and there and isinstance(metric, ImageMetric) and metric.infinite_if_equal
    return "inf" if equal else value


def _csv(head: Sequence[str], lines: Iterable[Sequence[Any]]) -> bytes:
    out = io.StringIO(newline="")
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(head)
    writer.writerows(map(_cell, line) for line in lines)
    return out.getvalue().encode("utf-8", "backslashreplace")  # a name that isn't Unicode keeps its bytes' values


def _cell(value: Any) -> str:
    if value is None:
        return ""
    if isinstance(value, bool):
        return "true" if value else "false"
    return value if isinstance(value, str) else json.dumps(value)  # a float's shortest text that reads back the same


def slug(text: str) -> str:
    """Text as a file name and as the hub's id of a dataset: letters, digits, -, _ and . only."""
    return re.sub(r"[^A-Za-z0-9._-]+", "-", text).strip("-.")[:80] or "unnamed"


def _free_name(slug: str, taken: Iterable[str]) -> str:
    """slug.yml, numbered where a file system may not tell it from another."""
    known = {name.lower() for name in taken}
    name, number = f"{slug}.yml", 2
    while name.lower() in known:
        name, number = f"{slug}-{number}.yml", number + 1
    return name
