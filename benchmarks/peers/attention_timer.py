"""How long the engine spends in attention, whose time grows with the square of the pixels."""

import time
from collections.abc import Generator
from contextlib import contextmanager
from typing import Any
from unittest import mock


@contextmanager
def attention_timer() -> Generator[list[float]]:
    """Inside, the seconds of each call of the engine's attention are added to the list."""
    from vaelens.engine import execution  # noqa: PLC0415  (other peers run without it)

    seconds: list[float] = []
    plain = execution.attend

    def timed(*arguments: Any, **options: Any) -> Any:
        started = time.perf_counter()
        result = plain(*arguments, **options)
        seconds.append(time.perf_counter() - started)
        return result

    with mock.patch.object(execution, "attend", timed):
        yield seconds
