"""Chunks through VAEs, from images to rows and features. One chunk through one VAE is the unit of work.

A unit is a pure function of the images, the VAE, the preset and the seed.
"""

import hashlib
import math
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from vaelens.errors import BadInputError, CheckFailedError
from vaelens.evaluation.chunks import Chunk, quantize, quantize_originals, read_chunk
from vaelens.evaluation.evaluation_folder import EvaluationFolder
from vaelens.evaluation.feature_files import ORIGINALS, OriginalsCache
from vaelens.evaluation.image_pairs import ImageBatch, ImagePairs
from vaelens.evaluation.loaded_preset import LoadedPreset
from vaelens.evaluation.metric_table import ImageMetric, image_metrics
from vaelens.evaluation.presets import Preset
from vaelens.evaluation.results import Row
from vaelens.images.datasets.items import Dataset
from vaelens.images.drawing import Box
from vaelens.images.writing import from_uint8
from vaelens.latent_cache.cache import LatentCache
from vaelens.metrics.glyph_reader import readable
from vaelens.metrics.regions import measure_regions
from vaelens.networks.autoencoder_kl import DiagonalGaussian
from vaelens.resources import full_precision, out_of_memory
from vaelens.runs.prefetching import read_ahead
from vaelens.runtime import Progress, silent
from vaelens.text.numbers import counted
from vaelens.vae import VAE

AHEAD = 4  # chunks


@dataclass(frozen=True)
class Reconstructions:
    """A chunk through a VAE: saved pixels, uint8 [b,3,h,w] on the CPU, black where the output wasn't finite."""

    pixels: Tensor
    finite: tuple[bool, ...]


@dataclass(frozen=True)
class Measurement:
    """A dataset through VAEs by a preset, into a folder."""

    dataset: Dataset
    preset: LoadedPreset
    vaes: Mapping[str, VAE]
    seed: int
    skip_bad: bool
    folder: EvaluationFolder
    cache: OriginalsCache
    latents: LatentCache | None = None  # of this dataset, so that it needn't be encoded

    def run(self, units: Mapping[int, Sequence[str]], progress: Progress = silent) -> dict[str, float]:
        """Measure these chunks, each through the VAEs named; gives images, reconstructions and measuring_seconds.

        The originals of a chunk are decoded, resized and featurised once for all VAEs. Raises what reading and
        running raise; what was finished before is in the folder.
        """
        started, done, images = time.perf_counter(), 0, 0
        total = sum(len(self.folder.ids_of(chunk)) * len(names) for chunk, names in units.items())
        for chunk in self._chunks(list(units)):
            names = units[chunk.number]
            progress(done, total, self.folder.ids_of(chunk.number)[0])
            with out_of_memory(
                f"out of memory while scoring a batch of {counted(len(chunk.items), 'image')}. "
                "Choose a smaller --batch and another folder."
            ):
                self._measure(chunk, names)
            done += len(chunk.items) * len(names)
            images += len(chunk.items)
        seconds = round(time.perf_counter() - started, 3)
        return {"images": images, "reconstructions": done, "measuring_seconds": seconds}

    def _chunks(self, numbers: Sequence[int]) -> Iterator[Chunk]:
        """Read ahead of their use; errors say what is saved."""

        def read(number: int) -> Chunk:
            return read_chunk(self.dataset, number, self.folder.batch, self.preset.preset, self.skip_bad)

        try:
            yield from read_ahead(read, numbers, AHEAD)
        except BadInputError as error:
            if not self.folder.has_rows:
                raise
            raise BadInputError(f"{error} All scores measured so far are saved.") from error

    def _measure(self, chunk: Chunk, names: Sequence[str]) -> None:
        if not chunk.items:  # none is readable
            for name in names:
                self.folder.add(chunk.number, name, [], chunk.bad, {ORIGINALS: {}, name: {}})
            return
        pixels = quantize_originals(chunk.pixels, self.preset.preset)
        originals = self.preset.batch(pixels)
        features = self.cache.load(chunk)
        if features is None:
            features = self.preset.features(pixels)
            self.cache.store(chunk, features)
        for name in names:
            reconstructions = self.reconstruct(name, chunk)
            rows, reconstructed = measure_chunk(reconstructions, chunk, name, self.preset, originals)
            self.folder.add(chunk.number, name, rows, chunk.bad, {ORIGINALS: features, name: reconstructed})

    def reconstruct(self, name: str, chunk: Chunk) -> Reconstructions:
        """The chunk's images through the VAE of that name."""
        vae, posterior = self.vaes[name], None
        if self.latents is not None:
            posterior = self.latents.posterior([item.id for item in chunk.items], vae.device, vae.dtype)
        return reconstruct_chunk(vae, chunk, self.preset.preset, self.seed, posterior)


