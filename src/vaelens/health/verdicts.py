"""From measurements to verdicts: every threshold is data, with its reason, and stands here only."""

import math
from dataclasses import dataclass
from typing import Literal

from vaelens.health.activations import HALF_LIMIT, block_of, worst_by_block
from vaelens.health.measurements import LEVELS, Band, Measured
from vaelens.health.signals import pattern_rms

NOTHING = "nothing to measure"
NO_POSTERIOR = "left out: a tiny autoencoder has no posterior"
FEW = 2  # dead channels named in one line; all are in the table
COARSE = 16.0  # pixels: shapes of two latent cells of an f8 VAE and more

Verdict = Literal["fine", "worth a look", "bad"]


@dataclass(frozen=True)
class Threshold:
    """From `bad` on it is bad, from `look` on worth a look; `reason` says why there.

    Where `look` lies above `bad`, small values are the bad ones. What isn't a number is bad.
    """

    look: float
    bad: float
    unit: str
    reason: str

    def judge(self, value: float) -> Verdict:
        """The verdict on one value in the threshold's unit."""
        sign = 1 if self.bad >= self.look else -1
        if math.isnan(value) or sign * value >= sign * self.bad:
            return "bad"
        return "worth a look" if sign * value >= sign * self.look else "fine"


THRESHOLDS = {
    "finite values": Threshold(
        1, 1, "passes with NaN or infinity", "One NaN spreads to the whole image, which comes out black."
    ),
    "KL": Threshold(0.5, 0.1, "nats an element", "With so little the latents hardly depend on the image any more."),
    "posterior noise": Threshold(
        0.1,
        0.5,
        "of the latents' variance",
        "A sampled latent differs by this much from the next one of the same image; the published VAEs have next "
        "to none.",
    ),
    "latent scale": Threshold(
        1.4,
        2.5,
        "times too large or too small",
        "A diffusion model expects latents of unit spread; another scaling_factor's VAE gives grey or glaring "
        "images. Synthetic images alone shift it by up to a third.",
    ),
    "latent centre": Threshold(
        0.75, 2, "standard deviations off 0", "A diffusion model expects latents around 0; the shift_factor is wrong."
    ),
    "dead channels": Threshold(
        1, 1, "channels", "A channel that is the same for every image is capacity lost, and a sign of a broken file."
    ),
    "colour bias": Threshold(
        1,
        5,
        "levels of 255",
        "One level is lost in rounding; the published kl-f8 darkens by two; five over a whole image are seen.",
    ),
    "coarse structure": Threshold(
        1.1,
        1.5,
        "times too much or too little power at 16 pixels and more",
        "Shapes this large pass through every sound VAE unchanged.",
    ),
    "detail kept": Threshold(
        0.5,
        0.1,
        "of the power in the band that keeps least",
        "Half the power gone looks soft, nearly all blurred.",
    ),
    "detail invented": Threshold(
        1.25,
        2,
        "times the power in the band that has most",
        "Texture that wasn't there: the decoder sharpens or rings.",
    ),
    "grid in images": Threshold(
        0.5,
        2,
        "levels of 255",
        "A pattern locked to the latent grid; half a level is lost in rounding, two are seen in skies.",
    ),
    "grid on plain": Threshold(
        0.5, 2, "levels of 255", "Nothing but the decoder can have drawn it; two levels are seen in skies."
    ),
    "plain colours": Threshold(
        3,
        10,
        "levels of 255 off in the worst colour",
        "Plain areas that change colour show where a retouched part ends.",
    ),
    "round trips": Threshold(
        3, 8, "dB lost after the last", "What is edited again and again fades; the loss after the first trip is drift."
    ),
    "float16 range": Threshold(
        0.25,
        1,
        "of 65504, the largest number in float16",
        "Beyond it float16 gives black images; other images may reach four times what these do. float32 and "
        "bfloat16 are safe.",
    ),
}


@dataclass(frozen=True)
class Finding:
    """One line of the examination: what was looked at, what was found in words, and what to think of it.

    `value` is in the threshold's unit. Where nothing could be measured or judged, value and verdict are
    None and `says` tells why.
    """

    about: str
    says: str
    value: float | None = None
    verdict: Verdict | None = None


def findings(measured: Measured) -> tuple[Finding, ...]:
    """One finding a subject, always the same subjects in the same order."""
    count = len(measured.failures)
    where = f"not in {count} passes, first {measured.failures[0]}" if count else "everywhere"
    return (
        _judged("finite values", count, where),
        *_of_latents(measured),
        _of_colour(measured),
        *_of_bands(measured.bands),
        _of_grid("grid in images", [measured.image_grid]),
        _of_grid("grid on plain", [plain.grid for plain in measured.plain]),
        _of_plain(measured),
        _of_drift(measured),
        _of_activations(measured.activations),
        _of_timings(measured),
    )


def _judged(about: str, value: float, says: str) -> Finding:
    """With the verdict of the threshold of that name."""
    return Finding(about, says, value, THRESHOLDS[about].judge(value))


