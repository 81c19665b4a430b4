"""The files in which ostris/ai-toolkit keeps latents on disk.

From its toolkit/dataloader_mixins.py, data_loader.py and stable_diffusion_model.py. One safetensors file per image, in
a folder _latent_cache beside it, called STEM_HASH.safetensors. The hash is the MD5 of what the file depends on as JSON
with sorted keys, in URL-safe base64 without padding. The file holds one tensor, of which the trainer casts the dtype:

| tensor | holds                                                                                      |
|--------|--------------------------------------------------------------------------------------------|
| latent | float32 [c,h,w]: a sample of the posterior, scaled and shifted as the diffusion model sees it |

This fits a training on middle squares: resolution = SIZE, square_crop = true, with buckets and without cached tensors,
as is the default. Without buckets the hash wouldn't tell one resolution from another. The trainer rounds the sides of
the resized image and its crop to whole pixels of the square, so each edge lies less than one such pixel away from ours.
"""

import base64
import hashlib
import json
import math
from pathlib import PurePosixPath

from torch import Tensor

from vaelens.latent_cache.formats.originals import Original
from vaelens.tensors.writing import safetensors_bytes

FOLDER = "_latent_cache"
LATENT_VERSION = 1


def path(image: Original) -> PurePosixPath:
    """Of its file."""
    digest = hashlib.md5(json.dumps(described(image), sort_keys=True).encode(), usedforsecurity=False).digest()
    name = base64.urlsafe_b64encode(digest).decode().rstrip("=")
    return image.path.parent / FOLDER / f"{image.path.stem}_{name}.safetensors"


def content(image: Original, latents: Tensor) -> bytes:
    """Its file, with these scaled latents, float32 [c,h,w]."""
    metadata = {name: str(value) for name, value in described(image).items()}
    return safetensors_bytes({"latent": latents.contiguous()}, {**metadata, "format": "pt"})


def described(image: Original) -> dict[str, str | int]:
    """What the file depends on, under the trainer's names: resized to scale_to, then cropped, in pixels."""
    scale = max(image.side / image.width, image.side / image.height)
    # In floating point this is sometimes one pixel more than it has to be, there too.
    width, height = math.ceil(image.width * scale), math.ceil(image.height * scale)
    wide = image.width > image.height
    return {
        "filename": image.path.name,
        "scale_to_width": width,
        "scale_to_height": height,
        "crop_x": int(width / 2 - image.side / 2) if wide else 0,
        "crop_y": 0 if wide else int(height / 2 - image.side / 2),
        "crop_width": image.side,
        "crop_height": image.side,
        "latent_space_version": image.space,
        "latent_version": LATENT_VERSION,
    }
