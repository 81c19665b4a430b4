"""The process' resident memory on Linux: what it holds, and its peak from a moment on."""

import contextlib
import ctypes
import gc
from pathlib import Path

from torch import nn

STATUS, CLEAR = Path("/proc/self/status"), Path("/proc/self/clear_refs")


def settled() -> int | None:
    """Bytes after what was freed is given back; `peak` counts from here on. None where the system can't tell."""
    gc.collect()
    with contextlib.suppress(OSError, AttributeError):
        ctypes.CDLL(None).malloc_trim(0)
    try:
        CLEAR.write_text("5", encoding="ascii")
        return _status("VmRSS")
    except OSError:
        return None


def peak() -> int:
    """Bytes at the peak since the last `settled`."""
    return _status("VmHWM")


def read_pages(module: nn.Module) -> None:
    """Read all weights: a file's pages are resident only then, and would count as the first call's memory."""
    for parameter in module.parameters():
        parameter.detach().sum()


def _status(name: str) -> int:
    line = next(line for line in STATUS.read_text(encoding="ascii").splitlines() if line.startswith(name))
    return int(line.split()[1]) * 1024
