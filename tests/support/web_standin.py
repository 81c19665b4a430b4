"""A stand-in for a web server on loopback, with scripted faults.

    with WebStandin() as web:
        url = web.add("/weights.pth", content)
        web.fault("/weights.pth", break_after=1000, times=1)
        ...
        assert [s.range for s in web.requests] == [None, "bytes=1000-"]

It answers as a file server does: ETag, Range. A path that begins with /to/ redirects to the rest,
with a signature in the query.
"""

import hashlib
import re
import socket
import struct
import threading
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import TracebackType
from typing import ClassVar, Self
from urllib.parse import urlsplit

SIGNATURE = "signature=5ec2e75ec2e7"
LOGIN_PAGE = b"<!DOCTYPE html><html><title>Guest Wi-Fi</title><body>Please log in.</body></html>"


@dataclass
class Seen:
    """One request; `sent` counts the body's bytes that were written for it, `secrets` whether it carried any."""

    path: str
    range: str | None
    secrets: bool
    sent: int = 0


@dataclass
class Fault:
    """What goes wrong with one path, and how often; `times=None` is always.

    status: this status and no body
    html: a login page with status 200
    body: these bytes in place of the right ones, under the same ETag
    break_after, reset_after, stall_after: the connection ends, is reset, or falls silent, after so many bytes
    silent: the request is read and never answered
    ignores_range: the whole file with 200, whatever was requested
    piece, pause: the bytes come `piece` at a time with `pause` seconds between
    """

    status: int | None = None
    html: bool = False
    body: bytes | None = None
    break_after: int | None = None
    reset_after: int | None = None
    stall_after: int | None = None
    silent: bool = False
    ignores_range: bool = False
    piece: int = 1 << 16
    pause: float = 0.0
    times: int | None = None


class WebStandin:
    """Serves while its `with` block lasts; a stalled answer ends with it."""

    def __init__(self) -> None:
        self.requests: list[Seen] = []
        self.stopped = threading.Event()
        self.files: dict[str, bytes] = {}
        self._faults: dict[str, list[Fault]] = {}
        self._lock = threading.Lock()
        self._server = _Server(("127.0.0.1", 0), type("Handler", (_Handler,), {"web": self}))
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

    def add(self, path: str, content: bytes) -> str:
        """Puts a file there, or another in its place; gives its address."""
        self.files[path] = content
        return self.address + path

    def fault(self, path: str, **what: object) -> None:
        """Scripts a fault (the fields of `Fault`); several for one path are used up in order."""
        self._faults.setdefault(path, []).append(Fault(**what))  # pyright: ignore[reportArgumentType]

    def next_fault(self, path: str) -> Fault:
        with self._lock:
            for fault in self._faults.get(path, []):
                if fault.times != 0:
                    fault.times = None if fault.times is None else fault.times - 1
                    return fault
        return Fault()


class _Server(ThreadingHTTPServer):
    daemon_threads = True

    def handle_error(self, request: object, client_address: object) -> None:
        """Clients that go away are what these tests are about."""


class _Handler(BaseHTTPRequestHandler):
    web: ClassVar[WebStandin]
    protocol_version = "HTTP/1.1"
    timeout = 120

    def log_message(self, format: str, *args: object) -> None:
        """Nothing to stderr: the tests look at it."""

    def do_GET(self) -> None:
        path = urlsplit(self.path).path
        secrets = any(name in self.headers for name in ("Authorization", "Cookie"))
        seen = Seen(path, self.headers.get("Range"), secrets)
        self.web.requests.append(seen)
        fault = self.web.next_fault(path)
        if fault.silent:
            self._hang()
        elif fault.status is not None:
            self._head(fault.status, {"Content-Length": "0"})
        elif fault.html:
            self._head(200, {"Content-Type": "text/html", "Content-Length": str(len(LOGIN_PAGE))})
            self.wfile.write(LOGIN_PAGE)
        elif path.startswith("/to/"):
            self._head(302, {"Location": f"{self.web.address}{path[3:]}?{SIGNATURE}", "Content-Length": "0"})
        elif path not in self.web.files:
            self._head(404, {"Content-Length": "0"})
        else:
            self._file(path, seen, fault)

    def _file(self, path: str, seen: Seen, fault: Fault) -> None:
        etag = f'"{hashlib.md5(self.web.files[path]).hexdigest()}"'
        content = self.web.files[path] if fault.body is None else fault.body
        headers, status, start = {"ETag": etag}, 200, 0
        wanted = re.fullmatch(r"bytes=(\d+)-", seen.range or "")
        if wanted and not fault.ignores_range:
            status, start = 206, int(wanted[1])
            headers["Content-Range"] = f"bytes {start}-{len(content) - 1}/{len(content)}"
        body = content[start:]
        self._head(status, headers | {"Content-Length": str(len(body))})
        limits = [n for n in (fault.break_after, fault.reset_after, fault.stall_after) if n is not None]
        for begin in range(0, min(limits, default=len(body)), fault.piece):
            piece = body[begin : min([begin + fault.piece, *limits])]
            self.wfile.write(piece)
            seen.sent += len(piece)
            if fault.pause and self.web.stopped.wait(fault.pause):
                return
        if fault.stall_after is not None:
            self._hang()
        elif fault.reset_after is not None:
            self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            self.connection.close()
        self.close_connection = self.close_connection or bool(limits)

    def _head(self, status: int, headers: dict[str, str]) -> None:
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        self.end_headers()

    def _hang(self) -> None:
        self.web.stopped.wait()
        self.close_connection = True
