"""From 8-bit images to what Inception sees: the two ways that are in use, by name.

FID depends on this step. `torch_fidelity` is TensorFlow 1's resize, as in the original FID code and the
published VAE tables; `pytorch_fid` is PyTorch's resize, whose pixels lie half a pixel elsewhere. Neither
smooths when it shrinks. Values under one name must never be compared with values under the other.
"""

from collections.abc import Callable, Mapping

import torch
from torch import Tensor
from torch.nn import functional as F

SIDE = 299


def torch_fidelity(images: Tensor) -> Tensor:
    """uint8 [b,3,h,w] to [b,3,299,299] in [-1,1): TensorFlow 1's bilinear resize, then (x - 128) / 128.

    Bit for bit what torch-fidelity 0.3.0 computes on the CPU. Output pixel i lies at i h / 299, so that the
    first pixels coincide, and what lies beyond the last pixel repeats it. ValueError for other input.
    """
    x = _checked(images)
    left, right, weight = _neighbours(x.shape[3], x.device)
    # Width first, over all rows: each value is the same as if the rows had been picked before, and fewer are made.
    low = x.index_select(3, left)
    x = low + (x.index_select(3, right) - low) * weight
    upper, lower, weight = _neighbours(x.shape[2], x.device)
    low = x.index_select(2, upper)
    x = low + (x.index_select(2, lower) - low) * weight.view(SIDE, 1)
    return (x - 128) / 128


def pytorch_fid(images: Tensor) -> Tensor:
    """uint8 [b,3,h,w] to [b,3,299,299] in [-1,1]: x / 255, PyTorch's bilinear resize, then 2 x - 1, as pytorch-fid.

    ValueError for other input.
    """
    x = _checked(images) / 255
    return 2 * F.interpolate(x, size=(SIDE, SIDE), mode="bilinear", align_corners=False) - 1


PREPROCESSINGS: Mapping[str, Callable[[Tensor], Tensor]] = {
    "torch_fidelity": torch_fidelity,
    "pytorch_fid": pytorch_fid,
}


def _checked(images: Tensor) -> Tensor:
    if images.dtype != torch.uint8 or images.dim() != 4 or images.shape[1] != 3 or 0 in images.shape:
        raise ValueError(f"Inception takes 8-bit images [b,3,h,w], not {images.dtype} {tuple(images.shape)}")
    return images.float()


def _neighbours(size: int, device: torch.device) -> tuple[Tensor, Tensor, Tensor]:
    """Of each of 299 positions along a side of `size` pixels: the pixel at or before it, the next, the way between."""
    # Through float32 at each step, as TensorFlow does: that decides on which side of a pixel a position falls.
    position = torch.arange(SIDE, dtype=torch.float32, device=device) * torch.tensor(size / SIDE, dtype=torch.float32)
    before = position.long()
    return before, (before + 1).clamp_max(size - 1), position - before
