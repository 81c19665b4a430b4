"""Write docs/proof.md: whether the recipes work, and what a VAE's posterior is good for.

    python embedded/proof.py record -o RUNS     docs/proof.json and images, from RUNS
    python embedded/proof.py page               docs/proof.md, from docs/proof.json

The page's numbers and verdicts all come from the record: `page` needs no training.
"""

import argparse
import json
import math
import statistics
from collections.abc import Sequence
from pathlib import Path
from string import Template
from typing import Any

from arms import ARMS, BASE
from distribution import AUTOENCODER, BOTH
from proof_record import write_record
from trio import TRAININGS

from comparison import BETTER, PAIRS
from vaelens.evaluation.report.score_tables import interval, number
from vaelens.files import write_atomic
from vaelens.metrics.statistics import too_high_percent
from vaelens.report.tables import Column, Table, table_markdown

DOCS = Path(__file__).parent.parent / "docs"
RECORD, PAGE = DOCS / "proof.json", DOCS / "proof.md"
TEMPLATE = Path(__file__).parent / "proof-template.md"
FEATURES = 64  # of fd-small
TITLES = {  # of a metric, with the digits of its value; a difference has one more
    "fd_small": ("fd-small", 3),
    "letters": ("letters read, %", 1),
    "eyes": ("eyes' PSNR, dB", 2),
    "psnr": ("PSNR, dB", 2),
    "ssim": ("SSIM", 4),
    "psim_small": ("psim-small", 4),
}
QUESTIONS = {
    PAIRS[0]: "More steps alone: `control` against `tiny-kl-f8`",
    PAIRS[1]: "ft-EMA's discriminator: `tiny-ft-ema` against `control`, as many steps",
    PAIRS[2]: "ft-EMA and then ft-MSE: `tiny-ft-mse` against `control-twice`, as many steps of tiny-kl-f8's loss",
    PAIRS[3]: "Which is which: `tiny-ft-mse` against `tiny-ft-ema`",
}
IN_SHORT = ("fd_small", "letters", "psnr")
UNDECIDED = "not told apart"
Record = dict[str, Any]


def page(record: Record) -> str:
    """The whole page: the text of proof-template.md, with this record's numbers and tables."""
    arms, vae = record["arms"], record["distribution"]
    questions = [f"### {title}\n\n{table_markdown(pair_table(arms, *pair))}" for pair, title in QUESTIONS.items()]
    dtype, threads = record["made"]["trained"]
    return Template(TEMPLATE.read_text("utf-8")).substitute(
        record["made"],
        dtype=dtype,
        threads=f"{threads} thread{'s' if threads > 1 else ''}",
        images=arms["images"],
        seeds=", ".join(map(str, arms["seeds"])),
        of_arm=f"{record['steps']['tiny-ft-ema']:,}",
        of_scratch=f"{record['steps']['tiny-scratch']:,}",
        of_base=f"{record['steps'][BASE]:,}",
        in_short="\n".join(f"- {line}" for line in (*arms_in_short(arms), *distribution_in_short(vae))),
        arms=table_markdown(arms_table(arms)),
        originals_read=number(arms["originals_read"], 1),
        by_chance=f"one of {2 ** (len(arms['seeds']) - 1)}",
        too_high=f"{too_high_percent(arms['images'], FEATURES):.0f}",
        count=len(arms["differences"]),
        questions="\n".join(questions),
        photos=table_markdown(photos_table(arms)),
        probed=vae["probed"],
        reconstruction=table_markdown(reconstruction_table(vae)),
        latents=table_markdown(latents_table(vae)),
        posterior=number(100 * vae["latents"][BASE]["posterior"]["rms"], 1),
        noise=table_markdown(noise_table(vae)),
        invented=table_markdown(invented_table(vae)),
    )


def verdict(difference: Record) -> str:
    """Which is better, where the interval excludes 0 and all seeds agree."""
    value = difference["value"]
    same = len({one > 0 for one in difference["by_seed"]}) == 1
    if not same or not excludes_zero(difference["low"], difference["high"]):
        return UNDECIDED
    first_is_better = (value > 0) == (BETTER[difference["metric"]] == "higher")
    return f"{difference['first'] if first_is_better else difference['second']} is better"


def excludes_zero(low: float | None, high: float | None) -> bool:
    """Whether an interval is there and has 0 outside; too few images have none, which a record writes as null."""
    return low is not None and high is not None and (low > 0 or high < 0)


def signed(values: Sequence[float], metric: str) -> str:
    """A difference with its interval: +0.120 [+0.100, +0.140]."""
    value, low, high = (math.nan if one is None else one for one in values)
    digits = TITLES[metric][1] + 1
    return f"{number(value, digits, signed=True)} {interval(low, high, digits, signed=True)}"


