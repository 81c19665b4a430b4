"""Uploads to the served page: their names, what is no image, how many at a time, and how long they may take."""

import errno
import json
import math
import os
import socket
import threading
import time
from concurrent.futures import FIRST_COMPLETED, ThreadPoolExecutor, wait
from contextlib import suppress
from pathlib import Path
from typing import Any, cast
from zlib import crc32

import pytest

from support.browser.served import Served, png
from vaelens.errors import UsageError
from vaelens.web import middleware, routes
from vaelens.web import uploads as storing
from vaelens.web.uploads import Uploads


def folder_of(server: Served) -> Path:
    return server.running.store.folder / "uploads"


def stalled(server: Served, path: str = "/api/uploads", kind: str = "image/png", length: int = 100) -> socket.socket:
    """A request whose body never comes."""
    made = socket.create_connection(("127.0.0.1", server.port), timeout=30)
    head = f"POST {path} HTTP/1.1\r\nHost: 127.0.0.1:{server.port}\r\nContent-Type: {kind}\r\n"
    made.sendall(f"{head}Content-Length: {length}\r\n\r\n{{".encode())
    return made


def whole_answer(connection: socket.socket) -> bytes:
    """All that comes until the server closes."""
    answer = b""
    while more := connection.recv(65536):
        answer += more
    return answer


def test_an_uploads_name_is_only_a_name(server: Served) -> None:
    evil = ("..%2F..%2Fevil.png", "%2Fetc%2Fcron.d%2Fevil", "..%5C..%5Cevil.png")
    for name in (*evil, "a%00b.png", ".hidden", "..", "x" * 300):
        status, upload = server.upload(png(8, 8), name)
        assert status == 201, upload
        assert not set("/\\\0") & set(upload["name"])
        assert not upload["name"].startswith(".")
    folder = server.running.store.folder
    assert {path.parent.parent for path in folder.parent.rglob("*evil*")} == {folder / "uploads"}


@pytest.mark.parametrize(
    ("content", "sentence"), [(b"", "is empty"), (b"<svg xmlns=''/>", "SVG"), (b"text", "is a text file, not an image")]
)
def test_an_upload_that_is_no_image_is_refused(server: Served, content: bytes, sentence: str) -> None:
    status, answer = server.upload(content)
    assert (status, sentence in answer["error"]) == (422, True), answer
    assert str(server.running.store.folder) not in answer["error"]
    assert not list((server.running.store.folder / "uploads").iterdir())


def test_pixels_are_counted_before_they_are_decoded(server: Served, monkeypatch: pytest.MonkeyPatch) -> None:
    bomb, side = png(1, 1), (50_000).to_bytes(4, "big")
    header = b"IHDR" + side + side + bomb[24:29]
    bomb = bomb[:12] + header + crc32(header).to_bytes(4, "big") + bomb[33:]
    monkeypatch.setattr("PIL.ImageFile.ImageFile.load", lambda *_: pytest.fail("decoded"))
    status, answer = server.upload(bomb)
    assert (status, "pixels" in answer["error"]) == (422, True), answer
    assert server.upload(png(4100, 4100))[1]["error"].startswith("face.png has 4100x4100 pixels")


@pytest.mark.parametrize(("sent", "stored"), [("part", "part"), ("a%2520b.png", "a_20b.png"), ("a%20b.png", "a_b.png")])
def test_a_name_is_decoded_once(server: Served, sent: str, stored: str) -> None:
    status, upload = server.upload(png(64, 64), sent)
    assert (status, upload["name"]) == (201, stored)
    status, job = server.ask("POST", "/api/jobs", {"upload": upload["id"], "vaes": server.vaes})
    assert (status, job["summary"]["upload"]) == (202, stored)


