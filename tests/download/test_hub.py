"""Downloads from a stand-in for the hub: what is fetched, resumed, checked and used again."""

import os
import pty
import signal
import subprocess
import termios
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path

import pytest
from huggingface_hub import constants

from support.standins.downloads import (
    CONTENT,
    REPO,
    WEIGHTS,
    Fetch,
    WaitUntil,
    partial_files,
    snapshot_files,
    start_from_hub,
)
from support.standins.hub import HubStandin
from vaelens.download.hub import RemoteFile, access, cached, try_fetch
from vaelens.errors import CheckFailedError, NetworkError
from vaelens.runtime import Runtime


def test_a_download_is_announced_and_shows_its_progress_on_the_terminal(hub: HubStandin, tmp_path: Path) -> None:
    hub.fault(REPO, WEIGHTS, methods=("GET",), pause=0.005)
    terminal, stderr = pty.openpty()
    termios.tcsetwinsize(terminal, (24, 120))
    process = start_from_hub(hub, tmp_path, stderr)
    os.close(stderr)
    shown = b""
    with suppress(OSError):  # EIO, when the program has closed its side
        while more := os.read(terminal, 1 << 12):
            shown += more
    os.close(terminal)
    out, _ = process.communicate()
    assert Path(out.decode().strip()).read_bytes() == CONTENT
    for words in (f"downloading {WEIGHTS} of {REPO}, 5 MB", "100%", "MB/s"):
        assert words in shown.decode()
    assert os.environ["HF_TOKEN"] not in shown.decode()
    assert all(request.authorized for request in hub.requests_for(WEIGHTS))


def test_a_copy_is_downloaded_again_once_the_branch_has_a_newer_one(
    hub: HubStandin, fetched: Fetch, notices: list[str], capfd: pytest.CaptureFixture[str]
) -> None:
    first = fetched()
    assert notices == [f"downloading {WEIGHTS} of {REPO}, 5 MB"]
    hub.requests.clear()
    assert fetched() == first
    assert hub.methods(WEIGHTS) == ["HEAD"]
    assert len(notices) == 1
    assert capfd.readouterr().err == "", "no progress bar goes to a file"
    hub.add(REPO, WEIGHTS, b"newer")
    assert fetched().read_bytes() == b"newer"


def test_threads_download_different_files_at_once_and_the_same_one_once(
    hub: HubStandin, tmp_path: Path, fetched: Fetch, notices: list[str], wait_until: WaitUntil
) -> None:
    hub.fault(REPO, WEIGHTS, methods=("GET",), pause=0.02)
    with ThreadPoolExecutor() as threads:
        first = threads.submit(fetched)
        wait_until(lambda: partial_files(tmp_path))
        second = threads.submit(fetched)
        assert fetched("config.json").read_bytes() == b"{}"
        assert not first.done()
        assert first.result() == second.result()
    assert hub.methods(WEIGHTS).count("GET") == 1
    assert [notice.split()[1] for notice in notices] == [WEIGHTS, "config.json"]


@pytest.mark.parametrize("pin", ["sha256", "revision"])
def test_a_copy_of_known_content_needs_no_hub(hub: HubStandin, fetched: Fetch, pin: str) -> None:
    known = {"sha256": hub.add(REPO, WEIGHTS, CONTENT), "revision": hub.commit(REPO)}
    fetched(**{pin: known[pin]})
    hub.requests.clear()
    assert fetched(**{pin: known[pin]}).read_bytes() == CONTENT
    assert hub.requests == []


def test_a_file_in_xet_storage_comes_by_plain_http(hub: HubStandin, fetched: Fetch) -> None:
    xet = {"X-Xet-Hash": "ab" * 32, "X-Xet-Refresh-Route": f"{hub.endpoint}/api/models/{REPO}/xet-read-token/main"}
    hub.fault(REPO, WEIGHTS, methods=("HEAD",), headers=xet)
    assert fetched().read_bytes() == CONTENT


def test_try_fetch_gives_none_for_a_missing_file_and_remembers_it(hub: HubStandin) -> None:
    assert try_fetch(RemoteFile(REPO, "other.json")) is None
    hub.requests.clear()
    assert try_fetch(RemoteFile(REPO, "other.json"), Runtime(offline=True)) is None
    assert hub.requests == []
    with pytest.raises(NetworkError, match="no such repository"):
        try_fetch(RemoteFile("someone/nothing", "other.json"))


