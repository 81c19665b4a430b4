"""What the tests of downloads share: no proxies, short timeouts, no pauses, and a token that no message may show."""

import logging
import os
import time
from collections.abc import Callable, Iterator

import pytest
from huggingface_hub import close_session, constants

from vaelens.download import client

SLEEP = time.sleep  # the tests take the pauses out
SECRET = "hf_secretsecretsecretsecretsecret"


@pytest.fixture(autouse=True)
def _surroundings(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    for name in list(os.environ):
        if name.upper().endswith("_PROXY") or name in {"HF_HUB_DOWNLOAD_TIMEOUT", "HF_HUB_DISABLE_XET"}:
            monkeypatch.delenv(name)
    monkeypatch.setenv("HF_TOKEN", SECRET)
    monkeypatch.setattr(constants, "HF_HUB_ETAG_TIMEOUT", 0.3)
    monkeypatch.setitem(client.SETTINGS, "HF_HUB_DOWNLOAD_TIMEOUT", 0.3)
    monkeypatch.setattr(client.time, "sleep", lambda _: None)
    yield
    close_session()  # it keeps the proxies of the environment that it was opened in


@pytest.fixture
def notices(caplog: pytest.LogCaptureFixture) -> Iterator[list[str]]:
    """What users are told; the token is in nothing of it, nor in what the library logs."""
    told: list[str] = []
    yield told
    assert SECRET not in "".join([*told, *caplog.messages])
    assert not [record for record in caplog.records if record.levelno >= logging.WARNING], "a warning of the library's"


@pytest.fixture
def wait_until() -> Callable[[Callable[[], object]], None]:
    def wait_until(true: Callable[[], object]) -> None:
        give_up = time.monotonic() + 30
        while not true():
            assert time.monotonic() < give_up
            SLEEP(0.01)

    return wait_until
