"""Findings: from measurements to a line of text and a verdict each."""

import math
from dataclasses import dataclass

from vaelens.health.activations import HALF_LIMIT, block_of, worst_by_block
from vaelens.health.measurements import LEVELS, Band, Measurements
from vaelens.health.spectra import pattern_rms
from vaelens.health.thresholds import THRESHOLDS, Verdict
from vaelens.text.numbers import counted

NOTHING = "nothing to measure"
NO_POSTERIOR = "not measured: this autoencoder has no posterior"
NAMED = 2  # dead channels named in one line; all are in the table
COARSE = 16.0  # pixels: shapes of two latent cells of an f8 VAE and more


@dataclass(frozen=True)
class Finding:
    """One line of the examination: what was checked, the result in words, and the verdict.

    `value` is in the threshold's unit. Where there is nothing to measure or no threshold, value and verdict are
    None and `result` says why.
    """

    check: str
    result: str
    value: float | None = None
    verdict: Verdict | None = None


def find(measured: Measurements) -> tuple[Finding, ...]:
    """One finding per check, always the same checks in the same order."""
    count = len(measured.failures)
    where = f"not in {counted(count, 'pass', 'passes')}, first {measured.failures[0]}" if count else "everywhere"
    return (
        _finding("finite values", count, where),
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


def _finding(check: str, value: float, result: str) -> Finding:
    """With the verdict of the threshold of that name."""
    return Finding(check, result, value, THRESHOLDS[check].verdict(value))


def _of_latents(measured: Measurements) -> tuple[Finding, ...]:
    latents = measured.latents
    if latents is None:
        checks = ("KL", "posterior noise", "latent scale", "latent centre", "dead channels")
        return tuple(Finding(check, NOTHING) for check in checks)
    if latents.kl_per_element is None or latents.kl_per_image is None or latents.noise_share is None:
        kl, noise = (Finding(check, NO_POSTERIOR) for check in ("KL", "posterior noise"))
    else:
        result = f"{latents.kl_per_element:.2f} nats per element, {latents.kl_per_image:,.0f} per image"
        kl = _finding("KL", latents.kl_per_element, result)
        result = f"sigma {latents.sigma:.3g}, {_percent(latents.noise_share)} of the latents' variance"
        noise = _finding("posterior noise", latents.noise_share, result)
    result = f"implied {latents.implied_scale:.4g}, stated {measured.scaling_factor:g}"
    if measured.registered_scale not in {None, measured.scaling_factor}:
        result += f", its space's {measured.registered_scale:g}"
    stated = [measured.scaling_factor, measured.registered_scale or measured.scaling_factor]
    scale = _finding("latent scale", max(_times_off(latents.implied_scale / one) for one in stated), result)
    off = abs(latents.mean - measured.shift_factor) / latents.std if latents.std > 0 else math.nan
    centre = _finding("latent centre", off, f"mean {latents.mean:.3g}, shift_factor {measured.shift_factor:g}")
    dead = ", ".join(f"{channel.number} {channel.dead}" for channel in latents.dead[:NAMED])
    count = len(latents.dead)
    result = (
        f"none of {len(latents.channels)}"
        if not count
        else f"{count} of {len(latents.channels)}: {dead}" + ", ..." * (count > NAMED)
    )
    return kl, noise, scale, centre, _finding("dead channels", count, result)


def _of_colour(measured: Measurements) -> Finding:
    if measured.colour_bias is None:
        return Finding("colour bias", NOTHING)
    result = (
        ", ".join(f"{name} {bias:+.2f}" for name, bias in zip("RGB", measured.colour_bias, strict=True)) + " levels"
    )
    return _finding("colour bias", max(abs(bias) for bias in measured.colour_bias), result)


def _of_bands(bands: tuple[Band, ...]) -> tuple[Finding, ...]:
    there = [band for band in bands if band.ratio is not None]
    coarse = [band for band in there if band.shortest >= COARSE]
    fine = [band for band in there if band.shortest < COARSE]
    return (
        _of_band("coarse structure", max(coarse, key=lambda band: _times_off(_ratio(band)), default=None)),
        _of_band("detail retained", min(fine, key=_ratio, default=None)),
        _of_band("detail invented", max(fine, key=_ratio, default=None)),
    )


def _of_band(check: str, band: Band | None) -> Finding:
    if band is None:
        return Finding(check, NOTHING)
    ratio = _ratio(band)
    span = f"at {band.longest:.3g} to {band.shortest:.3g} px" if band.longest else f"above {band.shortest:.3g} px"
    return _finding(
        check,
        _times_off(ratio) if check == "coarse structure" else ratio,
        f"{ratio:.2f} times the original's power {span}",
    )


def _ratio(band: Band) -> float:
    return math.nan if band.ratio is None else band.ratio


def _of_grid(check: str, grids: list[dict[int, float]]) -> Finding:
    """From the worst of several patterns."""
    grids = [grid for grid in grids if grid]
    if not grids:
        return Finding(check, NOTHING)
    worst = max(grids, key=pattern_rms)
    period = max(worst, key=lambda p: worst[p])
    rms = pattern_rms(worst)
    return _finding(check, rms, f"{rms:.2f} levels, most of it every {period} px")


def _of_plain(measured: Measurements) -> Finding:
    if not measured.plain:
        return Finding("plain colours", NOTHING)
    worst = max(measured.plain, key=lambda plain: max(map(abs, plain.shift)))
    off = max(map(abs, worst.shift))
    colour = " ".join(f"{level * LEVELS:.0f}" for level in worst.colour)
    return _finding("plain colours", off, f"up to {off:.1f} levels off, at RGB {colour}")


def _of_drift(measured: Measurements) -> Finding:
    if len(measured.drift) < 2:
        return Finding("round trips", NOTHING if not measured.drift else "one trip only, so no drift")
    first, last = measured.drift[0], measured.drift[-1]
    lost = 0.0 if math.isinf(last.to_original) else first.to_original - last.to_original
    result = f"{first.to_original:.1f} dB after 1, {last.to_original:.1f} dB after {last.number}"
    return _finding("round trips", lost, result)


def _of_activations(activations: dict[str, float]) -> Finding:
    if not activations:
        return Finding("float16 range", NOTHING)
    layer, top = worst_by_block(activations)[0]
    return _finding("float16 range", top / HALF_LIMIT, f"largest activation {_number(top)}, {block_of(layer)}")


def _of_timings(measured: Measurements) -> Finding:
    """Without a verdict: times depend on the machine as much as on the VAE."""
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
