"""A stand-in for the hub on loopback, with scripted faults.

    with HubStandin() as hub:
        hub.add("owner/name", "config.json", b"{}")
        hub.fault("owner/name", "config.json", status=503, times=2)
        subprocess.run([...], env=hub.environment(tmp_path))
        assert [r.method for r in hub.requests_for("config.json")] == ["HEAD", "HEAD", "HEAD", "HEAD", "GET"]

It answers `/{repo}/resolve/{revision}/{file}` as the hub does: ETag (sha256, or git's sha1 for small
files), X-Repo-Commit, Range, and the hub's X-Error-Code where something doesn't exist; a dataset is the repository
`datasets/owner/name`. `/api/{models|datasets}/{repo}/revision/...` and `/tree/...` list it, in pages of
`PAGE` entries whose links name the hub's own address; their faults are those of the file `API`. The hub library
reads its environment when it is imported: a child process gets `environment`, this one `use`.
"""

import hashlib
import json
import os
import re
import socket
import struct
import threading
from collections.abc import Mapping
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import TracebackType
from typing import ClassVar, Self
from urllib.parse import parse_qs, unquote, urlsplit

import pytest
from huggingface_hub import constants

API = "the interface"
PAGE = 3
LOGIN_PAGE = b"<!DOCTYPE html><html><title>Guest Wi-Fi</title><body>Please log in.</body></html>"


@dataclass(frozen=True)
class Seen:
    """One request as it came in; `authorized` tells that an Authorization header was there, not what it said."""

    method: str
    path: str
    range: str | None
    authorized: bool


@dataclass
class Fault:
    """What goes wrong with one path, and how often; `times=None` is always.

    status, code: this status, with X-Error-Code, instead of an answer
    headers: more of them, in whatever the answer is
    html: a login page with status 200
    body: these bytes in place of the right ones, under the right ETag
    break_after: the connection ends after so many bytes of a GET; with `reset`, by a TCP reset
    stall_after: silence after so many bytes of a GET
    silent: the request is read and never answered
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
    piece: int = 1 << 16
    pause: float = 0.0
    methods: tuple[str, ...] = ("HEAD", "GET")
    times: int | None = None


class HubStandin:
    """Serves while its `with` block lasts; a stalled answer ends with it."""

    def __init__(self) -> None:
        self.requests: list[Seen] = []
        self.stopped = threading.Event()
        self._files: dict[str, dict[str, tuple[bytes, str]]] = {}
        self._faults: dict[tuple[str, str], list[Fault]] = {}
        self._lock = threading.Lock()
        handler = type("Handler", (_Handler,), {"hub": self})
        self._server = _Server(("127.0.0.1", 0), handler)
        self.endpoint = f"http://127.0.0.1:{self._server.server_address[1]}"

    def __enter__(self) -> Self:
        threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True).start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stopped.set()
        self._server.shutdown()
        self._server.server_close()

    def add(self, repo: str, filename: str, content: bytes, *, lfs: bool = True) -> str:
        """Puts a file into the one branch, `main`, in a new commit; gives its ETag."""
        etag = hashlib.sha256(content) if lfs else hashlib.sha1(b"blob %d\0" % len(content) + content)
        self._files.setdefault(repo, {})[filename] = (content, etag.hexdigest())
        return etag.hexdigest()

    def commit(self, repo: str) -> str:
        """The commit hash that `main` stands at."""
        return hashlib.sha1(repr(sorted((n, e) for n, (_, e) in self._files[repo].items())).encode()).hexdigest()

    def entries(self, repo: str) -> list[dict[str, object]]:
        """The files and folders as the hub's interface lists them."""
        found: list[dict[str, object]] = []
        for name, (content, etag) in self._files[repo].items():
            large = {"lfs": {"oid": etag, "size": len(content), "pointerSize": 130}} if len(etag) == 64 else {}
            found.append({"type": "file", "path": name, "size": len(content), "oid": "0" * 40, **large})
            if "/" in name:
                found.append({"type": "directory", "path": name.rpartition("/")[0], "size": 0, "oid": "0" * 40})
        return found

    def fault(self, repo: str, filename: str, **what: object) -> None:
        """Scripts a fault (the fields of `Fault`); several for one path are used up in order."""
        with self._lock:
            self._faults.setdefault((repo, filename), []).append(Fault(**what))  # pyright: ignore[reportArgumentType]

    def heal(self, repo: str, filename: str) -> None:
        """From now on the path is served as it should be."""
        with self._lock:
            self._faults.pop((repo, filename), None)

    def requests_for(self, filename: str) -> list[Seen]:
        return [seen for seen in self.requests if seen.path.endswith("/" + filename)]

    def environment(self, home: Path, **more: str) -> dict[str, str]:
        """os.environ for a child whose hub this is, with its cache under `home` and no token or proxy but in `more`."""
        kept = {k: v for k, v in os.environ.items() if not re.match(r"HF_|HUGGING|.*_PROXY$", k, re.IGNORECASE)}
        cache = {"HF_HOME": str(home), "HF_HUB_CACHE": str(home / "hub"), "VAELENS_CACHE": str(home / "vaelens-cache")}
        return kept | {"HF_ENDPOINT": self.endpoint, "HF_HUB_DISABLE_XET": "1"} | cache | more

    def use(self, patch: pytest.MonkeyPatch, home: Path) -> None:
        """From now on this is the hub of this process, with the caches under `home`."""
        template = self.endpoint + "/{repo_id}/resolve/{revision}/{filename}"
        for name, value in {
            "ENDPOINT": self.endpoint,
            "HUGGINGFACE_CO_URL_TEMPLATE": template,
            "HF_HUB_CACHE": str(home / "hub"),
            "HF_HUB_OFFLINE": False,
        }.items():
            patch.setattr(constants, name, value)
        patch.setenv("VAELENS_CACHE", str(home / "vaelens-cache"))

    def next_fault(self, repo: str, filename: str, method: str) -> Fault:
        with self._lock:
            for fault in self._faults.get((repo, filename), []):
                if method in fault.methods and fault.times != 0:
                    fault.times = None if fault.times is None else fault.times - 1
                    return fault
        return Fault()

    def find(self, repo: str, revision: str, filename: str, authorized: bool) -> tuple[bytes, str] | tuple[int, str]:
        """(content, etag), or (status, X-Error-Code) with the words that the hub uses for what isn't there."""
        if repo not in self._files:
            return (404 if authorized else 401), "RepoNotFound"
        if revision not in {"main", self.commit(repo)}:
            return 404, "RevisionNotFound"
        return self._files[repo].get(filename, (404, "EntryNotFound"))


