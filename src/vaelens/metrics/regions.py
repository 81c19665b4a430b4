"""Scores of one box in an image: an eye, a letter. The whole image is reconstructed; only the scoring is local.

A box, in pixels of the image that is measured, is rounded outward to whole pixels and cut at the image's
edges. PSNR as for an image; SSIM and PSIM from the whole image's maps, at the places whose centre lies in
the box, so that they see the box's surroundings too; the gradient energy says whether edges survived.
"""

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from vaelens.images.drawing import Box

STRATA = ("<8", "8-16", "16-32", ">=32")  # pixels of the smaller side, the lower end included


def measure_regions(
    image: Tensor, reference: Tensor, boxes: Iterable[Box], ssim_map: Tensor, maps: Mapping[str, Sequence[Tensor]]
) -> list[dict[str, Any]]:
    """One row per box, in the boxes' order: label, box, stratum, psnr, ssim, each of `maps`, gradient_energy.

    psnr is in dB, infinite where nothing changed; ssim and gradient_energy are None where the box has no value.

    image (a reconstruction), reference (its original): [3,h,w] in [0,1]. ssim_map: [3,h,w] zero-padded or
    [3,h-10,w-10] valid, of `ssim.ssim_map`. maps: by metric, [h_i,w_i] per tap, as of `psim.psim_maps`. Raises
    ValueError for a box that lies outside of the image.
    """
    if image.shape != reference.shape:
        raise ValueError(
            f"regions are compared in images of one shape, not {tuple(image.shape)} and {tuple(reference.shape)}"
        )
    size = (image.shape[1], image.shape[2])
    image, reference = image.double(), reference.double()
    return [
        {
            "label": box.label,
            "box": [box.left, box.top, box.right, box.bottom],
            "stratum": stratum(box),
            "psnr": region_psnr(image, reference, box),
            "ssim": region_ssim(ssim_map, box, size),
            **{key: region_psim(cells, box, size) for key, cells in maps.items()},
            "gradient_energy": gradient_energy(image, reference, box),
        }
        for box in boxes
    ]


def stratum(box: Box) -> str:
    """Which of STRATA the box belongs to, by its smaller side as given."""
    side = min(box.right - box.left, box.bottom - box.top)
    return STRATA[sum(side >= limit for limit in (8, 16, 32))]


def region_psnr(image: Tensor, reference: Tensor, box: Box) -> float:
    """In dB over the pixels and channels of the box; infinite where they are equal. Both [3,h,w] in [0,1]."""
    rows, columns = _pixels(box, (image.shape[1], image.shape[2]))
    error = float((image[:, rows, columns].double() - reference[:, rows, columns].double()).square().mean())
    return -10 * math.log10(error) if error else math.inf


def region_ssim(ssim_map: Tensor, box: Box, size: tuple[int, int]) -> float | None:
    """The mean of the map [3,h',w'] of an image of size (h, w), over the windows whose centre is in the box.

    None where no window of a valid map has its centre there: the box lies in the image's outer 5 pixels.
    """
    rows, columns = _pixels(box, size)
    border = (size[0] - ssim_map.shape[1]) // 2
    inside = ssim_map[:, _shifted(rows, border), _shifted(columns, border)]
    return float(inside.mean()) if inside.numel() else None


def region_psim(psim_maps: Sequence[Tensor], box: Box, size: tuple[int, int]) -> float:
    """The sum over taps of the mean over the cells whose centre is in the box, or over the nearest ones.

    psim_maps: [h_i,w_i] per tap, of an image of size (h, w): a cell covers h/h_i x w/w_i pixels.
    """
    rows, columns = _pixels(box, size)
    total = 0.0
    for cells in psim_maps:
        down = _cells(rows, size[0], cells.shape[0])
        across = _cells(columns, size[1], cells.shape[1])
        total += float(cells[down, across].double().mean())
    return total


def gradient_energy(image: Tensor, reference: Tensor, box: Box) -> float | None:
    """How sharp the box is against the original: 1 as sharp, below 1 blurred, above 1 with edges made up.

    The sum of squared forward differences, down and across, of all channels inside the box, over the
    original's; both [3,h,w]. None where the original is flat.
    """
    rows, columns = _pixels(box, (image.shape[1], image.shape[2]))
    energy, of_original = (_energy(plane[:, rows, columns].double()) for plane in (image, reference))
    return energy / of_original if of_original else None


def _energy(part: Tensor) -> float:
    return float(torch.diff(part, dim=1).square().sum() + torch.diff(part, dim=2).square().sum())


def _pixels(box: Box, size: tuple[int, int]) -> tuple[slice, slice]:
    """The rows and columns of an image (h, w) that the box touches: at least one of each."""
    rows = slice(max(math.floor(box.top), 0), min(max(math.ceil(box.bottom), math.floor(box.top) + 1), size[0]))
    columns = slice(max(math.floor(box.left), 0), min(max(math.ceil(box.right), math.floor(box.left) + 1), size[1]))
    if rows.start >= rows.stop or columns.start >= columns.stop:
        edges = (box.left, box.top, box.right, box.bottom)
        raise ValueError(f"the box {edges} of {box.label} lies outside of the image of {size[1]}x{size[0]} pixels")
    return rows, columns


def _shifted(pixels: slice, border: int) -> slice:
    return slice(max(pixels.start - border, 0), max(pixels.stop - border, 0))


def _cells(pixels: slice, size: int, count: int) -> slice:
    """Of `count` cells over `size` pixels, those with their centre between the pixels' edges; else the nearest one.

    A tap of an odd size drops the last row; its cells are still taken to cover the image evenly.
    """
    cell = size / count
    start = math.ceil(pixels.start / cell - 0.5)
    stop = math.ceil(pixels.stop / cell - 0.5)
    if start < stop:
        return slice(start, stop)
    nearest = min(int((pixels.start + pixels.stop) / 2 / cell), count - 1)
    return slice(nearest, nearest + 1)
