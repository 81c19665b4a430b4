"""The files in which kohya-ss/sd-scripts keeps latents of SD 1.x, 2.x and SDXL on disk.

From its library/strategy_sd.py and strategy_base.py. One .npz per image, beside it, called STEM_WIDTHxHEIGHT_sd.npz or
_sdxl.npz after the original image's size in pixels, each at least four digits long:

| array         | holds                                                                                            |
|---------------|--------------------------------------------------------------------------------------------------|
| latents       | float32 [c,h,w]: a sample of the posterior, raw z; the trainer scales it                         |
| original_size | width and height of the original image                                                           |
| crop_ltrb     | where the whole image would lie in the square if it were fitted into it: left, top, right, bottom |

This fits a training at one square resolution, without buckets and without mirrored images: resolution = SIZE,
enable_bucket = false, flip_aug = false, random_crop = false.
"""

from io import BytesIO
from pathlib import PurePosixPath

import numpy as np
from torch import Tensor

from vaelens.latent_cache.formats.originals import Original


def path(image: Original) -> PurePosixPath:
    """Of its file."""
    return image.path.with_name(f"{image.path.stem}_{image.width:04d}x{image.height:04d}_{image.space}.npz")


def content(image: Original, z: Tensor) -> bytes:
    """Its file, with this sample of its posterior, raw z float32 [c,h,w]."""
    file = BytesIO()
    np.savez(
        file,
        latents=z.numpy(),
        original_size=np.array([image.width, image.height]),
        crop_ltrb=np.array(_fitted(image.width, image.height, image.side)),
    )
    return file.getvalue()


def _fitted(width: int, height: int, side: int) -> tuple[float, float, float, float]:
    """Left, top, right and bottom of an image of this size fitted into the square, its corner at whole pixels."""
    shape = width / height
    inner_width, inner_height = (side * shape, float(side)) if shape < 1 else (float(side), side / shape)
    left, top = (side - inner_width) // 2, (side - inner_height) // 2
    return left, top, left + inner_width, top + inner_height
