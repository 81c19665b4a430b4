"""VGG16 up to its last ReLU: the feature network of PSIM and of LPIPS-VGG.

Simonyan and Zisserman 2014 (https://arxiv.org/abs/1409.1556), configuration D. Tensors are named as in
torchvision, so that its ImageNet weights load as they are.
"""

from collections.abc import Sequence
from functools import partial
from typing import ClassVar

from torch import Tensor, nn

from vaelens.networks.memory_saving import convolve, recomputed

# Widths of the 3x3 convolutions, each followed by a ReLU; a 2x2 max pool stands between two blocks.
BLOCKS = ((64, 64), (128, 128), (256, 256, 256), (512, 512, 512), (512, 512, 512))


class VGG16(nn.Module):
    """Normalised pixels [b,3,h,w] to five taps [b,c,h/2^i,w/2^i]: relu1_2, relu2_2, relu3_3, relu4_3, relu5_3.

    Normalised as `metrics.psim.normalised` does. h and w are at least 16 pixels. Inside `memory_saving` only the taps
    are kept for gradients: each block is computed again in the backward pass.
    """

    UNUSED: ClassVar[str] = r"classifier\.[036]\.(weight|bias)"  # tensors of the published file that no tap needs
    WIDTHS: ClassVar[tuple[int, ...]] = tuple(block[-1] for block in BLOCKS)

    def __init__(self) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        taps: list[int] = []
        width = 3
        for block in BLOCKS:
            if layers:
                layers.append(nn.MaxPool2d(2))
            for wider in block:
                layers += [nn.Conv2d(width, wider, 3, padding=1), nn.ReLU(inplace=True)]
                width = wider
            taps.append(len(layers) - 1)
        self.features = nn.Sequential(*layers)
        self.taps = tuple(taps)

    def forward(self, x: Tensor) -> list[Tensor]:
        tapped: list[Tensor] = []
        layers = list(self.features)
        for first, last in zip((0, *(tap + 1 for tap in self.taps)), self.taps, strict=False):
            x = recomputed(partial(_block, layers[first : last + 1]), x)
            tapped.append(x)
        return tapped


def _block(layers: Sequence[nn.Module], x: Tensor) -> Tensor:
    """Up to the next tap."""
    for layer in layers:
        x = convolve(x, layer) if isinstance(layer, nn.Conv2d) else layer(x)
    return x
