"""Clients that only hold connections open: before the token is asked, in headers, and while they read."""

import contextlib
import socket
import time
from collections.abc import Iterator
from http.client import HTTPConnection
from pathlib import Path
from urllib.request import urlopen

import pytest

from support.browser.held import half_open, is_closed
from support.browser.served import Served, serving
from vaelens.web import connections
from vaelens.web.choices import Choices
from vaelens.web.connections import Connections, connection_limit


@pytest.fixture
def impatient(offer: Choices, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Served]:
    """A server that keeps 100 connections and waits half a second."""
    monkeypatch.setattr(connections, "MAX_CONNECTIONS", 100)
    monkeypatch.setattr(connections, "HEADER_TIMEOUT", 0.5)
    monkeypatch.setattr(connections, "READ_TIMEOUT", 0.5)
    monkeypatch.setattr(connections, "SWEEP", 0.05)
    with serving(offer, tmp_path / "store") as served:
        yield served


def test_half_open_connections_give_way_to_new_ones(impatient: Served, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connections, "HEADER_TIMEOUT", 60.0)
    with half_open(impatient.port, 300) as opened:
        assert impatient.raw("GET", "/")[0] == 200
        impatient.until(lambda: sum(map(is_closed, opened)) >= 200)
        assert not is_closed(opened[-1]), "those that have waited longest go first"
        assert impatient.raw("GET", "/")[0] == 200


def test_a_header_has_a_deadline_however_slowly_it_comes(impatient: Served) -> None:
    with half_open(impatient.port, 3) as (slow, _, silent):
        for _ in range(200):
            with contextlib.suppress(OSError):
                slow.sendall(b"x")
            if is_closed(slow) and is_closed(silent):
                break
            time.sleep(0.05)
        else:
            pytest.fail("still open")


def test_a_body_after_the_answer_has_a_deadline(impatient: Served) -> None:
    """The answer is there before the body; each byte of it would keep the connection open."""
    request = f"GET / HTTP/1.1\r\nHost: 127.0.0.1:{impatient.port}\r\nContent-Length: 100000\r\n\r\n"
    with socket.create_connection(("127.0.0.1", impatient.port), timeout=30) as one:
        one.sendall(request.encode())
        end = time.monotonic() + 20
        closed = False
        while not closed and time.monotonic() < end:
            try:
                one.sendall(b"x")
                time.sleep(0.05)
            except OSError:
                closed = True
        assert closed


def test_whoever_waits_for_events_or_asks_again_is_not_cut_off(impatient: Served) -> None:
    with urlopen(f"http://127.0.0.1:{impatient.port}/api/events", timeout=30) as stream:
        assert stream.readline()
        with contextlib.closing(HTTPConnection("127.0.0.1", impatient.port, timeout=30)) as one:
            one.connect()
            kept = one.sock
            for _ in range(4):
                one.request("GET", "/api/jobs")
                assert one.getresponse().read()
                time.sleep(0.3)  # in all longer than any deadline
            assert one.sock is kept
        with half_open(impatient.port, 150):
            impatient.start()
            while b"change" not in (line := stream.readline()):
                assert line, "the stream has ended"


class Unread:
    """A transport whose client doesn't read."""

    def __init__(self, size: int) -> None:
        self.size, self.aborted = size, False

    def get_write_buffer_size(self) -> int:
        return self.size

    def abort(self) -> None:
        self.aborted = True


@pytest.mark.parametrize(("per_second", "ends"), [(0, True), (100, True), (20_000, False)])
def test_an_answer_that_nobody_reads_is_dropped(per_second: int, ends: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    one = object.__new__(connections.Connection)
    monkeypatch.setattr(one, "loop", None, raising=False)
    one._connections, one.since, one._unread, one._unread_since = Connections(1), 0.0, 0, 0.0
    one.cycle, one.transport = None, Unread(5_000_000)  # type: ignore[assignment]
    for second in range(60):
        one.check(float(second))
        one.transport.size -= per_second  # type: ignore[attr-defined]
    assert one.transport.aborted is ends  # type: ignore[attr-defined]


def test_a_large_answer_after_the_rest_of_a_small_one_may_be_read_slowly(monkeypatch: pytest.MonkeyPatch) -> None:
    """Never seen empty in between; the client reads a part in each second, until it reads no more."""
    one = object.__new__(connections.Connection)
    monkeypatch.setattr(one, "loop", None, raising=False)
    one._connections, one.since, one._unread, one._unread_since = Connections(1), 0.0, 0, 0.0
    one.cycle, transport = None, Unread(1_000)
    one.transport = transport  # type: ignore[assignment]
    one.check(0.0)
    transport.size = 5_000_000
    for second in range(1, 120):
        one.check(float(second))
        transport.size -= 2 * connections.READ_PART
        assert not transport.aborted
    for second in range(120, 160):
        one.check(float(second))
    assert transport.aborted


def test_the_limit_follows_the_files_that_may_be_open() -> None:
    assert connection_limit(8192) == connections.MAX_CONNECTIONS
    assert 3 * connection_limit(1024) < 1024
    assert connection_limit(64) == 1
