"""The parts of engine.py beside its cases: memory budgets, growth with the pixels, a large photo by the command."""

import os
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
from aims import EXACT
from cases import Reference, Result, case_of, first_call
from engine_tables import power, table
from peers.job import Job
from peers.process import PeerFailedError, PeerProcess
from peers.table import OURS
from PIL import Image
from realistic import write_photo

DIFFUSERS_AT_1024 = 3.85e9  # bytes that a decode of 1024x1024 takes there, beyond the loaded VAE
SHARES = (0.35, 0.2)
LARGE_BUDGET = 2e9  # bytes, of a decode of 2048x2048
PHOTO_BUDGET = 6e9  # bytes, of a 12-megapixel photo


def budgets(job: Job, environment: dict[str, str], sizes: Sequence[tuple[int, int]], rounds: int) -> Result:
    """Decode at 1024 in shares of diffusers' memory, and at 2048 in 2 GB; each budget in a process of its own."""
    found: Result = {"rows": []}
    if (1024, 1024) in sizes:
        plans = {f"{share:g}": share * DIFFUSERS_AT_1024 for share in SHARES}
        _decode(replace(job, task="decode", height=1024, width=1024), environment, plans, rounds, found)
    if (2048, 2048) in sizes:
        plans = {"2048": LARGE_BUDGET}
        _decode(replace(job, task="decode", height=2048, width=2048), environment, plans, 0, found)
    head = ("", "s", "/ unbudgeted", "memory, GB", "relative error", "against")
    found["table"] = table(head, found.pop("rows"))
    return found


def _decode(job: Job, environment: dict[str, str], plans: dict[str, float], rounds: int, found: Result) -> None:
    """Rounds in turns where there are any, else the first call of each process."""
    budget_of: dict[str, float | None] = {"none": None, **plans}
    processes: dict[str, PeerProcess] = {}
    values: dict[str, Result] = {}
    reference = Reference(case_of(job, environment))
    try:
        for name, budget in budget_of.items():
            limited = replace(job, peer=OURS, max_memory=None if budget is None else int(budget))
            try:
                process = processes[name] = PeerProcess(limited, environment)
                values[name] = first_call(process, reference)
            except PeerFailedError as error:
                processes.pop(name, None)
                found[f"{name} memory"] = float("inf")
                found["rows"].append((f"decode {job.height}x{job.width}, {name}", f"failed: {error}", "", "", "", ""))
                continue
            _compare_with_unbudgeted(process, values[name], reference.path)
            values[name]["seconds"] = [] if rounds else [values[name]["first_seconds"]]
            if not rounds:
                process.__exit__(None, None, None)
        for _ in range(rounds):
            for name, process in processes.items():
                values[name]["seconds"].append(process.call()["seconds"])
    finally:
        for process in processes.values():
            process.__exit__(None, None, None)
    plain = float(np.median(values["none"]["seconds"])) if "none" in values else float("nan")
    for name, one in values.items():
        seconds, memory = float(np.median(one["seconds"])), one["memory"]
        budget, error = budget_of[name], one.get("relative_error")
        if budget is not None:
            found[f"{name} time"] = seconds / plain
            found[f"{name} memory"] = None if memory is None else memory / budget
            found[f"{name} error"] = error
        which = "unbudgeted" if budget is None else f"in {budget / 1e9:.2f} GB"
        known = "" if memory is None else f"{memory / 1e9:.2f}"
        row = (f"decode {job.height}x{job.width} {which}", f"{seconds:.2f}", f"{seconds / plain:.2f}", known)
        against = "the unbudgeted decode" if reference.failed else reference.made_by
        found["rows"].append((*row, "" if error is None else f"{error:.1e}", "" if error is None else against))


def _compare_with_unbudgeted(process: PeerProcess, values: Result, reference: Path) -> None:
    """Where there's no memory for diffusers, the unbudgeted output serves as the reference."""
    output = reference.with_suffix(".unbudgeted.pt")
    if process.job.max_memory is None:
        process.save(output)
    elif "relative_error" not in values:
        values |= process.compare(output)


