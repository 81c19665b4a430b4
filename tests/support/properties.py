"""Property tests: many small inputs, most of them damaged. Each must end soon, in little memory, with our own errors.

VAELENS_EXAMPLES chooses how many: small (the default, `make test`), large (`make test-all`), or whole, once by hand:

    VAELENS_EXAMPLES=whole .venv/bin/pytest -n 2 -m properties
"""

import os
import re
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from types import FrameType
from typing import Any

import torch  # noqa: F401 - what is imported later would count as an input's memory
from hypothesis import HealthCheck, Phase, settings

from vaelens.errors import VaelensError

MB = 1_000_000
SECONDS = 2.0  # for one input, however long
ROOM = 50 * MB  # beyond what the input's size allows
CODES = {0, 2, 3, 4, 5, 6, 7}  # what a command may exit with; 1 is an error of ours

SIZES = ("small", "large", "whole")
SIZE = os.environ.get("VAELENS_EXAMPLES", "small")


def examples(small: int, large: int, whole: int) -> settings:
    """Hypothesis' settings for so many examples, the same ones in each run."""
    count = {"small": small, "large": large, "whole": whole}[SIZE]
    return settings(
        max_examples=count,
        deadline=None,  # `outcome` has its own, which doesn't fail an input that is slow once
        derandomize=True,
        database=None,
        suppress_health_check=list(HealthCheck),
        phases=(Phase.explicit, Phase.generate, *((Phase.shrink,) if SIZE == "small" else ())),
    )


def commands(whole: int = 200) -> int:
    """How many inputs go through the installed command: each takes a process and seconds."""
    return {"small": 1, "large": 4, "whole": whole}[SIZE]


class Tally:
    """How the inputs of one property ended, and the worst of time and memory; printed with `pytest -s`."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.outcomes: Counter[str] = Counter()
        self.slowest = 0.0
        self.largest = 0

    def check(self, call: Callable[[], object], allowed: int) -> str:
        """Run it and note how it ended: "fine", or the name of our error.

        Fails for another error, for more than SECONDS, and for more than `allowed` bytes of memory.
        """
        before = _reset_peak()
        start = time.perf_counter()
        signal.signal(signal.SIGALRM, _hangs)
        signal.setitimer(signal.ITIMER_REAL, 10 * SECONDS)
        try:
            call()
            ended = "fine"
        except VaelensError as error:
            ended = type(error).__name__
        finally:
            signal.setitimer(signal.ITIMER_REAL, 0)
            signal.signal(signal.SIGALRM, signal.SIG_DFL)
        spent = time.perf_counter() - start
        if spent > SECONDS:  # once more: the machine may have been busy
            start = time.perf_counter()
            with suppress(VaelensError):
                call()
            spent = min(spent, time.perf_counter() - start)
        grown = _peak() - before
        self.outcomes[ended] += 1
        self.slowest, self.largest = max(self.slowest, spent), max(self.largest, grown)
        assert spent <= SECONDS, f"{spent:.1f} s, {SECONDS} allowed"
        assert grown <= allowed, f"{grown / MB:.0f} MB of memory, {allowed / MB:.0f} allowed"
        return ended

    def __str__(self) -> str:
        ends = ", ".join(f"{count} {name}" for name, count in self.outcomes.most_common())
        total = sum(self.outcomes.values())
        return f"{self.name}: {total} inputs ({ends}); slowest {self.slowest:.2f} s, memory {self.largest / MB:.0f} MB"


def run_command(*arguments: object, cwd: Path) -> int:
    """The exit code of the installed command on a damaged input. Fails for 1, a traceback, or many lines of error."""
    command = [str(Path(sys.executable).with_name("vaelens")), *map(str, arguments)]
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONWARNINGS"}
    ran = subprocess.run(command, capture_output=True, check=False, cwd=cwd, env=environment, timeout=120)
    error = ran.stderr.decode("utf-8", "replace")
    assert ran.returncode in CODES, (ran.returncode, error)
    assert "Traceback" not in error, error
    if ran.returncode:
        message = error.rstrip("\n").rpartition("\n")[2]
        assert message.startswith("vaelens: "), error
        assert not re.search(r"[\x00-\x08\x0b-\x1f\x7f]", error), error
    return ran.returncode


def _hangs(_number: int, _frame: FrameType | None) -> Any:
    raise AssertionError(f"still running after {10 * SECONDS:.0f} s")


def _reset_peak() -> int:
    """The resident size in bytes, from which the peak is counted again."""
    Path("/proc/self/clear_refs").write_text("5")
    return _status("VmRSS")


def _peak() -> int:
    return _status("VmHWM")


def _status(name: str) -> int:
    found = re.search(rf"{name}:\s+(\d+) kB", Path("/proc/self/status").read_text())
    assert found is not None
    return int(found[1]) * 1024
