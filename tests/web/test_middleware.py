"""Security of the server: hosts, origins, bodies, paths and floods that must be refused. One test per attack."""

import functools
import itertools
import json
import socket
import subprocess
import sys
import threading
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from support.browser.served import Served, png, serving
from vaelens.web import server as server_module
from vaelens.web.app import make_app
from vaelens.web.choices import Choices
from vaelens.web.queue import MAX_WAITING

REFUSED = range(400, 500)
FLOOD = """
import asyncio, json, sys
port, body = int(sys.argv[1]), sys.argv[2].encode()
head = f"POST /api/jobs HTTP/1.1\\r\\nHost: 127.0.0.1:{port}\\r\\nContent-Type: application/json\\r\\n"
head += f"Content-Length: {len(body)}\\r\\nConnection: close\\r\\n\\r\\n"
async def one():
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(head.encode() + body)
    answer = await reader.read()
    writer.close()
    return int(answer.split()[1])
async def every():
    return await asyncio.gather(*(one() for _ in range(1000)))
print(json.dumps(asyncio.run(every())))
"""  # a thousand at once, from a process of its own


FOREIGN = ["evil.example", "evil.example:{port}", "127.0.0.1", "127.0.0.1:1", "localhost.evil:{port}", ""]
FOREIGN += ["127.0.0.1:{port}@evil", "[::1", "127.0.0.1:{port}/x"]


def test_a_foreign_host_is_refused(server: Served) -> None:
    requests = (("GET", "/"), ("GET", "/api/jobs"), ("POST", "/api/jobs"))
    for host, (method, path) in itertools.product(FOREIGN, requests):
        headers = {"Host": host.format(port=server.port), "Content_Type": "application/json"}
        status, _, body = server.raw(method, path, b"{}" if method == "POST" else None, **headers)
        assert status in REFUSED, (host, method, path)
        assert b"<!doctype" not in body
    for good in ("127.0.0.1", "localhost", "LOCALHOST", "[::1]"):
        assert server.raw("GET", "/", Host=f"{good}:{server.port}")[0] == 200


def test_a_foreign_origin_is_refused(server: Served) -> None:
    own = f"http://127.0.0.1:{server.port}"
    others = (f"http://127.0.0.1:{server.port + 1}", f"http://localhost:{server.port}")
    for origin in ("https://evil.example", "null", *others, ""):
        status, answer = server.ask("POST", "/api/jobs", server.body(), Origin=origin)
        assert (status, "another site" in answer["error"]) == (403, True), origin
        assert server.ask("GET", "/api/jobs", Origin=origin)[0] == 403
    for site in ("cross-site", "same-site"):
        for method, path in (("POST", "/api/jobs"), ("GET", "/api/jobs"), ("GET", "/static/app.js")):
            assert server.raw(method, path, None, Sec_Fetch_Site=site, Content_Type="application/json")[0] == 403
        assert server.raw("GET", "/", Sec_Fetch_Site=site)[0] == 200, "a link to the page may be followed"
    assert server.ask("GET", "/api/jobs")[1]["jobs"] == []
    assert server.ask("POST", "/api/jobs", server.body(), Origin=own, Sec_Fetch_Site="same-origin")[0] == 202


def test_what_a_form_can_send_is_refused(server: Served) -> None:
    body = json.dumps(server.body()).encode()
    for kind in ("text/plain", "application/x-www-form-urlencoded", "multipart/form-data; boundary=x", ""):
        headers = {"Content_Type": kind} if kind else {}
        assert server.raw("POST", "/api/jobs", body, **headers)[0] == 415
        assert server.raw("POST", "/api/uploads", png(8, 8), **headers)[0] == 415
    assert server.ask("GET", "/api/jobs")[1]["jobs"] == []


