"""What tensor shapes tell of a network's config, and whether every tensor is there with the right shape.

Tensors go by their diffusers names. Shapes don't tell groups, epsilon, scale, shift and pixel range:
those need `settling.py`.
"""

from collections.abc import Mapping
from functools import cache
from typing import Any

import torch

from vaelens.errors import BadInputError
from vaelens.networks.autoencoder_kl import AutoencoderKL, AutoencoderKLConfig
from vaelens.networks.tiny import TinyAutoencoder, TinyAutoencoderConfig
from vaelens.weights.spec import NetworkConfig

Shapes = Mapping[str, tuple[int, ...]]
LISTED = 6


def kl_shape_values(shapes: Shapes, where: str) -> dict[str, Any]:
    """The fields of AutoencoderKLConfig that shapes fix. Raises BadInputError where a tensor is missing."""

    def size(name: str, axis: int) -> int:
        if name not in shapes or len(shapes[name]) <= axis:
            raise BadInputError(f"{where}: {name} is missing or misshapen. Download the file again.")
        return shapes[name][axis]

    def count(prefix: str) -> int:
        """How many of `prefix`0., `prefix`1., ... there are, without a gap: no more than there are tensors."""
        found = 0
        while any(name.startswith(f"{prefix}{found}.") for name in shapes):
            found += 1
        return found

    levels = count("encoder.down_blocks.")
    return {
        "in_channels": size("encoder.conv_in.weight", 1),
        "out_channels": size("decoder.conv_out.weight", 0),
        "latent_channels": size("decoder.conv_in.weight", 1),
        "block_out_channels": tuple(size(f"encoder.down_blocks.{i}.resnets.0.conv1.weight", 0) for i in range(levels)),
        "layers_per_block": count("encoder.down_blocks.0.resnets."),
        "use_quant_conv": any(n.startswith("quant_conv.") for n in shapes),
        "use_post_quant_conv": any(n.startswith("post_quant_conv.") for n in shapes),
        "mid_block_add_attention": any(".mid_block.attentions.0." in n for n in shapes),
    }


def tiny_shape_values(shapes: Shapes, where: str) -> dict[str, Any]:
    """The fields of TinyAutoencoderConfig, for TAESD's depth. Raises BadInputError where a tensor is missing."""
    last = "encoder.layers.14.weight"
    if last not in shapes or len(shapes[last]) != 4:
        raise BadInputError(f"{where}: {last} is missing: no tiny autoencoder that vaelens knows.")
    return {
        "latent_channels": shapes[last][0],
        "width": shapes[last][1],
        "mid_block_pool": any(".pool." in n for n in shapes),
    }


def build(config: NetworkConfig) -> AutoencoderKL | TinyAutoencoder:
    """The network of a config, on torch's current default device."""
    return TinyAutoencoder(config) if isinstance(config, TinyAutoencoderConfig) else AutoencoderKL(config)


def check_shapes(shapes: Shapes, config: NetworkConfig, where: str) -> None:
    """Every tensor of the network, with its shape, and none beside. Raises BadInputError with lists."""
    expected = _expected(config)
    missing = [n for n in expected if n not in shapes]
    unexpected = [n for n in shapes if n not in expected]
    misshapen = [
        f"{n} {list(shapes[n])} instead of {list(s)}" for n, s in expected.items() if n in shapes and shapes[n] != s
    ]
    problems = [
        f"{len(names)} {label} ({', '.join(names[:LISTED])}{', ...' if len(names) > LISTED else ''})"
        for label, names in (("missing", missing), ("unexpected", unexpected), ("misshapen", misshapen))
        if names
    ]
    if problems:
        raise BadInputError(
            f"{where}: tensors don't fit the network: {'; '.join(problems)}. Download the file again, or "
            "check that it is a VAE of this kind."
        )


@cache
def _expected(config: NetworkConfig) -> dict[str, tuple[int, ...]]:
    with torch.device("meta"):
        return {name: tuple(t.shape) for name, t in build(config).state_dict().items()}


def config_for_shapes(kind: str, values: Mapping[str, Any], where: str) -> NetworkConfig:
    """A config good enough to compare shapes with: groups don't change any."""
    try:
        return TinyAutoencoderConfig(**values) if kind == "tiny" else AutoencoderKLConfig(**values, norm_num_groups=1)
    except ValueError as error:
        raise BadInputError(f"{where}: its tensors' shapes are no VAE's: {error}.") from error
