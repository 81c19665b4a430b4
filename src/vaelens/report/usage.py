"""What a piece of work took: seconds, and how far memory rose; and how many threads it has."""

import contextlib
import ctypes
import gc
import os
import threading
import time
from collections.abc import Generator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import torch

PAUSE = 0.002  # seconds between two looks at the process' memory
STATM = Path("/proc/self/statm")


@dataclass
class Usage:
    """Seconds, and bytes of memory at the peak beyond those at the beginning; None where the system doesn't tell.

    On a CUDA device the memory is that of torch's allocator there, else the process' resident size, which is looked at
    every two milliseconds; what was freed before is given back to the system first, where the C library can.
    """

    seconds: float = 0.0
    memory: int | None = None


@contextmanager
def measured(device: torch.device) -> Generator[Usage]:
    """Measure the block; the numbers are there when it has ended, also by an error."""
    usage = Usage()
    cuda = device.type == "cuda"
    if cuda:
        torch.cuda.synchronize(device)
        torch.cuda.reset_peak_memory_stats(device)
    else:
        _give_back()
    before = torch.cuda.memory_allocated(device) if cuda else _resident()
    watch = None if cuda or before is None else _Watch(before)
    began = time.perf_counter()
    try:
        yield usage
    finally:
        if cuda:
            torch.cuda.synchronize(device)
        usage.seconds = time.perf_counter() - began
        peak = torch.cuda.max_memory_allocated(device) if cuda else watch.end() if watch else None
        if peak is not None and before is not None:
            usage.memory = peak - before


@contextmanager
def using_threads(count: int) -> Generator[int]:
    """In this context torch computes with so many threads of the CPU."""
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield count
    finally:
        torch.set_num_threads(before)


class _Watch:
    """Looks at the resident size in a thread of its own until it is told to end."""

    def __init__(self, before: int) -> None:
        self._peak = before
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def end(self) -> int:
        self._ended.set()
        self._thread.join()
        return self._peak

    def _run(self) -> None:
        while not self._ended.wait(PAUSE):
            self._peak = max(self._peak, _resident() or 0)


def _give_back() -> None:
    """Ask glibc for its free memory, which would otherwise be taken again unseen."""
    gc.collect()
    with contextlib.suppress(OSError, AttributeError, TypeError):
        ctypes.CDLL(None).malloc_trim(0)


def _resident() -> int | None:
    try:
        return int(STATM.read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    except (OSError, ValueError, IndexError):
        return None