def reconstruct_chunk(
    vae: VAE, chunk: Chunk, preset: Preset, seed: int, posterior: DiagonalGaussian | None = None
) -> Reconstructions:
    """The chunk's images through the VAE as the preset has it, from their `posterior` where that is known already.

    Raises ResourceError when memory runs out.
    """
    image = from_uint8(chunk.pixels)
    seeds = [noise_seed(seed, item.sha256) for item in chunk.items]
    try:
        made = _reconstruct(vae, image, seeds, preset, posterior)
        return Reconstructions(quantize(made, preset), (True,) * len(seeds))
    except CheckFailedError:
        pass  # which of them: one by one
    pixels, finite = torch.zeros_like(chunk.pixels), [True] * len(seeds)
    for number, one in enumerate(seeds):
        try:
            own = None if posterior is None else posterior[number : number + 1]
            pixels[number] = quantize(_reconstruct(vae, image[number : number + 1], [one], preset, own), preset)[0]
        except CheckFailedError:
            finite[number] = False
    return Reconstructions(pixels, tuple(finite))


def noise_seed(seed: int, sha256: str) -> int:
    """The seed of an image's posterior noise, from the run's seed and the image's content only."""
    return int.from_bytes(hashlib.sha256(f"{seed} {sha256}".encode()).digest()[:8], "big") >> 1


def measure_chunk(
    reconstructions: Reconstructions, chunk: Chunk, name: str, preset: LoadedPreset, originals: ImageBatch
) -> tuple[list[Row], dict[str, Tensor]]:
    """Rows of the VAE called `name`, and its features [b,d] by extractor, NaN where a reconstruction isn't finite.

    Raises CheckFailedError for a score that isn't a number.
    """
    metrics = image_metrics(preset.preset.metrics)
    pairs = ImagePairs(preset.batch(reconstructions.pixels), originals, preset.preset.ssim_padding)
    rows: list[Row] = []
    with torch.no_grad(), full_precision(preset.device):
        columns = {metric: metric.score(pairs) for metric in metrics}
        for b, item in enumerate(chunk.items):
            if not reconstructions.finite[b]:
                rows.append(Row(item.id, name, item.sha256, False, {metric.key: None for metric in metrics}))
                continue
            scores = {metric.key: _score(column[b], metric, item.id, name) for metric, column in columns.items()}
            boxes = chunk.images[b].boxes
            regions = _regions(pairs, metrics, boxes, b) if boxes else []
            letters = _read_letters(pairs, boxes, regions, b)
            rows.append(Row(item.id, name, item.sha256, True, scores, tuple(regions), letters))
    features = preset.features(reconstructions.pixels)
    lost = torch.tensor([not one for one in reconstructions.finite])
    return rows, {key: values.masked_fill(lost[:, None], torch.nan) for key, values in features.items()}


def _reconstruct(
    vae: VAE, image: Tensor, seeds: list[int], preset: Preset, posterior: DiagonalGaussian | None
) -> Tensor:
    message = (
        f"out of memory on {vae.device} with a batch of {counted(len(image), 'image')} through {vae.name}. "
        "Choose a smaller --batch and another folder, or --dtype bfloat16."
    )
    with out_of_memory(message), full_precision(vae.device):  # TF32 would make float32 something else on CUDA
        height, width = image.shape[-2:]
        encoded = vae.encode(image) if posterior is None else vae.encoded(posterior, (height, width))
        latents = encoded.mode() if preset.posterior == "mode" else encoded.sample(seeds)
        return vae.decode(latents, encoded.size).cpu()


def _score(value: Tensor, metric: ImageMetric, image: str, vae: str) -> float | None:
    """None for the infinite score of equal images, and for nothing else."""
    score = float(value)
    if math.isfinite(score):
        return score
    if metric.infinite_if_equal and score == math.inf:
        return None
    raise CheckFailedError(
        f"{image} through {vae}: {metric.title} is {score}, although the images are finite. "
        "Check the machine's memory and the files given with --network, and run the same command again."
    )


def _regions(pairs: ImagePairs, metrics: Sequence[ImageMetric], boxes: Sequence[Box], b: int) -> list[dict[str, Any]]:
    """Each box's scores; None for an infinite PSNR, which JSON has no name for."""
    maps = {metric.key: [one[b].cpu() for one in metric.maps(pairs)] for metric in metrics if metric.maps}
    image, original = (images[b].cpu() for images in pairs.images)
    regions = measure_regions(image, original, boxes, pairs.ssim_map()[b].cpu(), maps)
    return [{key: None if value == math.inf else value for key, value in region.items()} for region in regions]


def _read_letters(
    pairs: ImagePairs, boxes: Sequence[Box], regions: Sequence[dict[str, Any]], b: int
) -> tuple[int, int, int] | None:
    """Note in each glyph's region whether it is read on the reconstruction (read) and on the original (ceiling).

    Gives the numbers of the whole image, None for one without glyphs.
    """
    glyphs = [(box, region) for box, region in zip(boxes, regions, strict=True) if box.glyph]
    if not glyphs:
        return None
    reads, ceilings = (readable(image[b : b + 1].cpu(), [box for box, _ in glyphs]) for image in pairs.images)
    for (_, region), read, ceiling in zip(glyphs, reads, ceilings, strict=True):
        region.update(read=read, ceiling=ceiling)
    return sum(reads), sum(ceilings), len(glyphs)
