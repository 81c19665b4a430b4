"""docs/proof.md from its record: the numbers, verdicts and tables that proof-template.md leaves open."""

import math
import statistics
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

from trio import SHIPPED, TRAININGS

from vaelens.evaluation.metric_table import METRICS, POSITIVE, Metric
from vaelens.evaluation.report import score_tables
from vaelens.metrics.statistics import Interval, too_high_percent
from vaelens.report.tables import Column, Table, interval, number, table_markdown

TEMPLATE = Path(__file__).parent / "proof-template.md"
BASE, AUTOENCODER = "tiny-kl-f8", "tiny-ae"
BOTH = (AUTOENCODER, BASE)
ARMS = ("control", "tiny-ft-ema", "tiny-ft-mse", "control-twice")
PAIRS = {  # by their place in the template
    "more_steps": ("control", BASE),
    "discriminator": ("tiny-ft-ema", "control"),
    "both_stages": ("tiny-ft-mse", "control-twice"),
    "order": ("tiny-ft-mse", "tiny-ft-ema"),
}
PAGE_METRICS: dict[str, Metric] = {
    "fd_small": METRICS["fd_small"],
    "letters": Metric(
        key="letters", title="letters read", unit="%", better="higher", digits=1, bounds=(0, 100), about="mean of pages"
    ),
    "eyes": Metric(
        key="eyes",
        title="eyes' PSNR",
        unit="dB",
        better="higher",
        digits=2,
        bounds=POSITIVE,
        about="inside their boxes",
    ),
    **{key: METRICS[key] for key in ("psnr", "ssim", "psim_small")},
}
IN_SHORT = ("fd_small", "letters", "psnr")
FEATURES = 64  # of fd-small
NETWORKS = ("this VAE", "this autoencoder")  # one training of each: a verdict is about these two
DIFFERENCE = "VAE - autoencoder, 95 % interval"
UNSEEN_LATENTS = {
    "reconstructed": "images, reconstructed",
    "blended": "two images blended as pixels, reconstructed",
    "middle": "halfway between two images' latents",
    "middle_beyond_blended": "halfway, minus the blended ones",
    "random": "random latents",
}
Record = dict[str, Any]


def page(record: Record) -> str:
    """The template's text with this record's numbers and tables."""
    arms, vae = record["arms"], record["distribution"]
    threads = record["made"]["trained"][1]
    values = {
        "all_seeds": ", ".join(map(str, arms["seeds"])),
        "by_chance": f"one of {2 ** (len(arms['seeds']) - 1)}",
        "too_high": too_high_percent(arms["images"], FEATURES),
        "count": len(arms["differences"]),
        "threads": f"{threads} thread{'s' * (threads > 1)}",
        "posterior": 100 * vae["latents"][BASE]["posterior"]["rms"],
        "autoencoder": in_short(vae["reconstruction"], *NETWORKS),
    }
    tables = (arms_table, photos_table, gains, by_fd), (reconstruction, latents, noise, noise_costs, unseen, halfway)
    for part, functions in zip((arms, vae), tables, strict=True):
        values |= {function.__name__: function(part) for function in functions}
    for name, (first, second) in PAIRS.items():
        of = {one["metric"]: one for one in arms["differences"] if (one["first"], one["second"]) == (first, second)}
        values[name], values[f"{name}_table"] = in_short(of, first, second), pair_table(of, first, second)
    return TEMPLATE.read_text("utf-8").format(**record, **values)


def verdict(key: str, found: Record, first: str, second: str) -> str:
    """Which of the two is better, where the interval excludes 0 and all seeds, if there are several, agree."""
    if len({one > 0 for one in found.get("by_seed", ())}) > 1:
        return score_tables.UNDECIDED
    return score_tables.verdict(difference_of(found), first, second, PAGE_METRICS[key])


def difference_of(found: Record) -> Interval:
    """With NaN for null, which the record has where there is no number."""
    return Interval(*(math.nan if one is None else one for one in found["difference"]))


def change(key: str, found: Record) -> str:
    """A difference with its interval: +0.120 [+0.100, +0.140]."""
    of, digits = difference_of(found), PAGE_METRICS[key].digits + 1
    return f"{number(of.value, digits, signed=True)} {interval(of.low, of.high, digits, signed=True)}"


def in_short(found: Record, first: str, second: str) -> str:
    """The differences in the main metrics, by metric in `found`."""
    parts = [(key, found[key]) for key in IN_SHORT]
    return "; ".join(f"{PAGE_METRICS[k].label} {change(k, of)}, {verdict(k, of, first, second)}" for k, of in parts)


def table(columns: Iterable[str | Column], rows: Iterable[Sequence[str]]) -> str:
    """In Markdown; the best value of a column that has one is bold."""
    named = tuple(column if isinstance(column, Column) else Column(column) for column in columns)
    return table_markdown(Table(named, tuple(map(tuple, rows)), shared=0))


def difference_table(
    heads: Sequence[str], cells: Callable[[str, Metric], Sequence[str]], found: Record, first: str, second: str
) -> str:
    """One row per metric: its `cells` under `heads`, and which of the two is better."""
    rows = [
        (metric.label, *cells(key, metric), verdict(key, found[key], first, second))
        for key, metric in PAGE_METRICS.items()
    ]
    return table(("metric", *heads, "verdict"), rows)