def growth(job: Job, environment: dict[str, str], rounds: int, sides: tuple[int, int] = (512, 2048)) -> Result:
    """Seconds of decodes and of their attention in two sizes, and the power of the pixels that the rest grows with."""
    whole, attention = [], []
    for side in sides:
        with PeerProcess(replace(job, task="decode", peer=OURS, height=side, width=side), environment) as process:
            process.call()  # packs weights
            runs = [process.attention() for _ in range(rounds if side == sides[0] else 1)]
        whole.append(float(np.median([run["seconds"] for run in runs])))
        attention.append(float(np.median([run["attention"] for run in runs])))
    rest = [a - b for a, b in zip(whole, attention, strict=True)]
    rows = [
        (side, f"{all_of:.2f}", f"{part:.2f}", f"{100 * part / all_of:.1f} %")
        for side, all_of, part in zip(sides, whole, attention, strict=True)
    ]
    exponent = power(rest[0], rest[1], *sides)
    text = table(("side", "decode, s", "attention, s", "share"), rows)
    note = f"Without attention, time goes with pixels^{exponent:.3f}; with it, pixels^{power(*whole, *sides):.3f}."
    return {"exponent": exponent, "table": f"{text}\n\n{note}"}


def photo(job: Job, environment: dict[str, str], width: int, height: int) -> Result:
    """`vaelens reconstruct --max-memory` on one large photo, against the same command without a budget.

    Memory is the growth of the process' peak over that of the same command on a photo of 64x64.
    """
    folder = job.folder / "photo"
    folder.mkdir(exist_ok=True)
    command = [sys.executable, "-m", "vaelens", "reconstruct", "--vae", str(job.folder / "vae"), "-q"]
    environment = environment | {"OMP_NUM_THREADS": str(job.threads)}
    small, large = (write_photo(folder / f"{w}x{h}.png", w, h) for w, h in ((64, 64), (width, height)))

    def run(name: str, file: Path, *options: str) -> tuple[float, int]:
        output = folder / f"{name}.png"
        return _peak_of([*command, str(file), "-o", str(output), "--max-pixels", "100000000", *options], environment)

    _, base = run("small", small)
    seconds, peak = run("budget", large, "--max-memory", f"{PHOTO_BUDGET / 1e9:g}GB")
    plain_seconds, plain_peak = run("plain", large)
    a, b = (np.asarray(Image.open(folder / f"{name}.png"), dtype=int) for name in ("budget", "plain"))
    difference = int(np.abs(a - b).max())
    rows = [
        (f"in {PHOTO_BUDGET / 1e9:g} GB", f"{seconds:.0f}", f"{(peak - base) / 1e9:.2f}", f"{peak / 1e9:.2f}"),
        ("unbudgeted", f"{plain_seconds:.0f}", f"{(plain_peak - base) / 1e9:.2f}", f"{plain_peak / 1e9:.2f}"),
    ]
    head = (f"reconstruct {width}x{height}", "s", "growth, GB", "whole process, GB")
    text = f"{table(head, rows)}\n\nLargest difference between the two outputs' 8-bit values: {difference}."
    return {"GB": (peak - base) / 1e9, "times": seconds / plain_seconds, "difference": difference, "table": text}


def _peak_of(command: list[str], environment: dict[str, str]) -> tuple[float, int]:
    """Seconds and peak resident bytes of a command. Exits where it fails."""
    started = time.perf_counter()
    process = subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL)
    _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        sys.exit(f"`{' '.join(command)}` ended with code {process.returncode}.")
    return time.perf_counter() - started, usage.ru_maxrss * (1 if sys.platform == "darwin" else 1024)


def inexact(record: Result, isa: str) -> list[str]:
    """Calls of vaelens in fp32 whose error is above EXACT: nothing else of a run counts then."""
    found = []
    for name, case in record["cases"].get(isa, {}).items():
        error = case["peers"].get(OURS, {}).get("relative_error", 0.0)
        if not error <= EXACT:  # also where it isn't a number
            found.append(f"{name}: relative error {error:.1e}")
    for key, error in record["parts"].get(isa, {}).get("budgets", {}).items():
        if key.endswith(" error") and error is not None and not error <= EXACT:
            found.append(f"budget {key}: {error:.1e}")
    return found