def test_access_does_not_show_the_token(hub: HubStandin, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(constants, "ENDPOINT", hub.endpoint.replace("://", f"://user:{os.environ['HF_TOKEN']}@"))
    assert access() == {"endpoint": hub.endpoint, "cache": str(tmp_path / "hub"), "token": True, "offline": False}


def test_a_transfer_that_ends_early_is_resumed(hub: HubStandin, fetched: Fetch, notices: list[str]) -> None:
    hub.fault(REPO, WEIGHTS, methods=("GET",), break_after=3_000_000, times=1)
    assert fetched().read_bytes() == CONTENT
    assert len(notices) == 1
    first, second = (request.range for request in hub.requests_for(WEIGHTS) if request.method == "GET")
    assert (first, second) == (None, "bytes=2097152-")


@pytest.mark.parametrize(
    "fault", [{"methods": ("GET",), "break_after": 3_000_000, "reset": True}, {"status": 503}, {"status": 408}]
)
def test_a_problem_that_passes_is_waited_for(hub: HubStandin, fetched: Fetch, fault: dict[str, object]) -> None:
    hub.fault(REPO, WEIGHTS, **fault, times=2)
    assert fetched().read_bytes() == CONTENT


def test_a_killed_download_leaves_no_file(
    hub: HubStandin, tmp_path: Path, fetched: Fetch, wait_until: WaitUntil
) -> None:
    hub.fault(REPO, WEIGHTS, methods=("GET",), pause=0.1, times=1)
    process = start_from_hub(hub, tmp_path, subprocess.DEVNULL)
    wait_until(lambda: any(path.stat().st_size for path in partial_files(tmp_path)))
    process.send_signal(signal.SIGKILL)
    process.communicate()
    assert snapshot_files(tmp_path) == []
    assert fetched().read_bytes() == CONTENT


def test_a_slow_transfer_that_moves_is_not_given_up(hub: HubStandin, fetched: Fetch) -> None:
    hub.fault(REPO, WEIGHTS, methods=("GET",), piece=300_000, pause=0.1)  # 1 MiB takes longer than the timeout
    assert fetched().read_bytes() == CONTENT
    assert hub.methods(WEIGHTS).count("GET") == 1


@pytest.mark.parametrize("how", ["argument", "environment"])
def test_offline_uses_the_cache_and_nothing_else(
    hub: HubStandin, fetched: Fetch, notices: list[str], monkeypatch: pytest.MonkeyPatch, how: str
) -> None:
    fetched("config.json")
    hub.requests.clear()
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", how == "environment")
    with pytest.raises(NetworkError, match="is not in the cache and can't be downloaded") as error:
        fetched(offline=how == "argument")
    assert [cause in str(error.value) for cause in ("--offline", "HF_HUB_OFFLINE")] == [
        how == "argument",
        how != "argument",
    ]
    assert fetched("config.json", offline=how == "argument").read_bytes() == b"{}"
    assert "offline: using the cached copy" in notices[-1]
    assert hub.requests == []


def test_cached_looks_without_any_network(hub: HubStandin, fetched: Fetch) -> None:
    file = RemoteFile(REPO, WEIGHTS)
    assert cached(file) is None
    assert hub.requests == []
    path = fetched()
    hub.requests.clear()
    assert cached(file) == path
    assert cached(RemoteFile(REPO, WEIGHTS, sha256="0" * 64)) is None
    assert hub.requests == []


def test_a_damaged_file_is_removed_and_downloaded_anew(hub: HubStandin, tmp_path: Path, fetched: Fetch) -> None:
    flipped = bytearray(CONTENT)
    flipped[1000] ^= 1
    hub.fault(REPO, WEIGHTS, body=bytes(flipped), times=3)
    with pytest.raises(CheckFailedError, match=f"sha256 {hub.add(REPO, WEIGHTS, CONTENT)} expected, .* found"):
        fetched()
    assert snapshot_files(tmp_path) == list(tmp_path.rglob("blobs/*")) == []
    assert fetched().read_bytes() == CONTENT


@pytest.mark.parametrize("pin", [{"sha256": "0" * 64}, {"size": 7}])
def test_a_file_that_is_not_the_pinned_one_is_refused(hub: HubStandin, fetched: Fetch, pin: dict[str, object]) -> None:
    with pytest.raises(CheckFailedError, match=f"{next(iter(pin.values()))} expected"):
        fetched(**pin)
    assert hub.methods(WEIGHTS) == ["HEAD"]


def test_a_small_file_has_its_pinned_sha256_checked(tmp_path: Path, fetched: Fetch) -> None:
    with pytest.raises(CheckFailedError, match=f"sha256 {'0' * 64} expected"):
        fetched("config.json", sha256="0" * 64)
    assert snapshot_files(tmp_path) == []


def test_a_cached_copy_of_another_size_is_removed(hub: HubStandin, fetched: Fetch) -> None:
    pinned = {"size": len(CONTENT), "sha256": hub.add(REPO, WEIGHTS, CONTENT)}
    fetched(**pinned).resolve().write_bytes(CONTENT[:-1])
    with pytest.raises(CheckFailedError) as error:
        fetched(**pinned)
    assert str(error.value).endswith(
        "damaged, 5,120,000 bytes expected, 5,119,999 found. The damaged copy was removed from the cache. "
        "Run the command again to download a new one."
    )
    assert fetched(**pinned).read_bytes() == CONTENT


def test_an_undamaged_file_of_another_size_stays_in_the_cache(hub: HubStandin, fetched: Fetch) -> None:
    path = fetched()
    with pytest.raises(CheckFailedError, match="7 bytes expected, 5,120,000 found"):
        fetched(size=7, revision=hub.commit(REPO))
    assert path.read_bytes() == CONTENT
