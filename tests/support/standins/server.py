"""A server on loopback with scripted faults: what the stand-ins for the hub and for a web server share."""

import re
import socket
import struct
import threading
from collections.abc import Mapping
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import TracebackType
from typing import Any, ClassVar, Self
from urllib.parse import unquote, urlsplit

LOGIN_PAGE = b"<!DOCTYPE html><html><title>Guest Wi-Fi</title><body>Please log in.</body></html>"


@dataclass
class Request:
    """One request: `authorized` and `cookies` say that such a header was there; `sent` counts the body's bytes."""

    method: str
    path: str
    range: str | None
    authorized: bool
    cookies: bool
    sent: int = 0


@dataclass
class Fault:
    """What goes wrong with one file, and how often; `times=None` is always.

    status, code: this status, with X-Error-Code, instead of an answer
    headers: more of them, in whatever the answer is
    html: a login page with status 200
    body: these bytes in place of the right ones, under the right ETag
    break_after: the connection ends after so many bytes of a GET; with `reset`, by a TCP reset
    stall_after: silence after so many bytes of a GET
    silent: the request is read and never answered
    ignores_range: the whole file with 200, whatever was requested
    piece, pause: a GET's bytes come `piece` at a time with `pause` seconds between
    """

    status: int | None = None
    code: str | None = None
    headers: Mapping[str, str] = field(default_factory=dict[str, str])
    html: bool = False
    body: bytes | None = None
    break_after: int | None = None
    reset: bool = False
    stall_after: int | None = None
    silent: bool = False
    ignores_range: bool = False
    piece: int = 1 << 16
    pause: float = 0.0
    methods: tuple[str, ...] = ("HEAD", "GET")
    times: int | None = None


class Standin:
    """Runs while its `with` block lasts; a stalled answer ends with it."""

    handler: ClassVar[type["Handler"]]

    def __init__(self) -> None:
        self.requests: list[Request] = []
        self.stopped = threading.Event()
        self._faults: dict[tuple[str, ...], list[Fault]] = {}
        self._lock = threading.Lock()
        self._server = _Server(("127.0.0.1", 0), type("Bound", (self.handler,), {"standin": self}))
        self.address = f"http://127.0.0.1:{self._server.server_address[1]}"

    def __enter__(self) -> Self:
        threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True).start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stopped.set()
        self._server.shutdown()
        self._server.server_close()

    def fault(self, *file: str, **what: object) -> None:
        """Scripts a fault (the fields of `Fault`); several for one file are used up in order."""
        with self._lock:
            self._faults.setdefault(file, []).append(Fault(**what))  # pyright: ignore[reportArgumentType]

    def next_fault(self, method: str, *file: str) -> Fault:
        with self._lock:
            for fault in self._faults.get(file, []):
                if method in fault.methods and fault.times != 0:
                    fault.times = None if fault.times is None else fault.times - 1
                    return fault
        return Fault()


class _Server(ThreadingHTTPServer):
    daemon_threads = True

    def handle_error(self, request: object, client_address: object) -> None:
        """Clients that go away are what these tests are about."""


class Handler(BaseHTTPRequestHandler):
    standin: ClassVar[Any]
    protocol_version = "HTTP/1.1"
    timeout = 120

    def log_message(self, format: str, *args: object) -> None:
        """Nothing to stderr: the tests look at it."""

    def do_GET(self) -> None:
        path = unquote(urlsplit(self.path).path)
        authorized, cookies = "Authorization" in self.headers, "Cookie" in self.headers
        self.current = Request(self.command, path, self.headers.get("Range"), authorized, cookies)
        self.standin.requests.append(self.current)
        self.answer(self.current)

    do_HEAD = do_GET  # noqa: N815 - the name that http.server looks for

    def answer(self, request: Request) -> None:
        raise NotImplementedError

    def fails(self, fault: Fault) -> bool:
        """Whether the fault takes the place of an answer; it is sent then."""
        if fault.silent:
            self.hang()
        elif fault.html:
            self.send(200, {"Content-Type": "text/html; charset=utf-8", **fault.headers}, LOGIN_PAGE)
        elif fault.status is not None:
            self.send(fault.status, ({"X-Error-Code": fault.code} if fault.code else {}) | dict(fault.headers))
        return fault.silent or fault.html or fault.status is not None

    def send_file(self, content: bytes, headers: dict[str, str], fault: Fault) -> None:
        """A file, or the range that was requested, with what the fault does to its bytes."""
        content = content if fault.body is None else fault.body
        status, start = 200, 0
        requested = re.fullmatch(r"bytes=(\d+)-", self.current.range or "")
        if requested and not fault.ignores_range:
            status, start = 206, int(requested[1])
            headers |= {"Content-Range": f"bytes {start}-{len(content) - 1}/{len(content)}"}
        self.send(status, headers | dict(fault.headers), content[start:], fault)

    def send(self, status: int, headers: Mapping[str, str], body: bytes = b"", fault: Fault | None = None) -> None:
        self.send_response(status)
        for name, value in {"Content-Length": str(len(body)), **headers}.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command == "GET":
            self._send_body(body, fault or Fault())

    def _send_body(self, body: bytes, fault: Fault) -> None:
        limits = [limit for limit in (fault.break_after, fault.stall_after) if limit is not None]
        whole = not limits or len(body) <= min(limits)
        body = body if whole else body[: min(limits)]
        for start in range(0, len(body), fault.piece):
            self.wfile.write(body[start : start + fault.piece])
            self.current.sent += len(body[start : start + fault.piece])
            if fault.pause and self.standin.stopped.wait(fault.pause):
                break
        if whole:
            return
        if fault.stall_after is not None:
            self.hang()
        elif fault.reset:
            self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            self.connection.close()
        self.close_connection = True

    def hang(self) -> None:
        self.standin.stopped.wait()
        self.close_connection = True
