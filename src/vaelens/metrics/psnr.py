"""Peak signal-to-noise ratio: 10 log10(1 / mean squared error), in dB; higher is better."""

import torch
from torch import Tensor


def psnr(image: Tensor, reference: Tensor) -> Tensor:
    """One value per image, [b], float64, over all of channels, height and width.

    image, reference: [b,c,h,w] in [0,1], of the same shape (else ValueError). Equal images give
    infinity.
    """
    if image.shape != reference.shape:
        raise ValueError(f"PSNR compares images of one shape, not {tuple(image.shape)} and {tuple(reference.shape)}")
    error = (image.double() - reference.double()).square().mean(dim=(1, 2, 3))
    return -10 * torch.log10(error)
