"""Memory of large blocks, which training gives back at once."""

import subprocess
import sys

import pytest

PROGRAM = """
import torch
from vaelens.resources import _resident, large_blocks_apart

torch.empty(7 * 2**20).zero_()  # 28 MiB: freed once, glibc takes such blocks from its heap
def growth():
    before, kept = _resident(), []
    for _ in range(6):
        large = torch.ones(4 * 2**20)  # 16 MiB
        kept.append(torch.ones(2**14))  # 64 KiB, after it in the heap
        del large
        kept.append(torch.ones(5 * 2**20))
    del kept[1::2]
    return _resident() - before
with large_blocks_apart():
    print(growth())
print(growth())
"""


@pytest.mark.skipif(sys.platform != "linux", reason="of glibc's allocator")
def test_large_blocks_are_given_back_inside_and_not_outside() -> None:
    run = subprocess.run([sys.executable, "-c", PROGRAM], capture_output=True, text=True, check=True)
    inside, outside = (int(line) for line in run.stdout.split())
    assert inside < 4e6
    assert outside > 10e6
