"""What an image metric gets: reconstructions beside their originals, and network outputs computed once for all."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from vaelens.images.writing import from_uint8
from vaelens.kernels.paths import TORCH
from vaelens.metrics.ssim import Padding, ssim_map

Taps = list[Tensor]


@dataclass(frozen=True)
class Network:
    """A loaded network of a metric and the weights it has.

    run: images [b,3,h,w] in [0,1] to taps; for a feature extractor, uint8 [b,3,h,w] to features [b,d]
    source: published, given, shipped or hub
    kernels: the path of its convolutions (`kernels.paths`), which decides the last digits
    """

    module: Any
    run: Callable[[Tensor], Any]
    sha256: str
    source: str
    kernels: str = TORCH


class ImageBatch:
    """Saved images, uint8 [b,3,h,w], as `image` [b,3,h,w] in [0,1] on a device; a network runs on them once."""

    def __init__(self, pixels: Tensor, networks: Mapping[str, Network], device: torch.device) -> None:
        self.image = from_uint8(pixels.to(device))
        self._networks = networks
        self._taps: dict[str, Taps] = {}

    def module(self, network: str) -> Any:
        """The network itself: learned weights that aren't run on images."""
        return self._networks[network].module

    def taps(self, network: str) -> Taps:
        """The network's intermediate activations, a list of [b,c_i,h_i,w_i]."""
        if network not in self._taps:
            self._taps[network] = self._networks[network].run(self.image)
        return self._taps[network]


class ImagePairs:
    """Reconstructions and their originals. `ssim_padding` is the preset's."""

    def __init__(self, reconstructions: ImageBatch, originals: ImageBatch, ssim_padding: Padding) -> None:
        self.images = reconstructions.image, originals.image
        self.ssim_padding: Padding = ssim_padding
        self._batches = reconstructions, originals
        self._ssim_maps: dict[Padding, Tensor] = {}

    def module(self, network: str) -> Any:
        """As `ImageBatch.module`."""
        return self._batches[0].module(network)

    def taps(self, network: str) -> tuple[Taps, Taps]:
        """The network's taps of the reconstructions and of the originals."""
        return self._batches[0].taps(network), self._batches[1].taps(network)

    def ssim_map(self, padding: Padding | None = None) -> Tensor:
        """SSIM around each pixel, with the preset's padding where none is named; see `metrics.ssim`."""
        padding = padding or self.ssim_padding
        if padding not in self._ssim_maps:
            self._ssim_maps[padding] = ssim_map(*self.images, padding)
        return self._ssim_maps[padding]
