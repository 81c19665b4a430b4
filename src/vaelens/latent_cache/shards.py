"""The files of a cache: a run of consecutive images each, in one safetensors file with a checksum of itself.

| tensor | holds                                                                                                |
|--------|------------------------------------------------------------------------------------------------------|
| mean   | float16 [n,c,h,w], raw z                                                                             |
| logvar | float16 [n,c,h,w], in [-30, 20]; missing where the network has no posterior                           |
| items  | JSON as uint8: {"key", "items": [[id, sha256, boxes, [height, width]], ...], "bad": [[id, reason], ...]} |
| images | uint8, the encoded squares as PNG files, one after the other; missing where the cache holds none      |
| ends   | int64 [n], where each of them ends                                                                   |

The key is a hash of the plan and of the shard's number, so that a whole shard of another cache isn't taken for one of
this.

float16 and not bfloat16: z lies within a few dozen and logvar within [-30, 20], where float16's 11 bits round eight
times finer than bfloat16's 8, whose wider range nothing here needs.
"""

import json
import threading
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from vaelens.errors import BadInputError, CheckFailedError
from vaelens.files import sha256_file
from vaelens.images.datasets.items import Item
from vaelens.images.drawing import Box
from vaelens.tensors.writing import checked_safetensors, read_checked_safetensors

FOLDER = "shards"
DTYPE = torch.float16
ENCODE_AGAIN = (
    "Run the same `vaelens encode` command again, which makes that shard again; if the images have changed since, "
    "encode them into another folder."
)

Bad = tuple[str, str]  # an unreadable image: id and reason


@dataclass(frozen=True)
class ShardContent:
    """What goes into a shard: readable items with their moments [n,c,h,w], and images as PNG files or none.

    key: says which shard of which plan it is; sizes: height and width of the items' originals
    """

    key: str
    items: Sequence[Item]
    sizes: Sequence[tuple[int, int]]
    bad: Sequence[Bad]
    mean: Tensor
    logvar: Tensor | None
    images: Sequence[bytes] | None

    def file(self) -> bytes:
        """The same content always gives the same bytes."""
        listed = [
            [item.id, item.sha256, [asdict(box) for box in item.boxes], list(size)]
            for item, size in zip(self.items, self.sizes, strict=True)
        ]
        held = {"key": self.key, "items": listed, "bad": [list(one) for one in self.bad]}
        text = json.dumps(held, separators=(",", ":"))
        tensors = {"mean": self.mean.to(DTYPE).contiguous(), "items": _bytes(text.encode())}
        if self.logvar is not None:
            tensors["logvar"] = self.logvar.to(DTYPE).contiguous()
        if self.images is not None:
            tensors["images"] = _bytes(b"".join(self.images))
            tensors["ends"] = torch.tensor([len(one) for one in self.images], dtype=torch.int64).cumsum(0)
        return checked_safetensors(tensors)


def shard_path(folder: Path, number: int) -> Path:
    """The file of a cache's shard, numbered from 0."""
    return folder / FOLDER / f"{number:06d}.safetensors"


def is_whole(path: Path, key: str) -> bool:
    """Whether the file is there as it was written, under this key. Raises OSError where it can't be read."""
    try:
        held = read_checked_safetensors(path)["items"]
        return json.loads(held.numpy().tobytes())["key"] == key
    except (FileNotFoundError, CheckFailedError, KeyError, TypeError, ValueError):
        return False


def read_items(path: Path) -> tuple[tuple[Item, ...], tuple[Bad, ...]]:
    """A shard's readable items and its unreadable ones. Raises what `Shard` raises, without reading the whole file."""
    try:
        held = _listed(path)
        items = tuple(Item(i, sha256, tuple(Box(**box) for box in boxes)) for i, sha256, boxes, _ in held["items"])
        return items, tuple((i, why) for i, why in held["bad"])
    except (ValueError, KeyError, TypeError) as error:
        raise damaged(path) from error


def read_sizes(path: Path) -> dict[str, tuple[int, int]]:
    """Height and width of the items' originals, by id. Raises as `read_items`."""
    try:
        return {i: (int(height), int(width)) for i, _, _, (height, width) in _listed(path)["items"]}
    except (ValueError, KeyError, TypeError) as error:
        raise damaged(path) from error


def _listed(path: Path) -> dict[str, Any]:
    try:
        with _opened(path) as file:
            return json.loads(file.get_tensor("items").numpy().tobytes())
    except (SafetensorError, ValueError, RecursionError) as error:
        raise damaged(path) from error


def holds_logvar(path: Path) -> bool:
    """Whether a shard's posteriors have a variance. Raises as `read_items`."""
    try:
        with _opened(path) as file:
            return "logvar" in file.keys()  # noqa: SIM118  (it has no `in` of its own)
    except SafetensorError as error:
        raise damaged(path) from error


class Shard:
    """An open shard, verified as a whole by the sha256 in the cache's index; any number of threads may read it.

    Raises BadInputError where its file is missing or can't be read, CheckFailedError where it isn't as it was written.
    """

    def __init__(self, path: Path, sha256: str | None) -> None:
        """sha256: None for a file that was verified before."""
        self._path = path
        self._lock = threading.Lock()
        if sha256 is not None and _sha256(path) != sha256:
            raise damaged(path)
        try:
            self._file = _opened(path)
            names = set(self._file.keys())
            self._mean = self._file.get_slice("mean")
            self._logvar = self._file.get_slice("logvar") if "logvar" in names else None
            self._images = self._file.get_slice("images") if "images" in names else None
            self._ends: list[int] = self._file.get_tensor("ends").tolist() if "ends" in names else []
        except SafetensorError as error:
            raise damaged(path) from error

    def moments(self, row: int) -> tuple[Tensor, Tensor | None]:
        """Mean and logvar of an image, float16 [1,c,h,w]."""
        with self._lock:
            mean: Tensor = self._mean[row : row + 1]
            logvar: Tensor | None = None if self._logvar is None else self._logvar[row : row + 1]
        return mean, logvar

    def image(self, row: int) -> bytes:
        """An image's PNG file."""
        start = self._ends[row - 1] if row else 0
        with self._lock:
            found: Tensor = cast(Any, self._images)[start : self._ends[row]]
        return found.numpy().tobytes()


def damaged(path: Path) -> CheckFailedError:
    """The error for a shard that isn't as it was written."""
    return CheckFailedError(f"{path} has changed since it was written: its checksum is wrong. {ENCODE_AGAIN}")


def _opened(path: Path) -> Any:
    try:
        return cast(Any, safe_open(path, framework="pt", device="cpu"))
    except FileNotFoundError as error:
        raise BadInputError(f"{path} is missing. Copy it here, or run the cache's `vaelens encode` again.") from error
    except OSError as error:
        raise _unreadable(path, error) from error


def _sha256(path: Path) -> str | None:
    """None where there is no file, which `_opened` then says."""
    try:
        return sha256_file(path)
    except FileNotFoundError as error:
        raise BadInputError(f"{path} is missing. Copy it here, or run the cache's `vaelens encode` again.") from error
    except OSError as error:
        raise _unreadable(path, error) from error


def _unreadable(path: Path, error: OSError) -> BadInputError:
    return BadInputError(f"{path} can't be read: {error.strerror}. Check the disk and its permissions.")


def _bytes(content: bytes) -> Tensor:
    return torch.from_numpy(np.frombuffer(bytearray(content), dtype=np.uint8))  # pyright: ignore[reportUnknownMemberType]
