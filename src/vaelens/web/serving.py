"""The server itself: its socket, its start and its end."""

import os
import socket
import sys
import threading
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import FrameType

import uvicorn

from vaelens.errors import UsageError
from vaelens.runtime import find_device
from vaelens.web.app import make_app
from vaelens.web.choices import Choices
from vaelens.web.door import WILDCARDS, Door
from vaelens.web.queue import LONGEST, Queue
from vaelens.web.store import Store
from vaelens.web.work import Report, Workshop

SWITCH = 0.0005  # seconds after which a job's thread lets the page's have its turn; by default ten times as many
MOST_FILES = 8192  # connections are files to the system; its usual limit is 1,024


@dataclass
class Running:
    """What stands ready: `serve` answers until a signal, or `stop`; `close` ends the jobs and frees the folder."""

    door: Door
    listening: socket.socket
    queue: Queue
    store: Store
    server: uvicorn.Server
    closing: threading.Event = field(default_factory=threading.Event)

    @property
    def address(self) -> str:
        """Where to open the page; the token isn't in it."""
        host = "127.0.0.1" if self.door.host in WILDCARDS else self.door.host
        return f"http://{f'[{host}]' if ':' in host else host}:{self.door.port}/"

    def serve(self) -> None:
        """Answer. A signal ends it, and is raised again when all is closed, for whoever had its handler before."""
        self.server.run(sockets=[self.listening])

    def stop(self) -> None:
        """End `serve`, from any thread."""
        self.closing.set()
        self.server.should_exit = True

    def close(self) -> bool:
        """End the jobs; False where one can't be ended. A job that runs is marked as interrupted."""
        self.closing.set()
        ended = self.queue.close()
        self.listening.close()
        self.store.close()
        return ended


def prepare(
    choices: Choices,
    folder: Path,
    *,
    host: str = "127.0.0.1",
    port: int = 7861,
    token: str | None = None,
    devices: Sequence[str] = ("auto",),
    dtype: str = "float32",
    space: str | None = None,
    guard: bool = True,
    longest: int = LONGEST,
    report: Report | None = None,
) -> Running:
    """All that serving needs, the port bound; port 0 takes a free one. `report` gets faults that nobody foresaw.

    Raises UsageError for a port or folder in use, an address that isn't this machine's, and as `Door.check`.
    """
    Door(host, port, token).check()
    listening = _bound(host, port)
    door = Door(host, listening.getsockname()[1], token)
    try:
        store = Store(folder)
    except BaseException:
        listening.close()
        raise
    workshop = Workshop(store, choices, dtype=dtype, guard=guard, space=space, report=report)
    queue, closing = Queue(workshop, distinct(devices), longest), threading.Event()
    _allow_files()
    sys.setswitchinterval(SWITCH)
    config = uvicorn.Config(
        make_app(workshop, queue, door, closing),
        log_level="critical",
        access_log=False,  # it would hold tokens
        server_header=False,
        proxy_headers=False,  # nobody stands between
        http="h11",
        loop="asyncio",
        ws="none",
        lifespan="off",
        timeout_graceful_shutdown=3,
    )
    return Running(door, listening, queue, store, _Server(config, closing), closing)


def distinct(devices: Sequence[str]) -> list[str]:
    """The devices without those that are another one by another name: each does one job at a time.

    Raises UsageError for a device that isn't here.
    """
    found: dict[tuple[str, int], str] = {}
    for device in devices:
        torch_device = find_device(device)
        found.setdefault((torch_device.type, torch_device.index or 0), device)
    return list(found.values())


class _Server(uvicorn.Server):
    """Tells the event streams to end before it waits for them."""

    def __init__(self, config: uvicorn.Config, closing: threading.Event) -> None:
        super().__init__(config)
        self._closing = closing

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        self._closing.set()
        super().handle_exit(sig, frame)


def _bound(host: str, port: int) -> socket.socket:
    """Raises UsageError where it can't be."""
    if not 0 <= port < 2**16:
        raise UsageError(f"a port lies between 0 and 65535; {port} doesn't.")
    try:
        family, kind, _, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)[
            0
        ]
    except OSError as error:
        raise UsageError(f"--host {host} is no address of this machine ({error.strerror}). Try 127.0.0.1.") from error
    made = socket.socket(family, kind)
    try:
        if os.name == "posix":  # elsewhere it would let two servers share a port
            made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        made.bind(address)
        made.listen(2048)
    except OSError as error:
        made.close()
        raise UsageError(
            f"can't listen on {host}, port {port}: {error.strerror}. Is a server running there already? "
            "Name another --port."
        ) from error
    return made


def _allow_files() -> None:
    if os.name != "posix":
        return
    import resource  # noqa: PLC0415  (POSIX only)

    now, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = MOST_FILES if most == resource.RLIM_INFINITY else min(most, MOST_FILES)
    if now != resource.RLIM_INFINITY and now < wanted:
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, most))
