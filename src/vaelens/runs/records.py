"""A file of JSON lines that only grows: the rows of an evaluation, the log of a training.

Each append reaches the disk before it returns. A process that is killed while it writes leaves at most one partial
line at the end; readers ignore it, and the next append removes it. The caller holds a lock where several processes
write to one file.
"""

import hashlib
import json
import os
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any, TypeVar, cast

from vaelens.errors import CheckFailedError
from vaelens.files import CHECKSUM, write_atomic
from vaelens.text.paths import explained

T = TypeVar("T")
Line = dict[str, Any]

TAIL = 65_536  # bytes read at a time when looking for the end of the last complete line


class JsonLines:
    """The file at `path`, which needn't exist yet. Lines are ASCII; `allow_nan` permits NaN and Infinity in them.

    Each line ends with a checksum of its text, which readers here neither see nor need to know.
    """

    def __init__(self, path: Path, allow_nan: bool = False) -> None:
        self.path = path
        self._allow_nan = allow_nan
        self._offset = 0  # bytes that `read_new` has read
        self._number = 0  # lines

    def append(self, lines: Iterable[Mapping[str, Any]]) -> None:
        """Add lines at the end, after removing a partial one. Raises what `write_atomic` raises."""
        text = "".join(_with_checksum(json.dumps(line, allow_nan=self._allow_nan)) for line in lines)
        try:
            with self.path.open("ab") as file:
                self._remove_partial_line()
                file.write(text.encode())
                file.flush()
                os.fsync(file.fileno())
        except OSError as error:
            raise explained(error, self.path) from error

    def read_new(self, parse: Callable[[Line], T]) -> list[T]:
        """The complete lines that were appended since the last call, by any process, each through `parse`.

        Raises CheckFailedError, naming the line, where one has changed since it was written or `parse` raises
        ValueError, KeyError or TypeError; the next call reads the same lines again.
        """
        found: list[T] = []
        if not self.path.exists():
            return found
        offset, number = self._offset, self._number
        with self.path.open("rb") as file:
            file.seek(offset)
            for line in file:
                if not line.endswith(b"\n"):
                    break
                offset, number = offset + len(line), number + 1
                try:
                    found.append(parse(_object(line)))
                except (ValueError, KeyError, TypeError, RecursionError) as error:
                    raise CheckFailedError(f"{self.path}, line {number}: damaged ({error}): {line[:60]!r}.") from error
        self._offset, self._number = offset, number
        return found

    def read(self) -> list[Line]:
        """All complete lines. Raises CheckFailedError as `read_new`."""
        return JsonLines(self.path).read_new(lambda line: line)

    def keep(self, is_valid: Callable[[Line], bool]) -> int:
        """Remove the lines that aren't valid, and damaged ones, on which `is_valid` may raise an error as `parse` may.

        Gives the number of complete lines that were damaged. Raises what `write_atomic` raises.
        """
        if not self.path.exists():
            return 0
        damaged, kept = 0, list[bytes]()
        try:
            lines = self.path.read_bytes().splitlines(keepends=True)
        except OSError as error:
            raise explained(error, self.path, "can't be read") from error
        for line in lines:
            if line.endswith(b"\n"):
                try:
                    kept += [line] * is_valid(_object(line))
                except (ValueError, KeyError, TypeError, RecursionError):
                    damaged += 1
        if len(kept) < len(lines):
            write_atomic(self.path, b"".join(kept))
            self._offset = self._number = 0
        return damaged

    def _remove_partial_line(self) -> None:
        with self.path.open("r+b") as file:
            end = file.seek(0, os.SEEK_END)
            tail = b""
            while end and b"\n" not in tail:
                start = max(0, end - TAIL)
                file.seek(start)
                tail = file.read(end - start)
                end = start + tail.rindex(b"\n") + 1 if b"\n" in tail else start
            file.truncate(end)


def _with_checksum(line: str) -> str:
    text = line.removesuffix("}")
    return f'{text}, "{CHECKSUM}": "{_checksum(text)}"}}\n'


def _object(line: bytes) -> Line:
    """Raises ValueError for a line that has changed since it was written, or has no checksum."""
    text, mark, rest = line.decode().rpartition(f', "{CHECKSUM}": "')
    if not mark:
        raise ValueError("it has no checksum")
    if rest != f'{_checksum(text)}"}}\n':
        raise ValueError("its checksum is wrong")
    return cast(Line, json.loads(text + "}"))


def _checksum(text: str) -> str:
    """The first 16 digits of its sha256."""
    return hashlib.sha256(text.encode()).hexdigest()[:16]
