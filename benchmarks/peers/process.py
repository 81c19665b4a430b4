"""A peer's process, seen from the benchmark."""

import json
import subprocess
import sys
import tempfile
from dataclasses import asdict
from pathlib import Path
from types import TracebackType
from typing import Any

from peers.job import Job

WORKER = Path(__file__).with_name("worker.py")


class PeerFailedError(Exception):
    """A peer can't be loaded, failed, or ran out of memory; the message says what it wrote last."""


class PeerProcess:
    """Starts the worker, waits until it has loaded; `loaded` is what it said then. A context manager."""

    def __init__(self, job: Job, environment: dict[str, str]) -> None:
        self.job = job
        self._errors = tempfile.TemporaryFile("w+", encoding="utf-8", errors="replace")  # noqa: SIM115
        command = [sys.executable, str(WORKER), json.dumps(asdict(job))]
        settings = environment | {"OMP_NUM_THREADS": str(job.threads), "PYTHONWARNINGS": "ignore"}
        self._process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=self._errors, text=True, env=settings
        )
        self.loaded = self._answer()

    def call(self) -> dict[str, Any]:
        """One call: seconds, and the memory's growth to its peak."""
        return self._ask({"do": "call"})

    def attention(self) -> dict[str, float]:
        """One call of vaelens: seconds, and those of its attention."""
        return self._ask({"do": "attention"})

    def save(self, path: Path) -> None:
        """Keep the last call's output."""
        self._ask({"do": "save", "path": str(path)})

    def compare(self, reference: Path) -> dict[str, float]:
        """The last call's output against a stored one."""
        return self._ask({"do": "compare", "path": str(reference)})

    def __enter__(self) -> "PeerProcess":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._process.kill()
        self._process.communicate()
        self._errors.close()

    def _ask(self, command: dict[str, Any]) -> dict[str, Any]:
        assert self._process.stdin is not None
        try:
            self._process.stdin.write(json.dumps(command) + "\n")
            self._process.stdin.flush()
        except BrokenPipeError:
            pass  # its last words follow
        return self._answer()

    def _answer(self) -> dict[str, Any]:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            code = self._process.wait()
            self._errors.seek(0)
            last = self._errors.read().strip().splitlines()[-1:]
            raise PeerFailedError(f"{self.job.peer} ended with code {code}: {' '.join(last)[:300]}")
        found = json.loads(line)
        if "failed" in found:
            raise PeerFailedError(found["failed"])
        return found
