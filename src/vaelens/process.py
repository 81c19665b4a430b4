"""Settings of the whole process, changed for a while by several threads at once."""

import threading
import warnings
from collections.abc import Callable, Generator
from contextlib import AbstractContextManager, ExitStack, contextmanager


class Shared:
    """A context that the first thread to enter sets up and the last one to leave ends.

    Contexts of one process setting that overlap between threads would put back each other's values, and leave the
    setting changed for good: `warnings.catch_warnings` does, for one.
    """

    def __init__(self, make: Callable[[], AbstractContextManager[object]]) -> None:
        self._make = make
        self._lock = threading.Lock()
        self._inside = 0
        self._undo = ExitStack()

    def __enter__(self) -> None:
        with self._lock:
            if not self._inside:
                self._undo.enter_context(self._make())
            self._inside += 1

    def __exit__(self, *_: object) -> None:
        with self._lock:
            self._inside -= 1
            if not self._inside:
                self._undo.close()


@contextmanager
def _ignored() -> Generator[None]:
    with warnings.catch_warnings(action="ignore"):
        yield


# The one context in which warnings are ignored: any two of them could overlap.
without_warnings = Shared(_ignored)
