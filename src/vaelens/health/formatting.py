"""An examination as tables to print: the findings first, then the measurements behind them."""

import math
import textwrap
from collections.abc import Iterator

from vaelens.health.activations import HALF_LIMIT, worst_by_block
from vaelens.health.examination import Health
from vaelens.health.measurements import LEVELS
from vaelens.health.spectra import pattern_rms
from vaelens.health.thresholds import THRESHOLDS
from vaelens.report.tables import Column, Table
from vaelens.text.numbers import counted

WORST = 5
WIDTH = 78
MIB = 2**20


def header(health: Health) -> list[str]:
    """What was examined, on what, and at what cost."""
    record = health.record
    (vae,) = record["vaes"]
    space = f"latent space {vae['latent_space']}" if vae["latent_space"] else "a latent space of its own"
    memory = record["peak_memory_bytes"]
    peak = f", at most {memory / MIB:,.0f} MiB of main memory" if memory else ""
    return [
        f"{vae['name']}: {space}, weights {vae['weights']}",
        f"{vae['dtype']} on {vae['device']}, {counted(record['threads'], 'thread')}; {record['seconds']:.1f} s{peak}",
        health.measured.images,
    ]


def summary(health: Health) -> Table:
    """One row per finding."""
    rows = tuple((f.check, f.result, f.verdict or "-") for f in health.findings)
    return _table(("check", "result", "verdict"), rows)


def reasons(health: Health) -> list[list[str]]:
    """For each finding that isn't fine, in lines: the threshold and its reason."""
    found: list[list[str]] = []
    for finding in health.findings:
        if finding.verdict in {None, "fine"}:
            continue
        threshold = THRESHOLDS[finding.check]
        limit = threshold.bad if finding.verdict == "bad" else threshold.notable
        value = math.nan if finding.value is None else finding.value
        why = f"{finding.check}: {value:.3g} {threshold.unit}; {finding.verdict} from {limit:g}. {threshold.reason}"
        found.append(textwrap.wrap(why, WIDTH, subsequent_indent="  "))
    return found


def details(health: Health) -> Iterator[tuple[str, Table]]:
    """Title and table of each measurement that was made."""
    measured = health.measured
    if measured.latents is not None:
        has = measured.latents.sigma is not None
        names = ("channel", "mean", "std", "of the means", *(("sigma", "noise", "KL") if has else ()), "dead")
        rows = tuple(
            (
                str(c.number),
                f"{c.mean:.3g}",
                f"{c.std:.3g}",
                f"{c.signal_std:.3g}",
                *((f"{c.sigma:.3g}", f"{c.noise_share:.2g}", f"{c.kl:.2f}") if has else ()),
                c.dead or "no",
            )
            for c in measured.latents.channels
        )
        explained = " (raw z; noise: share of the variance; KL: nats per element)" if has else ""
        yield f"Latent channels{explained}", _table(names, rows)
    if measured.bands:
        names = ("wavelength in px", "power retained")
        rows = tuple(
            (
                f"{b.longest:.3g} to {b.shortest:.3g}" if b.longest else f"above {b.shortest:.3g}",
                "-" if b.ratio is None else f"{b.ratio:.3f}",
            )
            for b in measured.bands
        )
        yield "Spectrum: the reconstructions' power over the originals'", _table(names, rows)
    if measured.plain:
        names = ("R G B", "off in R", "G", "B", "uneven", "grid", *(f"{p} px" for p in measured.plain[0].grid))
        rows = tuple(
            (
                " ".join(f"{level * LEVELS:.0f}" for level in p.colour),
                *(f"{shift:+.2f}" for shift in p.shift),
                f"{p.unevenness:.2f}",
                f"{pattern_rms(p.grid):.3f}" if p.grid else "-",
                *(f"{part:.3f}" for part in p.grid.values()),
            )
            for p in measured.plain
        )
        yield "Plain colours (8-bit levels; grid: what repeats every so many pixels)", _table(names, rows)
    if measured.drift:
        names = ("round trips", "PSNR to the original", "to the one before")
        rows = tuple((str(t.number), f"{t.to_original:.2f}", f"{t.to_previous:.2f}") for t in measured.drift)
        yield "Drift (dB, the mean over the images that no trip gives back equal)", _table(names, rows)
    worst = worst_by_block(measured.activations)[:WORST]
    if worst:
        rows = tuple((layer, f"{top:.4g}", f"{HALF_LIMIT / top:.3g}" if top else "inf") for layer, top in worst)
        names = ("layer", "largest", "headroom")
        title = (
            f"Largest activations: the worst layer of {counted(len(worst), 'block')}; float16 ends at {HALF_LIMIT:.0f}"
        )
        yield title, _table(names, rows)
    if measured.timings:
        names = ("side", "encode s", "decode s", *(("device MiB",) if measured.timings[0].device_memory_bytes else ()))
        rows = tuple(
            (
                str(t.side),
                f"{t.encode:.3g}",
                f"{t.decode:.3g}",
                *((f"{t.device_memory_bytes / MIB:.0f}",) if t.device_memory_bytes else ()),
            )
            for t in measured.timings
        )
        yield "Time for one image, the median", _table(names, rows)


def _table(names: tuple[str, ...], rows: tuple[tuple[str, ...], ...]) -> Table:
    return Table(tuple(map(Column, names)), rows)