def pair_table(found: Record, first: str, second: str) -> str:
    def cells(key: str, metric: Metric) -> tuple[str, str]:
        by_seed = (number(value, metric.digits + 1, signed=True) for value in found[key]["by_seed"])
        return change(key, found[key]), ", ".join(by_seed)

    return difference_table(("difference, 95 % interval", "by seed"), cells, found, first, second)


def arms_table(arms: Record) -> str:
    columns = ("decoder", "continues", "by", *(Column(metric.label, metric.better) for metric in PAGE_METRICS.values()))
    rows = [
        (
            arm,
            TRAININGS[arm].parent or "",
            "the same loss" if TRAININGS[arm].overrides else TRAININGS[arm].recipe,
            *(number(statistics.fmean(arms["arms"][arm][key]), of.digits) for key, of in PAGE_METRICS.items()),
        )
        for arm in (BASE, *ARMS)
    ]
    return table(columns, rows)


def by_fd(arms: Record) -> str:
    """All decoders, the one nearest to the images first."""
    means = {arm: statistics.fmean(of["fd_small"]) for arm, of in arms["arms"].items()}
    return ", ".join(f"`{arm}` {number(means[arm], 3)}" for arm in sorted(means, key=lambda arm: means[arm]))


def photos_table(arms: Record) -> str:
    names = ("bicubic", BASE, *ARMS)
    rows = [(photo, *(ranged(of[name]) for name in names)) for photo, of in arms["photos"].items()]
    return table(("photo", *names), rows)


def ranged(value: float | Sequence[float]) -> str:
    """One number, or the mean of several with the lowest and highest."""
    each = [value] if isinstance(value, float) else list(value)
    text = number(statistics.fmean(each), 2)
    return text if len(each) == 1 else f"{text} ({number(min(each), 2)} to {number(max(each), 2)})"


def gains(arms: Record) -> str:
    """By how much the best of the shipped trio (seed 0) beats bicubic on each photo."""
    shipped = arms["seeds"].index(0)
    parts: list[str] = []
    for photo, of in arms["photos"].items():
        best = max((of[arm][0 if arm == BASE else shipped], arm) for arm in SHIPPED)
        parts.append(f"{photo} {number(best[0] - of['bicubic'], 2, signed=True)} dB (`{best[1]}`)")
    return ", ".join(parts)


def reconstruction(vae: Record) -> str:
    def cells(key: str, metric: Metric) -> tuple[str, ...]:
        return *(number(found[key][name], metric.digits) for name in BOTH), change(key, found[key])

    found = vae["reconstruction"]
    return difference_table((*BOTH, DIFFERENCE), cells, found, *NETWORKS)


def latents(vae: Record) -> str:
    of, posterior = vae["latents"], vae["latents"][BASE]["posterior"]
    rows = [
        (title, *(", ".join(number(value, 2) for value in of[name][key]) for name in BOTH))
        for key, title in (("mean", "mean of each channel"), ("std", "standard deviation of each channel"))
    ]
    title = "largest absolute deviation from the mean, in standard deviations"
    rows.append((title, *(number(of[name]["largest"], 1) for name in BOTH)))
    rms, *quantiles = (number(100 * value, 1) for value in (posterior["rms"], *posterior["quantiles"]))
    title = "standard deviation of the posterior, % of the channel's: rms (10, 50, 90 % quantile)"
    rows.append((title, "none", f"{rms} ({', '.join(quantiles)})"))
    return table(("latents", *BOTH), rows)


def noise(vae: Record) -> str:
    columns = ["noise"]
    rows = [[str(line["noise"])] for line in vae["noise"]]
    for key in ("psnr", "psim_small"):
        metric = PAGE_METRICS[key]
        columns += [f"{metric.label}: {name}" for name in (*BOTH, DIFFERENCE)]
        for row, line in zip(rows, vae["noise"], strict=True):
            row += [number(line[key]["change"][name], metric.digits, signed=True) for name in BOTH]
            row.append(f"{change(key, line[key])}, {verdict(key, line[key], *NETWORKS)}")
    return table(columns, rows)


def noise_costs(vae: Record) -> str:
    """What noise costs the VAE and the autoencoder in PSNR, at two levels."""
    lines = [(line["noise"], line["psnr"]) for line in vae["noise"] if line["noise"] in {0.05, 0.2}]
    return "; ".join(
        f"at {level}: {number(-of['change'][BASE], 2)} against {number(-of['change'][AUTOENCODER], 2)} dB, "
        f"{verdict('psnr', of, *NETWORKS)}"
        for level, of in lines
    )


def unseen(vae: Record) -> str:
    rows = [
        (title, *(number(of[name], 2) for name in BOTH), change("fd_small", of))
        for how, title in UNSEEN_LATENTS.items()
        for of in (vae["unseen_latents"][how],)
    ]
    return table(("decoded from", *BOTH, DIFFERENCE), rows)


def halfway(vae: Record) -> str:
    """Halfway between two latents, beyond the two blended as pixels."""
    of = vae["unseen_latents"]["middle_beyond_blended"]
    own = [number(of[name], 2, signed=True) for name in (BASE, AUTOENCODER)]
    return f"fd-small {own[0]} (VAE) and {own[1]} (autoencoder), {verdict('fd_small', of, *NETWORKS)}"
