"""Downloads against a stand-in for the hub. A token is set for all of them, and no message may show it."""

import os
import pty
import signal
import socket
import subprocess
import sys
import termios
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

import pytest
from huggingface_hub import constants

from support.hub_standin import HubStandin
from vaelens.download import client
from vaelens.download.hub import RemoteFile, access, cached, fetch, try_fetch
from vaelens.errors import (
    BadInputError,
    CheckFailedError,
    NetworkError,
    ResourceError,
    UsageError,
    VaelensError,
)
from vaelens.runtime import Runtime

REPO = "someone/some-vae"
WEIGHTS = "diffusion_pytorch_model.safetensors"
CONTENT = bytes(range(256)) * 20_000  # 5.12 MB, so five of the chunks that a transfer is resumed at
FILE = RemoteFile(REPO, WEIGHTS)
SOURCE = Path(__file__).parents[2] / "src"
PROGRAM = f"""
import sys
from vaelens.download.hub import RemoteFile, fetch
from vaelens.runtime import Runtime
print(fetch(RemoteFile({REPO!r}, {WEIGHTS!r}), Runtime(notify=lambda notice: print(notice, file=sys.stderr))))
"""

Fetch = Callable[..., Path | None]


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[HubStandin]:
    with HubStandin() as hub:
        hub.use(monkeypatch, tmp_path)
        hub.add(REPO, WEIGHTS, CONTENT)
        hub.add(REPO, "config.json", b"{}", lfs=False)
        yield hub


def check_message(error: VaelensError) -> None:
    assert os.environ["HF_TOKEN"] not in str(error)
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


def start(hub: HubStandin, home: Path, stderr: int, program: str = PROGRAM) -> subprocess.Popen[bytes]:
    return subprocess.Popen(
        [sys.executable, "-W", "error", "-c", program],
        env=hub.environment(home, PYTHONPATH=str(SOURCE), HF_TOKEN=os.environ["HF_TOKEN"]),
        stdout=subprocess.PIPE,
        stderr=stderr,
    )


def partial_files(home: Path) -> list[Path]:
    return list(home.rglob("*.incomplete"))


def snapshot_files(home: Path) -> list[Path]:
    return [path for path in home.rglob("snapshots/*/*") if not path.is_dir()]


def methods(hub: HubStandin) -> list[str]:
    return [seen.method for seen in hub.requests_for(WEIGHTS)]


# What is downloaded


def test_a_download_is_announced_and_shows_its_progress_on_the_terminal(hub: HubStandin, tmp_path: Path) -> None:
    hub.fault(REPO, WEIGHTS, methods=("GET",), pause=0.005)
    terminal, stderr = pty.openpty()
    termios.tcsetwinsize(terminal, (24, 120))
    process = start(hub, tmp_path, stderr)
    os.close(stderr)
    shown = b""
    with suppress(OSError):  # EIO, when the program has closed its side
        while more := os.read(terminal, 1 << 12):
            shown += more
    os.close(terminal)
    out, _ = process.communicate()
    assert Path(out.decode().strip()).read_bytes() == CONTENT
    for words in (f"downloading {REPO} {WEIGHTS}, 5 MB", "100%", "MB/s"):
        assert words in shown.decode()
    assert os.environ["HF_TOKEN"] not in shown.decode()
    assert all(seen.authorized for seen in hub.requests_for(WEIGHTS))


def test_a_current_copy_is_not_downloaded_again(
    hub: HubStandin, fetched: Fetch, notices: list[str], capfd: pytest.CaptureFixture[str]
) -> None:
    first = fetched()
    assert notices == [f"downloading {REPO} {WEIGHTS}, 5 MB"]
    hub.requests.clear()
    assert fetched() == first
    assert methods(hub) == ["HEAD"]
    assert len(notices) == 1
    assert capfd.readouterr().err == "", "no progress bar goes to a file"


def test_a_newer_file_on_the_branch_is_downloaded(hub: HubStandin, fetched: Fetch) -> None:
    fetched()
    hub.add(REPO, WEIGHTS, b"newer")
    assert fetched().read_bytes() == b"newer"


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


