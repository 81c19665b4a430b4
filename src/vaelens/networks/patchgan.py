"""PatchGAN: the discriminator of kl-f8's training, which classifies overlapping patches.

Isola, Zhu, Zhou and Efros 2017, "Image-to-Image Translation with Conditional Adversarial Networks"
(https://arxiv.org/abs/1611.07004), unconditional. With three layers a patch is 70 pixels wide.
"""

import itertools
from typing import Literal, get_args

from torch import Tensor, nn

Norm = Literal["batch", "group", "none"]
NORMS: tuple[Norm, ...] = get_args(Norm)
KERNEL = 4
MAX_FACTOR = 8  # the largest width, as a multiple of the first
GROUPS = 16  # of "group"


class PatchGAN(nn.Module):
    """Pixels [b,3,h,w] in [-1,1] to one logit per patch, about [b,1,h/2^n,w/2^n]; above 0 is real.

    `layers` convolutions halve the image, two more compute the logits; sides are at least `min_size(layers)` pixels.
    With norm "batch" a logit depends on the other images of the batch, with "group" and "none" it doesn't.
    """

    def __init__(self, width: int = 64, layers: int = 3, norm: Norm = "batch") -> None:
        super().__init__()
        if norm not in NORMS or layers < 1 or width < 1 or (norm == "group" and width % GROUPS):
            raise ValueError(f"invalid PatchGAN: width {width}, {layers} layers, norm {norm!r}")
        widths = [width * min(2**n, MAX_FACTOR) for n in range(layers + 1)]
        body: list[nn.Module] = [nn.Conv2d(3, widths[0], KERNEL, 2, 1), nn.LeakyReLU(0.2)]
        for n, (wide_in, wide_out) in enumerate(itertools.pairwise(widths), 1):
            stride = 2 if n < layers else 1
            # A norm has its own bias.
            body += [nn.Conv2d(wide_in, wide_out, KERNEL, stride, 1, bias=norm == "none"), *_norm(norm, wide_out)]
            body.append(nn.LeakyReLU(0.2))
        self.layers = nn.Sequential(*body, nn.Conv2d(widths[-1], 1, KERNEL, 1, 1))
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.normal_(module.weight, 0.0, 0.02)
            elif isinstance(module, nn.BatchNorm2d | nn.GroupNorm):
                nn.init.normal_(module.weight, 1.0, 0.02)
                nn.init.zeros_(module.bias)

    def forward(self, pixels: Tensor) -> Tensor:
        return self.layers(pixels)


def min_size(layers: int) -> int:
    """The smallest side of an image, in pixels, that gives a logit."""
    side = 1
    for stride in (1, 1, *[2] * layers):  # from the last convolution back
        side = (side - 1) * stride + KERNEL - 2
    return side


def _norm(norm: Norm, width: int) -> list[nn.Module]:
    if norm == "none":
        return []
    return [nn.BatchNorm2d(width) if norm == "batch" else nn.GroupNorm(GROUPS, width)]
