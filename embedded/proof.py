"""Write docs/proof.md: do the recipes do what they are for, and what is a VAE's distribution good for.

    python embedded/proof.py record -o RUNS     docs/proof.json and pictures, from what arms.py and distribution.py left
    python embedded/proof.py page               docs/proof.md, from docs/proof.json

The page's numbers and verdicts all come from the record: `page` needs no training.
"""

import argparse
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from vaelens.evaluation.report_tables import interval, number
from vaelens.report.tables import Column, Table, table_markdown

DOCS = Path(__file__).parent.parent / "docs"
RECORD, PAGE = DOCS / "proof.json", DOCS / "proof.md"
BASE = "tiny-kl-f8"
UNITS = {
    "fd_small": ("fd-small", "lower", 3),
    "psnr": ("PSNR, dB", "higher", 2),
    "ssim": ("SSIM", "higher", 4),
    "psim_small": ("psim-small", "lower", 4),
    "eyes": ("eyes' PSNR, dB", "higher", 2),
    "letters": ("letters read, %", "higher", 1),
}
CONTINUES = {
    "tiny-kl-f8": ("", "tiny-kl-f8"),
    "control": ("tiny-kl-f8", "the same loss"),
    "tiny-ft-ema": ("tiny-kl-f8", "tiny-ft-ema"),
    "tiny-ft-mse": ("tiny-ft-ema", "tiny-ft-mse"),
    "control-twice": ("control", "the same loss"),
}
QUESTIONS = {
    ("control", "tiny-kl-f8"): "What do more updates alone bring? `control` against `tiny-kl-f8`",
    ("tiny-ft-ema", "control"): "What does ft-EMA's discriminator bring? `tiny-ft-ema` against `control`, equally long",
    ("tiny-ft-mse", "control-twice"): "And ft-MSE's loss? `tiny-ft-mse` against `control-twice`, equally long",
    ("tiny-ft-mse", "tiny-ft-ema"): "Which is which? `tiny-ft-mse` against `tiny-ft-ema`",
}
Record = dict[str, Any]


def page(record: Record) -> str:
    """The whole page."""
    arms, vae = record["arms"], record["distribution"]
    parts = [
        INTRODUCTION.format(pictures=arms["pictures"], seeds=len(arms["seeds"]), updates=record["updates"]["arm"]),
        "## In short\n",
        "\n".join(f"- {line}" for line in (*arms_in_short(arms), *distribution_in_short(vae))),
        "\n## Every arm\n",
        f"Means over {arms['pictures']} drawn pictures and {len(arms['seeds'])} seeds; arrows point to better. The "
        "next tables say whether a difference is more than chance.\n",
        table_markdown(arms_table(arms)),
        "![Eyes and letters, original and through each decoder](images/proof-arms.png)\n",
        "## Differences\n",
        "First minus second, picture by picture, averaged over seeds, with the 95 % interval over pictures; then each "
        "seed's own.\n",
        *(f"### {title}\n\n{table_markdown(pair_table(arms, *pair))}" for pair, title in QUESTIONS.items()),
        "## Photographs\n",
        "PSNR in dB on photographs that no arm was trained on, one by one: the mean over seeds, and from the lowest to "
        "the highest. *bicubic* is the picture reduced 8 times and enlarged again.\n",
        table_markdown(photographs_table(arms)),
        AUTOENCODER.format(probed=vae["probed"], updates=record["updates"]["scratch"]),
        table_markdown(reconstruction_table(vae)),
        "### Latents with noise\n",
        "Normal noise on each latent, its spread given in those of the latents; the same noise for both.\n",
        table_markdown(noise_table(vae)),
        "### Latents that no picture has\n",
        "fd-small against the pictures, lower is better. *middle*: halfway between two pictures' latents; "
        "*cross-fade*: the two blended as pixels; *random*: normal, with each channel's mean and spread.\n",
        table_markdown(invented_table(vae)),
        "![What both decoders make of such latents](images/proof-distribution.png)\n",
        HOW.format(**record["made"]),
    ]
    return "\n".join(parts)


def arms_in_short(arms: Record) -> list[str]:
    """A sentence a question, each from the record."""
    found = {(d["first"], d["second"], d["measure"]): d for d in arms["differences"]}
    lines: list[str] = []
    for first, second in QUESTIONS:
        said = [said_of(found[first, second, key], key) for key in ("psnr", "psim_small", "fd_small")]
        lines.append(f"`{first}` against `{second}`: {'; '.join(said)}.")
    means = {arm: sum(of["fd_small"]) / len(of["fd_small"]) for arm, of in arms["arms"].items()}
    order = " < ".join(f"`{arm}` {number(means[arm], 3)}" for arm in sorted(means, key=lambda arm: means[arm]))
    lines.append(f"The order by fd-small: {order}. {frechet_verdict(found)}")
    lines.append(photographs_verdict(arms))
    return lines