def test_no_path_leads_out_of_the_store(server: Served) -> None:
    job = server.wait(server.start())["id"]
    (server.running.store.folder.parent / "secret.txt").write_text("secret")
    encoded = ["%2e%2e/" * 4, "..%2f" * 4, "%2e%2e%2f" * 6, "..%5c" * 4, "%252e%252e%252f" * 3]
    for up in ["../" * n for n in (1, 2, 3, 6)] + encoded:
        for base in ("/", "/static/", "/api/jobs/", f"/api/jobs/{job}/", f"/api/jobs/{job}/images/"):
            for end in ("etc/passwd", "secret.txt", "job.json", "pyproject.toml", "%2fetc%2fpasswd", "job.json%00.png"):
                headers = f"Host: 127.0.0.1:{server.port}\r\nConnection: close"
                answer = server.send(f"GET {base}{up}{end} HTTP/1.1\r\n{headers}\r\n\r\n".encode())
                assert int(answer.split()[1]) in REFUSED, f"{base}{up}{end}"
                assert b"secret" not in answer
    for number in ("-1", "2", "0.png", "%D9%A1", "1e3", "99999999"):
        assert server.raw("GET", f"/api/jobs/{job}/images/{number}")[0] == 404
    for number in ("../../" + job, "0" * 31 + "/", job.upper() + "x", "/etc/passwd"):
        status, answer = server.ask("POST", "/api/jobs", {"upload": number[:64], "vaes": server.vaes})
        assert (status, "isn't here any more" in answer["error"]) == (422, True)


def test_an_address_in_place_of_a_file_is_never_opened(server: Served, monkeypatch: pytest.MonkeyPatch) -> None:
    opened: list[Any] = []
    connect, resolve = socket.socket.connect, socket.getaddrinfo

    def watched(this: socket.socket, address: Any) -> Any:
        if address[:2] != ("127.0.0.1", server.port):
            opened.append(address)
            raise OSError("no other address is opened")
        return connect(this, address)

    def resolved(host: Any, *more: Any, **named: Any) -> Any:
        opened.extend([] if host in {"127.0.0.1", None} else [host])
        return resolve(host, *more, **named)

    monkeypatch.setattr(socket.socket, "connect", watched)
    monkeypatch.setattr(socket, "getaddrinfo", resolved)
    for address in ("http://127.0.0.1:9/x.png", "https://evil.example/x", "file:///etc/passwd", "//evil.example/x"):
        for body in ({"upload": address, "vaes": server.vaes}, server.body(model=address), server.body(vaes=[address])):
            status, answer = server.ask("POST", "/api/jobs", body)
            assert status == 422, answer
        assert server.upload(address.encode())[0] == 422
    for name in ("kl-f8", "sd-v1-4", "someone/model"):
        assert server.ask("POST", "/api/jobs", server.body(model=name))[0] == 422
        assert server.ask("POST", "/api/jobs", server.body(vaes=[name]))[0] == 422
    job = server.wait(server.start(prompt="a photo http://evil.example/x.png"))
    assert server.raw("GET", f"/api/jobs/{job['id']}/page")[0] == 200
    assert opened == []


def test_a_gigabyte_is_refused_unread(server: Served) -> None:
    for path, kind in (("/api/uploads", "image/png"), ("/api/jobs", "application/json")):
        head = f"POST {path} HTTP/1.1\r\nHost: 127.0.0.1:{server.port}\r\nContent-Type: {kind}\r\n"
        head += f"Content-Length: {2**30}\r\n\r\n"
        began = time.monotonic()
        answer = server.send(head.encode())  # none of the body is sent, and the answer is there
        assert answer.startswith(b"HTTP/1.1 413"), answer
        assert b"at most" in answer
        assert time.monotonic() - began < 5
    assert not list((server.running.store.folder / "uploads").iterdir())


def test_a_body_that_hides_its_length_is_counted(offer: Choices, tmp_path: Path, monkeypatch: Any) -> None:
    chunk = b"10000\r\n" + bytes(0x10000) + b"\r\n"
    monkeypatch.setattr(server_module, "make_app", functools.partial(make_app, max_upload_bytes=200_000))
    with serving(offer, tmp_path) as served:
        for path, kind in (("/api/uploads", "image/png"), ("/api/jobs", "application/json")):
            head = f"POST {path} HTTP/1.1\r\nHost: 127.0.0.1:{served.port}\r\nContent-Type: {kind}\r\n"
            sent, answer = 0, b""
            with socket.create_connection(("127.0.0.1", served.port), timeout=30) as connection:
                connection.sendall(f"{head}Transfer-Encoding: chunked\r\n\r\n".encode())
                connection.settimeout(0.2)
                while not answer and sent < 2**27:
                    try:
                        connection.sendall(chunk)
                        sent += len(chunk)
                        answer = connection.recv(65536)
                    except TimeoutError:
                        continue
                    except OSError:
                        break
            assert answer.startswith(b"HTTP/1.1 413"), answer
            assert sent < 2**24
        assert not list((tmp_path / "uploads").iterdir())


