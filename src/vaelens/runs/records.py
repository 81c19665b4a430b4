"""A file of JSON lines that only grows: the rows of an evaluation, the log of a training.

Each append reaches the disk before it returns. A process that is killed while it writes leaves at most one partial
line at the end; readers ignore it, and the next append removes it. The caller holds a lock where several processes
write to one file.
"""

import json
import os
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any, TypeVar, cast

from vaelens.errors import BadInputError
from vaelens.files import explained, write_atomic

T = TypeVar("T")
Line = dict[str, Any]

TAIL = 65_536  # bytes read at a time when looking for the end of the last complete line


class JsonLines:
    """The file at `path`, which needn't exist yet. Lines are ASCII; `allow_nan` permits NaN and Infinity in them."""

    def __init__(self, path: Path, allow_nan: bool = False) -> None:
        self.path = path
        self._allow_nan = allow_nan
        self._offset = 0  # bytes that `read_new` has read
        self._number = 0  # lines

    def append(self, lines: Iterable[Mapping[str, Any]]) -> None:
        """Add lines at the end, after removing a partial one. Raises what `write_atomic` raises."""
        text = "".join(json.dumps(line, allow_nan=self._allow_nan) + "\n" for line in lines)
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

        Raises BadInputError, naming the line, where one isn't a JSON object or `parse` raises ValueError, KeyError or
        TypeError; the next call reads the same lines again.
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
                    raise BadInputError(
                        f"{self.path}, line {number}: damaged ({error}): {line[:60]!r}. "
                        "Remove the line and run the same command again."
                    ) from error
        self._offset, self._number = offset, number
        return found

    def read(self) -> list[Line]:
        """All complete lines. Raises BadInputError as `read_new`."""
        return JsonLines(self.path).read_new(lambda line: line)

    def keep(self, is_valid: Callable[[Line], bool]) -> None:
        """Remove the lines that aren't valid, and damaged ones, on which `is_valid` may raise KeyError or TypeError."""
        if self.path.exists():
            lines = self.path.read_bytes().splitlines(keepends=True)
            write_atomic(self.path, b"".join(line for line in lines if _is_whole(line, is_valid)))
            self._offset = self._number = 0

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


def _object(line: bytes) -> Line:
    value = json.loads(line)
    if not isinstance(value, dict):
        raise TypeError("not a JSON object")
    return cast(Line, value)


def _is_whole(line: bytes, is_valid: Callable[[Line], bool]) -> bool:
    try:
        return line.endswith(b"\n") and is_valid(_object(line))
    except (ValueError, KeyError, TypeError, RecursionError):
        return False
