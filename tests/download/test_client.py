"""The HTTP client's timeouts, and that importing the modules of downloads loads no HTTP library."""

import logging
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor

import pytest
from huggingface_hub import constants

from support.standins.downloads import SOURCE
from vaelens.download import client


def test_a_silent_hub_is_given_up_within_a_minute(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.undo()
    for timeout in (constants.DEFAULT_ETAG_TIMEOUT, constants.DEFAULT_DOWNLOAD_TIMEOUT):
        assert (len(client.WAITS) + 1) * timeout + sum(client.WAITS) < 60
    assert 6 * client.SETTINGS["HF_HUB_DOWNLOAD_TIMEOUT"] + 5 < 60, "the library's five retries, a second apart"


def test_a_timeout_of_the_users_own_is_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    before = {name: getattr(constants, name) for name in client.SETTINGS}
    monkeypatch.setenv("HF_HUB_DOWNLOAD_TIMEOUT", "10")
    with client.settings:
        during = {name: getattr(constants, name) for name in client.SETTINGS}
    assert during == client.SETTINGS | {"HF_HUB_DOWNLOAD_TIMEOUT": before["HF_HUB_DOWNLOAD_TIMEOUT"]}
    assert {name: getattr(constants, name) for name in client.SETTINGS} == before


def test_settings_end_with_the_last_of_several_threads() -> None:
    log = logging.getLogger("huggingface_hub")

    def state() -> dict[str, object]:
        return {name: getattr(constants, name) for name in client.SETTINGS} | {"level": log.level}

    before = state()
    with ThreadPoolExecutor() as threads:
        client.settings.__enter__()
        during = state()
        threads.submit(client.settings.__enter__).result(5)
        client.settings.__exit__()
        assert state() == during != before
        threads.submit(client.settings.__exit__).result(5)
    assert state() == before


def test_importing_the_module_brings_in_no_http_library() -> None:
    found = "[m for m in sys.modules if m.startswith(('httpx', 'requests', 'torch'))]"
    code = f"import sys, vaelens.download.hub, vaelens.download.web_files; print({found})"
    assert subprocess.check_output([sys.executable, "-c", code], env={"PYTHONPATH": str(SOURCE)}) == b"[]\n"
