"""`rescue`: measure a VAE's maps, scale those that float16 can't hold (`fp16_rescue`), and prove what that changed."""

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, cast

import torch
from torch import Tensor

from vaelens.conversion.fp16_rescue import Scale, choose_scales, kl_config, scaled, with_exponents
from vaelens.conversion.half_arithmetic import WeightRounding, as_in_half, weight_rounding
from vaelens.conversion.verification import Differences, verify
from vaelens.errors import CheckFailedError, UsageError
from vaelens.health.activations import recorded
from vaelens.networks.scaled_stages import stages
from vaelens.runtime import Progress, silent
from vaelens.vae import VAE

SAME = 1e-6  # the most by which the scaled VAE's values may differ in float32
STEPS = (
    "measuring",
    "measuring the scaled VAE",
    "comparing in float32",
    "comparing with the epsilon that other programs use",
    "comparing in float16",
)


@dataclass(frozen=True)
class Rescue:
    """A VAE whose maps fit into float16, in float32, and how it differs from the source in float32.

    `largest` is the source's largest activation and the layer that gives it; `largest_after` the scaled VAE's.
    `exact` compares float32 with float32 by the norms' scaled epsilon; `stock_epsilon` by the epsilon that other
    programs fix. `half_before` and `half` are the source and the scaled VAE in float16 with the scaled epsilon,
    `half_stock_epsilon` with the fixed one; None where they give NaN or infinity. `rounding_before` and `rounding` are
    what float16 does to the weights.
    """

    vae: VAE
    scales: tuple[Scale, ...]
    largest: tuple[str, float]
    largest_after: tuple[str, float]
    exact: Differences
    stock_epsilon: Differences
    half_before: Differences | None
    half: Differences
    half_stock_epsilon: Differences | None
    rounding_before: WeightRounding
    rounding: WeightRounding

    @property
    def scaled(self) -> tuple[Scale, ...]:
        """The stages that were scaled; none where float16 holds all maps as they are."""
        return tuple(scale for scale in self.scales if scale.exponent)

    def as_dict(self) -> dict[str, Any]:
        """For JSON, without the VAE."""
        return {f.name: _plain(getattr(self, f.name)) for f in dataclasses.fields(self) if f.name != "vae"}


def rescue(vae: VAE, images: Sequence[Tensor], progress: Progress = silent) -> Rescue:
    """Scale what float16 can't hold of a full VAE in float32, as measured on images [1,3,h,w] in [0,1].

    The exponents leave a factor of `fp16_rescue.HEADROOM` between the largest value measured and float16's limit.
    `progress` gets (done, total, what). Raises UsageError for a VAE of another family, in another precision or without
    images; CheckFailedError where the VAE isn't finite in float32, where the scaled one differs from it in float32 by
    more than 1e-6, and where it isn't finite in float16.
    """
    kl_config(vae)
    if vae.weight_dtype != torch.float32 or vae.dtype != torch.float32:
        raise UsageError(f"{vae.name} is measured in float32; load it with dtype float32.")
    if not images:
        raise UsageError("no image to measure the VAE with. Name at least one.")
    steps = iter(range(len(STEPS)))

    def step() -> None:
        done = next(steps)
        progress(done, len(STEPS), STEPS[done])

    step()
    before = _largest_outputs(vae, images)
    found = stages(vae.network)
    scales = choose_scales(found, before)
    other = scaled(vae, found, scales)
    step()
    after = _largest_outputs(other, images)
    step()
    exact = verify(vae, other, images)
    if max(exact.latents_largest, exact.pixels_largest) > SAME:
        raise CheckFailedError(
            f"{vae.name}: its scaled copy differs in float32 by {exact.latents_largest:.2g} in latents and "
            f"{exact.pixels_largest:.2g} in pixels, more than {SAME:g}; nothing was written. This is a bug in vaelens."
        )
    step()
    stock = with_exponents(other, other.tensors(), ())
    stock_epsilon = verify(vae, stock, images)
    step()
    half_before = _in_half(vae, vae, images)
    half = _in_half(vae, other, images)
    half_stock_epsilon = _in_half(vae, stock, images)
    top = largest_of(after)
    if half is None:
        raise CheckFailedError(
            f"{vae.name} can't be made safe for float16: scaled, it still gives NaN or infinite values there. Its "
            f"largest value in float32 is now {top[1]:.3g}, of {top[0]}. Use --dtype bfloat16 or float32."
        )
    return Rescue(
        vae=other,
        scales=tuple(scales),
        largest=largest_of(before),
        largest_after=top,
        exact=exact,
        stock_epsilon=stock_epsilon,
        half_before=half_before,
        half=half,
        half_stock_epsilon=half_stock_epsilon,
        rounding_before=weight_rounding(vae),
        rounding=weight_rounding(other),
    )


def _plain(value: Any) -> Any:
    if isinstance(value, tuple):
        return [_plain(one) for one in cast("tuple[Any, ...]", value)]
    return dataclasses.asdict(value) if dataclasses.is_dataclass(value) and not isinstance(value, type) else value


def _largest_outputs(vae: VAE, images: Sequence[Tensor]) -> dict[str, float]:
    """The largest absolute output of each layer and block while images are encoded and decoded."""
    with recorded(vae.network, vae.spec.family.residual_blocks) as maxima:
        for image in images:
            vae.reconstruct(image)
    return maxima.largest()


def _in_half(vae: VAE, other: VAE, images: Sequence[Tensor]) -> Differences | None:
    """A VAE in float32 against another in float16; None where that one isn't finite."""
    try:
        return verify(vae, as_in_half(other), images)
    except CheckFailedError:
        return None


def largest_of(largest: Mapping[str, float]) -> tuple[str, float]:
    """The layer with the largest absolute output, and that output."""
    return max(largest.items(), key=lambda found: found[1])