def arms_in_short(arms: Record) -> list[str]:
    """A sentence for each question, from the record."""
    found = {(d["first"], d["second"], d["metric"]): d for d in arms["differences"]}
    lines: list[str] = []
    for pair, title in QUESTIONS.items():
        told = [found[*pair, key] for key in IN_SHORT]
        said = [f"{TITLES[d['metric']][0]} {signed([d['value'], d['low'], d['high']], d['metric'])}, {verdict(d)}"
                for d in told]  # fmt: skip
        lines.append(f"{title}: {'; '.join(said)}.")
    means = {arm: statistics.fmean(of["fd_small"]) for arm, of in arms["arms"].items()}
    order = ", ".join(f"`{arm}` {number(means[arm], 3)}" for arm in sorted(means, key=lambda arm: means[arm]))
    told = frechet_verdict(found[*PAIRS[3], "fd_small"])
    lines.append(f"By fd-small, the best first, whether told apart or not: {order}. {told}")
    return [*lines, photos_verdict(arms)]


def frechet_verdict(difference: Record) -> str:
    """Whether the published order, ft-EMA before ft-MSE, shows."""
    told = verdict(difference)
    if told == UNDECIDED:
        return "Which of ft-EMA and ft-MSE is nearer to the images is not resolved at this scale."
    if told.startswith("tiny-ft-ema"):
        return "ft-EMA is nearer to the images than ft-MSE, as published."
    return "ft-MSE is nearer to the images than ft-EMA, unlike published."


def photos_verdict(arms: Record) -> str:
    """By how much the best of the shipped trio (seed 0) beats bicubic on each photo."""
    shipped = arms["seeds"].index(0)
    gains: list[str] = []
    for photo, of in arms["photos"].items():
        each = {arm: of[arm][0 if arm == BASE else shipped] for arm in (BASE, "tiny-ft-ema", "tiny-ft-mse")}
        best = max(each, key=lambda arm: each[arm])
        gains.append(f"{photo} {number(each[best] - of['bicubic'], 2, signed=True)} dB (`{best}`)")
    return f"The best of the shipped three, chosen for each photo, against bicubic: {', '.join(gains)}."


def distribution_in_short(vae: Record) -> list[str]:
    """What the VAE's posterior costs and what it gains, from the record."""
    told = [f"{TITLES[key][0]} {signed(vae['reconstruction'][key]['difference'], key)}, "
            f"{side(vae['reconstruction'][key]['difference'], key)}" for key in IN_SHORT]  # fmt: skip
    lines = [
        f"Autoencoder or VAE, one training each; `{BASE}` minus `{AUTOENCODER}`, reconstructing: {'; '.join(told)}."
    ]
    costs = [
        f"{line['noise']}: {number(-line['psnr']['change'][BASE], 2)} against "
        f"{number(-line['psnr']['change'][AUTOENCODER], 2)} dB, {side(line['psnr']['difference'], 'psnr')}"
        for line in vae["noise"]
        if line["noise"] in {0.05, 0.2}
    ]
    lines.append(f"What noise on the latents costs the VAE and the autoencoder: at {'; at '.join(costs)}.")
    halfway = vae["unseen_latents"]["middle_beyond_blended"]
    lines.append(
        "Halfway between two images' latents, beyond what the decoder makes of the two blended as pixels: fd-small "
        f"{number(halfway[BASE], 2, signed=True)} (VAE) and {number(halfway[AUTOENCODER], 2, signed=True)} "
        f"(autoencoder), {side(halfway['difference'], 'fd_small')}."
    )
    return lines


def side(difference: Sequence[float], metric: str) -> str:
    """Which of these two networks a difference VAE - autoencoder speaks for: there is one training of each."""
    value, low, high = difference
    if not excludes_zero(low, high):
        return UNDECIDED
    return "this VAE is better" if (value > 0) == (BETTER[metric] == "higher") else "this autoencoder is better"


def arms_table(arms: Record) -> Table:
    columns = (*map(Column, ("decoder", "continues", "by")), *(Column(TITLES[key][0], BETTER[key]) for key in TITLES))
    rows = [
        (arm, *continues(arm), *(number(statistics.fmean(arms["arms"][arm][key]), TITLES[key][1]) for key in TITLES))
        for arm in (BASE, *ARMS)
    ]
    return Table(columns, tuple(rows), shared=0)


def continues(arm: str) -> tuple[str, str]:
    """What an arm continues, and by what."""
    training = TRAININGS[arm]
    return training.parent or "", "the same loss" if training.overrides else training.recipe