def said_of(difference: Record, key: str) -> str:
    """What one difference says: how much, in which direction, and whether all seeds agree."""
    title, better, digits = UNITS[key]
    value = number(difference["value"], digits, signed=True)
    text = f"{title} {value} {interval(difference['low'], difference['high'], digits, signed=True)}"
    if difference["low"] <= 0 <= difference["high"]:
        return f"{text}, not told apart"
    good = (difference["value"] > 0) == (better == "higher")
    agree = sum((one > 0) == (difference["value"] > 0) for one in difference["by_seed"])
    seeds = len(difference["by_seed"])
    return f"{text}, {'better' if good else 'worse'} in {agree} of {seeds} seeds"


def frechet_verdict(found: dict[tuple[str, str, str], Record]) -> str:
    """Whether the published order, ft-EMA before ft-MSE, shows."""
    one = found["tiny-ft-mse", "tiny-ft-ema", "fd_small"]
    seeds = [number(value, 3, signed=True) for value in one["by_seed"]]
    apart = one["low"] > 0 or one["high"] < 0
    same = len({value > 0 for value in one["by_seed"]}) == 1
    if not (apart and same):
        return (
            f"ft-MSE minus ft-EMA by seed: {', '.join(seeds)}; which of them is nearer is not resolved at this scale."
        )
    which = "ft-EMA is nearer to the pictures, as published" if one["value"] > 0 else (
        "ft-MSE is nearer to the pictures, unlike published"
    )  # fmt: skip
    return f"ft-MSE minus ft-EMA by seed: {', '.join(seeds)}: {which}."


def photographs_verdict(arms: Record) -> str:
    """By how much the best of the shipped trio (seed 0) beats bicubic on each photograph."""
    gains: list[str] = []
    for photo, of in arms["photographs"].items():
        best = max((BASE, "tiny-ft-ema", "tiny-ft-mse"), key=lambda arm: of[arm][0])
        gains.append(f"{photo} {number(of[best][0] - of['bicubic'], 2, signed=True)} dB (`{best}`)")
    return f"The shipped trio's best against bicubic: {', '.join(gains)}."


def distribution_in_short(vae: Record) -> list[str]:
    """What the VAE's distribution costs and what it buys, from the record."""
    lines = [f"A VAE reconstructs {side(vae['reconstruction']['psnr']['difference'], 'psnr')} than the autoencoder."]
    worse = [line for line in vae["noise"] if line["noise"] > 0]
    told = [f"{line['noise']}: {side(line['psnr']['difference'], 'psnr')}" for line in worse]
    lines.append(f"With noise on the latents the VAE's pictures are, at {'; '.join(told)}.")
    for how, words in (("middle", "halfway between two pictures' latents"), ("normal", "from random latents")):
        of = {name: vae["unseen_latents"][name][how] for name in ("tiny-ae", BASE)}
        better = "the VAE's" if of[BASE] < of["tiny-ae"] else "the autoencoder's"
        lines.append(
            f"Pictures decoded {words}: fd-small {number(of[BASE], 2)} (VAE) and {number(of['tiny-ae'], 2)} "
            f"(autoencoder); {better} are nearer to the drawn ones."
        )
    return lines


def side(difference: Sequence[float], key: str) -> str:
    """A difference with its interval in words: 0.12 dB [0.10, 0.14] better."""
    value, low, high = difference
    title, _, digits = UNITS[key]
    unit = " dB" if "dB" in title else ""
    if low <= 0 <= high:
        return f"neither better nor worse ({number(value, digits, signed=True)}{unit} {interval(low, high, digits)})"
    word = "better" if value > 0 else "worse"
    return f"{number(abs(value), digits)}{unit} {word} ({interval(low, high, digits, signed=True)})"


def arms_table(arms: Record) -> Table:
    columns = (*map(Column, ("decoder", "continues", "by")), *(Column(t, b) for t, b, _ in UNITS.values()))
    rows = [
        (arm, *CONTINUES[arm], *(number(sum(of[key]) / len(of[key]), UNITS[key][2]) for key in UNITS))
        for arm, of in arms["arms"].items()
    ]
    return Table(columns, tuple(rows), shared=0)


def pair_table(arms: Record, first: str, second: str) -> Table:
    rows: list[tuple[str, ...]] = []
    for d in arms["differences"]:
        if (d["first"], d["second"]) == (first, second):
            title, better, digits = UNITS[d["measure"]]
            decided = d["low"] > 0 or d["high"] < 0
            winner = first if (d["value"] > 0) == (better == "higher") else second
            rows.append(
                (
                    title,
                    number(d["value"], digits, signed=True),
                    interval(d["low"], d["high"], digits, signed=True),
                    ", ".join(number(value, digits, signed=True) for value in d["by_seed"]),
                    f"{winner} is better" if decided else "not told apart",
                )
            )
    return Table(tuple(map(Column, ("measure", "difference", "95 %", "by seed", "verdict"))), tuple(rows))


def photographs_table(arms: Record) -> Table:
    names = ("bicubic", *arms["arms"])
    rows = [(photo, *(ranged(of[name]) for name in names)) for photo, of in arms["photographs"].items()]
    return Table(tuple(map(Column, ("photograph", *names))), tuple(rows))


def ranged(value: float | Sequence[float]) -> str:
    """One number, or the mean of several with the lowest and highest."""
    each = [value] if isinstance(value, float) else list(value)
    text = number(sum(each) / len(each), 2)
    return text if len(each) == 1 else f"{text} ({number(min(each), 2)} to {number(max(each), 2)})"


