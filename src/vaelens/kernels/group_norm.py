"""Group normalisation and SiLU of whole maps on the CPU, forward and backward, channels last.

Maps are taken a few rows at a time, so that what lies between two operations stays in the processor's cache.
"""

from collections.abc import Iterator

import torch
from torch import Tensor
from torch.nn import functional as F

from vaelens.kernels.convolution import Affine
from vaelens.kernels.moments import group_affine, merge_rows, row_moments

BLOCK_VALUES = 2**17  # half a megabyte in fp32: a few of them fit the second-level cache


def group_statistics(maps: Tensor, groups: int, eps: float) -> Affine:
    """Of maps [b,h,w,c] in fp32: (x - mean) * scale + shift is normalised, without weight and bias."""
    step = max(1, BLOCK_VALUES // maps[0, 0].numel())
    images = [
        torch.cat([row_moments(maps[i : i + 1, y : y + step]) for y in range(0, maps.shape[1], step)], dim=1)
        for i in range(len(maps))
    ]
    return group_affine(merge_rows(torch.cat(images), maps.shape[2]), groups, eps, None, None)


def activated(maps: Tensor, affine: Affine) -> Tensor:
    """silu((x - mean) * scale + shift) of maps [b,h,w,c] in fp32, a new tensor."""
    out = torch.empty_like(maps)
    for image, rows in _blocks(maps):
        mean, scale, shift = affine.mean[image], affine.scale[image], affine.shift[image]
        block = torch.sub(maps.flatten(1, 2)[image, rows], mean, out=out.flatten(1, 2)[image, rows])
        F.silu(block.mul_(scale).add_(shift), inplace=True)
    return out


def normalised(maps: Tensor, normal: Affine, dtype: torch.dtype) -> Tensor:
    """(x - mean) * scale of maps [b,h,w,c] in fp32, rounded to a dtype; `normal` is of `group_statistics`."""
    out = torch.empty_like(maps, dtype=dtype)
    for image, rows in _blocks(maps):
        block = maps.flatten(1, 2)[image, rows] - normal.mean[image]
        out.flatten(1, 2)[image, rows] = block.mul_(normal.scale[image])
    return out


def denormalised(maps: Tensor, normal: Affine) -> Tensor:
    """The maps that `normalised` was given, in fp32, but for its rounding."""
    out = torch.empty_like(maps, dtype=torch.float32)
    for image, rows in _blocks(maps):
        block = torch.div(maps.flatten(1, 2)[image, rows], normal.scale[image], out=out.flatten(1, 2)[image, rows])
        block.add_(normal.mean[image])
    return out


def norm_silu_backward(
    gradient: Tensor, maps: Tensor, normal: Affine, affine: Affine, groups: int
) -> tuple[Tensor, Tensor]:
    """From the gradient of `activated` [b,h,w,c] to that of the maps, in place; gives the norm's weight's and bias'.

    normal: of `group_statistics`; affine: with weight and bias. With y the normalised map and g the gradient of
    weight y + bias, that of x is (weight g - mean(weight g) - y mean(weight g y)) / deviation, with means over a group.
    """
    flat, grads = maps.flatten(1, 2), gradient.view(len(maps), -1, maps.shape[3])
    sums = torch.zeros((len(maps), 2, maps.shape[3]), dtype=torch.float64)  # of g and of g (x - mean), over an image
    for image, rows in _blocks(maps):
        centred, block = flat[image, rows] - normal.mean[image], grads[image, rows]
        y = torch.addcmul(affine.shift[image], centred, affine.scale[image])
        torch.ops.aten.silu_backward.grad_input(block, y, grad_input=block)
        sums[image, 0] += block.sum(dim=0)
        sums[image, 1] += centred.mul_(block).sum(dim=0)
    deviation, leftover = normal.scale.double(), normal.shift.double()
    of_weight, of_bias = sums[:, 1] * deviation + sums[:, 0] * leftover, sums[:, 0]  # of each image
    weighted = torch.stack([of_bias * affine.scale, of_weight * affine.scale], dim=1).view(len(maps), 2, groups, -1)
    means = weighted.sum(dim=3, keepdim=True) / (flat.shape[1] * weighted.shape[3])
    offset, slope = means.expand_as(weighted).flatten(2).unbind(1)
    offset, slope = (offset + slope * leftover).float(), (slope * deviation).float()
    for image, rows in _blocks(maps):
        centred, block = flat[image, rows] - normal.mean[image], grads[image, rows]
        block.mul_(affine.scale[image]).sub_(offset[image]).addcmul_(centred, slope[image], value=-1)
    return of_weight.sum(dim=0).float(), of_bias.sum(dim=0).float()


def _blocks(maps: Tensor) -> Iterator[tuple[int, slice]]:
    """Images and rows of `maps.flatten(1, 2)`."""
    pixels, step = maps.shape[1] * maps.shape[2], max(1, BLOCK_VALUES // maps.shape[3])
    for image in range(len(maps)):
        for first in range(0, pixels, step):
            yield image, slice(first, min(pixels, first + step))
