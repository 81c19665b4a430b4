"""The KL-regularised autoencoders of SD 1.x/2.x, SDXL, SD3 and FLUX.1 (`networks/autoencoder_kl.py`).

Files come in two layouts: diffusers', of the hub's VAE repositories, and LDM, of CompVis' code and of single files for
A1111 and ComfyUI. Shapes don't tell the scale, the shift, and the norms' groups and epsilon.
"""

import re
from collections.abc import Mapping
from typing import Any, ClassVar, Literal, cast

from torch import Tensor

from vaelens.families.family import Family
from vaelens.families.layouts import Layout, Shapes, Tensors, count, size, some_name
from vaelens.networks.autoencoder_kl import AutoencoderKL, AutoencoderKLConfig

LEVELS = ("encoder.down.", "decoder.up.", "encoder.down_blocks.", "decoder.up_blocks.")

# LDM name, diffusers name: the beginning of a tensor's name. `{i}` counts levels from the decoder's or encoder's
# input, `{r}` is the same level counted from the other end: LDM numbers the decoder's levels backwards.
NAMES = (
    ("encoder.down.{i}.block.{j}.", "encoder.down_blocks.{i}.resnets.{j}."),
    ("encoder.down.{i}.downsample.conv.", "encoder.down_blocks.{i}.downsamplers.0.conv."),
    ("decoder.up.{r}.block.{j}.", "decoder.up_blocks.{i}.resnets.{j}."),
    ("decoder.up.{r}.upsample.conv.", "decoder.up_blocks.{i}.upsamplers.0.conv."),
    *(
        (f"{half}.{ldm}.", f"{half}.{diffusers}.")
        for half in ("encoder", "decoder")
        for ldm, diffusers in (
            ("mid.block_1", "mid_block.resnets.0"),
            ("mid.block_2", "mid_block.resnets.1"),
            ("mid.attn_1.norm", "mid_block.attentions.0.group_norm"),
            ("mid.attn_1.q", "mid_block.attentions.0.to_q"),
            ("mid.attn_1.k", "mid_block.attentions.0.to_k"),
            ("mid.attn_1.v", "mid_block.attentions.0.to_v"),
            ("mid.attn_1.proj_out", "mid_block.attentions.0.to_out.0"),
            ("norm_out", "conv_norm_out"),
        )
    ),
)
SHORTCUT = (".nin_shortcut.", ".conv_shortcut.")
# LDM's attention projections are 1x1 convolutions [c,c,1,1]; diffusers' are linear layers [c,c].
PROJECTIONS = tuple(f"mid_block.attentions.0.{p}.weight" for p in ("to_q", "to_k", "to_v", "to_out.0"))
NAMES_OF_2022 = {".query.": ".to_q.", ".key.": ".to_k.", ".value.": ".to_v.", ".proj_attn.": ".to_out.0."}


def from_ldm(tensors: Tensors) -> dict[str, Tensor]:
    """LDM's names and shapes to diffusers'. A name that isn't in the table stays, for the check to find.

    Raises ValueError where two names mean one tensor.
    """
    levels = count(tensors, *LEVELS)
    return _collected(tensors, {name: _renamed(name, levels, 0) for name in tensors})


def from_diffusers_of_2022(tensors: Tensors) -> dict[str, Tensor]:
    """diffusers' names of any year to today's. Raises ValueError where two names mean one tensor."""
    return _collected(tensors, {name: _modern_name(name) for name in tensors})


def to_ldm(tensors: Tensors) -> dict[str, Tensor]:
    """diffusers' names and shapes to LDM's; the inverse of `from_ldm`."""
    levels = count(tensors, *LEVELS)
    return {
        _renamed(name, levels, 1): tensor[:, :, None, None] if name.endswith(PROJECTIONS) else tensor
        for name, tensor in tensors.items()
    }


def _collected(tensors: Tensors, names: Mapping[str, str]) -> dict[str, Tensor]:
    found: dict[str, Tensor] = {}
    for name, tensor in tensors.items():
        new = names[name]
        if new in found or (new != name and new in tensors):
            raise ValueError(f"{name} and {new} are two names for one tensor")
        linear = new.endswith(PROJECTIONS) and tensor.dim() == 4 and tensor.shape[2:] == (1, 1)
        found[new] = tensor[:, :, 0, 0] if linear else tensor
    return found


def _modern_name(name: str) -> str:
    if ".attentions.0." in name:
        for old, new in NAMES_OF_2022.items():
            name = name.replace(old, new)
    return name