def reconstruction_table(vae: Record) -> Table:
    rows: list[tuple[str, ...]] = []
    for key, (title, _, digits) in UNITS.items():
        of = vae["reconstruction"][key]
        value, low, high = of["difference"]
        told = f"{number(value, digits, signed=True)} {interval(low, high, digits, signed=True)}"
        rows.append((title, number(of["tiny-ae"], digits), number(of[BASE], digits), told))
    for key, title in (
        ("std", "spread of a latent's elements, raw"),
        ("posterior_std", "the posterior's spread, in the latents'"),
        ("largest", "the largest element, in the latents' spread"),
    ):
        own = [vae["latents"][name][key] for name in ("tiny-ae", BASE)]
        rows.append((title, "none" if key == "posterior_std" else number(own[0], 3), number(own[1], 3), ""))
    return Table(tuple(map(Column, ("", "tiny-ae", BASE, "VAE minus autoencoder, 95 %"))), tuple(rows))


def noise_table(vae: Record) -> Table:
    rows: list[tuple[str, ...]] = []
    for line in vae["noise"]:
        cells = [str(line["noise"])]
        for key in ("psnr", "psim_small"):
            digits, (value, low, high) = UNITS[key][2], line[key]["difference"]
            cells += [number(line[key]["tiny-ae"], digits), number(line[key][BASE], digits)]
            cells.append(f"{number(value, digits, signed=True)} {interval(low, high, digits, signed=True)}")
        rows.append(tuple(cells))
    names = (
        "noise",
        "PSNR, dB: tiny-ae",
        BASE,
        "VAE minus autoencoder",
        "psim-small: tiny-ae",
        BASE,
        "VAE minus autoencoder",
    )
    return Table(tuple(map(Column, names)), tuple(rows))


def invented_table(vae: Record) -> Table:
    titles = {"reconstructed": "reconstructed", "middle": "middle", "cross_fade": "cross-fade", "normal": "random"}
    rows = [
        (title, *(number(vae["unseen_latents"][name][how], 2) for name in ("tiny-ae", BASE)))
        for how, title in titles.items()
    ]
    return Table(tuple(map(Column, ("pictures", "tiny-ae", BASE))), tuple(rows))


INTRODUCTION = """# The proof: do the recipes do what they are for?

ft-EMA and ft-MSE are said to be better decoders for the latents of kl-f8, and a VAE is said to have better latents than
a plain autoencoder. Here both are put to the test with networks 64 times smaller, trained on two cores by the recipes
of [training.md](training.md), on {pictures} drawn faces and pages of letters that no training saw. What holds here
needn't hold for the large ones; what fails here shows how much noise there is. fd-small and psim-small are our own
small measures ([small-measures.md](small-measures.md)), not rFID and LPIPS.

One encoder, frozen. From `tiny-kl-f8` two decoders go on for {updates:,} updates: `control` with the same loss, and
`tiny-ft-ema` with a discriminator besides. Each is then continued as long again: `tiny-ft-mse` from `tiny-ft-ema`, as
published; `control-twice` from `control`. All with running averages, on the same pictures in the same order, with
{seeds} seeds each; nothing was tuned on these pictures, and every arm that was begun is here.
"""

AUTOENCODER = """## Autoencoder or VAE?

`tiny-ae` is trained as `tiny-kl-f8` is ({updates:,} updates, the same pictures, seed and loss), but for the VAE's
distribution: there is no KL term, and what the encoder says is decoded as it is, where the VAE decodes a draw around
it. One seed each, so that these differences may partly be the seed's. The last three lines of the table say what the
distribution is. Noise and other latents were tried on {probed} of the pictures.

### Reconstruction
"""

HOW = """## How it was made

    python -m pip install -c constraints.txt -e '.[train]'
    python embedded/trio.py train begun -o RUNS        # then tiny-kl-f8
    python embedded/trio.py train begun-ae -o RUNS     # then tiny-ae
    python embedded/arms.py 0 -o RUNS      # and 1, and 2
    python embedded/distribution.py -o RUNS
    python embedded/proof.py record -o RUNS
    python embedded/proof.py page

{processor}; torch {torch}, vaelens {vaelens}. Networks in bfloat16 while training, in float32 when measured, one thread
each. `tiny-ft-ema` and `tiny-ft-mse` with seed 0 are the ones that ship. The numbers are in [proof.json](proof.json).
"""


def main() -> None:
    cli = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    commands = cli.add_subparsers(dest="command", required=True)
    recording = commands.add_parser("record")
    recording.add_argument("-o", "--out", type=Path, required=True)
    recording.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    commands.add_parser("page")
    a = cli.parse_args()
    if a.command == "record":
        from proof_record import write_record  # noqa: PLC0415  (only this needs the photographs' libraries)

        write_record(a.out, a.seeds, RECORD, DOCS / "images")
    else:
        PAGE.write_text(page(json.loads(RECORD.read_text("utf-8"))), "utf-8")


if __name__ == "__main__":
    main()
