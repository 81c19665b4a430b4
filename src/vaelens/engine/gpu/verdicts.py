"""What `vaelens doctor --tune` found on a card, kept in the user's cache folder: which way it runs networks there.

A verdict counts for one card, driver and precision, and for the versions of vaelens, PyTorch and Triton that it was
found with. Without one a GPU is run by the engine's plans.
"""

import ctypes
import functools
import os
import sys
from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

import torch

from vaelens.engine.gpu.ways import BUDGETED, WAYS, Way
from vaelens.files import checked_json, read_checked_json, write_atomic
from vaelens.kernels.paths import TORCH, VARIABLE
from vaelens.runs.versions import versions
from vaelens.runtime import Notify, dtype_name
from vaelens.text.paths import cache_folder, reason

SCHEMA = 1
FILE = "gpu-verdicts.json"
AGAIN = "Run `vaelens doctor --tune` again."

WayOf = Callable[[torch.device, torch.dtype, Notify], Way | None]  # None: by the engine's plans


@dataclass(frozen=True)
class Card:
    """What a verdict depends on beside the precision; capability and versions as texts, "-" for what isn't there."""

    device: str
    capability: str
    driver: str
    vaelens: str
    torch: str
    triton: str

    def changes(self, before: "Card") -> list[str]:
        """What differs from another one, in words."""
        return [
            f"{field.name} is {getattr(self, field.name)}, and was {getattr(before, field.name)}"
            for field in fields(self)
            if getattr(self, field.name) != getattr(before, field.name)
        ]


@dataclass(frozen=True)
class Trial:
    """One way, tried: relative L2 errors against float64, and seconds of a call; None where `problem` stopped it.

    `way` is "plain" for the network as it is, "torch" for the engine's plans, else a name of `WAYS`.
    """

    way: str
    encode_error: float | None = None
    decode_error: float | None = None
    encode_seconds: float | None = None
    decode_seconds: float | None = None
    problem: str | None = None

    @property
    def seconds(self) -> float | None:
        """Of both."""
        if self.encode_seconds is None or self.decode_seconds is None:
            return None
        return self.encode_seconds + self.decode_seconds


@dataclass(frozen=True)
class Verdict:
    """The way that a card runs networks of a precision, found with images of `side` pixels."""

    card: Card
    dtype: str
    side: int
    way: str
    trials: tuple[Trial, ...]

    @classmethod
    def of(cls, record: Mapping[str, Any]) -> "Verdict":
        """From what `asdict` gave, read back. Raises TypeError, KeyError or ValueError for anything else."""
        if record["way"] not in (BUDGETED, *WAYS):
            raise ValueError(f"it names the way {record['way']!r}, which isn't known")
        trials = tuple(Trial(**trial) for trial in record["trials"])
        return cls(Card(**record["card"]), record["dtype"], record["side"], record["way"], trials)


def verified_way(device: torch.device, dtype: torch.dtype, notify: Notify) -> Way | None:
    """The way that was verified and found the fastest here; None: by the engine's plans, as without any verdict.

    VAELENS_KERNELS=torch takes the plans. A verdict of other versions, or a file that can't be read, is ignored with
    a notice, once in a process.
    """
    if device.type != "cuda" or os.environ.get(VARIABLE) == TORCH:
        return None
    return way_for(card_of(device), dtype_name(dtype), notify)


def way_for(card: Card, dtype: str, notify: Notify) -> Way | None:
    """As `verified_way`, of a card."""
    verdicts, problem = read_verdicts()
    if problem:
        _say_once(problem, notify)
    of_card = [one for one in verdicts if one.card.device == card.device and one.dtype == dtype]
    for verdict in of_card:
        if verdict.card == card:
            return WAYS.get(verdict.way)
    if of_card:
        what = "; ".join(card.changes(of_card[0].card))
        _say_once(f"{card.device} runs as if it had not been tuned: {what}. {AGAIN}", notify)
    return None


def read_verdicts() -> tuple[tuple[Verdict, ...], str | None]:
    """Those of all cards, and why the file can't be read where it can't. It is parsed again when it has changed."""
    path = _path()
    try:
        found = path.stat()
    except OSError:  # nothing was tuned
        return (), None
    return _parsed(path, found.st_mtime_ns, found.st_size)


def write_verdicts(new: Iterable[Verdict]) -> Path:
    """Keep these, in the place of earlier ones of the same device and precision. Raises as `write_atomic` does."""
    new = tuple(new)
    replaced = {(verdict.card.device, verdict.dtype) for verdict in new}
    kept = [one for one in read_verdicts()[0] if (one.card.device, one.dtype) not in replaced]
    return write_atomic(_path(), checked_json({"schema": SCHEMA, "verdicts": [asdict(v) for v in (*kept, *new)]}))


@functools.cache
def card_of(device: torch.device) -> Card:
    """A CUDA device."""
    major, minor = torch.cuda.get_device_capability(device)
    name = torch.cuda.get_device_name(device)
    return Card(name, f"{major}.{minor}", _driver(), **here())


def here() -> dict[str, str]:
    """The versions that a verdict depends on."""
    found = versions()
    return {name: found.get(name, "-") for name in ("vaelens", "torch", "triton")}


@functools.lru_cache(maxsize=1)
def _parsed(path: Path, _mtime: int, _size: int) -> tuple[tuple[Verdict, ...], str | None]:
    try:
        record = read_checked_json(path.read_bytes())
        if record["schema"] != SCHEMA:
            raise ValueError("another version of vaelens wrote it")
        return tuple(Verdict.of(one) for one in record["verdicts"]), None
    except (OSError, ValueError, TypeError, KeyError) as error:
        why = reason(error) if isinstance(error, OSError | ValueError) else "it isn't a list of verdicts"
        return (), f"{path}: not used, because {why}. {AGAIN}"


def _path() -> Path:
    return cache_folder() / FILE


def _driver() -> str:
    """The version of NVIDIA's driver, by its management library; "-" where that isn't there."""
    text = ctypes.create_string_buffer(96)
    try:
        library = ctypes.CDLL("nvml.dll" if sys.platform == "win32" else "libnvidia-ml.so.1")
        if library.nvmlInit_v2() or library.nvmlSystemGetDriverVersion(text, len(text)):
            return "-"
        library.nvmlShutdown()
    except (OSError, AttributeError):
        return "-"
    return text.value.decode(errors="replace")


_said: set[str] = set()


def _say_once(notice: str, notify: Notify) -> None:
    if notice not in _said:
        _said.add(notice)
        notify(notice)
