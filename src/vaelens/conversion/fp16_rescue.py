"""Choosing powers of two that bring a full VAE's maps under float16's limit, and scaling it by them.

What is scaled together, and how: `networks/scaled_stages.py`. Other programs have a fixed epsilon of 1e-6: what that
changes depends on the variances of the maps, so `conversion.fp16_checks` measures it.
"""

import dataclasses
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from torch import Tensor

from vaelens.errors import CheckFailedError, UsageError
from vaelens.health.activations import HALF_LIMIT
from vaelens.networks.autoencoder_kl import MAX_EXPONENT, AutoencoderKLConfig
from vaelens.networks.scaled_stages import Stage, norm_exponents, scaled_tensors, tensor_exponents
from vaelens.vae import VAE

# Other images, and latents that a diffusion model made, may give larger values than those that were measured.
HEADROOM = 8.0


@dataclass(frozen=True)
class Scale:
    """A stage by the layer that writes it first; its largest absolute value, and the exponent: it is scaled by 2^-k."""

    name: str
    largest: float
    exponent: int


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
    tensors = scaled_tensors(vae.tensors(), tensor_exponents(found, exponents))
    norms = dict(config.norm_exponents)
    for norm, k in norm_exponents(found, exponents).items():
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
