"""What work takes of the machine, and how it computes: time, memory, threads, full precision, random state.

Each context puts back what it found: settings of torch are settings of the whole process.
"""

import contextlib
import ctypes
import os
import platform
import sys
import threading
import time
from collections.abc import Generator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any, cast

import torch

from vaelens.errors import ResourceError, UsageError
from vaelens.process import Shared

PAUSE = 0.002  # seconds between two readings of the process' memory
M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3  # of glibc's mallopt
LARGE_BLOCK = 4 * 2**20
STATM = Path("/proc/self/statm")
CGROUPS = Path("/proc/self/cgroup")
MOUNTS = Path("/proc/self/mountinfo")
# Of each version of control groups: the files of limit and use, and which parts of the use are cached files, which are
# given back when they are needed.
CGROUP_FILES = {
    "cgroup2": ("memory.max", "memory.current", ("active_file", "inactive_file")),
    "cgroup": ("memory.limit_in_bytes", "memory.usage_in_bytes", ("total_active_file", "total_inactive_file")),
}
MEMINFO = Path("/proc/meminfo")
MAX_THREADS = 1024


@dataclass
class Usage:
    """Seconds, and bytes of memory at the peak beyond those at the beginning; None where the system doesn't report it.

    On a CUDA device the memory is that of torch's allocator there, else the process' resident size, which is read
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
        give_back_memory()
    before = torch.cuda.memory_allocated(device) if cuda else _resident()
    reader = None if cuda or before is None else _PeakReader(before)
    start = time.perf_counter()
    try:
        yield usage
    finally:
        if cuda:
            torch.cuda.synchronize(device)
        usage.seconds = time.perf_counter() - start
        peak = torch.cuda.max_memory_allocated(device) if cuda else reader.end() if reader else None
        if peak is not None and before is not None:
            usage.memory = peak - before


@contextmanager
def using_threads(count: int) -> Generator[int]:
    """In this context torch computes with so many threads of the CPU.

    torch counts them for each thread of Python, and new ones begin with the count that was set last. Contexts of
    several threads may overlap: the last to end sets the count that the first found.

    Raises UsageError for more than MAX_THREADS: where the system has no room for so many, the process crashes.
    """
    if not 1 <= count <= MAX_THREADS:
        raise UsageError(
            f"--threads {count}: a number from 1 to {MAX_THREADS} is expected. This machine has {os.cpu_count()} cores."
        )
    with _thread_count:
        before = torch.get_num_threads()
        torch.set_num_threads(count)
        try:
            yield count
        finally:
            torch.set_num_threads(before)


@contextmanager
def _same_threads() -> Generator[None]:
    before = torch.get_num_threads()
    try:
        yield
    finally:
        torch.set_num_threads(before)


_thread_count = Shared(_same_threads)


class _PeakReader:
    """Reads the resident size in a thread of its own until `end`, and gives the largest."""

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


def give_back_memory() -> None:
    """Ask glibc for its free memory, which would otherwise be taken again unseen.

    Garbage isn't collected: that takes a third of a second once diffusers is loaded, and tensors are freed without.
    """
    with contextlib.suppress(OSError, AttributeError, TypeError):
        ctypes.CDLL(None).malloc_trim(0)


@contextmanager
def large_blocks_apart() -> Generator[None]:
    """Inside, glibc maps each large block by itself and gives it back when it is freed.

    Else it takes blocks up to 32 MiB, as training's maps are, from a heap that grows around what is kept longer. The
    thresholds at the end are those that glibc has come to after freeing such blocks.
    """
    _set_malloc(M_MMAP_THRESHOLD, LARGE_BLOCK)
    try:
        yield
    finally:
        _set_malloc(M_MMAP_THRESHOLD, 32 * 2**20)
        _set_malloc(M_TRIM_THRESHOLD, 64 * 2**20)


def _set_malloc(parameter: int, value: int) -> None:
    with contextlib.suppress(OSError, AttributeError, TypeError):
        ctypes.CDLL(None).mallopt(parameter, value)


def _resident() -> int | None:
    try:
        return int(STATM.read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    except (OSError, ValueError, IndexError):
        return None


@contextmanager
def full_precision(device: torch.device | str) -> Generator[None]:
    """Full fp32 inside: autocast off on `device`, no TF32 and no bfloat16 in products, then all as it was before.

    The latter are settings of the whole process; contexts of several threads may overlap.
    """
    with _ieee_products, torch.autocast(torch.device(device).type, enabled=False):
        yield


@contextmanager
def _ieee() -> Generator[None]:
    backends = torch.backends
    settings = cast(
        "tuple[Any, ...]",
        (backends.cuda.matmul, backends.cudnn.conv, backends.mkldnn.matmul, backends.mkldnn.conv),  # pyright: ignore[reportAttributeAccessIssue, reportUnknownMemberType]
    )
    before = [setting.fp32_precision for setting in settings]
    try:
        for setting in settings:
            setting.fp32_precision = "ieee"
        yield
    finally:
        for setting, value in zip(settings, before, strict=True):
            setting.fp32_precision = value


_ieee_products = Shared(_ieee)


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an allocation failed: Python's MemoryError, or torch's RuntimeErrors on the CPU and on devices."""
    words = ("out of memory", "not enough memory", "can't allocate memory")
    return isinstance(error, MemoryError) or (
        isinstance(error, RuntimeError) and any(word in str(error).lower() for word in words)
    )


