"""Scaling a full VAE's maps by powers of two: its function stays what it is, and float16 can hold the maps.

An AutoencoderKL's maps grow along the residual stream, in some VAEs beyond float16's 65,504. What reads the stream is
either a group norm, which sees its scale only through epsilon, or a convolution without a nonlinearity before it, whose
weights can take a scale back. A `Stage` is what must share one scale: a stretch of the stream between two such
convolutions; what the first convolution of a block gives to its second norm; the values of attention. To multiply a
stage by 2^-k,

- the weights that write it are multiplied by 2^-k, and by 2^j where they read a stage that is multiplied by 2^-j,
- their biases by 2^-k,
- the epsilon of the norms that read it by 2^-2k (`norm_exponents` of the config).

That is exact in float32, where no weight becomes subnormal. Other programs have a fixed epsilon of 1e-6: what that
changes depends on the variances of the maps, so `conversion.fp16_checks` measures it.
"""

import dataclasses
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import cast

from torch import Tensor, nn

from vaelens.errors import CheckFailedError, UsageError
from vaelens.health.activations import HALF_LIMIT
from vaelens.networks.autoencoder_kl import (
    MAX_EXPONENT,
    Attention,
    AutoencoderKL,
    AutoencoderKLConfig,
    Downsample,
    ResnetBlock,
    Upsample,
)
from vaelens.vae import VAE

# Other images, and latents that a diffusion model made, may give larger values than those that were measured.
HEADROOM = 8.0


@dataclass
class Stage:
    """Maps that share a scale, while a network is read.

    `writers` are the layers that write them, each with the stage that it reads without a norm, if any; `sums` the
    blocks that add to them, and `norms` the group norms that read them.
    """

    name: str
    writers: list[tuple[str, "Stage | None"]] = field(default_factory=list[tuple[str, "Stage | None"]])
    sums: list[str] = field(default_factory=list[str])
    norms: list[str] = field(default_factory=list[str])


@dataclass(frozen=True)
class Scale:
    """A stage by the layer that writes it first; its largest absolute value, and the exponent: it is scaled by 2^-k."""

    name: str
    largest: float
    exponent: int


def stages(network: AutoencoderKL) -> list[Stage]:
    """The stages of a network in the order of execution, the encoder's first."""
    return [*_half(network.encoder, "encoder"), *_half(network.decoder, "decoder")]


def choose_scales(found: Sequence[Stage], largest: Mapping[str, float]) -> list[Scale]:
    """The smallest exponent of each stage with which its largest value is 65,504 / HEADROOM or less.

    `largest` are the largest absolute outputs of layers and blocks in float32, by name. Raises CheckFailedError where
    one isn't finite, and where one is so large that float16 can't have weights to match it.
    """
    scales: list[Scale] = []
    for stage in found:
        top = max(largest[name] for name in [*(layer for layer, _ in stage.writers), *stage.sums])
        if not math.isfinite(top):
            raise CheckFailedError(
                f"{stage.name} gives NaN or infinite values in float32 already, which no scaling mends. Check the VAE "
                "with `vaelens inspect --health`."
            )
        exponent = max(0, math.ceil(math.log2(top * HEADROOM / HALF_LIMIT))) if top else 0
        if exponent > MAX_EXPONENT:
            raise CheckFailedError(f"{stage.name} gives values up to {top:.3g}, too large to be scaled into float16.")
        scales.append(Scale(stage.name, top, exponent))
    return scales


def scaled(vae: VAE, found: Sequence[Stage], scales: Sequence[Scale]) -> VAE:
    """The VAE with its stages scaled, in its own precision: the same function, with a `norm_exponents` that says so.

    One that was scaled before is scaled further. Raises UsageError for one without stages.
    """
    config = kl_config(vae)
    exponents = {stage.name: scale.exponent for stage, scale in zip(found, scales, strict=True)}
    tensors: dict[str, Tensor] = dict(vae.tensors())
    norms = dict(config.norm_exponents)
    for stage in found:
        k = exponents[stage.name]
        for layer, reads in stage.writers:
            taken_back = 0 if reads is None else exponents[reads.name]
            tensors[f"{layer}.weight"] = tensors[f"{layer}.weight"] * 2.0 ** (taken_back - k)
            tensors[f"{layer}.bias"] = tensors[f"{layer}.bias"] * 2.0**-k
        for norm in stage.norms if k else ():
            norms[norm] = norms.get(norm, 0) + k
    return with_exponents(vae, tensors, tuple(sorted(norms.items())))


def with_exponents(vae: VAE, tensors: Mapping[str, Tensor], exponents: tuple[tuple[str, int], ...]) -> VAE:
    """A VAE of the same spec but for its `norm_exponents`, with these tensors."""
    spec = dataclasses.replace(vae.spec, config=dataclasses.replace(kl_config(vae), norm_exponents=exponents))
    return VAE.from_tensors(tensors, spec, vae.name, device=vae.device, dtype=vae.dtype, notify=vae.engine.notify)


def kl_config(vae: VAE) -> AutoencoderKLConfig:
    """Its config. Raises UsageError for a VAE of another family."""
    if not isinstance(vae.spec.config, AutoencoderKLConfig):
        raise UsageError(
            f"{vae.name} is {vae.spec.family.title}, and only full VAEs (AutoencoderKL) can be scaled into float16. "
            "Use --dtype bfloat16 or float32."
        )
    return vae.spec.config


def _half(half: nn.Module, name: str) -> list[Stage]:
    """The stages of an encoder or a decoder.

    Modules come in the order of execution, except for a middle block's attention, whose place in its stage is the same.
    """
    stream = Stage(f"{name}.conv_in", [(f"{name}.conv_in", None)])
    found = [stream]
    for inner, module in cast("Iterable[tuple[str, nn.Module]]", half.named_modules()):
        where = f"{name}.{inner}"
        if isinstance(module, ResnetBlock):
            found.append(Stage(f"{where}.conv1", [(f"{where}.conv1", None)], norms=[f"{where}.norm2"]))
            stream.norms.append(f"{where}.norm1")
            if module.conv_shortcut is not None:
                stream = Stage(f"{where}.conv_shortcut", [(f"{where}.conv_shortcut", stream)])
                found.append(stream)
            stream.writers.append((f"{where}.conv2", None))
            stream.sums.append(where)
        elif isinstance(module, Attention):
            values = Stage(f"{where}.to_v", [(f"{where}.to_v", None)])
            found.append(values)
            stream.norms.append(f"{where}.group_norm")
            stream.writers.append((f"{where}.to_out.0", values))
            stream.sums.append(where)
        elif isinstance(module, Downsample | Upsample):
            stream = Stage(f"{where}.conv", [(f"{where}.conv", stream)])
            found.append(stream)
    stream.norms.append(f"{name}.conv_norm_out")
    return found