def _of_latents(measured: Measured) -> tuple[Finding, ...]:
    latents = measured.latents
    if latents is None:
        subjects = ("KL", "posterior noise", "latent scale", "latent centre", "dead channels")
        return tuple(Finding(about, NOTHING) for about in subjects)
    if latents.kl_per_element is None or latents.kl_per_image is None or latents.noise_share is None:
        kl, noise = (Finding(about, NO_POSTERIOR) for about in ("KL", "posterior noise"))
    else:
        says = f"{latents.kl_per_element:.2f} nats an element, {latents.kl_per_image:,.0f} an image"
        kl = _judged("KL", latents.kl_per_element, says)
        says = f"sigma {latents.sigma:.3g}, {_percent(latents.noise_share)} of the latents' variance"
        noise = _judged("posterior noise", latents.noise_share, says)
    says = f"implied {latents.implied_scale:.4g}, stated {measured.scaling_factor:g}"
    if measured.registered_scale not in {None, measured.scaling_factor}:
        says += f", its space's {measured.registered_scale:g}"
    stated = [measured.scaling_factor, measured.registered_scale or measured.scaling_factor]
    scale = _judged("latent scale", max(_times_off(latents.implied_scale / one) for one in stated), says)
    off = abs(latents.mean - measured.shift_factor) / latents.std if latents.std > 0 else math.nan
    centre = _judged("latent centre", off, f"mean {latents.mean:.3g}, shift_factor {measured.shift_factor:g}")
    dead = ", ".join(f"{channel.number} {channel.dead}" for channel in latents.dead[:FEW])
    count = len(latents.dead)
    says = (
        f"none of {len(latents.channels)}"
        if not count
        else f"{count} of {len(latents.channels)}: {dead}" + ", ..." * (count > FEW)
    )
    return kl, noise, scale, centre, _judged("dead channels", count, says)


def _of_colour(measured: Measured) -> Finding:
    if measured.colour_bias is None:
        return Finding("colour bias", NOTHING)
    says = ", ".join(f"{name} {bias:+.2f}" for name, bias in zip("RGB", measured.colour_bias, strict=True)) + " levels"
    return _judged("colour bias", max(abs(bias) for bias in measured.colour_bias), says)


def _of_bands(bands: tuple[Band, ...]) -> tuple[Finding, ...]:
    there = [band for band in bands if band.ratio is not None]
    coarse = [band for band in there if band.shortest >= COARSE]
    fine = [band for band in there if band.shortest < COARSE]
    return (
        _of_band("coarse structure", max(coarse, key=lambda band: _times_off(_ratio(band)), default=None)),
        _of_band("detail kept", min(fine, key=_ratio, default=None)),
        _of_band("detail invented", max(fine, key=_ratio, default=None)),
    )


def _of_band(about: str, band: Band | None) -> Finding:
    if band is None:
        return Finding(about, NOTHING)
    ratio = _ratio(band)
    span = f"at {band.longest:.3g} to {band.shortest:.3g} px" if band.longest else f"above {band.shortest:.3g} px"
    return _judged(
        about, _times_off(ratio) if about == "coarse structure" else ratio, f"the original's power x {ratio:.2f} {span}"
    )


def _ratio(band: Band) -> float:
    return math.nan if band.ratio is None else band.ratio


def _of_grid(about: str, grids: list[dict[int, float]]) -> Finding:
    """The worst of several patterns."""
    grids = [grid for grid in grids if grid]
    if not grids:
        return Finding(about, NOTHING)
    worst = max(grids, key=pattern_rms)
    period = max(worst, key=lambda p: worst[p])
    rms = pattern_rms(worst)
    return _judged(about, rms, f"{rms:.2f} levels, most of it every {period} px")


def _of_plain(measured: Measured) -> Finding:
    if not measured.plain:
        return Finding("plain colours", NOTHING)
    worst = max(measured.plain, key=lambda plain: max(map(abs, plain.shift)))
    off = max(map(abs, worst.shift))
    colour = " ".join(f"{level * LEVELS:.0f}" for level in worst.colour)
    return _judged("plain colours", off, f"up to {off:.1f} levels off, at RGB {colour}")


def _of_drift(measured: Measured) -> Finding:
    if len(measured.drift) < 2:
        return Finding("round trips", NOTHING if not measured.drift else "one trip only: no drift to judge")
    first, last = measured.drift[0], measured.drift[-1]
    lost = 0.0 if math.isinf(last.to_original) else first.to_original - last.to_original
    says = f"{first.to_original:.1f} dB after 1, {last.to_original:.1f} dB after {last.number}"
    return _judged("round trips", lost, says)


def _of_activations(activations: dict[str, float]) -> Finding:
    if not activations:
        return Finding("float16 range", NOTHING)
    layer, top = worst_by_block(activations)[0]
    return _judged("float16 range", top / HALF_LIMIT, f"largest activation {_number(top)}, {block_of(layer)}")


def _of_timings(measured: Measured) -> Finding:
    """Times have no verdict: they are the machine's as much as the VAE's."""
    if not measured.timings:
        return Finding("time", "not taken")
    first = measured.timings[0]
    return Finding("time", f"{first.side}x{first.side}: encode {first.encode:.3g} s, decode {first.decode:.3g} s")


def _times_off(ratio: float) -> float:
    """How far a ratio is from 1, as a factor of at least 1; infinite for 0."""
    return max(ratio, 1 / ratio) if ratio > 0 else math.inf


def _number(value: float) -> str:
    return f"{value:,.0f}" if value < 1e6 else f"{value:.2g}"


def _percent(share: float) -> str:
    return f"{share:.1%}" if share >= 1e-3 else f"{share * 100:.2g}%"
