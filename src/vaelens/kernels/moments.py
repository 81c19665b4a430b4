"""Mean and spread of a map from those of its rows: how normalisation is exact when a map is made in strips.

A row's moments are its mean and the sum of squared deviations from that mean (M2), for each image and channel, float64
[b,rows,c,2]. The variance of a map is that within its rows and that between their means (Chan, Golub and LeVeque 1979).
All rows of a map are merged at once, so that the result doesn't depend on the strips that they came in.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from vaelens.kernels.convolution import Affine


@dataclass(frozen=True)
class MapMoments:
    """Mean and variance over all positions of a map, for each image and channel: float64 [b,c] each."""

    mean: Tensor
    variance: Tensor


def empty_moments(shape: Sequence[int], device: torch.device) -> Tensor:
    """A place [b,n,c,2] for the moments of rows of a shape [b,n,w,c], which those of their parts are written to.

    Made before these: small tensors that stay, made between blocks that come and go, would part the heap that these
    leave, and the next ones wouldn't fit into it.
    """
    b, n, _, c = shape
    return torch.empty((b, n, c, 2), dtype=torch.float64, device=device)


def row_moments(rows: Tensor) -> Tensor:
    """Moments of rows [b,n,w,c], as [b,n,c,2].

    The sums are those of differences from the row's mean in fp32: where a mean is a thousand times the deviation, sums
    of the values themselves would keep no digit of the deviation.
    """
    wide = rows.to(torch.promote_types(rows.dtype, torch.float32))
    width = rows.shape[2]
    near = wide.mean(dim=2, keepdim=True)
    difference = wide - near
    offset = difference.sum(dim=2).double() / width
    squares = difference.square_().sum(dim=2).double()
    mean = near.squeeze(2).double() + offset
    return torch.stack([mean, squares - width * offset.square()], dim=3)


def merge_rows(moments: Tensor, width: int) -> MapMoments:
    """Moments of all rows of a map, each of `width` positions."""
    mean_of_rows, squares = moments.unbind(3)
    mean = mean_of_rows.mean(dim=1)
    between = (mean_of_rows - mean.unsqueeze(1)).square().sum(dim=1) * width
    variance = (squares.sum(dim=1) + between) / (width * moments.shape[1])
    return MapMoments(mean, variance)


def group_affine(moments: MapMoments, groups: int, eps: float, weight: Tensor | None, bias: Tensor | None) -> Affine:
    """The group normalisation of a map with these moments. The groups are merged from their channels in float64."""
    channels = moments.mean.shape[1]
    means = moments.mean.view(-1, groups, channels // groups)
    mean = means.mean(dim=2, keepdim=True)
    variance = (moments.variance.view_as(means) + (means - mean).square()).mean(dim=2, keepdim=True)
    scale = (variance + eps).rsqrt().expand_as(means).flatten(1)
    scale = scale if weight is None else scale * weight.double()
    mean = mean.expand_as(means).reshape(-1, channels)
    rounded = mean.float()
    shift = (rounded.double() - mean) * scale  # what the rounding of the mean left
    shift = shift if bias is None else shift + bias.double()
    return Affine(rounded, scale.float(), shift.float())
