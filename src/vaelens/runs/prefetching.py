"""Reading ahead: what a run needs next is read by threads while it works on what it has."""

from collections.abc import Callable, Generator, Iterable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

T = TypeVar("T")
R = TypeVar("R")

READERS = 2  # threads: Pillow decodes outside the interpreter's lock
NAME = "read-ahead"  # what the threads are called


def read_ahead(read: Callable[[T], R], portions: Iterable[T], ahead: int) -> Generator[R]:
    """`read` of each portion, in their order, with so many read `ahead` of the one that is worked on.

    An error of `read` is raised in its portion's place. Its threads end with the generator, also one that is closed.
    """
    with ThreadPoolExecutor(READERS, NAME) as pool:
        waiting: list[Future[R]] = []
        try:
            for portion in portions:
                waiting.append(pool.submit(read, portion))
                if len(waiting) > ahead:
                    yield waiting.pop(0).result()
            while waiting:
                yield waiting.pop(0).result()
        finally:
            for future in waiting:
                future.cancel()