def test_access_tells_that_there_is_a_token_and_not_which(
    hub: HubStandin, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(constants, "ENDPOINT", hub.endpoint.replace("://", f"://user:{os.environ['HF_TOKEN']}@"))
    assert access() == {"endpoint": hub.endpoint, "cache": str(tmp_path / "hub"), "token": True, "offline": False}


def test_importing_the_module_brings_in_no_http_library() -> None:
    found = "[m for m in sys.modules if m.startswith(('httpx', 'requests', 'torch'))]"
    code = f"import sys, vaelens.download.hub, vaelens.download.web_files; print({found})"
    assert subprocess.check_output([sys.executable, "-c", code], env={"PYTHONPATH": str(SOURCE)}) == b"[]\n"


# Transfers that break


def test_a_transfer_that_ends_early_is_resumed(hub: HubStandin, fetched: Fetch, notices: list[str]) -> None:
    hub.fault(REPO, WEIGHTS, methods=("GET",), break_after=3_000_000, times=1)
    assert fetched().read_bytes() == CONTENT
    assert len(notices) == 1
    assert [seen.range for seen in hub.requests_for(WEIGHTS) if seen.method == "GET"] == [None, "bytes=2097152-"]


@pytest.mark.parametrize(
    "fault", [{"methods": ("GET",), "break_after": 3_000_000, "reset": True}, {"status": 503}, {"status": 408}]
)
def test_a_problem_that_passes_is_waited_for(hub: HubStandin, fetched: Fetch, fault: dict[str, object]) -> None:
    hub.fault(REPO, WEIGHTS, **fault, times=2)
    assert fetched().read_bytes() == CONTENT


def test_a_killed_download_leaves_no_file_and_the_next_one_succeeds(
    hub: HubStandin, tmp_path: Path, fetched: Fetch, wait_until: Callable[[Callable[[], object]], None]
) -> None:
    hub.fault(REPO, WEIGHTS, methods=("GET",), pause=0.1, times=1)
    process = start(hub, tmp_path, subprocess.DEVNULL)
    wait_until(lambda: any(path.stat().st_size for path in partial_files(tmp_path)))
    process.send_signal(signal.SIGKILL)
    process.communicate()
    assert snapshot_files(tmp_path) == []
    assert fetched().read_bytes() == CONTENT


# A hub that refuses


@pytest.mark.parametrize(
    ("fault", "facts"),
    [
        ({"status": 401, "code": "GatedRepo"}, ["is gated", "licence", "/someone/some-vae,", "hf auth login"]),
        ({"status": 403, "code": "GatedRepo"}, ["is gated", "licence", "HF_TOKEN"]),
        ({"status": 401, "code": "RepoNotFound"}, ["no such repository", "private", "hf auth login"]),
        ({"status": 401, "headers": {"X-Error-Message": "bad token"}}, ["401", "token", "hf auth login"]),
        ({"status": 403}, ["403", "hf auth login", "HF_TOKEN"]),
        ({"status": 429, "headers": {"Retry-After": "300"}}, ["429", "too many requests", "Wait"]),
        ({"status": 404}, ["404", "Check the name"]),
        ({"status": 418}, ["418"]),
    ],
)
def test_a_refusal_is_named_with_what_to_do(
    hub: HubStandin, fetched: Fetch, fault: dict[str, object], facts: list[str]
) -> None:
    hub.fault(REPO, WEIGHTS, **fault)
    with pytest.raises(NetworkError) as error:
        fetched()
    assert str(error.value).startswith(f"{REPO} {WEIGHTS}: ")
    for fact in facts:
        assert fact in str(error.value)
    assert [seen.authorized for seen in hub.requests_for(WEIGHTS)] == [True]


@pytest.mark.parametrize(
    ("file", "fact"),
    [
        ({"filename": "other.safetensors"}, "no such file in the repository"),
        ({"revision": "v9"}, "no such revision"),
        ({"repo": "someone/nothing"}, "no such repository"),
    ],
)
def test_what_does_not_exist_is_named(fetched: Fetch, file: dict[str, str], fact: str) -> None:
    with pytest.raises(NetworkError, match=fact) as error:
        fetched(**file)
    assert all(name in str(error.value) for name in file.values())


@pytest.mark.parametrize("file", [{"repo": "a/b/c/d"}, {"filename": "../escape.json"}, {"filename": "/etc/hostname"}])
def test_an_impossible_name_is_a_usage_error(hub: HubStandin, fetched: Fetch, file: dict[str, str]) -> None:
    with pytest.raises(UsageError):
        fetched(**file)
    assert hub.requests == []


@pytest.mark.parametrize("methods", [("HEAD", "GET"), ("GET",)])
def test_a_login_page_in_place_of_the_file_is_recognised(
    hub: HubStandin, tmp_path: Path, fetched: Fetch, methods: tuple[str, ...]
) -> None:
    hub.fault(REPO, WEIGHTS, html=True, methods=methods)
    with pytest.raises(NetworkError, match=r"an HTML page came back.*login page"):
        fetched()
    assert snapshot_files(tmp_path) == []


# Without a network


@pytest.mark.parametrize("how", ["argument", "environment"])
def test_offline_uses_the_cache_and_nothing_else(
    hub: HubStandin, fetched: Fetch, notices: list[str], monkeypatch: pytest.MonkeyPatch, how: str
) -> None:
    fetched("config.json")
    hub.requests.clear()
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", how == "environment")
    with pytest.raises(NetworkError, match="not in the cache, and offline"):
        fetched(offline=how == "argument")
    assert fetched("config.json", offline=how == "argument").read_bytes() == b"{}"
    assert "offline: using the cached copy" in notices[-1]
    assert hub.requests == []


def test_cached_looks_without_any_network(hub: HubStandin, fetched: Fetch) -> None:
    assert cached(FILE) is None
    assert hub.requests == []
    path = fetched()
    hub.requests.clear()
    assert cached(FILE) == path
    assert cached(RemoteFile(REPO, WEIGHTS, sha256="0" * 64)) is None
    assert hub.requests == []


def test_a_network_that_is_down_is_named_and_a_cached_copy_used(
    hub: HubStandin, fetched: Fetch, notices: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    fetched("config.json")
    with socket.create_server(("127.0.0.1", 0)) as closed:
        nobody = f"http://127.0.0.1:{closed.getsockname()[1]}"
    monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", nobody + "/{repo_id}/resolve/{revision}/{filename}")
    with pytest.raises(NetworkError, match=f"{nobody} refuses the connection"):
        fetched()
    assert fetched("config.json").read_bytes() == b"{}"
    assert f"{nobody} refuses the connection" in notices[-1]
    assert "Using the cached copy." in notices[-1]


@pytest.mark.parametrize(
    ("endpoint", "fact"),
    [
        ("https://hub.invalid", "https://hub.invalid can't be found (DNS)"),
        ("https://{host}", "https://{host} can't prove who it is (TLS)"),  # where only http is spoken
        ("{host}", "HF_ENDPOINT should begin with https://"),
    ],
)
def test_a_wrong_endpoint_is_named(
    hub: HubStandin, fetched: Fetch, monkeypatch: pytest.MonkeyPatch, endpoint: str, fact: str
) -> None:
    host = hub.endpoint.removeprefix("http://")
    template = endpoint.format(host=host) + "/{repo_id}/resolve/{revision}/{filename}"
    monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", template)
    with pytest.raises(NetworkError) as error:
        fetched()
    assert fact.format(host=host) in str(error.value)


# Other bytes than expected


def test_a_flipped_bit_is_noticed_and_the_next_run_downloads_anew(
    hub: HubStandin, tmp_path: Path, fetched: Fetch
) -> None:
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
    assert methods(hub) == ["HEAD"]


def test_a_small_file_has_its_pinned_sha256_checked(tmp_path: Path, fetched: Fetch) -> None:
    with pytest.raises(CheckFailedError, match=f"sha256 {'0' * 64} expected"):
        fetched("config.json", sha256="0" * 64)
    assert snapshot_files(tmp_path) == []


def test_a_cached_copy_of_another_size_is_removed(hub: HubStandin, fetched: Fetch) -> None:
    pinned = {"size": len(CONTENT), "sha256": hub.add(REPO, WEIGHTS, CONTENT)}
    fetched(**pinned).resolve().write_bytes(CONTENT[:-1])
    with pytest.raises(CheckFailedError, match="5,120,000 bytes expected, 5,119,999 found"):
        fetched(**pinned)
    assert fetched(**pinned).read_bytes() == CONTENT


def test_an_undamaged_file_of_another_size_stays_in_the_cache(hub: HubStandin, fetched: Fetch) -> None:
    path = fetched()
    with pytest.raises(CheckFailedError, match="7 bytes expected, 5,120,000 found"):
        fetched(size=7, revision=hub.commit(REPO))
    assert path.read_bytes() == CONTENT


# The disk


def test_a_disk_that_fills_up_is_a_resource_error(hub: HubStandin, tmp_path: Path) -> None:
    limit = "import resource; resource.setrlimit(resource.RLIMIT_FSIZE, (2_500_000, 2_500_000))\n"
    _, err = start(hub, tmp_path, subprocess.PIPE, limit + PROGRAM).communicate()
    assert "ResourceError" in err.decode()
    assert "the disk is full" in err.decode()
    assert partial_files(tmp_path) == snapshot_files(tmp_path) == []


def test_a_cache_that_cannot_be_written_is_named(
    fetched: Fetch, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").touch()
    cache = str(tmp_path / "file" / "hub")
    monkeypatch.setattr(constants, "HF_HUB_CACHE", cache)
    with pytest.raises(BadInputError, match=f"not written to {cache}: Not a directory"):
        fetched()


def test_a_disk_without_room_is_noticed_before_the_transfer(
    hub: HubStandin, fetched: Fetch, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("shutil.disk_usage", lambda _: type("", (), {"free": 1_000_000})())
    with pytest.raises(ResourceError, match="has room for 1 MB"):
        fetched()
    assert methods(hub) == ["HEAD"]


# A hub with a problem


@pytest.mark.parametrize(
    ("faults", "fact", "requests"),
    [
        ([{"status": 503, "headers": {"Retry-After": "120"}}], "503", 4),
        ([{"status": 500, "methods": ("GET",)}], "500", 9),
        ([{"methods": ("HEAD",), "times": 1}, {"status": 403, "methods": ("HEAD",)}], "403", 2),
        ([{"silent": True}], "stays silent", 4),
        ([{"silent": True, "methods": ("GET",)}], "stays silent", 8),
        ([{"stall_after": 500_000, "methods": ("GET",)}], "stays silent", 8),
        (
            [{"break_after": 2_500_000, "methods": ("GET",), "times": 1}, {"silent": True, "methods": ("GET",)}],
            "stays silent",
            8,
        ),
        ([{"break_after": 2_500_000, "reset": True, "methods": ("GET",)}], "broke", 9),
    ],
)
def test_a_hub_with_a_problem_is_given_up(
    hub: HubStandin, fetched: Fetch, faults: list[dict[str, object]], fact: str, requests: int
) -> None:
    for fault in faults:
        hub.fault(REPO, WEIGHTS, **fault)
    with pytest.raises(NetworkError, match=fact):
        fetched()
    assert len(methods(hub)) == requests


def test_a_silent_hub_is_given_up_within_a_minute(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.undo()
    assert (len(client.WAITS) + 1) * constants.DEFAULT_ETAG_TIMEOUT + sum(client.WAITS) < 60
    assert 6 * client.SETTINGS["HF_HUB_DOWNLOAD_TIMEOUT"] + 5 < 60, "the library's five retries, a second apart"


def test_a_slow_transfer_that_moves_is_not_given_up(hub: HubStandin, fetched: Fetch) -> None:
    hub.fault(REPO, WEIGHTS, methods=("GET",), piece=300_000, pause=0.1)  # 1 MiB takes longer than the timeout
    assert fetched().read_bytes() == CONTENT
    assert methods(hub).count("GET") == 1


def test_a_timeout_of_the_users_own_is_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    before = {name: getattr(constants, name) for name in client.SETTINGS}
    monkeypatch.setenv("HF_HUB_DOWNLOAD_TIMEOUT", "10")
    with client.settings():
        during = {name: getattr(constants, name) for name in client.SETTINGS}
    assert during == client.SETTINGS | {"HF_HUB_DOWNLOAD_TIMEOUT": before["HF_HUB_DOWNLOAD_TIMEOUT"]}
    assert {name: getattr(constants, name) for name in client.SETTINGS} == before
