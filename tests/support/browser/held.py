"""Connections to a server that are held open."""

import contextlib
import socket
from collections.abc import Iterator

HALF = b"GET / HTTP/1.1\r\nHost: 127.0.0.1\r\nX-Never-Ending: "


@contextlib.contextmanager
def half_open(port: int, count: int) -> Iterator[list[socket.socket]]:
    """So many connections that have sent a part of a header."""
    opened: list[socket.socket] = []
    try:
        for _ in range(count):
            one = socket.create_connection(("127.0.0.1", port), timeout=30)
            opened.append(one)
            with contextlib.suppress(OSError):
                one.sendall(HALF)
        yield opened
    finally:
        for one in opened:
            one.close()


def is_closed(one: socket.socket) -> bool:
    """Whether the server ended the connection."""
    one.setblocking(False)
    try:
        return one.recv(1024) == b""
    except BlockingIOError:
        return False
    except OSError:
        return True
