"""A cache as the files in which kohya-ss/sd-scripts keeps latents of SD 1.x, 2.x and SDXL on disk.

Checked against v0.10.1-5-g48d368fa (2026-02-16), library/strategy_sd.py and strategy_base.py. One .npz per image,
beside it, called STEM_WIDTHxHEIGHT_sd.npz or _sdxl.npz after the original image's size in pixels, each at least four
digits long:

| array         | holds                                                                                            |
|---------------|--------------------------------------------------------------------------------------------------|
| latents       | float32 [c,h,w]: a sample of the posterior, raw z; the trainer scales it                         |
| original_size | width and height of the original image                                                           |
| crop_ltrb     | where the whole image would lie in the square if it were fitted into it: left, top, right, bottom |

This fits a training at one square resolution, without buckets and without mirrored images: resolution = SIZE,
enable_bucket = false, flip_aug = false, random_crop = false.
"""

import hashlib
from collections.abc import Mapping
from io import BytesIO
from pathlib import Path, PurePosixPath

import numpy as np
import torch

from vaelens.errors import UsageError
from vaelens.files import write_atomic
from vaelens.latent_cache.cache import LatentCache

NAME = "sd-scripts"
SUFFIXES = {"sd1": "sd", "sdxl": "sdxl"}  # by latent space
FACTOR = 8


def check_sd_scripts(space: str | None, side: int, vae: str) -> None:
    """Raises UsageError for latents that sd-scripts doesn't keep in such files, before anything is encoded."""
    if space not in SUFFIXES:
        raise UsageError(
            f"--format {NAME} is for latents of SD 1.x, 2.x and SDXL, but {vae} has {space or 'a space of its own'}. "
            "Leave --format out."
        )
    if side % FACTOR:
        raise UsageError(f"--format {NAME} needs a --size that is a multiple of {FACTOR}, not {side}.")


def write_sd_scripts(cache: LatentCache, folder: Path, space: str, seed: int) -> list[Path]:
    """One file per image below `folder`, at the image's path in its dataset; copy them beside the images.

    seed: with each image's hash, that of its sample. Raises UsageError where two images would have one file.
    """
    sizes = cache.original_sizes()
    names = {item.id: _name(item.id, sizes[item.id], SUFFIXES[space]) for item in cache.items}
    _check_distinct(names)
    written: list[Path] = []
    for item in cache.items:
        noise = torch.Generator("cpu").manual_seed(_noise_seed(seed, item.sha256))
        z = cache.posterior([item.id]).sample([noise])[0]
        height, width = sizes[item.id]
        content = BytesIO()
        np.savez(
            content,
            latents=z.numpy(),
            original_size=np.array([width, height]),
            crop_ltrb=np.array(_fitted(width, height, cache.index.rule.side)),
        )
        written.append(write_atomic(folder / names[item.id], content.getvalue()))
    return written


def _name(sample: str, size: tuple[int, int], suffix: str) -> PurePosixPath:
    height, width = size
    path = PurePosixPath(sample)
    return path.with_name(f"{path.stem}_{width:04d}x{height:04d}_{suffix}.npz")


def _check_distinct(names: Mapping[str, PurePosixPath]) -> None:
    first: dict[PurePosixPath, str] = {}
    for sample, name in names.items():
        if name in first:
            raise UsageError(f"{first[name]} and {sample} would both have {name}, in {NAME} too. Rename one of them.")
        first[name] = sample


def _fitted(width: int, height: int, side: int) -> tuple[float, float, float, float]:
    """Left, top, right and bottom of an image of this size fitted into the square, its corner at whole pixels."""
    shape = width / height
    inner_width, inner_height = (side * shape, float(side)) if shape < 1 else (float(side), side / shape)
    left, top = (side - inner_width) // 2, (side - inner_height) // 2
    return left, top, left + inner_width, top + inner_height


def _noise_seed(seed: int, sha256: str) -> int:
    return int.from_bytes(hashlib.sha256(f"{seed} {sha256}".encode()).digest()[:8], "big") >> 1
