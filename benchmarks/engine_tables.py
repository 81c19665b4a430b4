"""A machine's record as Markdown tables."""

import itertools
import math
import statistics
from typing import Any

from aims import peers_of
from instruction_sets import NAMES
from peers.table import LOW_PRECISION, OURS, OURS_BF16

Result = dict[str, Any]
COLUMNS = (
    "", "s", "quartiles", "its time / vaelens'", "quartiles", "memory, GB", "relative error", "8-bit difference",
)  # fmt: skip


def machine_as_markdown(record: Result) -> str:
    """Conditions and cases, for each instruction set measured, then the parts' own tables."""
    blocks = [f"Flags: {record['flags']}."]
    for isa, cases in record["cases"].items():
        blocks.append(f"### {NAMES[isa]}\n\n{_conditions(record['conditions'][isa])}")
        blocks += [case_as_markdown(name, case) for name, case in cases.items()]
        growth = _growth(record, isa)
        if growth:
            blocks.append(growth)
    for isa, parts in record["parts"].items():
        blocks += [f"**{NAMES.get(isa, isa)}: {name}**\n\n{values['table']}" for name, values in parts.items()
                   if isinstance(values, dict) and "table" in values]  # fmt: skip
    return "\n\n".join(blocks) + "\n"


def case_as_markdown(name: str, case: Result) -> str:
    """One row per peer, those of half precision last. A ratio compares the calls of the same round."""
    peers = case["peers"]
    rounds = max((len(values.get("seconds", [])) for values in peers.values()), default=0)
    first = all(
        values.get("seconds") == [values.get("first_seconds")] for values in peers.values() if "median" in values
    )
    how = "first calls" if first else f"{rounds} rounds in turns"
    ordered = sorted(peers.items(), key=lambda pair: pair[0] not in {OURS, OURS_BF16})
    rows = []
    for low in (False, True):
        ours = peers.get(OURS_BF16 if low else OURS, {}).get("seconds", [])
        rows += [_row(peer, values, ours) for peer, values in ordered if (peer in LOW_PRECISION) == low]
    notes = [
        f"{peer}: {', '.join(f'{key} {value}' for key, value in values['notes'].items())}"
        for peer, values in peers.items()
        if values.get("notes")
    ]
    return (
        f"**{name}**, {case['date']}, {how}, load average {case['load']} at the start, errors against "
        f"{case['reference']}.\n\n{table(COLUMNS, rows)}" + (f"\n\n{'; '.join(notes)}." if notes else "")
    )


def _row(name: str, values: Result, ours: list[float]) -> list[str]:
    if "failed" in values:
        return [name, "failed", values["failed"].replace("|", "/").replace("\n", " "), "", "", "", "", ""]
    seconds = values["seconds"]
    ratios = [a / b for a, b in zip(seconds, ours, strict=False)]
    steps = ""
    if "largest_8bit_difference" in values:
        share = 100 * values["share_of_differing_8bit_values"]
        steps = f"{values['largest_8bit_difference']:.0f}, {share:.2g} %"
    return [
        name,
        f"{values['median']:.2f}",
        _quartiles(seconds),
        f"{statistics.median(ratios):.2f}" if ratios else "",
        _quartiles(ratios),
        "" if values["memory"] is None else f"{values['memory'] / 1e9:.2f}",
        f"{values['relative_error']:.1e}" if "relative_error" in values else "",
        steps,
    ]


def _quartiles(values: list[float]) -> str:
    if len(values) < 2:
        return ""
    low, _, high = statistics.quantiles(values, n=4, method="inclusive")
    return f"{low:.2f} to {high:.2f}"


def _growth(record: Result, isa: str) -> str:
    """Between two sizes, time and memory grow with this power of the pixels."""
    rows = []
    for task in ("decode", "encode"):
        sides = [side for side in (256, 512, 1024, 2048) if peers_of(record, isa, f"{task} {side}x{side}")]
        for small, large in itertools.pairwise(sides):
            a, b = (peers_of(record, isa, f"{task} {side}x{side}") for side in (small, large))
            for peer in a.keys() & b.keys() & {OURS, "diffusers"}:
                memory = power(a[peer]["memory"], b[peer]["memory"], small, large) if a[peer]["memory"] else None
                time = power(a[peer]["median"], b[peer]["median"], small, large)
                known = "" if memory is None else f"{memory:.2f}"
                rows.append([f"{task}, {peer}", f"{small} to {large}", f"{time:.2f}", known])
    if not rows:
        return ""
    head = ("", "side", "time", "memory")
    return f"**Growth: time and memory go with this power of the pixels**, attention included.\n\n{table(head, rows)}"


def power(small: float, large: float, side: int, larger: int) -> float:
    """p where large / small = (pixels ratio)^p."""
    return math.log(large / small) / (2 * math.log(larger / side))


def _conditions(of: Result) -> str:
    versions = ", ".join(f"{name} {number}" for name, number in of["versions"].items())
    return (
        f"{of['threads']} threads, full-width kl-f8 with random weights, seed {of['seed']}; float32 unless the name "
        f"says otherwise; settings {of['settings'] or 'none'}. {versions}."
    )


def table(head: Any, rows: Any) -> str:
    """A Markdown table."""
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join(f"| {' | '.join(map(str, line))} |" for line in lines)
