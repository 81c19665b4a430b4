"""Evaluations during a training: metrics and samples on held-out images, and early stopping."""

import itertools
import math
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field

import numpy as np
from torch import Tensor

from vaelens.errors import BadInputError
from vaelens.evaluation.chunks import Chunk, quantize_originals, read_chunk
from vaelens.evaluation.loaded_preset import LoadedPreset
from vaelens.evaluation.measurement import measure_chunk, reconstruct_chunk
from vaelens.evaluation.metric_table import dataset_metrics
from vaelens.evaluation.presets import Preset
from vaelens.images.datasets.items import Dataset
from vaelens.images.sheet import SheetRow, draw_sheet
from vaelens.metrics.frechet import Moments
from vaelens.vae import VAE

SAMPLES = 4  # images of a sample sheet
CHUNK = 4  # images evaluated at once
PERFECT_LOSS = 0.01  # a discriminator with a smaller hinge loss is always right, and its gradient is useless
COLLAPSED_GAP = 1e-3  # logits of real and fake closer than this, with the loss of logits of 0: it has collapsed
PATIENCE = 20  # consecutive log lines
OVERFIT_EVALUATIONS = 4  # consecutive evaluations in which the gap grows while held-out images get worse
OVERFIT_GAP_DB = 0.5  # by at least this much in total
ADVICE = "A lower optimizer.lr or gan.weight may help."


@dataclass(frozen=True)
class Scores:
    """The metrics of a VAE on a dataset, by key: means over images, and metrics of the whole set.

    The `exact` images have an infinite PSNR, which is in no mean; so two means are comparable where these are the same.
    """

    values: Mapping[str, float]
    finite: bool  # whether all reconstructions are
    exact: tuple[str, ...] = ()  # ids

    @property
    def psnr(self) -> float:
        """In dB; infinite where every reconstruction is exact."""
        return self.values.get("psnr", math.inf)


