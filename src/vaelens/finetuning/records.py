"""The written course of a training: log.jsonl, evaluations.jsonl and strips.

Lines say nothing of time or machine, so that a run that was stopped and went on leaves the same files.
"""

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from vaelens.errors import BadInputError
from vaelens.files import explained, write_atomic
from vaelens.images.writing import encode_png

LOG = "log.jsonl"
EVALUATIONS = "evaluations.jsonl"


class Records:
    """The lines of a run in this folder; a process that isn't the first of several writes none."""

    def __init__(self, run: Path, writes: bool = True) -> None:
        self.run = run
        self._writes = writes

    def add(self, name: str, line: Mapping[str, Any]) -> None:
        """Append a line to LOG or EVALUATIONS."""
        if not self._writes:
            return
        file = self.run / name
        try:
            with file.open("ab") as out:
                out.write(json.dumps(line, allow_nan=True).encode() + b"\n")
                out.flush()
                os.fsync(out.fileno())
        except OSError as error:
            raise explained(error, file) from error

    def strip(self, updates: int, pixels: np.ndarray) -> None:
        """Keep a strip of held-out images."""
        if self._writes:
            write_atomic(self.run / "strips" / f"{updates:09d}.png", encode_png(pixels))

    def lines(self, name: str) -> list[dict[str, Any]]:
        """The lines of a file. Raises BadInputError for a damaged one."""
        file = self.run / name
        if not file.exists():
            return []
        found: list[dict[str, Any]] = []
        for number, line in enumerate(file.read_bytes().splitlines(), 1):
            try:
                found.append(json.loads(line))
            except ValueError as error:
                raise BadInputError(f"{file}, line {number} is damaged ({error}). Remove it, and go on.") from error
        return found

    def cut(self, updates: int) -> None:
        """Forget what came after so many updates: it is done again."""
        if not self._writes:
            return
        for name in (LOG, EVALUATIONS):
            file = self.run / name
            if not file.exists():
                continue
            kept = [line for line in file.read_bytes().splitlines(keepends=True) if _is_before(line, updates)]
            write_atomic(file, b"".join(kept))


def _is_before(line: bytes, updates: int) -> bool:
    """Whether a line is whole, and of an update up to this one."""
    try:
        return line.endswith(b"\n") and json.loads(line)["update"] <= updates
    except (ValueError, KeyError, TypeError):
        return False
