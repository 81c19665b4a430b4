"""What tests need that call `main` in this process."""

import signal
from collections.abc import Iterator

import pytest

from vaelens.adapters import libraries
from vaelens.cli import output


@pytest.fixture
def handlers(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Restores the signal handlers, what -q and -v set, and that the process isn't the command's own."""
    monkeypatch.setattr(libraries, "owns_process", libraries.owns_process)
    monkeypatch.setattr(output, "_level", dict(output._level))
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    yield
    for number, handler in before.items():
        signal.signal(number, handler)