def test_the_number_of_simultaneous_uploads_is_limited(server: Served, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(storing, "GRACE", 60.0)
    monkeypatch.setattr(routes, "UPLOAD_WAIT", 0.3)
    under_way = [stalled(server) for _ in range(routes.MAX_UPLOADS)]
    server.until(lambda: len(list(folder_of(server).iterdir())) == routes.MAX_UPLOADS)
    status, answer = server.upload(png(8, 8))
    assert (status, "several uploads are in progress" in answer["error"]) == (429, True)
    monkeypatch.setattr(routes, "UPLOAD_WAIT", 60.0)
    with ThreadPoolExecutor(routes.MAX_UPLOADS + 1) as pool:
        asked = [pool.submit(server.upload, png(8, 8)) for _ in range(routes.MAX_UPLOADS + 1)]
        refused = wait(asked, timeout=30, return_when=FIRST_COMPLETED).done
        assert [one.result()[0] for one in refused] == [429], "only so many wait: they hold places of other calls"
        for one in under_way:
            one.close()
        assert sorted(one.result()[0] for one in asked) == [201] * routes.MAX_UPLOADS + [429]
    server.until(lambda: len(list(folder_of(server).glob("*.part"))) == 0)
    assert len(list(folder_of(server).iterdir())) == routes.MAX_UPLOADS, "of those that were cut off nothing is left"


def test_uploads_that_trickle_do_not_lock_out_an_honest_one(server: Served) -> None:
    """Whoever sends a byte now and then would keep its place for two minutes."""
    ended = threading.Event()
    trickling = [stalled(server, length=100_000) for _ in range(routes.MAX_UPLOADS)]

    def trickle() -> None:
        while not ended.wait(0.2):
            for one in trickling:
                with suppress(OSError):
                    one.sendall(b"x")

    with ThreadPoolExecutor(1) as pool:
        pool.submit(trickle)
        try:
            server.until(lambda: len(list(folder_of(server).iterdir())) == routes.MAX_UPLOADS)
            start = time.monotonic()
            answer = server.upload(png(8, 8))
            while answer[0] == 429 and time.monotonic() - start < 15:
                time.sleep(0.5)
                answer = server.upload(png(8, 8))
            assert (answer[0], time.monotonic() - start < 15) == (201, True), answer
        finally:
            ended.set()
    whole = folder_of(server)
    server.until(lambda: len(list(whole.glob("*.part"))) == routes.MAX_UPLOADS - 1)  # one gave way, not all
    for one in trickling:
        one.close()


def test_only_an_upload_slower_than_the_least_rate_gives_way() -> None:
    """What counts is how much has come of late: a burst at the beginning is forgotten, a break is no crawl."""

    class Deadline:
        ended_at: float | None = None
        over = False

        def expired(self) -> bool:
            return self.over

        def reschedule(self, when: float) -> None:
            self.ended_at = when

    def arrival(sizes: list[int]) -> tuple[Any, Deadline]:
        deadline = Deadline()
        made = storing.Arrival(cast(Any, deadline), 0.0)
        for second, size in enumerate(sizes, 1):
            made.add(size, float(second))
        return made, deadline

    steady, burst, crawling, young = (
        arrival(sizes) for sizes in ([1000] * 10, [10**9] + [1] * 9, [300] * 10, [10**6] * 10)
    )
    young[0]._began = 9.5
    over = arrival([1] * 10)
    over[1].over = True  # its time is up, but it still closes its file
    arriving = [one for one, _ in (steady, burst, crawling, young, over)]
    assert storing.end_slowest(arriving, 500, 10.0)
    assert (burst[1].ended_at, arriving) == (10.0, [steady[0], crawling[0], young[0], over[0]])
    assert storing.end_slowest(arriving, 500, 10.0)
    assert (crawling[1].ended_at, arriving) == (10.0, [steady[0], young[0], over[0]])
    assert not storing.end_slowest(arriving, 500, 10.0)
    assert over[1].ended_at is None
    assert not storing.end_slowest([young[0]], math.inf, 10.0)
    assert not storing.end_slowest([], 500, 10.0)


def test_headers_that_go_on_and_on_do_not_block_uploads(server: Served) -> None:
    endless = b"P6 # " + b"x" * (8 * 2**20) + b"\n8 8 255\n" + bytes(8 * 8 * 3)
    with ThreadPoolExecutor(routes.MAX_UPLOADS) as pool:
        start = time.monotonic()
        answers = list(pool.map(lambda _: server.upload(endless)[0], range(routes.MAX_UPLOADS)))
        spent = time.monotonic() - start
    assert set(answers) <= {201, 422, 429}, answers
    assert server.upload(png(8, 8))[0] == 201
    assert spent < 8, f"{spent:.1f} s"  # half a second; read a byte at a time, far more than ten


@pytest.mark.parametrize(("where", "what"), [(middleware, "UPLOAD_PAUSE"), (routes, "UPLOAD_TIMEOUT")])
def test_an_upload_that_stalls_is_ended(server: Served, monkeypatch: pytest.MonkeyPatch, where: Any, what: str) -> None:
    monkeypatch.setattr(where, what, 0.2)
    with stalled(server) as one:
        answer = whole_answer(one)
    assert answer.startswith(b"HTTP/1.1 408"), answer
    assert b"too long" in answer
    server.until(lambda: not list(folder_of(server).iterdir()))


def test_a_disk_that_stalls_an_upload_stalls_nobody_else(server: Served, monkeypatch: pytest.MonkeyPatch) -> None:
    pipe = server.running.store.folder / "pipe"  # to open it for writing waits until somebody reads
    os.mkfifo(pipe)
    uploads = server.running.store.uploads
    monkeypatch.setattr(uploads, "begin", lambda: ("0" * 32, pipe))
    monkeypatch.setattr(uploads, "finish", lambda *_: ("face.png", 8, 8))
    with ThreadPoolExecutor(1) as pool:
        upload = pool.submit(server.upload, b"x")
        try:
            for _ in range(3):
                assert server.raw("GET", "/")[0] == 200
            assert not upload.done()
        finally:
            pipe.open("rb").close()
        assert upload.result()[0] in {201, 503}  # 503: the reader left before it was written


@pytest.mark.parametrize(
    ("number", "sentence"),
    [(errno.ENOSPC, "the disk is full. Free some room. Try again."), (errno.EACCES, "saved: Permission denied.")],
)
def test_only_a_full_disk_is_called_one(server: Served, monkeypatch: Any, number: int, sentence: str) -> None:
    def fails(*_: Any) -> Any:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(server.running.store.uploads, "finish", fails)
    status, answer = server.upload(png(8, 8))
    assert (status, sentence in answer["error"]) == (503, True), answer
    assert not list(folder_of(server).iterdir())


def whole(uploads: Uploads, name: str = "face.png") -> str:
    number, part = uploads.begin()
    part.write_bytes(png(8, 8))
    assert uploads.finish(number, name) == (name, 8, 8)
    return number


def test_the_newest_uploads_stay_and_unfinished_ones(tmp_path: Path) -> None:
    uploads = Uploads(tmp_path, capacity=3)
    _, under_way = uploads.begin()
    under_way.write_bytes(b"half")
    first, second, third = (whole(uploads) for _ in range(3))
    assert uploads.take(first) == ("face.png", png(8, 8))  # which counts as use
    fourth = whole(uploads)
    assert {path.name for path in tmp_path.iterdir()} == {first, third, fourth, under_way.name}
    with pytest.raises(UsageError, match="isn't here any more"):
        uploads.take(second)


def test_simultaneous_uploads_do_not_interfere(tmp_path: Path) -> None:
    uploads, together = Uploads(tmp_path, capacity=4), threading.Barrier(4)

    def several() -> None:
        together.wait()
        for _ in range(50):
            whole(uploads)

    with ThreadPoolExecutor(4) as pool:
        for done in [pool.submit(several) for _ in range(4)]:
            done.result()
    assert len(list(tmp_path.iterdir())) == 4


def test_a_stalled_body_locks_nobody_out(server: Served, monkeypatch: pytest.MonkeyPatch) -> None:
    job = server.slow()
    many = [stalled(server, "/api/jobs", "application/json") for _ in range(middleware.MAX_CHANGES + 8)]
    assert server.ask("POST", f"/api/jobs/{job}/cancel", {})[0] == 200
    for one in many:
        one.close()
    monkeypatch.setattr(middleware, "JSON_TIMEOUT", 0.2)
    with stalled(server, "/api/jobs", "application/json") as one:
        answer = whole_answer(one)
    assert answer.startswith(b"HTTP/1.1 408"), answer
    assert set(json.loads(answer.partition(b"\r\n\r\n")[2])) == {"error"}
