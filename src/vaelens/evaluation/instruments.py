"""The instruments of a preset: every measure of an image, and the features behind the measures of a set.

Networks run in fp32 with TF32 and autocast off. What concerns the originals is computed once a chunk and serves
every VAE.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import cast

import torch
from torch import Tensor

from vaelens.evaluation.presets import Preset
from vaelens.images.writing import from_uint8
from vaelens.metrics.inception_input import PREPROCESSINGS
from vaelens.metrics.lpips import LPIPSHeads, lpips
from vaelens.metrics.pretrained import MetricNetwork
from vaelens.metrics.psim import normalised, psim, psim_maps
from vaelens.metrics.psnr import psnr
from vaelens.metrics.small import frechet_features, load_small_frechet, load_small_perceptual, perceptual_taps
from vaelens.metrics.ssim import ssim, ssim_map
from vaelens.networks.alexnet import AlexNet
from vaelens.networks.inception import InceptionV3
from vaelens.networks.vgg import VGG16
from vaelens.resources import full_precision

EXTRACTORS = {"rfid": "inception", "kid": "inception", "fd_small": "small", "fd_dinov2": "dinov2"}

Features = Callable[[Tensor], Tensor]  # uint8 [b,3,h,w] -> [b,d]
Taps = list[Tensor]


@dataclass(frozen=True)
class Reference:
    """Originals [b,3,h,w] in [0,1] and what the instruments computed of them."""

    image: Tensor
    taps: Mapping[str, Taps]


@dataclass(frozen=True)
class Comparison:
    """One value an image, [b] float64, for each measure; and maps for measuring regions."""

    values: dict[str, Tensor]
    image: Tensor
    ssim_map: Tensor
    psim_maps: Sequence[Tensor] | None  # of PSIM, or of psim-small where the preset has that


class Instruments:
    """What a preset measures with, on one device; `features` holds extractors that live elsewhere (DINOv2)."""

    def __init__(
        self,
        preset: Preset,
        networks: Mapping[str, MetricNetwork],
        device: torch.device,
        features: Mapping[str, Features] | None = None,
    ) -> None:
        self.preset = preset
        self.measures = preset.measures
        self.device = device
        self._networks = networks
        self._features = dict(features or {})
        self._trunks: dict[str, Callable[[Tensor], Taps]] = {}
        for name, needed in (("vgg16", {"psim", "lpips_vgg"}), ("alexnet", {"lpips_alex"})):
            if needed & set(self.measures):
                self._trunks[name] = _on_normalised(cast(VGG16 | AlexNet, networks[name].module))
        if "psim_small" in self.measures:
            self._trunks["small"] = partial(perceptual_taps, load_small_perceptual().to(device))
        if {"rfid", "kid"} & set(self.measures):
            assert preset.inception is not None
            prepared = PREPROCESSINGS[preset.inception]
            inception = cast(InceptionV3, networks["inception"].module)
            self._features["inception"] = lambda pixels: inception(prepared(pixels))
        if "fd_small" in self.measures:
            self._features["small"] = partial(frechet_features, load_small_frechet().to(device))

    @torch.no_grad()
    def reference(self, originals: Tensor) -> Reference:
        """Of saved originals, uint8 [b,3,h,w]."""
        image = from_uint8(originals.to(self.device))
        with full_precision(self.device):
            return Reference(image, {name: trunk(image) for name, trunk in self._trunks.items()})

    @torch.no_grad()
    def compare(self, pixels: Tensor, reference: Reference) -> Comparison:
        """Of saved reconstructions, uint8 [b,3,h,w], with their originals."""
        image = from_uint8(pixels.to(self.device))
        with full_precision(self.device):
            taps = {name: trunk(image) for name, trunk in self._trunks.items()}
            similarity = ssim_map(image, reference.image, self.preset.ssim_padding)
            values = {
                "psnr": psnr(image, reference.image),
                "ssim": similarity.mean(dim=(1, 2, 3)),
            }
            for padding in ("zero", "valid"):  # calibrate asks for both
                if f"ssim_{padding}" in self.measures:
                    values[f"ssim_{padding}"] = ssim(image, reference.image, padding)
            maps = None
            for key, trunk in (("psim", "vgg16"), ("psim_small", "small")):
                if key in self.measures:
                    values[key] = psim(taps[trunk], reference.taps[trunk])
                    maps = psim_maps(taps[trunk], reference.taps[trunk])
            for key, trunk in (("lpips_vgg", "vgg16"), ("lpips_alex", "alexnet")):
                if key in self.measures:
                    heads = cast(LPIPSHeads, self._networks[key.replace("_", "-")].module)
                    values[key] = lpips(taps[trunk], reference.taps[trunk], heads)
        return Comparison(values, image, similarity, maps)

    @torch.no_grad()
    def features(self, pixels: Tensor) -> dict[str, Tensor]:
        """Of uint8 [b,3,h,w]: fp32 [b,d] by extractor, on the CPU."""
        with full_precision(self.device):
            return {name: of(pixels.to(self.device)).float().cpu() for name, of in self._features.items()}


def _on_normalised(network: VGG16 | AlexNet) -> Callable[[Tensor], Taps]:
    return lambda image: network(normalised(image))
