"""Images shown beside the numbers: the worst, the best, and those on which the VAEs differ most."""

import math
from collections.abc import Collection, Mapping, Sequence

import numpy as np
from torch import Tensor

from vaelens.errors import CheckFailedError
from vaelens.evaluation.chunks import quantize_originals, read_chunk
from vaelens.evaluation.measurement import Measurement
from vaelens.evaluation.metric_table import METRICS
from vaelens.evaluation.results import Example, Results

EACH = 3  # images of a kind
BY = ("psim", "lpips_vgg", "psim_small", "psnr")  # the first of these that is in the preset orders them


def choose_examples(results: Results) -> dict[str, str]:
    """Image ids, each with why it was chosen."""
    key = next(key for key in BY if key in results.metrics)
    metric = METRICS[key]
    sign = 1 if metric.better == "higher" else -1
    of: dict[str, dict[str, float]] = {}
    for row in results.rows:
        value = row.scores.get(key)
        if value is None:  # equal images, or a reconstruction that isn't finite
            of.setdefault(row.id, {})[row.vae] = math.inf if row.finite else -math.inf
        else:
            of.setdefault(row.id, {})[row.vae] = sign * value
    whole = {name: values for name, values in of.items() if len(values) == len(results.vaes)}
    chosen: dict[str, str] = {}
    means = sorted(whole, key=lambda name: (_total(whole[name].values()), name))
    _take(chosen, means, f"among the worst in {metric.title}")
    _take(chosen, means[::-1], f"among the best in {metric.title}")
    if len(results.vaes) > 1:
        first = results.vaes[0]
        for other in results.vaes[1:]:
            gains = {n: v[other] - v[first] for n, v in whole.items() if math.isfinite(v[other] - v[first])}
            order = sorted(gains, key=lambda name: (gains[name], name))
            _take(chosen, [n for n in order[::-1] if gains[n] > 0], f"{other} gains most on {first}, by {metric.title}")
            _take(chosen, [n for n in order if gains[n] < 0], f"{first} gains most on {other}, by {metric.title}")
    return chosen


def make_examples(chosen: Mapping[str, str], run: Measurement) -> list[Example]:
    """The chosen images as they were measured: reconstructed in the same chunks, so to the same pixels.

    An image that has become unreadable is left out, and so are all of a chunk in which an image has changed: everything
    is measured by now, so the report is written without them.
    """
    preset, batch = run.preset.preset, run.folder.batch
    number_of = {item.id: number for number, item in enumerate(run.dataset.items)}
    examples: dict[str, Example] = {}
    for number in sorted({number_of[name] // batch for name in chosen}):
        try:
            chunk = read_chunk(run.dataset, number, batch, preset, skip_bad=True)
        except CheckFailedError:  # an image of it has changed
            continue
        if not any(item.id in chosen for item in chunk.items):
            continue
        originals = _pixels(quantize_originals(chunk.pixels, preset))
        reconstructions = {name: _pixels(run.reconstruct(name, chunk).pixels) for name in run.vaes}
        for b, item in enumerate(chunk.items):
            if item.id in chosen:
                pixels = {name: batch_of[b] for name, batch_of in reconstructions.items()}
                boxes = chunk.images[b].boxes
                examples[item.id] = Example(item.id, chosen[item.id], originals[b], pixels, boxes)
    return [examples[name] for name in chosen if name in examples]


def _total(values: Collection[float]) -> float:
    """Their sum; a reconstruction that isn't finite is worse than any other."""
    return -math.inf if -math.inf in values else sum(values)


def _take(chosen: dict[str, str], names: Sequence[str], why: str) -> None:
    fresh = [name for name in names if name not in chosen]
    chosen.update(dict.fromkeys(fresh[:EACH], why))


def _pixels(batch: Tensor) -> np.ndarray:
    """uint8 [b,3,h,w] to [b,h,w,3]."""
    return batch.permute(0, 2, 3, 1).contiguous().numpy()
