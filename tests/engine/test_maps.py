"""Maps in memory and parked ones: what they hold, what they give back, and where they may not lie."""

import os
import tempfile
from pathlib import Path

import pytest
import torch

from vaelens.engine import maps
from vaelens.engine.maps import MemoryMap, ParkedMap
from vaelens.errors import ResourceError

CPU = torch.device("cpu")


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_parked_map_gives_its_rows_back(dtype: torch.dtype) -> None:
    values = torch.randn(2, 7, 5, 3).to(dtype)
    parked = ParkedMap((2, 7, 5, 3), dtype, CPU)
    for y0, y1 in ((3, 7), (0, 3)):
        parked.write(y0, values[:, y0:y1])
    into = torch.empty((2, 4, 5, 3), dtype=dtype)
    parked.read(2, 6, into)
    assert torch.equal(into, values[:, 2:6])


def test_a_parked_map_leaves_no_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    parked = ParkedMap((1, 8, 8, 8), torch.float32, CPU)
    parked.write(0, torch.zeros(1, 8, 8, 8))
    assert list(tmp_path.iterdir()) == []  # not even while it is used, so that a killed process leaves none


def test_partial_transfers_are_continued(monkeypatch: pytest.MonkeyPatch) -> None:
    """The system may write or read less than it is asked for."""
    write, read = os.pwritev, os.preadv
    monkeypatch.setattr(os, "pwritev", lambda fd, data, offset: write(fd, [data[0][:100]], offset))
    monkeypatch.setattr(os, "preadv", lambda fd, data, offset: read(fd, [data[0][:64]], offset))
    values, into = torch.randn(1, 6, 5, 3), torch.empty(1, 6, 5, 3)
    parked = ParkedMap((1, 6, 5, 3), torch.float32, CPU)
    parked.write(0, values)
    parked.read(0, 6, into)
    assert torch.equal(into, values)


def test_a_disk_without_room_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(maps, "parking_room", lambda device: 10**6)
    with pytest.raises(
        ResourceError,
        match=r"parked in /.*, in a temporary file of 0.01 GB: 0.00 GB can be used there\. Set TMPDIR",
    ):
        ParkedMap((1, 100, 100, 250), torch.float32, CPU)


@pytest.mark.parametrize("call", ["pwritev", "preadv"])
def test_a_disk_that_fails_is_a_resource_error(call: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> int:
        raise OSError(28, "No space left on device")

    parked, rows = ParkedMap((1, 2, 2, 2), torch.float32, CPU), torch.zeros(1, 2, 2, 2)
    for answer, why in ((full, "No space left on device"), (lambda *_: 0, "the system transfers no more of it")):
        monkeypatch.setattr(os, call, answer)
        with pytest.raises(ResourceError, match=rf"can't be parked in /.*: {why}\. Set TMPDIR"):
            parked.write(0, rows) if call == "pwritev" else parked.read(0, 2, rows)


def test_a_folder_that_cannot_be_used_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """One that is gone since the process found it; one that nothing can be written to; none at all."""
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "gone"))
    assert maps.parking_room(CPU) == 0
    monkeypatch.setattr(maps, "parking_room", lambda device: 10**9)
    with pytest.raises(ResourceError, match=r"can't be parked in .*gone, .*: No such file or directory\. Set TMPDIR"):
        ParkedMap((1, 2, 2, 2), torch.float32, CPU)
    monkeypatch.undo()

    def nowhere() -> str:
        raise FileNotFoundError(2, "No usable temporary directory found in ['/tmp']")

    monkeypatch.setattr(tempfile, "gettempdir", nowhere)
    assert maps.parking_room(CPU) == 0
    with pytest.raises(ResourceError, match=r"can't be parked anywhere, .*: 0.00 GB can be used there\. Set TMPDIR"):
        ParkedMap((1, 2, 2, 2), torch.float32, CPU)


@pytest.mark.skipif(not Path("/proc/self/mountinfo").exists(), reason="Linux tells the type of a file system")
def test_nothing_is_parked_in_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    if not Path("/dev/shm").is_dir():
        pytest.skip("this machine has no file system in memory")
    monkeypatch.setattr(tempfile, "tempdir", "/dev/shm")
    assert maps.parking_room(CPU) == 0


@pytest.mark.skipif(not maps.CAN_RELEASE, reason="this system can't give back a part of a block of memory")
def test_released_rows_are_given_back_and_the_others_stay() -> None:
    stored = MemoryMap((1, 64, 64, 256), torch.float32, CPU)  # 64 KB a row
    stored.values.fill_(1)
    stored.release(40)
    assert stored.values[0, :40].sum() == 0  # pages that were given back read as zeros
    assert bool((stored.values[0, 40:] == 1).all())
    stored.release(39)
    assert bool((stored.values[0, 40:] == 1).all())
