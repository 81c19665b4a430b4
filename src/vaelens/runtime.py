"""Where a call runs, what it may download, and who hears of it: one object, from the public call down to the last file.

Public functions take these as flat keyword arguments; `Runtime.of` checks them once, and everything below gets the
object.
"""

import difflib
import logging
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from vaelens.errors import UsageError
from vaelens.json_reading import quoted
from vaelens.text.numbers import parse_bytes

if TYPE_CHECKING:  # what only downloads and checks has no need of torch
    import torch

Notify = Callable[[str], object]
Progress = Callable[[int, int, str], object]
ShouldStop = Callable[[], bool]

DTYPES = ("float32", "float16", "bfloat16")
SHORT_DTYPES = {"fp32": "float32", "fp16": "float16", "bf16": "bfloat16"}


def silent(*_: object) -> None:
    """Ignore a notice, a step of progress or a line of a log that no caller takes."""


def never() -> bool:
    """Never stop."""
    return False


def part_of(progress: Progress, before: int, total: int) -> Progress:
    """The progress of a part that counts its own steps, `before` of the `total` ones of the whole call being done."""
    return lambda done, _, what: progress(before + done, total, what)


def log(notice: str) -> None:
    """A notice to the log `vaelens`, at level INFO: where notices go that no caller takes."""
    logging.getLogger("vaelens").info(notice)


@dataclass(frozen=True)
class Runtime:
    """The surroundings of a call.

    `device_name` and `dtype_name` are where and in which precision VAEs run; `offline` allows only what is on this
    machine. `max_memory` is by how many bytes a VAE may let memory grow, None for what is free. `notify` gets notices,
    a sentence each; `progress` gets (done, total, what) before each step; `should_stop` is called between steps.
    """

    device_name: str = "cpu"
    dtype_name: str = "float32"
    offline: bool = False
    max_memory: int | None = None
    notify: Notify = log
    progress: Progress = silent
    should_stop: ShouldStop = never

    @classmethod
    def of(
        cls,
        *,
        device: str = "auto",
        dtype: str = "float32",
        offline: bool = False,
        max_memory: int | str | None = None,
        notify: Notify | None = None,
        progress: Progress | None = None,
        should_stop: ShouldStop | None = None,
    ) -> "Runtime":
        """From what a caller names.

        Raises UsageError for a device or dtype that can't be had here, and for a `max_memory` that isn't an amount.
        """
        name, budget = dtype_name(find_dtype(dtype)), bytes_of(max_memory)
        found = str(find_device(device))
        return cls(found, name, offline, budget, notify or log, progress or silent, should_stop or never)

    @property
    def device(self) -> "torch.device":
        """For torch."""
        import torch  # noqa: PLC0415

        return torch.device(self.device_name)

    @property
    def dtype(self) -> "torch.dtype":
        """For torch."""
        return find_dtype(self.dtype_name)

    def on(self, device: "str | torch.device") -> "Runtime":
        """The same on another device."""
        return replace(self, device_name=str(device))

    def using(self, dtype: str) -> "Runtime":
        """The same in another precision. Raises UsageError for one that isn't known."""
        return replace(self, dtype_name=dtype_name(find_dtype(dtype)))


DEFAULT = Runtime()  # float32 on the CPU, online, notices to the log


def find_device(device: str) -> "torch.device":
    """The torch device; `auto` takes cuda, else mps, else the CPU. Raises UsageError where it isn't there."""
    import torch  # noqa: PLC0415

    usable = available_devices()
    if device == "auto":
        return torch.device(usable[-1])
    try:
        found = torch.device(device)
    except RuntimeError:
        found = None
    if found is None or found.type not in usable or (found.index or 0) >= _count(found.type):
        raise UsageError(f"no device {device!r} here; usable: auto, {', '.join(usable)}.")
    return found


def available_devices() -> list[str]:
    """The kinds of device that torch can use here, the CPU first, the fastest last."""
    import torch  # noqa: PLC0415

    devices = ["cpu"]
    if torch.backends.mps.is_available():
        devices.append("mps")
    if torch.cuda.is_available():
        devices.append("cuda")
    return devices


def find_dtype(dtype: str) -> "torch.dtype":
    """The torch dtype by its name. Raises UsageError for another than DTYPES and SHORT_DTYPES."""
    dtype = SHORT_DTYPES.get(dtype, dtype)
    if dtype not in DTYPES:
        near = difflib.get_close_matches(dtype, DTYPES, n=1)
        hint = f"Did you mean {near[0]}?" if near else f"Known: {', '.join(DTYPES)}."
        raise UsageError(f"no dtype is called {dtype!r}. {hint}")
    import torch  # noqa: PLC0415

    return getattr(torch, dtype)


def dtype_name(dtype: "torch.dtype") -> str:
    """float32, bfloat16, ...: as options and records write it."""
    return str(dtype).removeprefix("torch.")


def bytes_of(max_memory: int | str | None) -> int | None:
    """A budget of memory in bytes, from bytes or a text such as "2GB"; None for None. Raises UsageError."""
    if max_memory is None:
        return None
    try:
        return parse_bytes(str(max_memory))
    except ValueError as error:
        raise UsageError(
            f"max_memory (--max-memory) {quoted(str(max_memory))} is {error}. Write 2GB (10^9 bytes each), 1.5GiB "
            "(2^30), 512MB, or bytes."
        ) from None


def _count(kind: str) -> int:
    import torch  # noqa: PLC0415

    return torch.cuda.device_count() if kind == "cuda" else 1
