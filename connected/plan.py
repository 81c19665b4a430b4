"""What a run will download and how long it will take, said before it starts."""

import shutil
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch.nn import functional as F

from connected.steps import Download, Step
from vaelens.download.hub import access
from vaelens.errors import VaelensError
from vaelens.report.tables import Column, Table
from vaelens.resources import full_precision
from vaelens.text.paths import cache_folder

CHANNELS, SIDE, ROUNDS = 128, 128, 3  # of the convolution by which a device's speed is measured
MEGABITS = 100  # per second: for an idea of how long a download takes


@dataclass(frozen=True)
class Planned:
    """One step: what it downloads that no earlier one does, its seconds of computing, and why others aren't known."""

    step: Step
    done: bool
    downloads: tuple[Download, ...]
    seconds: float
    notes: tuple[str, ...] = ()

    @property
    def bytes(self) -> int:
        """What is known of its downloads."""
        return sum(file.size or 0 for file in self.downloads)


@dataclass(frozen=True)
class Plan:
    """All steps in order, and how fast the devices are, in operations per second."""

    steps: tuple[Planned, ...]
    speeds: Mapping[str, float]

    def table(self) -> Table:
        """One row per step."""
        rows = [
            (
                p.step.name,
                p.step.about,
                "passed before" if p.done else _download(p),
                "" if p.done else duration(p.seconds),
            )
            for p in self.steps
        ]
        return Table(tuple(map(Column, ("step", "what", "to download", "computing"))), tuple(rows))

    def summary(self) -> list[str]:
        """Totals and where downloads go, a sentence each."""
        total = sum(planned.bytes for planned in self.steps)
        unknown = any(p.notes or any(file.size is None for file in p.downloads) for p in self.steps)
        computing = sum(planned.seconds for planned in self.steps if not planned.done)
        speeds = ", ".join(f"{speed / 1e9:,.0f} GFLOP/s on {device}" for device, speed in self.speeds.items())
        places = {"the hub's cache": Path(str(access()["cache"])), "vaelens' cache": cache_folder()}
        lines = [
            f"To download: {size(total)}{', and what is of unknown size' * unknown}; "
            f"at {MEGABITS} Mbit/s that takes {duration(total * 8 / MEGABITS / 1e6)}. Files already here are used.",
            f"To compute: about {duration(computing)}, from this machine's speed ({speeds}): half of it, or twice.",
            "Downloads go to " + " and ".join(f"{path} ({name})" for name, path in places.items()) + ".",
        ]
        free = min(_free(path) for path in places.values())
        if free < total:
            lines.append(f"Warning: there is room for {size(free)}. Free some, or set HF_HUB_CACHE, VAELENS_CACHE.")
        return lines

    def as_dict(self) -> dict[str, Any]:
        """For the report."""
        return {
            "operations_per_second": dict(self.speeds),
            "steps": [
                {"name": p.step.name, "passed_before": p.done, "seconds": round(p.seconds, 1),
                 "downloads": [{"name": file.name, "bytes": file.size} for file in p.downloads], "notes": p.notes}
                for p in self.steps
            ],
        }  # fmt: skip


def make_plan(steps: Sequence[Step], done: Iterable[str]) -> Plan:
    """Ask the hub for what isn't known, and measure the devices. A hub that doesn't answer is noted, not raised."""
    passed, seen = set(done), set[str]()
    devices = dict.fromkeys(device for step in steps for device in step.operations)
    speeds = {device: operations_per_second(device) for device in devices}
    planned: list[Planned] = []
    for step in steps:
        downloads, notes = list[Download](), list[str]()
        needed = {} if step.name in passed else {k: v for k, v in step.downloads.items() if k not in seen}
        seen |= needed.keys()
        for missing in needed.values():
            try:
                downloads += missing()
            except VaelensError as error:
                notes.append(str(error))
        seconds = sum(work / speeds[device] for device, work in step.operations.items())
        planned.append(Planned(step, step.name in passed, tuple(downloads), seconds, tuple(notes)))
    return Plan(tuple(planned), speeds)


@torch.no_grad()
def operations_per_second(device: str) -> float:
    """Floating-point operations per second of a 3x3 convolution in float32, the best of some rounds."""
    image = torch.zeros(1, CHANNELS, SIDE, SIDE, device=device)
    kernel = torch.zeros(CHANNELS, CHANNELS, 3, 3, device=device)
    best = float("inf")
    with full_precision(device):
        for _ in range(ROUNDS + 1):  # the first is slow
            start = time.perf_counter()
            F.conv2d(image, kernel, padding=1).sum().item()
            best = min(best, time.perf_counter() - start)
    return 2 * 9 * CHANNELS**2 * SIDE**2 / best


def duration(seconds: float) -> str:
    """In words, one unit."""
    for unit, name in ((3600, "h"), (60, "min")):
        if seconds >= 2 * unit:
            return f"{seconds / unit:.0f} {name}"
    return f"{max(1, seconds):.0f} s"


def size(count: int) -> str:
    """Bytes in words."""
    for unit, name in ((1e9, "GB"), (1e6, "MB")):
        if count >= unit:
            return f"{count / unit:.{1 if name == 'GB' else 0}f} {name}"
    return f"{count / 1e3:.0f} kB"


def _download(planned: Planned) -> str:
    unknown = sum(file.size is None for file in planned.downloads) + len(planned.notes)
    parts = [size(planned.bytes)] * bool(planned.bytes) + [f"{unknown} of unknown size"] * bool(unknown)
    return " and ".join(parts) or "nothing"


def _free(path: Path) -> int:
    return shutil.disk_usage(next(place for place in (path, *path.parents) if place.exists())).free
