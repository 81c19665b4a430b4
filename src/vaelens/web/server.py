"""The HTTP server: its socket, start and shutdown."""

import errno
import logging
import os
import socket
import sys
import threading
from collections.abc import Generator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from types import FrameType
from typing import Any, cast

import uvicorn

from vaelens.errors import UsageError
from vaelens.process import Shared
from vaelens.runtime import DEFAULT, Runtime, find_device
from vaelens.web.access import WILDCARDS, AccessPolicy
from vaelens.web.app import make_app
from vaelens.web.choices import Choices
from vaelens.web.connections import Connections, connection_limit
from vaelens.web.queue import MAX_WAITING, Queue
from vaelens.web.store import Store
from vaelens.web.worker import JobRunner, Report

THREAD_SWITCH = 0.0005  # seconds before a job's thread yields to the server's; a tenth of Python's default
MAX_OPEN_FILES = 8192  # each connection is an open file; the usual limit is 1,024


@dataclass
class Server:
    """A server that is ready: `serve` runs until a signal or `stop`; `close` ends the jobs and frees the folder."""

    policy: AccessPolicy
    listener: socket.socket
    queue: Queue
    store: Store
    http: uvicorn.Server
    closing: threading.Event = field(default_factory=threading.Event)
    opened: ExitStack = field(default_factory=ExitStack)

    @property
    def address(self) -> str:
        """The page's URL, without the token."""
        host = "127.0.0.1" if self.policy.host in WILDCARDS else self.policy.host
        return f"http://{f'[{host}]' if ':' in host else host}:{self.policy.port}/"

    def serve(self) -> None:
        """Answer requests. A signal ends it, and is raised again after shutdown for the previous handler."""
        self.http.run(sockets=[self.listener])

    def stop(self) -> None:
        """End `serve`, from any thread."""
        self.closing.set()
        self.http.should_exit = True

    def close(self) -> bool:
        """End the jobs; a running one is marked as interrupted. False if one can't be ended."""
        self.closing.set()
        self.opened.close()  # which gives the jobs time to end
        return self.queue.close(timeout=0)


def prepare(
    choices: Choices,
    folder: Path,
    *,
    host: str = "127.0.0.1",
    port: int = 7861,
    token: str | None = None,
    devices: Sequence[str] = ("auto",),
    runtime: Runtime = DEFAULT,
    space: str | None = None,
    safety_checker: bool = True,
    max_waiting: int = MAX_WAITING,
    report: Report | None = None,
) -> Server:
    """A server with its port bound (0: any free port) and a worker per device.

    Of `runtime` the precision counts: jobs run on `devices`, offline. `report` gets unexpected errors.

    Raises UsageError for a port or folder in use, an address that isn't this machine's, and what
    `AccessPolicy.check` raises.
    """
    AccessPolicy(host, port, token).check()
    with ExitStack() as opened:
        bound = opened.enter_context(_bound(host, port))
        policy = AccessPolicy(host, bound.getsockname()[1], token)
        store = Store(folder, runtime.notify)
        opened.callback(store.close)
        opened.enter_context(_process_settings)
        opened.enter_context(_open_files)
        runner = JobRunner(store, choices, runtime=runtime, safety_checker=safety_checker, space=space, report=report)
        queue, closing = Queue(runner, distinct_devices(devices), max_waiting), threading.Event()
        opened.callback(queue.close)
        connections = Connections(connection_limit(_open_file_limit()))
        config = uvicorn.Config(
            make_app(runner, queue, policy, closing),
            log_config=None,
            log_level=None,
            server_header=False,
            proxy_headers=False,  # there is no proxy in front
            http=cast(Any, connections.protocol),  # uvicorn calls it as it does the class
            backlog=connections.limit,
            loop="asyncio",
            ws="none",
            lifespan="off",
            timeout_graceful_shutdown=3,
        )
        return Server(policy, bound, queue, store, _Uvicorn(config, closing), closing, opened.pop_all())


def distinct_devices(devices: Sequence[str]) -> list[str]:
    """The devices by torch's names, each once, as each runs one job at a time.

    Raises UsageError for a device that isn't there.
    """
    found: dict[tuple[str, int], str] = {}
    for device in map(find_device, devices):
        found.setdefault((device.type, device.index or 0), str(device))
    return list(found.values())


class _Uvicorn(uvicorn.Server):
    """Ends the event streams before it waits for open connections."""

    def __init__(self, config: uvicorn.Config, closing: threading.Event) -> None:
        super().__init__(config)
        self._closing = closing

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        self._closing.set()
        super().handle_exit(sig, frame)


def _bound(host: str, port: int) -> socket.socket:
    """A listening socket. Raises UsageError for a port or address that can't be bound."""
    if not 0 <= port < 2**16:
        raise UsageError(f"--port must be from 0 to 65535, not {port}.")
    try:
        addresses = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    except (OSError, UnicodeError) as error:  # UnicodeError: no name can be so long
        reason = error.strerror if isinstance(error, OSError) else "no host name"
        raise UsageError(f"--host {host} is not an address of this machine ({reason}). Try 127.0.0.1.") from error
    family, kind, _, _, address = addresses[0]
    bound = socket.socket(family, kind)
    try:
        if os.name == "posix":  # on Windows it would let two servers share a port
            bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        bound.bind(address)
        bound.listen(2048)
    except OSError as error:
        bound.close()
        if error.errno == errno.EADDRNOTAVAIL:
            raise UsageError(f"--host {host} is not an address of this machine. Try 127.0.0.1.") from error
        raise UsageError(
            f"can't listen on {host}, port {port}: {error.strerror}. Is a server running there already? "
            "Choose another --port."
        ) from error
    return bound


@contextmanager
def _silent_and_responsive() -> Generator[None]:
    """While a server is there: uvicorn is silent, as its access log would contain tokens, and threads switch sooner."""
    logs = [logging.getLogger(f"uvicorn.{name}") for name in ("error", "access")]
    levels, interval = [log.level for log in logs], sys.getswitchinterval()
    for log in logs:
        log.setLevel(logging.CRITICAL)
    sys.setswitchinterval(THREAD_SWITCH)
    try:
        yield
    finally:
        for log, level in zip(logs, levels, strict=True):
            log.setLevel(level)
        sys.setswitchinterval(interval)


def _open_file_limit() -> int:
    """How many files the process may open; each connection is one."""
    if os.name != "posix":
        return MAX_OPEN_FILES
    import resource  # noqa: PLC0415  (POSIX only)

    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    return MAX_OPEN_FILES if soft == resource.RLIM_INFINITY else soft


@contextmanager
def _many_open_files() -> Generator[None]:
    """Each connection is an open file: raise the process' limit where the system allows it."""
    if os.name != "posix":
        yield
        return
    import resource  # noqa: PLC0415  (POSIX only)

    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    limit = MAX_OPEN_FILES if hard == resource.RLIM_INFINITY else min(hard, MAX_OPEN_FILES)
    if soft == resource.RLIM_INFINITY or soft >= limit:
        yield
        return
    resource.setrlimit(resource.RLIMIT_NOFILE, (limit, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


# One each for all servers of the process, which needn't close in the order of their opening.
_process_settings, _open_files = Shared(_silent_and_responsive), Shared(_many_open_files)
