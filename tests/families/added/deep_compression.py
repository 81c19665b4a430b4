"""A family that runs a class of diffusers and has no posterior: AutoencoderDC, of one residual block per level."""

from dataclasses import dataclass
from typing import Any

from torch import Tensor

from vaelens.families.family import DiffusersFamily, Family
from vaelens.families.layouts import Layout, Shapes, count, size, some_name
from vaelens.networks.autoencoder_kl import DiagonalGaussian


@dataclass(frozen=True)
class DCConfig:
    latent_channels: int
    encoder_block_out_channels: tuple[int, ...]

    @property
    def factor(self) -> int:
        return 2 ** (len(self.encoder_block_out_channels) - 1)


class DC(DiffusersFamily):
    name = "dc"
    title = "a deep compression autoencoder (AutoencoderDC)"
    config = DCConfig
    layouts = (Layout("diffusers", some_name(r"(encoder\.down|decoder\.up)_blocks\.\d+\.\d+\."), dict, dict),)
    refines = ("kl",)
    convention = {"shift_factor": 0.0, "pixel_range": Family.pixel_range}  # noqa: RUF012
    diffusers_classes = ("AutoencoderDC",)
    json_scales = ("scaling_factor",)

    def shape_values(self, shapes: Shapes) -> dict[str, Any]:
        levels = range(count(shapes, "encoder.down_blocks."))
        widths = tuple(size(shapes, f"encoder.down_blocks.{i}.0.conv2.weight", 0) for i in levels)
        return {
            "latent_channels": size(shapes, "encoder.conv_out.weight", 0),
            "encoder_block_out_channels": widths,
        }

    def encode(self, network: Any, pixels: Tensor) -> DiagonalGaussian:
        return DiagonalGaussian.deterministic(network.encode(pixels).latent)

    def decode(self, network: Any, z: Tensor) -> Tensor:
        return network.decode(z).sample

    def diffusers_arguments(self, config: DCConfig) -> dict[str, Any]:
        widths = config.encoder_block_out_channels
        values = {"block_types": "ResBlock", "layers_per_block": (1,) * len(widths), "block_out_channels": widths}
        values["qkv_multiscales"] = ((),) * len(widths)
        halves = {f"{half}_{f}": v for half in ("encoder", "decoder") for f, v in values.items()}
        return {"latent_channels": config.latent_channels, **halves}


FAMILY = DC()