@contextmanager
def out_of_memory(message: str) -> Generator[None]:
    """In this context memory that runs out is a ResourceError with this message: what failed, and what to do."""
    try:
        yield
    except (MemoryError, RuntimeError) as error:
        if not is_out_of_memory(error):
            raise
        raise ResourceError(message) from error


@contextmanager
def preserved_random_state() -> Generator[None]:
    """After this context torch's CPU generator is what it was before.

    It belongs to the whole process: numbers that another thread draws from it meanwhile are drawn again afterwards.
    """
    before = torch.get_rng_state()
    try:
        yield
    finally:
        torch.set_rng_state(before)


@contextmanager
def seeded(seed: int) -> Generator[None]:
    """In this context torch's CPU generator begins at the seed; afterwards it is what it was."""
    with preserved_random_state():
        torch.default_generator.manual_seed(seed)
        yield


def processor(device: str) -> str:
    """What computes on a device of this kind: results of two differ in their last bits."""
    if device == "cuda":
        return torch.cuda.get_device_name()
    return f"{platform.machine()} {torch.backends.cpu.get_cpu_capability()}"


def total_memory() -> int | None:
    """The bytes of memory that this machine has, or what a container (cgroup) allows; None where it isn't known."""
    try:
        total = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    except (AttributeError, OSError, ValueError):  # AttributeError: Windows
        return None
    total = min([total, *(allowed for allowed, _ in _container_limits())])
    return total if total > 0 else None


def peak_memory() -> int | None:
    """The process' largest resident size in bytes; None where the system doesn't report it."""
    if os.name != "posix":
        return None
    import resource  # noqa: PLC0415  (POSIX only)

    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024


def free_memory(device: torch.device) -> int | None:
    """The bytes that can be had now without swapping: of a CUDA device, or of this machine within the process' limits.

    None where the system doesn't report it.
    """
    if device.type == "cuda":
        free = torch.cuda.mem_get_info(device)[0]
        return free + torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
    try:
        lines = MEMINFO.read_text().splitlines()
        free = next(int(line.split()[1]) * 1024 for line in lines if line.startswith("MemAvailable:"))
    except (OSError, ValueError, StopIteration):
        return None
    rooms = [allowed - used for allowed, used in _container_limits()]
    return max(0, min([free, *rooms, *_address_space()]))


def _container_limits() -> list[tuple[int, int]]:
    """What each control group around this process allows, and what its processes use but for cached files, in bytes."""
    found = list[tuple[int, int]]()
    for folder, (limit, use, cached) in _control_groups():
        with contextlib.suppress(OSError, ValueError):  # "max": no limit; no file: at the root, or without memory
            allowed, used = (int((folder / name).read_text()) for name in (limit, use))
            stat = dict(line.split() for line in (folder / "memory.stat").read_text().splitlines())
            found.append((allowed, used - sum(int(stat.get(name, 0)) for name in cached)))
    return found


def _control_groups() -> Generator[tuple[Path, tuple[str, str, tuple[str, str]]]]:
    """The folders of this process' groups that may limit memory, and of those around them, with their files' names."""
    with contextlib.suppress(OSError, ValueError, IndexError):
        groups = [line.split(":", 2) for line in CGROUPS.read_text().splitlines()]
        for line in MOUNTS.read_text().splitlines():
            fields = line.split()
            kind, options = fields[fields.index("-") + 1], fields[-1].split(",")
            controller = "memory" if kind == "cgroup" else ""
            if kind not in CGROUP_FILES or (controller and controller not in options):
                continue
            own = next((path for _, names, path in groups if controller in names.split(",")), "/")
            root, mounted = PurePosixPath(fields[3]), Path(fields[4])
            # A container may be shown the whole tree, or only its own part of it under another name.
            inner = PurePosixPath(own).relative_to(root) if PurePosixPath(own).is_relative_to(root) else PurePosixPath()
            for group in [inner, *inner.parents]:
                yield mounted / group, CGROUP_FILES[kind]


def _address_space() -> list[int]:
    """What `ulimit -v` leaves of the process' addresses, in bytes; empty without a limit."""
    if os.name != "posix":
        return []
    import resource  # noqa: PLC0415  (POSIX only)

    limit = resource.getrlimit(resource.RLIMIT_AS)[0]
    try:
        used = int(STATM.read_text().split()[0]) * os.sysconf("SC_PAGE_SIZE")
    except (OSError, ValueError, IndexError):
        return []
    return [] if limit == resource.RLIM_INFINITY else [limit - used]
