"""From [0,1] tensors to bytes: rounding in one place, and lossless PNG with text chunks."""

from collections.abc import Mapping
from io import BytesIO

import numpy as np
import torch
from PIL import Image
from PIL.PngImagePlugin import PngInfo
from torch import Tensor

STRIP = 2**18  # pixels


def to_uint8(image: Tensor) -> Tensor:
    """Image [b,3,h,w] in [0,1] to uint8: clamped, then rounded half to even (as torch.round does)."""
    return image.detach().clamp(0, 1).mul(255).round().to(torch.uint8)


def from_uint8(pixels: Tensor) -> Tensor:
    """uint8 [b,3,h,w] to an image in [0,1], float32."""
    return pixels.to(torch.float32) / 255


def to_pixels(image: Tensor) -> np.ndarray:
    """One image [1,3,h,w] in [0,1] to uint8 [h,w,3], rounded as `to_uint8` does."""
    h, w = image.shape[2:]
    pixels = np.empty((h, w, 3), dtype=np.uint8)
    rows = max(1, STRIP // w)  # in strips: a large image would need its size three times over
    for top in range(0, h, rows):
        pixels[top : top + rows] = to_uint8(image[:, :, top : top + rows])[0].permute(1, 2, 0).cpu().numpy()
    return pixels


def encode_png(pixels: np.ndarray, text: Mapping[str, str] | None = None) -> bytes:
    """uint8 [h,w,3] to a PNG, losslessly, with one text chunk per entry of `text` (any Unicode)."""
    info = PngInfo()
    for key, value in (text or {}).items():
        info.add_itxt(key, value)
    out = BytesIO()
    Image.fromarray(pixels).save(out, format="PNG", pnginfo=info)
    return out.getvalue()
