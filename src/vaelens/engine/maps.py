"""Where a whole map lies: in memory, or parked in a temporary file (of a GPU: in the machine's memory)."""

import contextlib
import math
import mmap
import os
import tempfile
import weakref
from pathlib import Path
from typing import Any, Protocol, cast

import torch
from torch import Tensor

from vaelens.errors import ResourceError
from vaelens.resources import free_memory

Shape = tuple[int, int, int, int]  # b, h, w, c

VOLATILE = {"tmpfs", "ramfs"}  # file systems whose files are memory
DISK_SHARE = 0.9  # of the free disk that a run may take
CAN_RELEASE = hasattr(mmap, "MADV_DONTNEED") and hasattr(mmap, "MAP_ANONYMOUS")
SMALL = 2**20  # bytes of a map that isn't worth its own pages


class MemoryMap:
    """A map in the device's memory: `values` [b,h,w,c], not set at first."""

    def __init__(self, shape: Shape, dtype: torch.dtype, device: torch.device) -> None:
        self.shape = shape
        self._pages: mmap.mmap | None = None
        self._released = 0
        size = math.prod(shape) * dtype.itemsize
        if can_release(device) and shape[0] == 1 and size >= SMALL:
            self._pages = _pages(size)
            self.values = torch.frombuffer(self._pages, dtype=dtype).view(shape)
        else:
            self.values = torch.empty(shape, dtype=dtype, device=device)

    def release(self, before: int) -> None:
        """Give the rows before this one back to the system: they are read no more."""
        if self._pages is None:
            return
        row = self.values.stride(1) * self.values.element_size()
        end = before * row // mmap.PAGESIZE * mmap.PAGESIZE
        if end > self._released:
            self._pages.madvise(mmap.MADV_DONTNEED, self._released, end - self._released)
            self._released = end


class ParkedMap:
    """A map outside the device's memory. A file of it has no name, so that nothing stays behind.

    Raises ResourceError where the folder for temporary files is memory itself, hasn't the room or can't be used; so do
    reading and writing where the disk fails.
    """

    def __init__(self, shape: Shape, dtype: torch.dtype, device: torch.device) -> None:
        self.shape = shape
        self._row = math.prod(shape[2:]) * dtype.itemsize
        self._bytes = self._row * shape[0] * shape[1]
        self._host = self._file = None
        if device.type != "cpu":
            self._host = torch.empty(shape, dtype=dtype)
            return
        if (room := parking_room(device)) < self._bytes:
            raise self._failed(f"{room / 1e9:.2f} GB can be used there")
        try:
            self._file = tempfile.TemporaryFile(buffering=0)  # noqa: SIM115  (as long as the map)
        except OSError as error:
            raise self._failed(str(error.strerror)) from error
        weakref.finalize(self, self._file.close)

    def read(self, r0: int, r1: int, into: Tensor) -> None:
        """Copy the rows [r0,r1) to `into`, [b,r1-r0,w,c]."""
        if self._host is not None:
            into.copy_(self._host[:, r0:r1])
        else:
            self._transfer(os.preadv, r0, into)

    def write(self, y0: int, strip: Tensor) -> None:
        """Store the rows from y0 on."""
        if self._host is not None:
            self._host[:, y0 : y0 + strip.shape[1]].copy_(strip)
        else:
            self._transfer(os.pwritev, y0, strip)

    def _transfer(self, call: "_Call", row: int, values: Tensor) -> None:
        """All bytes of the rows: the system may do a part of them at a time."""
        file: Any = self._file
        for image in range(self.shape[0]):
            data = memoryview(cast(Any, values[image].view(torch.uint8).flatten().numpy()))
            offset = (image * self.shape[1] + row) * self._row
            while data:
                try:
                    done = call(file.fileno(), [data], offset)
                except OSError as error:
                    raise self._failed(str(error.strerror)) from error
                if done == 0:
                    raise self._failed("the system transfers no more of it")
                data, offset = data[done:], offset + done

    def _failed(self, why: str) -> ResourceError:
        where = f"in {folder}" if (folder := _folder()) else "anywhere"
        return ResourceError(
            f"activations can't be parked {where}, in a temporary file of {self._bytes / 1e9:.2f} GB: {why}. Set "
            "TMPDIR to a folder on a disk with more room, or allow more memory."
        )


class _Call(Protocol):
    """os.preadv and os.pwritev."""

    def __call__(self, fd: int, buffers: list[memoryview], offset: int, /) -> int: ...


def can_release(device: torch.device) -> bool:
    """Whether the rows of a map in memory can be given back one by one."""
    return device.type == "cpu" and CAN_RELEASE


def parking_room(device: torch.device) -> int:
    """Bytes that can be parked: of the disk of temporary files, none where it is memory itself or can't be used."""
    if device.type != "cpu":
        return free_memory(torch.device("cpu")) or 0
    folder = _folder()
    if folder is None or not hasattr(os, "preadv"):  # Windows has none
        return 0
    try:
        if _file_system(folder) in VOLATILE:
            return 0
        usage = os.statvfs(folder)
    except OSError:
        return 0
    return int(usage.f_bavail * usage.f_frsize * DISK_SHARE)


def _folder() -> Path | None:
    """Of temporary files; None where the system has none that can be written to."""
    try:
        return Path(tempfile.gettempdir())
    except OSError:
        return None


def _file_system(folder: Path) -> str | None:
    """The type of the file system that holds a folder, as Linux tells it; None elsewhere."""
    try:
        lines = [line.split() for line in Path("/proc/self/mountinfo").read_text(encoding="utf-8").splitlines()]
    except (OSError, ValueError):
        return None
    device = folder.stat().st_dev
    number = f"{os.major(device)}:{os.minor(device)}"
    kinds = [fields[fields.index("-") + 1] for fields in lines if fields[2] == number]
    return kinds[-1] if kinds else None


def _pages(size: int) -> mmap.mmap:
    """Private pages of zeros, large ones where the system has them: setting up small ones takes a tenth of a decode."""
    try:
        pages = mmap.mmap(-1, size, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    except OSError as error:
        raise MemoryError(str(error)) from error
    if hasattr(mmap, "MADV_HUGEPAGE"):
        with contextlib.suppress(OSError):  # a kernel without them
            pages.madvise(mmap.MADV_HUGEPAGE)
    return pages
