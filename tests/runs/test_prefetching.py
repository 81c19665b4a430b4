"""Reading ahead: the order, errors in their place, and threads that end when nobody takes more."""

import itertools
import threading
from collections.abc import Iterator

import pytest

from vaelens.runs.prefetching import NAME, READERS, read_ahead

AHEAD = 3


def readers() -> list[str]:
    """The threads that read, of those of this process."""
    return [thread.name for thread in threading.enumerate() if thread.name.startswith(NAME)]


def test_portions_come_in_their_order_whichever_is_read_first() -> None:
    second = threading.Event()

    def read(number: int) -> int:
        if number == 0:
            assert second.wait(10), "the second portion is read at the same time"
        if number == 1:
            second.set()
        return number * number

    assert list(read_ahead(read, range(10), AHEAD)) == [number * number for number in range(10)]
    assert list(read_ahead(read, [], AHEAD)) == []
    assert readers() == []


def test_no_more_is_read_than_so_far_ahead() -> None:
    asked: list[int] = []

    def portions() -> Iterator[int]:
        for number in itertools.count():
            asked.append(number)
            yield number

    taken = read_ahead(int, portions(), AHEAD)
    for done in range(5):
        assert next(taken) == done
        assert asked == list(range(done + AHEAD + 1))
    taken.close()


def test_an_error_is_raised_in_its_place_and_ends_the_threads() -> None:
    def read(number: int) -> int:
        if number == 2:
            raise ValueError("unreadable")
        return number

    taken = read_ahead(read, range(10), AHEAD)
    assert [next(taken), next(taken)] == [0, 1]
    with pytest.raises(ValueError, match="unreadable"):
        next(taken)
    assert list(taken) == []
    assert readers() == []


def test_the_threads_end_when_the_consumer_stops_early() -> None:
    read: list[int] = []
    taken = read_ahead(read.append, itertools.count(), AHEAD)
    next(taken)
    assert 1 <= len(readers()) <= READERS
    taken.close()
    assert readers() == []
    assert len(read) <= AHEAD + 1, "what nobody has begun to read isn't read"


def test_what_waits_is_cancelled_when_the_consumer_stops() -> None:
    """Here the threads are busy with the first portions, so that those behind must not be read afterwards."""
    begun: list[int] = []
    go = threading.Event()

    def read(number: int) -> int:
        begun.append(number)
        if number:
            assert go.wait(10)
        return number

    taken = read_ahead(read, range(100), 20)
    assert next(taken) == 0
    threading.Timer(0.2, go.set).start()
    taken.close()
    assert len(begun) <= 1 + 2 * READERS
    assert readers() == []
