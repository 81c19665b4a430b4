"""Structural similarity of Wang, Bovik, Sheikh and Simoncelli 2004 (https://doi.org/10.1109/TIP.2003.819861).

A Gaussian window 11x11 with sigma 1.5, each channel alone, C1 = 0.01^2 and C2 = 0.03^2 for a range of 1,
population covariance; the mean over map and channels. 1 is equal; higher is better.
"""

from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional as F

WINDOW = 11
SIGMA = 1.5
C1, C2 = 0.01**2, 0.03**2


def ssim(image: Tensor, reference: Tensor, padding: Literal["zero", "valid"] = "zero") -> Tensor:
    """One value a picture, [b], float64.

    image, reference: [b,c,h,w] in [0,1], of the same shape. `zero` pads the borders with zeros and so
    gives a map as large as the picture, at any size (the published VAE tables did this); `valid` takes
    only windows that lie inside, and needs at least 11x11 pixels. The two differ by more than the
    published VAEs do, so never mix them. Raises ValueError on a wrong shape.
    """
    if image.shape != reference.shape:
        raise ValueError(f"SSIM compares pictures of one shape, not {tuple(image.shape)} and {tuple(reference.shape)}")
    if padding == "valid" and min(image.shape[2:]) < WINDOW:
        raise ValueError(f"SSIM without padding needs {WINDOW}x{WINDOW} pixels, not {tuple(image.shape[2:])}")
    x, y = image.double(), reference.double()
    pad = WINDOW // 2 if padding == "zero" else 0
    mx, my, xx, yy, xy = _blur(torch.stack([x, y, x * x, y * y, x * y]), pad)
    vx, vy, cov = xx - mx * mx, yy - my * my, xy - mx * my
    similarity = (2 * mx * my + C1) * (2 * cov + C2) / ((mx * mx + my * my + C1) * (vx + vy + C2))
    return similarity.mean(dim=(1, 2, 3))


def _blur(maps: Tensor, pad: int) -> Tensor:
    """The Gaussian window over [n,b,c,h,w], separably."""
    offsets = torch.arange(WINDOW, dtype=maps.dtype, device=maps.device) - WINDOW // 2
    weights = torch.exp(-(offsets**2) / (2 * SIGMA**2))
    weights = weights / weights.sum()
    planes = maps.flatten(0, 2).unsqueeze(1)
    planes = F.conv2d(planes, weights.view(1, 1, -1, 1), padding=(pad, 0))
    planes = F.conv2d(planes, weights.view(1, 1, 1, -1), padding=(0, pad))
    return planes.reshape(*maps.shape[:3], *planes.shape[2:])
