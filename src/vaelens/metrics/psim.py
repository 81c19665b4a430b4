"""PSIM, the perceptual distance of the published VAE tables: VGG16's features compared by cosine.

At each of the five taps of `networks.vgg.VGG16`, one minus the cosine of the angle between the channel
vectors of the two images, averaged over the positions; the sum over taps. No learned weights, so it isn't
LPIPS. 1e-10 is added to each norm: a vector of zeros has the cosine 0, and counts 1. 0 is equal; lower is
better. Definition: the evaluation scripts of pesser/stable-diffusion.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

# ImageNet's mean and spread, as LPIPS applies them to pixels in [-1,1] (https://arxiv.org/abs/1801.03924).
SHIFT = (-0.030, -0.088, -0.188)
SCALE = (0.458, 0.448, 0.450)
NORM_EPS = 1e-10


def normalised(image: Tensor) -> Tensor:
    """An image [b,3,h,w] in [0,1] as VGG16 and AlexNet take it."""
    shift, scale = (torch.tensor(v, dtype=image.dtype, device=image.device).view(1, 3, 1, 1) for v in (SHIFT, SCALE))
    return (2 * image - 1 - shift) / scale


def psim(taps_x: Sequence[Tensor], taps_y: Sequence[Tensor]) -> Tensor:
    """One value per image, [b], float64, from the taps [b,c_i,h_i,w_i] of both; ValueError where shapes differ."""
    return torch.stack([distances.mean(dim=(1, 2)) for distances in psim_maps(taps_x, taps_y)]).sum(dim=0)


def psim_maps(taps_x: Sequence[Tensor], taps_y: Sequence[Tensor]) -> list[Tensor]:
    """Where the images differ: one minus the cosine at each position of each tap, a list of [b,h_i,w_i], float64.

    Raises ValueError where shapes differ.
    """
    check_taps(taps_x, taps_y)
    # One image at a time: ten times faster than a batch, whose products leave the processor's cache.
    return [
        torch.stack([1 - _cosine(a, b) for a, b in zip(x, y, strict=True)]) for x, y in zip(taps_x, taps_y, strict=True)
    ]


def check_taps(taps_x: Sequence[Tensor], taps_y: Sequence[Tensor]) -> None:
    """Raises ValueError unless both are the taps of as many images of one shape."""
    shapes = [[tuple(tap.shape) for tap in taps] for taps in (taps_x, taps_y)]
    if shapes[0] != shapes[1] or not shapes[0]:
        raise ValueError(f"two images' taps have one shape each, not {shapes[0]} and {shapes[1]}")


def _cosine(x: Tensor, y: Tensor) -> Tensor:
    """Along the channels: [c,h,w] twice to [h,w], float64. Equal vectors give 1 to 1e-15, but for the epsilon."""
    dot, xx, yy = ((a * b).sum(dim=0).double() for a, b in ((x, y), (x, x), (y, y)))
    return dot / ((root(xx) + NORM_EPS) * (root(yy) + NORM_EPS))


def root(squares: Tensor) -> Tensor:
    """The square root of what is 0 or more, with the gradient 0 at 0, where the plain one's is infinite.

    A position whose features are all 0 would make every weight NaN in training.
    """
    positive = squares > 0
    return torch.where(positive, torch.where(positive, squares, 1.0).sqrt(), 0.0)