def test_the_page_answers_during_a_thousand_requests(server: Served) -> None:
    """What a clock says depends on the machine (docs/serve.md has a figure): here the page must answer at all."""
    running = server.slow()
    server.wait(running, "running")
    body = json.dumps(server.body()).encode()
    took, most_threads, stop = list[float](), [0], threading.Event()

    def watch() -> None:
        while not stop.is_set():
            began = time.monotonic()
            status, _, page = server.raw("GET", "/")
            assert (status, page[:15]) == (200, b"<!doctype html>")
            took.append(time.monotonic() - began)
            most_threads[0] = max(most_threads[0], threading.active_count())
            time.sleep(0.05)

    with ThreadPoolExecutor(1) as pool:
        watching = pool.submit(watch)
        before = threading.active_count()
        command = [sys.executable, "-c", FLOOD, str(server.port), body.decode()]
        try:
            flooded = subprocess.run(command, capture_output=True, text=True, check=True)
        finally:
            stop.set()
        watching.result()
    statuses = json.loads(flooded.stdout)
    print(f"{len(took)} pages, the slowest {max(took):.2f} s; answers {dict(Counter(statuses))}")
    assert set(statuses) == {202, 429}
    states = Counter(job["state"] for job in server.ask("GET", "/api/jobs")[1]["jobs"])
    assert states == {"running": 1, "queued": statuses.count(202)}
    assert statuses.count(202) <= MAX_WAITING
    assert most_threads[0] <= before + 40, "a worker thread for each of the few that are let in, not for each request"
    assert max(took) < 10


def test_only_so_many_pages_listen(server: Served) -> None:
    request = f"GET /api/events HTTP/1.1\r\nHost: 127.0.0.1:{server.port}\r\n\r\n".encode()
    listening = [socket.create_connection(("127.0.0.1", server.port), timeout=30) for _ in range(64)]
    for one in listening:
        one.sendall(request)
        assert one.recv(12) == b"HTTP/1.1 200"
    assert server.ask("GET", "/api/events")[0] == 429
    for one in listening:
        one.close()

    def listens() -> bool:
        with socket.create_connection(("127.0.0.1", server.port), timeout=30) as one:
            one.sendall(request)
            return one.recv(12) == b"HTTP/1.1 200"

    server.until(listens)


def test_every_answer_has_its_headers_and_errors_are_json(server: Served) -> None:
    requests = [("GET", path) for path in ("/", "/static/app.js", "/api/jobs", "/nothing", "/docs")]
    for method, path in (*requests, ("PUT", "/")):
        status, headers, body = server.raw(method, path, Content_Type="application/json")
        assert headers["content-security-policy"].startswith("default-src 'none'; script-src 'self'; style-src 'self'")
        assert "unsafe" not in headers["content-security-policy"]
        assert headers["x-content-type-options"] == "nosniff"
        assert "server" not in headers
        if status >= 400:
            assert set(json.loads(body)) == {"error"}, path
    for body in (b"", b"[]", b"{", b'{"vaes": ' + b"[" * 30_000, b"\xff\xfe", b"null"):
        status, _, answer = server.raw("POST", "/api/jobs", body, Content_Type="application/json")
        assert (status, set(json.loads(answer))) == (422, {"error"}), body[:20]


def test_an_image_that_was_deleted_is_not_shown_again(server: Served) -> None:
    job = server.wait(server.start())["id"]
    status, headers, _ = server.raw("GET", f"/api/jobs/{job}/images/0")
    assert (status, headers["cache-control"]) == (200, "private, no-cache")
    known = {"If_None_Match": headers["etag"]}
    assert server.raw("GET", f"/api/jobs/{job}/images/0", **known)[::2] == (304, b"")
    assert server.raw("GET", f"/api/jobs/{job}/images/1", **known)[0] == 200
    assert server.ask("DELETE", f"/api/jobs/{job}")[0] == 204
    assert server.raw("GET", f"/api/jobs/{job}/images/0", **known)[0] == 404
