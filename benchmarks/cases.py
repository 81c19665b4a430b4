"""One case: the same task on the same input by several peers, in turns or one after another."""

import contextlib
import os
import statistics
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import instruction_sets
from peers.job import Job
from peers.process import PeerFailedError, PeerProcess
from peers.table import DEFAULT, LOW_PRECISION, OURS, OURS_BF16, REFERENCE

Result = dict[str, Any]
BYTES_PER_PIXEL = 4200  # of diffusers in fp32, and no peer takes much more: what must be free before it starts
DOUBLE_PIXELS = 512 * 512  # up to so many pixels, errors are against fp64
MEMORY = Path("/proc/meminfo")


@dataclass(frozen=True)
class Case:
    job: Job  # its peer is any
    peers: Sequence[str]
    rounds: int  # 0: the first call is the only one
    environment: dict[str, str]

    @property
    def name(self) -> str:
        return case_name(self.job.task, (self.job.height, self.job.width), self.job.batch)

    @property
    def pixels(self) -> int:
        return self.job.height * self.job.width * self.job.batch


def case_name(task: str, size: tuple[int, int], batch: int = 1) -> str:
    """What the record and the tables call a case."""
    return f"{task} {size[0]}x{size[1]}" + (f", batch {batch}" if batch > 1 else "")


def case_of(job: Job, environment: dict[str, str]) -> Case:
    """vaelens alone."""
    return Case(job, [OURS], 0, environment)


def measure(case: Case) -> Result:
    """Seconds, memory and errors of each peer; what fails is told, and the others go on."""
    found: dict[str, Result] = {}
    record: Result = {"load": round(os.getloadavg()[0], 2), "date": time.strftime("%Y-%m-%d"), "peers": found}
    reference = Reference(case)
    record["reference"] = reference.made_by
    with contextlib.ExitStack() as stack:
        running: dict[str, PeerProcess] = {}
        for name in sorted(case.peers, key=lambda name: name != DEFAULT):  # diffusers first: it may be the reference
            try:
                process = PeerProcess(_checked(case, name), case.environment)
                stack.callback(process.__exit__, None, None, None)
                found[name] = process.loaded | first_call(process, reference)
                found[name]["seconds"] = [] if case.rounds else [found[name]["first_seconds"]]
                if case.rounds:
                    running[name] = process
                else:
                    process.__exit__(None, None, None)
            except PeerFailedError as error:
                found[name] = {"failed": str(error)}
            print(f"  {name}: {_told(found[name])}", flush=True)
        for _ in range(case.rounds):
            for name, process in running.items():
                found[name]["seconds"].append(process.call()["seconds"])
    for values in found.values():
        if "seconds" in values:
            values["median"] = statistics.median(values["seconds"])
    return record


def first_call(process: PeerProcess, reference: "Reference") -> Result:
    """The first call of a fresh process gives the memory; its seconds include page faults, packing and compilation."""
    first = process.call()
    found: Result = {"first_seconds": first["seconds"], "memory": first["memory"]}
    if process.job.peer == DEFAULT and reference.made_by == DEFAULT and not reference.path.exists():
        process.save(reference.path)
    if reference.available():
        found |= process.compare(reference.path)
    return found


class Reference:
    """The output that errors are against: diffusers in fp64, or in fp32 where that would take too long.

    It is computed once, in a process of its own, and stays in the work folder.
    """

    def __init__(self, case: Case) -> None:
        job = case.job
        self.made_by = REFERENCE if case.pixels <= DOUBLE_PIXELS else DEFAULT
        dtype = "float64" if self.made_by == REFERENCE else "float32"
        folder = job.folder / "references"
        folder.mkdir(exist_ok=True)
        self.path = folder / f"{job.task}-{job.height}x{job.width}-{job.batch}-{dtype}.pt"
        self._case, self.failed = case, False

    def available(self) -> bool:
        """Computes it where it is missing; False where that fails, for want of memory."""
        if not self.path.exists() and not self.failed:
            try:
                job = _checked(self._case, self.made_by)
                with PeerProcess(job, instruction_sets.environment(instruction_sets.best())) as process:
                    process.call()
                    process.save(self.path)
            except PeerFailedError as error:
                self.failed = True
                print(f"  no reference: {error}", flush=True)
        return not self.failed


def _checked(case: Case, peer: str) -> Job:
    """Raises PeerFailedError where the machine hasn't got the memory that the peer will need."""
    needed = BYTES_PER_PIXEL * case.pixels * (0.5 if peer in LOW_PRECISION else 2 if peer == REFERENCE else 1)
    free = _available_memory()
    if peer not in {OURS, OURS_BF16} and free is not None and needed > free:
        raise PeerFailedError(f"needs about {needed / 1e9:.0f} GB, and {free / 1e9:.0f} are free")
    return replace(case.job, peer=peer)


def _available_memory() -> int | None:
    if not MEMORY.exists():
        return None
    lines = MEMORY.read_text(encoding="ascii").splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("MemAvailable"))


def _told(values: Result) -> str:
    if "failed" in values:
        return values["failed"]
    error = f", relative error {values['relative_error']:.1e}" if "relative_error" in values else ""
    memory = f", {values['memory'] / 1e9:.2f} GB" if values["memory"] is not None else ""
    return f"first call {values['first_seconds']:.2f} s{memory}{error}"
