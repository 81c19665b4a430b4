"""The tiny autoencoders, TAESD and its kin (`networks/tiny.py`): pixels in [0,1] to latents as the diffusion model sees
them, without a posterior.

Files come in diffusers' names, or as an encoder's and a decoder's file in the numbering of the original code.
"""

import re
from collections.abc import Mapping
from typing import Any, ClassVar, cast

from torch import Tensor

from vaelens.families.family import Family
from vaelens.families.layouts import Half, Layout, Shapes, Tensors, every_name, size, some_name
from vaelens.families.spec import VAESpec
from vaelens.networks.tiny import TinyAutoencoder, TinyAutoencoderConfig

WIDTH = 64  # of diffusers' class where config.json doesn't say it
LAST = "encoder.layers.14.weight"  # at TAESD's depth


def half_of(shapes: Shapes | Tensors) -> Half:
    """Which half a file in the original's numbering holds: the decoder's begins with a clamp, without weights."""
    return "encoder" if "0.weight" in shapes else "decoder"


def from_taesd(tensors: Tensors) -> dict[str, Tensor]:
    """One half in the original's numbering to diffusers'."""
    half = half_of(tensors)
    offset = 1 if half == "decoder" else 0
    parts = {name: name.split(".", 1) for name in tensors}
    return {f"{half}.layers.{int(parts[n][0]) - offset}.{parts[n][1]}": tensor for n, tensor in tensors.items()}


class Tiny(Family):
    """See the module."""

    name = "tiny"
    title = "a tiny autoencoder (TAESD)"
    config = TinyAutoencoderConfig
    layouts = (
        Layout("diffusers", some_name(r"(encoder|decoder)\.layers\.\d+\."), dict, dict),
        Layout("taesd", every_name(r"\d{1,3}\."), from_taesd, half=half_of),
    )
    assumed = frozenset({"num_encoder_blocks", "num_decoder_blocks"})
    pixel_range = (0.0, 1.0)
    convention: ClassVar[Mapping[str, Any]] = {
        "scaling_factor": 1.0,
        "shift_factor": 0.0,
        "pixel_range": pixel_range,
    }
    residual_blocks = frozenset({"TinyBlock"})
    diffusers_classes = ("AutoencoderTiny",)
    json_required: ClassVar[Mapping[str, Any]] = {
        "act_fn": "relu",
        "upsample_fn": "nearest",
        "upsampling_scaling_factor": 2,
    }
    json_scales = ("scaling_factor",)

    def shape_values(self, shapes: Shapes) -> dict[str, Any]:
        if len(shapes.get(LAST, ())) != 4:
            raise ValueError(f"{LAST} is missing or misshapen: no tiny autoencoder that vaelens knows")
        numbers = [int(n) for name in shapes for n in re.findall(r"^decoder\.layers\.(\d{1,3})\.weight$", name)]
        return {
            "in_channels": size(shapes, "encoder.layers.0.weight", 1),
            "out_channels": size(shapes, f"decoder.layers.{max(numbers, default=0)}.weight", 0),
            "latent_channels": size(shapes, LAST, 0),
            "width": size(shapes, LAST, 1),
            "mid_block_pool": any(".pool." in n for n in shapes),
        }

    def build(self, config: TinyAutoencoderConfig) -> TinyAutoencoder:
        return TinyAutoencoder(config)

    def image_channels(self, config: TinyAutoencoderConfig) -> tuple[int, int]:
        return config.in_channels, config.out_channels

    def space_key(self, config: TinyAutoencoderConfig, scaling_factor: float, shift_factor: float) -> None:
        """A tiny autoencoder's numbers are the same in each latent space."""

    def from_config_json(self, values: Mapping[str, Any]) -> tuple[dict[str, Any], list[str]]:
        held, odd = super().from_config_json(values)
        for half in ("encoder", "decoder"):
            widths = values.get(f"{half}_block_out_channels", [WIDTH])
            if isinstance(widths, list) and widths and widths == widths[:1] * len(cast(list[object], widths)):
                held["width"] = widths[0]
            else:
                odd.append(f"{half}_block_out_channels = {widths!r}")
        return held, odd

    def diffusers_arguments(self, config: TinyAutoencoderConfig) -> dict[str, Any]:
        values = super().diffusers_arguments(config)
        width, _ = values.pop("width"), values.pop("mid_block_pool")
        widths = [width] * len(config.num_encoder_blocks)
        return values | {f"{half}_block_out_channels": widths for half in ("encoder", "decoder")}

    def diffusers_lacks(self, spec: VAESpec) -> str:
        pools = cast(TinyAutoencoderConfig, spec.config).mid_block_pool
        return "a tiny autoencoder with pools" if pools else super().diffusers_lacks(spec)


FAMILY = Tiny()
