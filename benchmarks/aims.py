"""What the engine should reach at least, and whether a machine's record reaches it, line by line."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from peers.table import BF16_LAST, DEFAULT, LOW_PRECISION, OPENVINO_DEFAULT, OURS, OURS_BF16

Result = dict[str, Any]
EXACT = 1e-4  # relative error up to which fp32 counts as exact
MISSING = "not measured here"
WORKS = float("inf")  # any number will do


@dataclass(frozen=True)
class Aim:
    """`value` reads a number from the record, or None; `at_most` tells a limit from something to reach."""

    text: str
    value: Callable[[Result], float | None]
    at_least: float
    goal: float | None
    at_most: bool = False

    def verdict(self, record: Result) -> tuple[str, str]:
        """The number, and whether it is reached."""
        value = self.value(record)
        if value is None:
            return "", MISSING
        reached = [
            limit is not None and (value <= limit if self.at_most else value >= limit)
            for limit in (self.at_least, self.goal)
        ]
        return f"{value:.3g}", "goal reached" if reached[1] else "reached" if reached[0] else "**not reached**"


def peers_of(record: Result, isa: str, case: str) -> Result:
    """The peers' values of a case, those that didn't fail."""
    peers = record["cases"].get(isa, {}).get(case, {}).get("peers", {})
    return {name: values for name, values in peers.items() if "median" in values}


def best_exact_peer(peers: Result) -> str | None:
    """The fastest in fp32 whose error is at most EXACT, other than vaelens."""
    exact = [
        name
        for name, values in peers.items()
        if name != OURS and name not in LOW_PRECISION and values.get("relative_error", 1) <= EXACT
    ]
    return min(exact, key=lambda name: peers[name]["median"], default=None)


def times(isa: str, case: str, peer: str, ours: str = OURS) -> Callable[[Result], float | None]:
    """The peer's median over ours."""

    def value(record: Result) -> float | None:
        peers = peers_of(record, isa, case)
        return peers[peer]["median"] / peers[ours]["median"] if {peer, ours} <= peers.keys() else None

    return value


def best_times(isa: str, case: str) -> Callable[[Result], float | None]:
    """The best exact peer's median over ours."""

    def value(record: Result) -> float | None:
        peers = peers_of(record, isa, case)
        name = best_exact_peer(peers)
        others = [name for name in peers if name not in {OURS, DEFAULT} and name not in LOW_PRECISION]
        return peers[name]["median"] / peers[OURS]["median"] if name and others and OURS in peers else None

    return value


def error_times(isa: str, case: str, peer: str, ours: str) -> Callable[[Result], float | None]:
    """Our relative error over the peer's."""

    def value(record: Result) -> float | None:
        peers = peers_of(record, isa, case)
        known = all("relative_error" in peers.get(name, {}) for name in (peer, ours))
        return peers[ours]["relative_error"] / peers[peer]["relative_error"] if known else None

    return value


def part(isa: str | None, *names: str) -> Callable[[Result], float | None]:
    """A number that a part has written: record["parts"][isa or "any"][names...]."""

    def value(record: Result) -> float | None:
        found: Any = record["parts"].get(isa or "any", {})
        for name in names:
            found = found.get(name, {}) if isinstance(found, dict) else {}
        return float(found) if isinstance(found, int | float) else None

    return value


