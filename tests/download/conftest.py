"""What the tests of downloads share: no proxies, short timeouts, no pauses, and a token that no message may show."""

import logging
import os
import socket
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from huggingface_hub import close_session, constants

from support.standins.downloads import CONTENT, REPO, SHA256, WEB_CONTENT, WEIGHTS
from support.standins.hub import HubStandin
from support.standins.web import WebStandin
from vaelens.download import client
from vaelens.download.hub import RemoteFile, fetch
from vaelens.download.web_files import WebFile
from vaelens.errors import VaelensError
from vaelens.runtime import Runtime

SLEEP = time.sleep  # which `_surroundings` replaces
SECRET = "hf_secretsecretsecretsecretsecret"


@pytest.fixture(autouse=True)
def _surroundings(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    for name in list(os.environ):
        if name.upper().endswith("_PROXY") or name in {"HF_HUB_DOWNLOAD_TIMEOUT", "HF_HUB_DISABLE_XET"}:
            monkeypatch.delenv(name)
    monkeypatch.setenv("HF_TOKEN", SECRET)
    monkeypatch.setattr(constants, "HF_HUB_ETAG_TIMEOUT", 0.3)
    monkeypatch.setattr(constants, "HF_HUB_DOWNLOAD_TIMEOUT", 0.3)
    monkeypatch.setitem(client.SETTINGS, "HF_HUB_DOWNLOAD_TIMEOUT", 0.3)
    monkeypatch.setattr(client.time, "sleep", lambda _: None)
    yield
    close_session()  # it keeps the proxies of the environment that it was opened in


@pytest.fixture
def notices(caplog: pytest.LogCaptureFixture) -> Iterator[list[str]]:
    """What users read; neither a notice nor the library's log has the token."""
    received: list[str] = []
    yield received
    assert SECRET not in "".join([*received, *caplog.messages])
    assert not [record for record in caplog.records if record.levelno >= logging.WARNING], "a warning of the library's"


@pytest.fixture
def wait_until() -> Callable[[Callable[[], object]], None]:
    def wait_until(true: Callable[[], object]) -> None:
        give_up = time.monotonic() + 30
        while not true():
            assert time.monotonic() < give_up
            SLEEP(0.01)

    return wait_until


@pytest.fixture
def nobody() -> str:
    """An address on loopback where no server listens."""
    with socket.create_server(("127.0.0.1", 0)) as closed:
        return f"http://127.0.0.1:{closed.getsockname()[1]}"


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[HubStandin]:
    with HubStandin() as hub:
        hub.use(monkeypatch, tmp_path)
        hub.add(REPO, WEIGHTS, CONTENT)
        hub.add(REPO, "config.json", b"{}", lfs=False)
        yield hub


def check_message(error: VaelensError) -> None:
    assert SECRET not in str(error)
    assert "\n" not in str(error)
    assert error.__cause__ is None, "a traceback would have the library's own words"
    assert error.__context__ is None or error.__suppress_context__


@pytest.fixture
def fetched(hub: HubStandin, notices: list[str]) -> Callable[..., Path]:
    def fetched(filename: str = WEIGHTS, *, offline: bool = False, repo: str = REPO, **more: object) -> Path:
        file = RemoteFile(repo, filename, **more)  # type: ignore[arg-type]
        try:
            return fetch(file, Runtime(offline=offline, notify=notices.append))
        except VaelensError as error:
            check_message(error)
            raise

    return fetched


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("VAELENS_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture
def server(cache: Path) -> Iterator[WebStandin]:
    with WebStandin() as server:
        server.add("/weights.pth", WEB_CONTENT)
        yield server


@pytest.fixture
def file(server: WebStandin) -> WebFile:
    return WebFile((f"{server.address}/weights.pth",), "weights.pth", len(WEB_CONTENT), SHA256)