class _Server(ThreadingHTTPServer):
    daemon_threads = True

    def handle_error(self, request: object, client_address: object) -> None:
        """Clients that go away are what these tests are about."""


class _Handler(BaseHTTPRequestHandler):
    hub: ClassVar[HubStandin]
    protocol_version = "HTTP/1.1"
    timeout = 120

    def do_HEAD(self) -> None:
        self._answer()

    def do_GET(self) -> None:
        self._answer()

    def log_message(self, format: str, *args: object) -> None:
        """Nothing to stderr: the tests look at it."""

    def _answer(self) -> None:  # noqa: PLR0911 - an answer a fault
        path, query = unquote(urlsplit(self.path).path), parse_qs(urlsplit(self.path).query)
        authorized = "Authorization" in self.headers
        self.hub.requests.append(Seen(self.command, path, self.headers.get("Range"), authorized))
        if path.startswith("/api/"):
            return self._list(path, query, authorized)
        parts = re.fullmatch(r"/(?P<repo>.+?)/resolve/(?P<revision>[^/]+)/(?P<filename>.+)", path)
        if parts is None:
            return self._send(404, {}, b"")
        repo, revision, filename = parts["repo"], parts["revision"], parts["filename"]
        fault = self.hub.next_fault(repo, filename, self.command)
        if fault.silent:
            return self._hang()
        if fault.html:
            return self._send(200, {"Content-Type": "text/html; charset=utf-8", **fault.headers}, LOGIN_PAGE)
        if fault.status is not None:
            code = {"X-Error-Code": fault.code} if fault.code else {}
            return self._send(fault.status, {**code, **fault.headers}, b"")
        content, etag = self.hub.find(repo, revision, filename, authorized)
        if isinstance(content, int):
            commit = {"X-Repo-Commit": self.hub.commit(repo)} if etag == "EntryNotFound" else {}
            return self._send(content, {"X-Error-Code": etag, **commit}, b"")
        content = fault.body if fault.body is not None else content
        headers = {"ETag": f'"{etag}"', "X-Repo-Commit": self.hub.commit(repo), "Accept-Ranges": "bytes"}
        status, start = 200, 0
        if wanted := re.fullmatch(r"bytes=(\d+)-", self.headers.get("Range") or ""):
            status, start = 206, int(wanted[1])
            headers["Content-Range"] = f"bytes {start}-{len(content) - 1}/{len(content)}"
        return self._send(status, {**headers, **fault.headers}, content[start:], fault)

    def _list(self, path: str, query: dict[str, list[str]], authorized: bool) -> None:  # noqa: PLR0911 - as above
        """What the hub's interface says of a revision, and of the files at it."""
        parts = re.fullmatch(r"/api/(models/|(datasets/))(?P<name>[^/]+/[^/]+)/(revision|tree)/(?P<revision>.+)", path)
        if parts is None:
            return self._send(404, {}, b"")
        repo = (parts[2] or "") + parts["name"]
        fault = self.hub.next_fault(repo, API, self.command)
        if fault.silent:
            return self._hang()
        if fault.html:
            return self._send(200, {"Content-Type": "text/html; charset=utf-8"}, LOGIN_PAGE)
        if fault.status is not None:
            return self._send(fault.status, {"X-Error-Code": fault.code} if fault.code else {}, b"")
        status, code = self.hub.find(repo, parts["revision"], "", authorized)
        if code in {"RepoNotFound", "RevisionNotFound"}:
            return self._send(int(status), {"X-Error-Code": str(code)}, b"")
        headers = {"Content-Type": "application/json"}
        if parts[4] == "revision":
            return self._send(200, headers, json.dumps({"sha": self.hub.commit(repo)}).encode())
        entries, begin = self.hub.entries(repo), int(query.get("cursor", ["0"])[0])
        if begin + PAGE < len(entries):
            headers["Link"] = f'<https://hub.invalid{path}?recursive=true&cursor={begin + PAGE}>; rel="next"'
        return self._send(200, headers, json.dumps(entries[begin : begin + PAGE]).encode())

    def _send(self, status: int, headers: Mapping[str, str], body: bytes, fault: Fault | None = None) -> None:
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
            if fault.pause and self.hub.stopped.wait(fault.pause):
                break
        if whole:
            return
        if fault.stall_after is not None:
            self._hang()
        elif fault.reset:
            self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            self.connection.close()
        self.close_connection = True

    def _hang(self) -> None:
        self.hub.stopped.wait()
        self.close_connection = True