LAST, OPENVINO = ("amx", "decode 512x512", BF16_LAST, OURS_BF16), ("amx", "decode 512x512", OPENVINO_DEFAULT, OURS_BF16)
D, E = "decode 512x512", "encode 512x512"
AIMS = [
    Aim("fp32 decode at 512, AMX: diffusers / vaelens", times("amx", D, DEFAULT), 3.5, 4.5),
    Aim("fp32 decode at 512, AMX: best exact peer / vaelens", best_times("amx", D), 2.5, 3.5),
    Aim("fp32 decode at 512, AVX-512: diffusers / vaelens", times("avx512", D, DEFAULT), 2, 3),
    Aim("fp32 decode at 512, AVX-512: best exact peer / vaelens", best_times("avx512", D), 1.2, 1.8),
    Aim("fp32 decode at 512, AVX2: diffusers / vaelens", times("avx2", D, DEFAULT), 1.5, 2.5),
    Aim("bfloat16 decode at 512, AMX: diffusers, channels_last / vaelens", times(*LAST), 1.4, 2),
    Aim("bfloat16 decode at 512, AMX: OpenVINO default / vaelens", times(*OPENVINO), 1.1, 1.5),
    Aim("its error against fp64, vaelens / diffusers", error_times(*LAST), 0.6, 0.4, True),
    Aim("fp32 encode at 512, AMX: diffusers / vaelens", times("amx", E, DEFAULT), 2.5, 3.5),
    Aim("fp32 encode at 512, AVX-512: diffusers / vaelens", times("avx512", E, DEFAULT), 1.8, 3),
]  # fmt: skip


def budget_aims(isa: str) -> list[Aim]:
    """Of memory budgets and growth, with the machine's best instructions."""
    lines = []
    for share in ("0.35", "0.2"):
        where = f"decode at 1024 in {share} of diffusers' memory"
        lines += [
            Aim(f"{where}: peak memory / budget", part(isa, "budgets", f"{share} memory"), 1, None, True),
            Aim(f"{where}: time / unbudgeted", part(isa, "budgets", f"{share} time"), 1.3, 1.3, True),
        ]
    return [
        *lines,
        Aim("decode at 2048 in 2 GB: peak memory / budget", part(isa, "budgets", "2048 memory"), 1, None, True),
        Aim("decode at 2048 in 2 GB: time / unbudgeted", part(isa, "budgets", "2048 time"), WORKS, 2, True),
        Aim("reconstruct 4000x3000 in 6 GB: peak memory, GB", part(isa, "photo", "GB"), 6, None, True),
        Aim("reconstruct 4000x3000 in 6 GB: time / unbudgeted", part(isa, "photo", "times"), WORKS, 2, True),
        Aim("time from 512 to 2048 without attention: pixels^", part(isa, "growth", "exponent"), 1.05, None, True),
    ]


def evaluate_aims() -> list[Aim]:
    """Of evaluate.py."""
    return [
        Aim("evaluate, full-size VAE, AMX: obvious stack / vaelens", part("amx", "evaluate", "times"), 2, 3),
        Aim("evaluate, full-size VAE, AVX-512: obvious stack / vaelens", part("avx512", "evaluate", "times"), 1.5, 2),
    ]


def fine_tuning_aims(dtype: str) -> list[Aim]:
    """Of finetune.py: a step in this precision on both sides."""
    name = f"finetune ft-mse {dtype}"
    return [
        Aim(f"fine-tuning step, ft-mse, {dtype}: usual step / vaelens", part(None, name, "times"), 1.15, 1.5),
        Aim(f"its activation memory, {dtype}: vaelens / usual step", part(None, name, "memory"), 0.5, 0.25, True),
    ]


def all_aims(record: Result) -> list[Aim]:
    """In the order of their tables."""
    steps = [aim for dtype in ("float32", "bfloat16") for aim in fine_tuning_aims(dtype)]
    return [*AIMS, *budget_aims(record["best"]), *evaluate_aims(), *steps]


def aims_as_markdown(record: Result, aims: list[Aim]) -> str:
    """A line for each: the number, what it should be, and whether that is reached."""
    head = "| | measured | at least | goal | |\n| --- | --- | --- | --- | --- |"
    lines = []
    for aim in aims:
        number, verdict = aim.verdict(record)
        limit = "at most " if aim.at_most else ""
        least = "works" if aim.at_least == WORKS else f"{limit}{aim.at_least:g}"
        goal = "" if aim.goal is None else f"{limit}{aim.goal:g}"
        lines.append(f"| {aim.text} | {number} | {least} | {goal} | {verdict} |")
    return "\n".join([head, *lines])
