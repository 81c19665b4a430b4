"""The perceptual part of a loss: one frozen network, always in eval mode, through which gradients reach the image."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor, nn

from vaelens.errors import NetworkError
from vaelens.files import sha256_file
from vaelens.finetuning.objective import Distance
from vaelens.metrics.lpips import LPIPSHeads, lpips
from vaelens.metrics.pretrained import load_networks
from vaelens.metrics.psim import normalised, psim
from vaelens.metrics.small import load_small_perceptual, small_weights
from vaelens.runtime import DEFAULT, Runtime

NETWORKS = {"lpips-vgg": ("vgg16", "lpips-vgg"), "psim": ("vgg16",), "psim-small": (), "none": ()}


class Perceptual(nn.Module):
    """A distance of images [b,3,h,w] in [0,1], at least 16 pixels a side, one value an image: [b].

    `train()` leaves it in eval mode: a dropout in the distance would make the loss another one at every step.
    """

    def __init__(self, trunk: nn.Module, between: Callable[[list[Tensor], list[Tensor]], Tensor], shift: bool) -> None:
        super().__init__()
        self.trunk = trunk
        self._between = between
        self._shift = shift  # whether the trunk wants `normalised` images
        self.train(False)
        self.requires_grad_(False)

    def train(self, mode: bool = True) -> "Perceptual":
        return super().train(False)

    def forward(self, made: Tensor, wanted: Tensor) -> Tensor:
        with torch.no_grad():
            reference = self._taps(wanted)
        taps = self._taps(made)
        with torch.autocast(made.device.type, enabled=False):  # networks may run in bfloat16, sums don't
            return self._between(taps, reference)

    def _taps(self, image: Tensor) -> list[Tensor]:
        taps = cast(list[Tensor], self.trunk(normalised(image) if self._shift else image))
        return [tap.float() if tap.dtype in {torch.bfloat16, torch.float16} else tap for tap in taps]


def load_perceptual(
    name: str,
    paths: Mapping[str, Path] | None = None,
    device: torch.device | str = "cpu",
    runtime: Runtime = DEFAULT,
) -> tuple[Distance | None, dict[str, Any]]:
    """The distance that a recipe names, None for "none", and which networks it uses, by sha256.

    Raises what `metrics.pretrained.load_networks` raises; NetworkError where a network can't be had: another one is
    never put in its place.
    """
    if name == "none":
        return None, {}
    if name == "psim-small":
        small = load_small_perceptual().to(device)
        record = {name: {"sha256": sha256_file(small_weights(name)), "source": "shipped"}}
        return Perceptual(small, psim, shift=False), record
    try:
        found = load_networks(NETWORKS[name], paths, device, runtime=runtime)
    except NetworkError as error:
        raise NetworkError(
            f"{error} The recipe's perceptual loss is {name}, and nothing takes its place. Give the files with "
            "--network, or choose a recipe with psim-small."
        ) from error
    record = {key: {"sha256": network.sha256, "source": network.source} for key, network in found.items()}
    trunk = found["vgg16"].module
    if name == "psim":
        return Perceptual(trunk, psim, shift=True), record
    heads = cast(LPIPSHeads, found["lpips-vgg"].module)
    return Perceptual(trunk, lambda x, y: lpips(x, y, heads), shift=True), record
