"""A safetensors file copied with some tensors replaced, a few megabytes at a time, whatever its size.

Every other tensor and the metadata stay, byte for byte, and so does the order of both. Where no replaced tensor
changes its size, the header stays byte for byte too.
"""

import json
import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, cast

from torch import Tensor

from vaelens.errors import BadInputError, CheckFailedError, ResourceError
from vaelens.tensors.safetensors_file import open_safetensors
from vaelens.tensors.writing import METADATA, tensor_bytes

CHUNK = 2**20  # bytes
Make = Callable[[], Tensor]


@dataclass(frozen=True)
class Replacement:
    """A tensor to come: its dtype as the format names it, its shape, bytes, and what makes it on the CPU."""

    dtype: str
    shape: tuple[int, ...]
    size: int
    make: Make


@dataclass(frozen=True)
class _Place:
    """Where a tensor's bytes lie in the data of the old and of the new file."""

    old: tuple[int, int] | None
    new: tuple[int, int]


class CheckpointCopy:
    """What a copy of the file at `path` will be, with `replaced` by tensor name; new names come behind the last tensor.

    Raises as `open_safetensors` does.
    """

    def __init__(self, path: Path, replaced: Mapping[str, Replacement]) -> None:
        open_safetensors(path)
        self._path = path
        self._replaced = dict(replaced)
        with path.open("rb") as file:
            length = int.from_bytes(file.read(8), "little")
            raw = file.read(length)
        self._start = 8 + length
        held = cast(dict[str, Any], json.loads(raw))
        old = {name: (e["data_offsets"][0], e["data_offsets"][1]) for name, e in held.items() if name != METADATA}
        self._places = self._placed(old)
        self._header = raw if self._fits(held) else self._new_header(held)

    @property
    def size(self) -> int:
        """Bytes of the copy."""
        return 8 + len(self._header) + sum(end - begin for begin, end in (p.new for p in self._places.values()))

    def check_space(self, folder: Path) -> None:
        """Raises ResourceError where the disk of a folder, which may not be there yet, has too little room."""
        there = next(one for one in (folder, *folder.parents) if one.exists())
        free = shutil.disk_usage(there).free
        if free < self.size:
            raise ResourceError(
                f"{folder}: {self.size / 1e9:.2f} GB are needed for the new file, and {free / 1e9:.2f} GB are free. "
                "Free some room, or choose another disk."
            )

    def write(self, target: BinaryIO) -> None:
        """Write the copy. Raises OSError, and BadInputError where the file has become shorter since it was checked."""
        target.write(len(self._header).to_bytes(8, "little") + self._header)
        with self._path.open("rb") as source:
            for name, place in self._in_order():
                if (replacement := self._replaced.get(name)) is not None:
                    target.write(tensor_bytes(replacement.make()))
                else:
                    assert place.old is not None
                    self._copy(source, target, *place.old)

    def check(self, written: Path, target: Path) -> None:
        """Raises CheckFailedError unless the replaced tensors lie where the written file's header says, bit for bit.

        target: what the file is called in the message
        """
        found = open_safetensors(written)
        start = 8 + len(self._header)
        with written.open("rb") as file:
            for name, replacement in self._replaced.items():
                file.seek(start + self._places[name].new[0])
                data = tensor_bytes(replacement.make())
                pieces = (bytes(data[at : at + CHUNK]) for at in range(0, len(data), CHUNK))
                same_bytes = all(file.read(len(piece)) == piece for piece in pieces)
                if found.shapes.get(name) != replacement.shape or not same_bytes:
                    raise CheckFailedError(f"{target}: {name} was read back otherwise than it was written.")

    def _placed(self, old: Mapping[str, tuple[int, int]]) -> dict[str, _Place]:
        """The tensors in the order of the header, each where it comes to lie: in the order of the old bytes."""
        at = 0
        new: dict[str, tuple[int, int]] = {}
        for name in (*sorted(old, key=old.__getitem__), *(n for n in self._replaced if n not in old)):
            size = self._replaced[name].size if name in self._replaced else old[name][1] - old[name][0]
            new[name] = at, at + size
            at += size
        return {name: _Place(old.get(name), new[name]) for name in (*old, *(n for n in new if n not in old))}

    def _fits(self, held: Mapping[str, Any]) -> bool:
        """Whether the old header describes the new file."""
        return all(
            name in held and (held[name]["dtype"], tuple(held[name]["shape"])) == (replacement.dtype, replacement.shape)
            for name, replacement in self._replaced.items()
        )

    def _new_header(self, held: Mapping[str, Any]) -> bytes:
        entries: dict[str, Any] = {METADATA: held[METADATA]} if METADATA in held else {}
        for name, place in self._places.items():
            replacement = self._replaced.get(name)
            dtype, shape = (
                (held[name]["dtype"], held[name]["shape"])
                if replacement is None
                else (replacement.dtype, list(replacement.shape))
            )
            entries[name] = {"dtype": dtype, "shape": shape, "data_offsets": list(place.new)}
        text = json.dumps(entries, separators=(",", ":")).encode()
        return text + b" " * (-len(text) % 8)  # so that the tensors are aligned

    def _in_order(self) -> list[tuple[str, _Place]]:
        return sorted(self._places.items(), key=lambda item: item[1].new)

    def _copy(self, source: BinaryIO, target: BinaryIO, begin: int, end: int) -> None:
        source.seek(self._start + begin)
        left = end - begin
        while left:
            chunk = source.read(min(CHUNK, left))
            if not chunk:
                raise BadInputError(f"{self._path} became shorter while it was read. Check the disk, try again.")
            target.write(chunk)
            left -= len(chunk)
