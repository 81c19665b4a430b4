"""A server on loopback in a thread of its own, with narrow random models: what the tests of `serve` share."""

import io
import json
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.client import HTTPConnection
from pathlib import Path
from typing import Any
from urllib.request import urlopen

import numpy as np
import pytest
from PIL import Image

from vaelens.images.faces import draw_face
from vaelens.runtime import Runtime
from vaelens.web.choices import Choices, collect_choices
from vaelens.web.server import Server, prepare

DEADLINE = 30.0  # seconds after which a test gives up waiting
JSON = {"Content-Type": "application/json"}


def png(width: int, height: int) -> bytes:
    out = io.BytesIO()
    Image.fromarray(np.zeros((height, width, 3), np.uint8)).save(out, "PNG")
    return out.getvalue()


@pytest.fixture(scope="session")
def offer(tmp_path_factory: pytest.TempPathFactory) -> Choices:
    """A narrow model and two VAEs of its space, beside what ships with vaelens."""
    from support import pipelines
    from support.vaes import random_vae

    folder = tmp_path_factory.mktemp("offer")
    model = pipelines.write(pipelines.sd(), folder / "narrow-sd")
    vaes = [random_vae(seed=seed).save(folder / f"vae-{seed}.safetensors") for seed in range(2)]
    return collect_choices([str(model)], [str(vae) for vae in vaes], runtime=Runtime(offline=True))


@contextmanager
def serving(offer: Choices, folder: Path, **options: Any) -> Iterator["Served"]:
    running = prepare(offer, folder, port=0, **options)
    thread = threading.Thread(target=running.serve)
    thread.start()
    served = Served(running, offer)
    try:
        served.until(lambda: running.http.started)
        yield served
    finally:
        running.stop()
        thread.join()
        assert running.close()


@pytest.fixture
def server(offer: Choices, tmp_path: Path) -> Iterator["Served"]:
    with serving(offer, tmp_path / "store") as served:
        yield served


class Served:
    """Asks a running server, by its raw HTTP."""

    def __init__(self, running: Server, offer: Choices) -> None:
        self.running, self.offer = running, offer
        self.port = running.policy.port
        self.model = next(one.id for one in offer.models.values() if one.name == "narrow-sd")
        self.vaes = [one.id for one in offer.vaes.values() if one.name.startswith("vae-")]

    def until(self, condition: Callable[[], Any]) -> Any:
        end = time.monotonic() + DEADLINE
        while not (found := condition()):
            assert time.monotonic() < end, "never"
            time.sleep(0.02)
        return found

    def raw(
        self, method: str, path: str, body: bytes | None = None, **headers: str
    ) -> tuple[int, dict[str, str], bytes]:
        """Status, headers and body. A header's name has _ for -."""
        connection = HTTPConnection("127.0.0.1", self.port, timeout=DEADLINE)
        try:
            named = {name.replace("_", "-"): value for name, value in headers.items()}
            connection.request(method, path, body, named)
            answer = connection.getresponse()
            return answer.status, {k.lower(): v for k, v in answer.getheaders()}, answer.read()
        finally:
            connection.close()

    def ask(self, method: str, path: str, values: Any = None, **headers: str) -> tuple[int, Any]:
        """Status and JSON."""
        body = None if values is None else json.dumps(values).encode()
        kind = {} if method == "GET" else {"Content_Type": "application/json"}
        status, _, content = self.raw(method, path, body, **(kind | headers))
        return status, json.loads(content) if content else None

    def send(self, request: bytes, wait: bool = True) -> bytes:
        """What a raw socket gets for these bytes, until the server closes or has answered."""
        with socket.create_connection(("127.0.0.1", self.port), timeout=DEADLINE) as connection:
            connection.sendall(request)
            answer = b""
            while wait and (more := connection.recv(65536)):
                answer += more
            return answer

    def first_of_events(self) -> dict[str, Any]:
        """What a page is told at first."""
        with urlopen(f"http://127.0.0.1:{self.port}/api/events", timeout=DEADLINE) as stream:
            while not (line := stream.readline()).startswith(b"data: "):
                assert line, "no event"
            return json.loads(line[6:])

    def body(self, **more: Any) -> dict[str, Any]:
        """A job that takes a moment."""
        return {"prompt": "a cat", "model": self.model, "vaes": self.vaes, "steps": 2, "seeds": [0]} | more

    def start(self, **more: Any) -> str:
        status, job = self.ask("POST", "/api/jobs", self.body(**more))
        assert status == 202, job
        return job["id"]

    def slow(self, **more: Any) -> str:
        """A job that runs for minutes unless it is cancelled."""
        return self.start(steps=900, seeds=list(range(16)), **more)

    def job(self, job: str) -> dict[str, Any]:
        return self.ask("GET", f"/api/jobs/{job}")[1]

    def wait(self, job: str, *states: str) -> dict[str, Any]:
        return self.until(lambda: (found := self.job(job))["state"] in (states or ("done",)) and found)

    def upload(self, content: bytes, name: str = "face.png", **headers: str) -> tuple[int, Any]:
        given = {"Content_Type": "image/png"} | headers
        status, _, body = self.raw("POST", f"/api/uploads?name={name}", content, **given)
        return status, json.loads(body)


GOOD: dict[str, Any] = {
    "schema": 1,
    "state": "done",
    "created": "2025-01-02T03:04:05.678+00:00",
    "summary": {"prompt": "a cat", "model": "m", "vaes": ["v"], "seeds": "0"},
    "request": {"prompt": "a cat", "model": "m", "vaes": ["v"], "seeds": [0]},
    "progress": None,
    "error": None,
    "notes": [],
    "panels": [],
    "bytes": 10,
}


NO_RESULTS = {"blind_results": {"count": 0, "bytes": 0}}  # of a job in memory: its file doesn't hold them


LAYER = {"name": "v", "note": "", "image": 0}


PANEL = {"title": "seed 0", "note": "", "width": 8, "height": 8, "layers": [LAYER]}


TOKEN = "a-token-of-enough-length"


def image(side: int = 64) -> bytes:
    out = io.BytesIO()
    Image.fromarray(draw_face(0, side).pixels).save(out, "PNG")
    return out.getvalue()
