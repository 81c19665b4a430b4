"""A family like Wan 2.1's: 5-D kernels, latents normalised per channel, and a decoder that doubles the size."""

from collections.abc import Hashable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from vaelens.families.family import DiffusersFamily, Family
from vaelens.families.layouts import Layout, Shapes, size
from vaelens.families.spec import VAESpec
from vaelens.networks.autoencoder_kl import DiagonalGaussian


@dataclass(frozen=True)
class VideoConfig:
    base_dim: int
    z_dim: int
    latents_mean: tuple[float, ...]
    latents_std: tuple[float, ...]


class Video(DiffusersFamily):
    name = "video"
    title = "a video VAE (AutoencoderKLWan)"
    config = VideoConfig
    layouts = (Layout("diffusers", lambda shapes: any(len(s) == 5 for s in shapes.values()), dict, dict),)
    refines = ("kl",)
    unseen = {"latents_mean": (), "latents_std": ()}  # noqa: RUF012
    convention = {"scaling_factor": 1.0, "shift_factor": 0.0, "pixel_range": Family.pixel_range}  # noqa: RUF012
    diffusers_classes = ("AutoencoderKLWan",)
    json_scales = ()

    def shape_values(self, shapes: Shapes) -> dict[str, Any]:
        base, z = size(shapes, "encoder.conv_in.weight", 0), size(shapes, "decoder.conv_in.weight", 1)
        return {"base_dim": base, "z_dim": z}

    def encode(self, network: Any, pixels: Tensor) -> DiagonalGaussian:
        return DiagonalGaussian.from_moments(network.encode(pixels[:, :, None]).latent_dist.parameters[:, :, 0])

    def decode(self, network: Any, z: Tensor) -> Tensor:
        return F.pixel_shuffle(network.decode(z[:, :, None]).sample[:, :, 0], 2)

    def factor(self, config: VideoConfig) -> int:
        return 2

    def decoded_factor(self, config: VideoConfig) -> int:
        return 4

    def latent_channels(self, config: VideoConfig) -> int:
        return config.z_dim

    def to_latents(self, z: Tensor, spec: VAESpec, network: Any) -> Tensor:
        mean, std = _statistics(spec.config)
        return (z - mean) / std

    def to_z(self, latents: Tensor, spec: VAESpec, network: Any) -> Tensor:
        mean, std = _statistics(spec.config)
        return latents * std + mean

    def space_key(self, config: VideoConfig, scaling_factor: float, shift_factor: float) -> Hashable:
        return config.latents_mean, config.latents_std

    def diffusers_arguments(self, config: VideoConfig) -> dict[str, Any]:
        fixed = {"dim_mult": [1, 2], "num_res_blocks": 1, "temperal_downsample": [False], "out_channels": 12}
        return super().diffusers_arguments(config) | fixed


def _statistics(config: Any) -> tuple[Tensor, Tensor]:
    mean, std = (torch.tensor(values).view(1, -1, 1, 1) for values in (config.latents_mean, config.latents_std))
    return mean, std


FAMILY = Video()
