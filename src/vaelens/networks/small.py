"""The three small networks that ship with vaelens, trained on synthetic images (docs/small-metrics.md).

`SmallPerceptual` gives feature maps to compare (psim-small), `SmallFrechet` one vector an image
(fd-small), `GlyphReader` the scores of what a glyph might be. No normalisation layers: what is
stored is what runs.
"""

import itertools

import torch
from torch import Tensor, nn
from torch.nn import functional as F

GLYPH_SIDE = 32  # pixels of a glyph reader's crop, each way


class SmallPerceptual(nn.Module):
    """A small VGG: pairs of 3x3 convolutions with ReLU, a tap after each pair, max pooling in between."""

    widths = (16, 32, 64, 96, 128)

    def __init__(self) -> None:
        super().__init__()
        pairs = zip((3, *self.widths[:-1]), self.widths, strict=True)
        self.stages = nn.ModuleList(nn.Sequential(_conv(i, o), nn.ReLU(), _conv(o, o), nn.ReLU()) for i, o in pairs)

    def forward(self, image: Tensor) -> list[Tensor]:
        """Image [b,3,h,w] in [0,1], h and w at least 16, to the five taps [b,c,h/k,w/k], k = 1, 2, 4, 8, 16.

        Sizes are rounded down; c is in `widths`; no value is negative.
        """
        x, taps = 2 * image - 1, list[Tensor]()
        for stage in self.stages:
            x = stage(F.max_pool2d(x, 2) if taps else x)
            taps.append(x)
        return taps


class ResidualBlock(nn.Module):
    """relu(shortcut(x) + two 3x3 convolutions), the first one with the block's stride."""

    def __init__(self, wide_in: int, wide_out: int, stride: int) -> None:
        super().__init__()
        self.body = nn.Sequential(_conv(wide_in, wide_out, stride=stride), nn.ReLU(), _conv(wide_out, wide_out))
        self.shortcut = nn.Identity() if stride == 1 else _conv(wide_in, wide_out, 1, stride)

    def forward(self, x: Tensor) -> Tensor:
        return torch.relu(self.shortcut(x) + self.body(x))


class SmallFrechet(nn.Module):
    """A small residual network whose feature vector is the mean over its last maps."""

    features = 64
    widths = (24, 48, 80, 96)

    def __init__(self) -> None:
        super().__init__()
        w = self.widths
        blocks = [ResidualBlock(i, o, 2) for i, o in itertools.pairwise(w)]
        self.layers = nn.Sequential(
            _conv(3, w[0], 5, 2),
            nn.ReLU(),
            ResidualBlock(w[0], w[0], 1),
            *blocks,
            ResidualBlock(w[-1], w[-1], 1),
            _conv(w[-1], self.features, 1),
            nn.ReLU(),
        )

    def forward(self, image: Tensor) -> Tensor:
        """Image [b,3,h,w] in [0,1] to features [b,64], none negative."""
        return self.layers(2 * image - 1).mean(dim=(2, 3))


class GlyphReader(nn.Module):
    """A small classifier of single glyphs."""

    def __init__(self, classes: int) -> None:
        super().__init__()
        side = GLYPH_SIDE // 8
        self.layers = nn.Sequential(
            _conv(1, 32, 5, 2),
            nn.ReLU(),
            _conv(32, 48),
            nn.ReLU(),
            nn.MaxPool2d(2),
            _conv(48, 64),
            nn.ReLU(),
            nn.MaxPool2d(2),
            _conv(64, 80),
            nn.ReLU(),
            nn.Flatten(),
            nn.Linear(80 * side * side, classes),
        )

    def forward(self, crops: Tensor) -> Tensor:
        """Crops [n,1,32,32], each of mean 0 and standard deviation 1, to scores (logits) [n,classes]."""
        return self.layers(crops)


def _conv(wide_in: int, wide_out: int, kernel: int = 3, stride: int = 1) -> nn.Conv2d:
    return nn.Conv2d(wide_in, wide_out, kernel, stride, kernel // 2)