def _renamed(name: str, levels: int, source: Literal[0, 1]) -> str:
    """One name through the table; source 0 reads LDM, 1 reads diffusers."""
    for row in NAMES:
        match = re.match(_pattern(row[source]), name)
        if match:
            n = {k: int(v) for k, v in match.groupdict().items()}
            if "i" in n or "r" in n:
                n = {"i": levels - 1 - n["r"], **n} if "r" in n else {"r": levels - 1 - n["i"], **n}
            name = row[1 - source].format(**n) + name[match.end() :]
            break
    return name.replace(SHORTCUT[source], SHORTCUT[1 - source])


def _pattern(template: str) -> str:
    return re.sub(r"\\{(\w)\\}", r"(?P<\1>\\d{1,3})", re.escape(template))


class KL(Family):
    """See the module."""

    name = "kl"
    title = "a full VAE (AutoencoderKL)"
    config = AutoencoderKLConfig
    layouts = (
        Layout("ldm", some_name(r"(encoder\.down|decoder\.up)\.\d+\."), from_ldm, to_ldm),
        Layout(
            "diffusers", some_name(r"(encoder\.down_blocks|decoder\.up_blocks)\.\d+\."), from_diffusers_of_2022, dict
        ),
    )
    dropped = ("loss.", "model_ema.")
    assumed = frozenset({"norm_exponents"})
    unseen: ClassVar[Mapping[str, Any]] = {"norm_num_groups": 1}
    trainable = True
    residual_blocks = frozenset({"ResnetBlock", "Attention"})
    diffusers_classes = ("AutoencoderKL",)
    json_fixed: ClassVar[Mapping[str, Any]] = {"norm_eps": 1e-6, "pixel_range": Family.pixel_range}
    json_defaults: ClassVar[Mapping[str, Any]] = {  # of diffusers' class, not of SD 1.x
        "latent_channels": 4,
        "block_out_channels": (64,),
        "norm_num_groups": 32,
        "scaling_factor": 0.18215,
        "shift_factor": 0.0,
        "sample_size": 32,
        "force_upcast": True,
    }
    # The side of diffusers' tiles in pixels: of its default, 32, little more than seams would be left.
    json_unstated: ClassVar[Mapping[str, Any]] = {"sample_size": 512}
    json_required: ClassVar[Mapping[str, Any]] = {"act_fn": "silu", "latents_mean": None, "latents_std": None}
    block_types: ClassVar[Mapping[str, str]] = {
        "down_block_types": "DownEncoderBlock2D",
        "up_block_types": "UpDecoderBlock2D",
    }

    def shape_values(self, shapes: Shapes) -> dict[str, Any]:
        levels = count(shapes, "encoder.down_blocks.")
        return {
            "in_channels": size(shapes, "encoder.conv_in.weight", 1),
            "out_channels": size(shapes, "decoder.conv_out.weight", 0),
            "latent_channels": size(shapes, "decoder.conv_in.weight", 1),
            "block_out_channels": tuple(
                size(shapes, f"encoder.down_blocks.{i}.resnets.0.conv1.weight", 0) for i in range(levels)
            ),
            "layers_per_block": count(shapes, "encoder.down_blocks.0.resnets."),
            "use_quant_conv": any(n.startswith("quant_conv.") for n in shapes),
            "use_post_quant_conv": any(n.startswith("post_quant_conv.") for n in shapes),
            "mid_block_add_attention": any(".mid_block.attentions.0." in n for n in shapes),
        }

    def build(self, config: AutoencoderKLConfig) -> AutoencoderKL:
        return AutoencoderKL(config)

    def image_channels(self, config: AutoencoderKLConfig) -> tuple[int, int]:
        return config.in_channels, config.out_channels

    def from_config_json(self, values: Mapping[str, Any]) -> tuple[dict[str, Any], list[str]]:
        held, odd = super().from_config_json(values)
        for field, name in self.block_types.items():
            blocks = values.get(field, [])
            if not isinstance(blocks, list) or any(block != name for block in cast(list[object], blocks)):
                odd.append(f"{field} = {blocks!r}")
        return held, odd

    def diffusers_arguments(self, config: AutoencoderKLConfig) -> dict[str, Any]:
        blocks = {field: [name] * len(config.block_out_channels) for field, name in self.block_types.items()}
        arguments = super().diffusers_arguments(config)
        # Its class has one epsilon, which its code fixes; what that changes was measured when the maps were scaled. Our
        # metadata keep these, beside its config.json, where diffusers would warn of a field that it doesn't know.
        arguments.pop("norm_exponents")
        return {"act_fn": "silu", **arguments, **blocks}


FAMILY = KL()
