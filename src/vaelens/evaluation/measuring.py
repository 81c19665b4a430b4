"""One chunk through one VAE: the unit of work. A pure function of the images, the VAE, the preset and the seed."""

import hashlib
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from vaelens.errors import CheckFailedError, ResourceError
from vaelens.evaluation.images import Chunk
from vaelens.evaluation.instruments import Comparison, Instruments, Reference
from vaelens.evaluation.measures import MEASURES
from vaelens.evaluation.preparation import saved
from vaelens.evaluation.presets import Preset
from vaelens.evaluation.results import Row
from vaelens.images.drawing import Box
from vaelens.images.writing import from_uint8
from vaelens.metrics.letters import readable
from vaelens.metrics.regions import measure_regions
from vaelens.resources import full_precision, is_out_of_memory
from vaelens.vae import VAE

Unit = tuple[list[Row], dict[str, Tensor]]


@dataclass(frozen=True)
class Reconstructed:
    """A chunk through a VAE: saved pixels, uint8 [b,3,h,w] on the CPU, black where the output wasn't finite."""

    pixels: Tensor
    finite: tuple[bool, ...]


def reconstruct_chunk(vae: VAE, chunk: Chunk, preset: Preset, seed: int) -> Reconstructed:
    """The chunk's images through the VAE as the preset has it. Raises ResourceError when memory runs out."""
    image = from_uint8(chunk.pixels)
    seeds = [noise_seed(seed, item.sha256) for item in chunk.items]
    try:
        return Reconstructed(saved(_through(vae, image, seeds, preset), preset), (True,) * len(seeds))
    except CheckFailedError:
        pass  # which of them: one by one
    pixels, finite = torch.zeros_like(chunk.pixels), [True] * len(seeds)
    for number, one in enumerate(seeds):
        try:
            pixels[number] = saved(_through(vae, image[number : number + 1], [one], preset), preset)[0]
        except CheckFailedError:
            finite[number] = False
    return Reconstructed(pixels, tuple(finite))


def noise_seed(seed: int, sha256: str) -> int:
    """The seed of an image's posterior noise: of the run's seed and the image's content, of nothing else."""
    return int.from_bytes(hashlib.sha256(f"{seed} {sha256}".encode()).digest()[:8], "big") >> 1


def measure(
    made: Reconstructed,
    chunk: Chunk,
    name: str,
    instruments: Instruments,
    reference: Reference,
) -> Unit:
    """Rows and features of what the VAE called `name` made; features of what isn't finite are NaN.

    Raises CheckFailedError for a score that isn't a number.
    """
    found = instruments.compare(made.pixels, reference)
    keys = [key for key in instruments.measures if MEASURES[key].of == "image"]
    rows: list[Row] = []
    for b, item in enumerate(chunk.items):
        if not made.finite[b]:
            rows.append(Row(item.id, name, item.sha256, False, dict.fromkeys(keys)))
            continue
        scores = {key: _score(found.values[key][b], key, item.id, name) for key in keys}
        boxes = chunk.images[b].boxes
        regions = _regions(found, reference, boxes, b)
        letters = _read(found, reference, boxes, regions, b)
        rows.append(Row(item.id, name, item.sha256, True, scores, tuple(regions), letters))
    features = instruments.features(made.pixels)
    lost = torch.tensor([not one for one in made.finite])
    return rows, {key: values.masked_fill(lost[:, None], torch.nan) for key, values in features.items()}


def _through(vae: VAE, image: Tensor, seeds: list[int], preset: Preset) -> Tensor:
    try:
        with full_precision(vae.device):  # TF32 would make float32 something else on CUDA
            encoded = vae.encode(image)
            latents = encoded.mode() if preset.posterior == "mode" else encoded.sample(seeds)
            return vae.decode(latents, encoded.size).cpu()
    except (MemoryError, RuntimeError) as error:
        if not is_out_of_memory(error):
            raise
        raise ResourceError(
            f"out of memory on {vae.device} with {len(image)} images at once through {vae.name}. "
            "Take a smaller --batch in another folder, or --dtype bfloat16."
        ) from error


def _score(value: Tensor, key: str, image: str, vae: str) -> float | None:
    """None for the infinite PSNR of equal images, and for nothing else."""
    score = float(value)
    if math.isfinite(score):
        return score
    if key == "psnr" and score == math.inf:
        return None
    raise CheckFailedError(
        f"{image} through {vae}: {MEASURES[key].title} came out as {score}, though the images are finite. "
        "Check the machine's memory and the files given with --network, and run the same command again."
    )


def _finite(value: object) -> object:
    """None for a region's infinite PSNR, which JSON has no name for."""
    return None if value == float("inf") else value


def _regions(found: Comparison, reference: Reference, boxes: Sequence[Box], b: int) -> list[dict[str, Any]]:
    if not boxes:
        return []
    maps = None if found.psim_maps is None else [one[b].cpu() for one in found.psim_maps]
    regions = measure_regions(found.image[b].cpu(), reference.image[b].cpu(), boxes, found.ssim_map[b].cpu(), maps)
    small = "psim_small" in found.values
    return [
        {"psim_small" if small and key == "psim" else key: _finite(value) for key, value in region.items()}
        for region in regions
    ]


def _read(
    found: Comparison, reference: Reference, boxes: Sequence[Box], regions: Sequence[dict[str, Any]], b: int
) -> tuple[int, int, int] | None:
    """Note in each glyph's region whether it can be read, here and on the original.

    Gives the numbers of the whole image, None for one without glyphs.
    """
    glyphs = [(box, region) for box, region in zip(boxes, regions, strict=True) if box.glyph]
    if not glyphs:
        return None
    here, there = (
        readable(image[b : b + 1].cpu(), [box for box, _ in glyphs]) for image in (found.image, reference.image)
    )
    for (_, region), read, ceiling in zip(glyphs, here, there, strict=True):
        region.update(read=read, ceiling=ceiling)
    return sum(here), sum(there), len(glyphs)
