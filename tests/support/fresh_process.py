"""How much memory a call takes in a process of its own."""

import re
import subprocess
import sys

import pytest

PROGRAM = """
import re
import vaelens as vl, vaelens.conversion
def peak(): return 1024 * int(re.search(r"VmHWM:\\s+(\\d+) kB", open("/proc/self/status").read())[1])
before = peak()
{call}
print("peaks:", before, peak())
"""

needs_linux = pytest.mark.skipif(sys.platform != "linux", reason="reads the peak from Linux' /proc")


def peaks(call: str) -> tuple[int, int]:
    """Bytes of resident memory at most, mapped files included: when vaelens is imported, and after the call.

    The process reads its own peak, because the one that a parent is told begins at the parent's.
    """
    done = subprocess.run([sys.executable, "-c", PROGRAM.format(call=call)], capture_output=True, text=True, check=True)
    found = re.search(r"peaks: (\d+) (\d+)", done.stdout)
    assert found is not None, done.stdout
    return int(found[1]), int(found[2])
