"""LPIPS 0.1 of Zhang, Isola, Efros, Shechtman and Wang 2018 (https://arxiv.org/abs/1801.03924).

At each tap of VGG16 or AlexNet the channel vectors are scaled to length 1 (1e-10 is added to each norm),
their squared differences are weighted by a learned, non-negative weight per channel, and averaged over the
positions; the sum over taps. 0 is equal; lower is better. The two networks' values can't be compared.
"""

from collections.abc import Sequence
from functools import partial
from typing import ClassVar

import torch
from torch import Tensor, nn

from vaelens.metrics.psim import NORM_EPS, check_taps, root
from vaelens.networks.memory_saving import recomputed


class LPIPSHeads(nn.Module):
    """The learned weights of one feature network's channels, named as in the authors' files."""

    UNUSED: ClassVar[str] = ""

    def __init__(self, widths: Sequence[int]) -> None:
        super().__init__()
        for i, width in enumerate(widths):
            # The files count a dropout, which only training has, as layer 0.
            model = nn.Sequential(nn.Identity(), nn.Conv2d(width, 1, 1, bias=False))
            self.add_module(f"lin{i}", nn.ModuleDict({"model": model}))

    def weights(self) -> list[Tensor]:
        """One [c_i] per tap."""
        return [weight.flatten() for weight in self.parameters()]


def lpips(taps_x: Sequence[Tensor], taps_y: Sequence[Tensor], heads: LPIPSHeads) -> Tensor:
    """One value per image, [b], float64, from the taps [b,c_i,h_i,w_i] of both and that network's heads.

    The network sees images as `psim.normalised` makes them. Raises ValueError where shapes differ.
    """
    check_taps(taps_x, taps_y)
    total = torch.zeros(taps_x[0].shape[0], dtype=torch.float64, device=taps_x[0].device)
    for x, y, weight in zip(taps_x, taps_y, heads.weights(), strict=True):
        # One image at a time: faster than a batch, whose differences leave the processor's cache.
        maps = [recomputed(partial(_weighted, b, weight), a) for a, b in zip(x, y, strict=True)]
        total = total + torch.stack(maps).mean(dim=(1, 2), dtype=torch.float64)
    return total


def _weighted(y: Tensor, weight: Tensor, x: Tensor) -> Tensor:
    """The weighted differences of two images' tap, [h,w]."""
    return torch.einsum("chw,c->hw", (_unit(x) - _unit(y)).square(), weight)


def _unit(x: Tensor) -> Tensor:
    """Each channel vector of [c,h,w] at length 1."""
    return x / (root(x.square().sum(dim=0, keepdim=True)) + NORM_EPS)
