"""Can the letters still be read? A small reader of single glyphs, for synthetic letters and their exact boxes.

The share of glyphs that it reads on a reconstruction means something beside its share on the originals only:
that is the ceiling. Glyphs are cut out by their own boxes, so that size and base line are unknown to the
reader; glyphs of one shape (`LOOKALIKES`) therefore count as one.
"""

import functools
from collections.abc import Sequence

import torch
from torch import Tensor

from vaelens.images.drawing import Box
from vaelens.images.letters import GLYPHS
from vaelens.metrics.small import load_glyph_reader
from vaelens.networks.small import GLYPH_SIDE, GlyphReader
from vaelens.resources import full_precision

LOOKALIKES = ("Cc", "Oo", "Ss", "Vv", "Ww", "Xx", "Zz")
SHAPES = tuple(g for g in GLYPHS if not any(g in like[1:] for like in LOOKALIKES))
MARGIN = 1.2  # side of a crop, over the longer side of its box
LUMA = (0.299, 0.587, 0.114)  # ITU-R BT.601


def shape_of(glyph: str) -> str:
    """The glyph that stands for all of this glyph's shape: O for o, the glyph itself where none looks alike."""
    return next((like[0] for like in LOOKALIKES if glyph in like), glyph)


def read_glyphs(image: Tensor, boxes: Sequence[Box], reader: GlyphReader | None = None) -> list[str]:
    """What each box holds, by shape: compare with `shape_of(box.label)`.

    image [1,3,h,w] in [0,1]; boxes of its glyphs in pixels; `reader` on the image's device (left out: the
    shipped one, on the CPU). Raises ValueError for another shape of image.
    """
    if not boxes:
        return []
    reader = reader or _shipped()
    with torch.inference_mode(), full_precision(image.device):
        best = reader(glyph_crops(image, boxes)).argmax(dim=1)
    return [SHAPES[i] for i in best.tolist()]


def readable(image: Tensor, boxes: Sequence[Box], reader: GlyphReader | None = None) -> list[bool]:
    """Whether the reader finds in each box the shape of its label; arguments as for `read_glyphs`."""
    found = read_glyphs(image, boxes, reader)
    return [shape == shape_of(box.label) for shape, box in zip(found, boxes, strict=True)]


def glyph_crops(image: Tensor, boxes: Sequence[Box]) -> Tensor:
    """The glyphs' luma, one crop per box, [n,1,32,32], float32, each of mean 0 and standard deviation 1.

    image [1,3,h,w] in [0,1]. The box fills the crop along its longer side, but for a margin, and keeps its
    proportions; what lies further from it than the margin (the neighbours) is covered with the colours at
    the margin's edge. Sampled with a triangle of a pixel's radius, wider where the crop is smaller than the
    box. Raises ValueError for another shape of image.
    """
    if image.ndim != 4 or image.shape[:2] != (1, 3):
        raise ValueError(f"glyphs are read from one image, [1,3,h,w], not {list(image.shape)}")
    luma = (image[0].float() * image.new_tensor(LUMA, dtype=torch.float32).view(3, 1, 1)).sum(dim=0)
    corners = torch.tensor([(b.left, b.top, b.right, b.bottom) for b in boxes], dtype=torch.float32)
    low, high = corners.to(luma.device).view(-1, 2, 2).unbind(dim=1)  # [n,2] each: x and y
    side = (high - low).amax(dim=1, keepdim=True) * MARGIN
    margin = (side - side / MARGIN) / 2
    start = (low + high - side) / 2
    columns, rows = (
        _sampling(start[:, i], side[:, 0], low[:, i] - margin[:, 0], high[:, i] + margin[:, 0], luma.shape[1 - i])
        for i in range(2)
    )
    crops = rows @ luma @ columns.transpose(1, 2)
    crops = crops - crops.mean(dim=(1, 2), keepdim=True)
    return (crops / crops.std(dim=(1, 2), keepdim=True, correction=0).clamp_min(1 / 255)).unsqueeze(1)


def _sampling(start: Tensor, side: Tensor, low: Tensor, high: Tensor, pixels: int) -> Tensor:
    """Weights [n,32,pixels] of the pixels along one axis for each crop's samples, kept within [low, high]."""
    steps = (torch.arange(GLYPH_SIDE, device=start.device) + 0.5) / GLYPH_SIDE
    centres = (start[:, None] + side[:, None] * steps).clamp(low[:, None], high[:, None]).clamp(0, pixels)
    radius = (side / GLYPH_SIDE).clamp_min(1.0)
    distance = centres[:, :, None] - (torch.arange(pixels, device=start.device) + 0.5)
    weights = (1 - distance.abs() / radius[:, None, None]).clamp_min(0)
    return weights / weights.sum(dim=2, keepdim=True)


@functools.cache
def _shipped() -> GlyphReader:
    return load_glyph_reader(len(SHAPES))
