"""The open connections: how many there may be, and how long one may take before it asks, and to read an answer.

Whoever can connect can open connections and send nothing, or a header a byte at a time, before any token is asked. So
their number is bounded; where it is reached, the one that has waited longest for a request gives way to the new one.
uvicorn itself has no deadline for headers, and none for a client that doesn't read.
"""

import asyncio
from typing import Any, cast

from uvicorn.protocols.http.h11_impl import H11Protocol, RequestResponseCycle

MAX_CONNECTIONS = 2048
RESERVED_FILES = 256  # of the process: history, uploads, models
HEADER_TIMEOUT = 10.0  # seconds for a whole header, and for the rest of a request that was answered before its end
READ_TIMEOUT = 30.0  # seconds in which a client reads a part of its answer
READ_PART = 16 * 1024  # bytes
SWEEP = 1.0  # seconds between two looks at all connections


class Connections:
    """The open connections of one server, of which at most `limit` are kept; the one to wait longest comes first."""

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self._open: dict[Connection, None] = {}
        self._sweep: asyncio.TimerHandle | None = None

    def __len__(self) -> int:
        return len(self._open)

    def protocol(self, *args: Any, **options: Any) -> "Connection":
        """A new connection, as uvicorn makes one."""
        return Connection(self, *args, **options)

    def add(self, one: "Connection") -> None:
        """Take a new connection; where there are too many, the one that has waited longest for a request ends.

        If none waits, it is the new one that ends.
        """
        self._open[one] = None
        if len(self._open) > self.limit:
            next((other for other in self._open if other.is_waiting), one).abort()
        if self._sweep is None:
            self._sweep = one.loop.call_later(SWEEP, self._end_overdue, one.loop)

    def waits_again(self, one: "Connection") -> None:
        """Note that it waits for its next request from now on."""
        if one in self._open:
            del self._open[one]
            self._open[one] = None

    def remove(self, one: "Connection") -> None:
        """Forget a connection that has ended."""
        self._open.pop(one, None)

    def _end_overdue(self, loop: asyncio.AbstractEventLoop) -> None:
        for one in list(self._open):
            one.check(loop.time())
        self._sweep = loop.call_later(SWEEP, self._end_overdue, loop) if self._open else None


class Connection(H11Protocol):
    """uvicorn's HTTP connection with deadlines. `since` is when it began to wait for a request."""

    def __init__(self, connections: Connections, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        self._connections = connections
        self.since = self.loop.time()
        self._unread, self._unread_since = 0, 0.0  # bytes of an answer that the client hasn't read

    @property
    def is_waiting(self) -> bool:
        """Whether no request is being answered: none has come, or it isn't complete."""
        cycle = cast("RequestResponseCycle | None", self.cycle)
        return cycle is None or cycle.response_complete

    def connection_made(self, transport: asyncio.Transport) -> None:  # pyright: ignore[reportIncompatibleMethodOverride]
        super().connection_made(transport)
        self._connections.add(self)

    def connection_lost(self, exc: Exception | None) -> None:
        self._connections.remove(self)
        super().connection_lost(exc)

    def on_response_complete(self) -> None:
        self.since = self.loop.time()
        self._connections.waits_again(self)
        super().on_response_complete()

    def abort(self) -> None:
        """End it at once; what it hasn't read is lost."""
        self._connections.remove(self)
        self.transport.abort()

    def check(self, now: float) -> None:
        """End it if a deadline has passed."""
        unread = self.transport.get_write_buffer_size()
        was_read = unread == 0 or self._unread == 0 or unread <= self._unread - READ_PART
        if was_read or unread > self._unread:  # what has grown has a new answer in it; a full one doesn't grow
            self._unread, self._unread_since = unread, now
        is_slow = self._unread > 0 and now - self._unread_since > READ_TIMEOUT
        is_late = self.is_waiting and unread == 0 and now - self.since > HEADER_TIMEOUT
        if is_slow or is_late:
            self.abort()


def connection_limit(open_files: int) -> int:
    """How many connections a process may have that may open so many files.

    Twice as many again may be accepted in a burst, before the oldest are ended.
    """
    return max(1, min(MAX_CONNECTIONS, (open_files - RESERVED_FILES) // 3))