def readable_chunks(dataset: Dataset, preset: Preset) -> Iterator[Chunk]:
    """A dataset's images for `score`, without those that can't be read. Raises BadInputError where none is left."""
    found = False
    for number in range(-(-len(dataset.items) // CHUNK)):
        chunk = read_chunk(dataset, number, CHUNK, preset, skip_bad=True)
        if chunk.items:
            found = True
            yield chunk
    if not found:
        raise BadInputError(f"{dataset.name}: none of its images can be read. Name others with --held-out.")


def score(vae: VAE, chunks: Iterable[Chunk], loaded: LoadedPreset, seed: int) -> Scores:
    """Evaluate in memory, as `evaluate` does, on chunks of CHUNK images."""
    columns: dict[str, list[float]] = {}
    exact: list[str] = []
    features: dict[str, tuple[Moments, Moments]] = {}
    finite = True
    for chunk in chunks:
        originals = quantize_originals(chunk.pixels, loaded.preset)
        made = reconstruct_chunk(vae, chunk, loaded.preset, seed)
        finite = finite and all(made.finite)
        rows, after = measure_chunk(made, chunk, vae.name, loaded, loaded.batch(originals))
        before = loaded.features(originals)
        for key in after:
            both = Moments.of(before[key]), Moments.of(after[key])
            held = features.get(key)
            features[key] = both if held is None else (held[0] + both[0], held[1] + both[1])
        for row in rows:
            values = {key: row.value(key) for key in row.scores}
            exact += [row.id] if math.inf in values.values() else []
            for key, value in values.items():
                if math.isfinite(value):
                    columns.setdefault(key, []).append(value)
    values = {key: math.fsum(column) / len(column) for key, column in columns.items()}
    for metric in dataset_metrics(loaded.preset.metrics):
        if metric.distance and finite and features[metric.extractor][0].count > 1:
            values[metric.key] = metric.distance(*features[metric.extractor])
    return Scores({key: values[key] for key in loaded.preset.metrics if key in values}, finite, tuple(exact))


def sample_sheet(vaes: Mapping[str, VAE], dataset: Dataset, loaded: LoadedPreset, seed: int) -> np.ndarray:
    """The first readable images, original | each VAE, uint8 [h,w,3]."""
    rows: list[SheetRow] = []
    for number in range(len(dataset.items)):
        chunk = read_chunk(dataset, number, 1, loaded.preset, skip_bad=True)
        if not chunk.items:
            continue
        made = [reconstruct_chunk(vae, chunk, loaded.preset, seed).pixels for vae in vaes.values()]
        cells = [_pixels(quantize_originals(chunk.pixels, loaded.preset)), *(_pixels(one) for one in made)]
        rows.append(SheetRow(chunk.items[0].id, tuple(cells)))
        if len(rows) == SAMPLES:
            break
    return draw_sheet(rows, ["original", *vaes])


def _pixels(batch: Tensor) -> np.ndarray:
    return batch[0].permute(1, 2, 0).numpy()


@dataclass(frozen=True)
class StopReason:
    """Why a training stops early, and the last step at which it was still good."""

    message: str
    last_good_step: int


@dataclass
class EarlyStopping:
    """Checks log lines and evaluations in order; each check gives a reason to stop, or None."""

    perfect: list[int] = field(default_factory=list[int])  # consecutive steps
    collapsed: list[int] = field(default_factory=list[int])
    evaluations: list[tuple[int, float, float]] = field(default_factory=list[tuple[int, float, float]])
    exact: object = None  # which images had an infinite PSNR in the last evaluation

    def check_log(self, step: int, values: Mapping[str, float]) -> StopReason | None:
        """One log line: values that aren't finite, and a discriminator that teaches the generator nothing."""
        for key, value in values.items():
            if not math.isfinite(value):
                return StopReason(f"{key} is {value}. {ADVICE}", step - 1)
        if "generator_loss" not in values:  # the discriminator isn't used yet
            return None
        loss, gap = values["discriminator_loss"], abs(values["logits_real"] - values["logits_fake"])
        self.perfect = [*self.perfect, step] if loss < PERFECT_LOSS else []
        self.collapsed = [*self.collapsed, step] if gap < COLLAPSED_GAP and abs(loss - 1) < COLLAPSED_GAP else []
        if len(self.perfect) >= PATIENCE:
            message = (
                f"the discriminator has separated real images from reconstructions perfectly for {PATIENCE} log lines "
                f"(loss {loss:.4f}), and teaches the generator nothing. A lower gan.lr or fewer gan.layers may help."
            )
            return StopReason(message, self.perfect[0])
        if len(self.collapsed) >= PATIENCE:
            message = (
                f"the discriminator has collapsed: for {PATIENCE} log lines it didn't separate real images from "
                f"reconstructions at all (loss {loss:.4f}). A lower gan.lr may help."
            )
            return StopReason(message, self.collapsed[0])
        return None

    def check_evaluation(self, step: int, training: float, held_out: float, exact: object = None) -> StopReason | None:
        """Overfitting, from the released weights' PSNR in dB on training and on held-out images.

        exact: which images are reproduced exactly and therefore in neither mean; where it changes, so do the means, and
        evaluations before aren't compared with those after.
        """
        if exact != self.exact:
            self.evaluations, self.exact = [], exact
        self.evaluations.append((step, training, held_out))
        last = self.evaluations[-OVERFIT_EVALUATIONS - 1 :]
        if len(last) <= OVERFIT_EVALUATIONS:
            return None
        gaps = [t - h for _, t, h in last]
        grows = all(b > a for a, b in itertools.pairwise(gaps)) and gaps[-1] - gaps[0] >= OVERFIT_GAP_DB
        worse = all(b[2] < a[2] for a, b in itertools.pairwise(last))
        if not (grows and worse):
            return None
        message = (
            f"it overfits: over {OVERFIT_EVALUATIONS} evaluations PSNR on held-out images fell by "
            f"{last[0][2] - held_out:.2f} dB, while the gap to training images grew. Use more images or fewer steps."
        )
        return StopReason(message, last[0][0])