def pair_table(arms: Record, first: str, second: str) -> Table:
    rows = [
        (
            TITLES[d["metric"]][0],
            signed([d["value"], d["low"], d["high"]], d["metric"]),
            ", ".join(number(value, TITLES[d["metric"]][1] + 1, signed=True) for value in d["by_seed"]),
            verdict(d),
        )
        for d in arms["differences"]
        if (d["first"], d["second"]) == (first, second)
    ]
    return Table(tuple(map(Column, ("metric", "difference, 95 %", "by seed", "verdict"))), tuple(rows))


def photos_table(arms: Record) -> Table:
    names = ("bicubic", BASE, *ARMS)
    rows = [(photo, *(ranged(of[name]) for name in names)) for photo, of in arms["photos"].items()]
    return Table(tuple(map(Column, ("photo", *names))), tuple(rows))


def ranged(value: float | Sequence[float]) -> str:
    """One number, or the mean of several with the lowest and highest."""
    each = [value] if isinstance(value, float) else list(value)
    text = number(statistics.fmean(each), 2)
    return text if len(each) == 1 else f"{text} ({number(min(each), 2)} to {number(max(each), 2)})"


def reconstruction_table(vae: Record) -> Table:
    rows: list[tuple[str, ...]] = []
    for key, (title, digits) in TITLES.items():
        of = vae["reconstruction"][key]
        each = (number(of[name], digits) for name in BOTH)
        rows.append((title, *each, signed(of["difference"], key), side(of["difference"], key)))
    return Table(tuple(map(Column, ("metric", *BOTH, "VAE - autoencoder, 95 %", "verdict"))), tuple(rows))


def latents_table(vae: Record) -> Table:
    rows: list[tuple[str, ...]] = []
    for key, title, digits in (("mean", "each channel's mean", 2), ("std", "each channel's spread", 2)):
        each = (", ".join(number(value, digits) for value in vae["latents"][name][key]) for name in BOTH)
        rows.append((title, *each))
    rows.append(("the furthest element, in spreads", *(number(vae["latents"][name]["largest"], 1) for name in BOTH)))
    posterior = vae["latents"][BASE]["posterior"]
    quantiles = ", ".join(number(100 * value, 1) for value in posterior["quantiles"])
    told = f"{number(100 * posterior['rms'], 1)} ({quantiles})"
    rows.append(("the posterior's spread, % of the channel's: rms (10, 50, 90 % quantile)", "none", told))
    return Table(tuple(map(Column, ("latents", *BOTH))), tuple(rows))


def noise_table(vae: Record) -> Table:
    rows: list[tuple[str, ...]] = []
    for line in vae["noise"]:
        cells = [str(line["noise"])]
        for key in ("psnr", "psim_small"):
            cells += [number(line[key]["change"][name], TITLES[key][1], signed=True) for name in BOTH]
            cells.append(f"{signed(line[key]['difference'], key)}, {side(line[key]['difference'], key)}")
        rows.append(tuple(cells))
    own = [f"{title}: {name}" for title in ("PSNR, dB", "psim-small") for name in (*BOTH, "VAE - autoencoder, 95 %")]
    return Table(tuple(map(Column, ("noise", *own))), tuple(rows))


def invented_table(vae: Record) -> Table:
    titles = {
        "reconstructed": "images, reconstructed",
        "blended": "two images blended as pixels, reconstructed",
        "middle": "halfway between two images' latents",
        "middle_beyond_blended": "halfway, less the blended ones",
        "random": "random latents",
    }
    rows = [
        (title, *(number(of[name], 2) for name in BOTH), signed(of["difference"], "fd_small"))
        for how, title in titles.items()
        for of in (vae["unseen_latents"][how],)
    ]
    return Table(tuple(map(Column, ("decoded from", *BOTH, "VAE - autoencoder, 95 %"))), tuple(rows))


def main() -> None:
    cli = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    commands = cli.add_subparsers(dest="command", required=True)
    recording = commands.add_parser("record")
    recording.add_argument("-o", "--out", type=Path, required=True)
    recording.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2], help="0, whose decoders ship, among them")
    commands.add_parser("page")
    a = cli.parse_args()
    if a.command == "record":
        if 0 not in a.seeds or len(set(a.seeds)) < 2:
            cli.error("the record is of seed 0, whose decoders ship, and at least one other")
        write_record(a.out, a.seeds, RECORD, DOCS / "images")
    else:
        write_atomic(PAGE, page(json.loads(RECORD.read_text("utf-8"))).encode())


if __name__ == "__main__":
    main()
