"""Downloads from plain addresses, against a stand-in on loopback; what is killed runs in a process of its own."""

import hashlib
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from support.web_standin import SIGNATURE, WebStandin
from vaelens.download import transfer, trouble, web
from vaelens.download.web import WebFile, cache_folder, cached_web, fetch_web
from vaelens.errors import BadInputError, CheckFailedError, NetworkError, ResourceError
from vaelens.runtime import Runtime

CONTENT = bytes(range(256)) * 12_000  # 3.07 MB
OTHER = CONTENT[::-1]
SHA256 = hashlib.sha256(CONTENT).hexdigest()
MD5 = hashlib.md5(CONTENT).hexdigest()
SLEEP = time.sleep  # the tests below take the pauses out
SOURCE = Path(__file__).parents[2] / "src"
PROGRAM = """
import sys
from vaelens.download.web import WebFile, fetch_web
from vaelens.runtime import Runtime
print(fetch_web(WebFile((sys.argv[1],), "weights.pth", sha256=sys.argv[2] or None), Runtime(notify=print)))
"""


@pytest.fixture
def server() -> Iterator[WebStandin]:
    with WebStandin() as server:
        server.add("/weights.pth", CONTENT)
        yield server


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    for name in list(os.environ):
        if name.upper().endswith("_PROXY"):
            monkeypatch.delenv(name)
    monkeypatch.setenv("VAELENS_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(transfer, "TIMEOUT", 0.3)
    monkeypatch.setattr(web.time, "sleep", lambda _: None)
    return tmp_path / "cache"


@pytest.fixture
def file(server: WebStandin) -> WebFile:
    return WebFile((f"{server.address}/weights.pth",), "weights.pth", len(CONTENT), SHA256)


def start(server: WebStandin, cache: Path, sha256: str = SHA256) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-W", "error", "-c", PROGRAM, f"{server.address}/weights.pth", sha256],
        env={**os.environ, "VAELENS_CACHE": str(cache), "PYTHONPATH": str(SOURCE), "HF_TOKEN": "hf_secret"},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def wait_until(true: Callable[[], object]) -> None:
    give_up = time.monotonic() + 30
    while not true():
        assert time.monotonic() < give_up
        SLEEP(0.01)


def names(cache: Path) -> list[str]:
    return sorted(path.name for path in cache.iterdir() if not path.name.startswith("."))


def leave_a_part(file: WebFile, server: WebStandin, at: int = 1_000_000, **fault: object) -> Path:
    """What a killed download of `file` leaves: a server that always breaks there stands in for the kill."""
    path = f"/{file.name}"
    server.fault(path, break_after=at, times=1, **fault)
    server.fault(path, status=404, times=1)
    with pytest.raises(NetworkError):
        fetch_web(file)
    part = cache_folder() / f"{file.name}.part"
    assert part.stat().st_size == at
    server.requests.clear()
    return part


# What is downloaded


def test_a_download_is_announced_shown_checked_and_used_again_without_a_network(
    file: WebFile, server: WebStandin, cache: Path
) -> None:
    notices, shown = list[str](), list[tuple[int, int, str]]()
    path = fetch_web(file, runtime=Runtime(notify=notices.append, progress=lambda *what: shown.append(what)))
    assert path == cache / "weights.pth"
    assert path.read_bytes() == CONTENT
    assert notices == [f"downloading weights.pth, 3 MB, from {server.address}"]
    assert shown[-1] == (len(CONTENT), len(CONTENT), "weights.pth")
    assert [done for done, _, _ in shown] == sorted(done for done, _, _ in shown)
    assert names(cache) == ["weights.pth", "weights.pth.checked.json"]
    server.requests.clear()
    assert fetch_web(file, runtime=Runtime(notify=notices.append)) == cached_web(file) == path
    assert server.requests == []
    assert len(notices) == 1


def test_nothing_is_cached_before_the_first_download(file: WebFile, server: WebStandin, cache: Path) -> None:
    assert cached_web(file) is None
    assert not cache.exists()
    assert server.requests == []


def test_a_redirect_is_followed_and_its_signature_never_shown(server: WebStandin, cache: Path) -> None:
    notices = list[str]()
    file = WebFile((f"{server.address}/to/weights.pth",), "a/b.pth", sha256=SHA256)
    server.fault("/weights.pth", stall_after=1_000_000, times=1)
    server.fault("/weights.pth", html=True, times=1)
    with pytest.raises(NetworkError) as error:
        fetch_web(file, runtime=Runtime(notify=notices.append))
    kept = (cache / "a" / "b.pth.part.json").read_text()
    assert fetch_web(file, runtime=Runtime(notify=notices.append)).read_bytes() == CONTENT
    assert "going on after 1 MB" in notices[-1]
    assert SIGNATURE not in str(error.value) + str(notices) + kept
    assert error.value.__suppress_context__ or error.value.__context__ is None


def test_neither_user_nor_query_of_an_address_is_shown(server: WebStandin) -> None:
    file = WebFile((f"{server.address.replace('://', '://me:secret@')}/weights.pth?{SIGNATURE}",), "weights.pth")
    with pytest.raises(NetworkError) as error:
        fetch_web(file, runtime=Runtime(offline=True))
    assert "secret" not in str(error.value)
    assert SIGNATURE not in str(error.value)
    assert f"{server.address}/weights.pth" in str(error.value)


def test_a_server_that_says_no_size_is_believed_when_the_checksum_is_right(file: WebFile, server: WebStandin) -> None:
    server.fault("/weights.pth", unsized=True, unmarked=True)
    shown = list[tuple[int, int, str]]()
    file = replace(file, size=None)
    assert fetch_web(file, runtime=Runtime(progress=lambda *what: shown.append(what))).read_bytes() == CONTENT
    assert shown[-1][:2] == (len(CONTENT), 0)


# Transfers that break


@pytest.mark.parametrize("how", ["break_after", "stall_after"])
def test_a_transfer_that_breaks_is_resumed(file: WebFile, server: WebStandin, how: str) -> None:
    server.fault("/weights.pth", times=2, **{how: 1_400_000})
    assert fetch_web(file).read_bytes() == CONTENT
    assert [seen.range for seen in server.requests] == [None, "bytes=1400000-", "bytes=2800000-"]
    assert server.sent == len(CONTENT)


@pytest.mark.parametrize("sha256", [SHA256, ""])
def test_a_killed_download_goes_on_where_it_was(server: WebStandin, cache: Path, sha256: str) -> None:
    server.fault("/weights.pth", piece=100_000, pause=0.05, times=1)
    process = start(server, cache, sha256)
    part = cache / "weights.pth.part"
    wait_until(lambda: part.exists() and part.stat().st_size >= 500_000)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    there = part.stat().st_size
    assert not (cache / "weights.pth").exists()
    out, _ = start(server, cache, sha256).communicate(timeout=30)
    assert (cache / "weights.pth").read_bytes() == CONTENT
    assert f"going on after {there / 1e6:.0f} MB" in out
    assert server.requests[-1].range == f"bytes={there}-"
    assert server.requests[-1].sent == len(CONTENT) - there
    assert not any(seen.secrets for seen in server.requests)
    assert names(cache) == ["weights.pth", *["weights.pth.checked.json"] * bool(sha256)]


def test_what_was_complete_but_unchecked_is_not_asked_for_again(file: WebFile, server: WebStandin) -> None:
    part = leave_a_part(file, server)
    part.write_bytes(CONTENT)
    assert fetch_web(file).read_bytes() == CONTENT
    assert server.requests == []


def test_a_server_without_ranges_starts_again(file: WebFile, server: WebStandin) -> None:
    server.fault("/weights.pth", break_after=2_000_000, times=1)
    server.fault("/weights.pth", ignores_range=True)
    assert fetch_web(file).read_bytes() == CONTENT
    assert [seen.sent for seen in server.requests] == [2_000_000, len(CONTENT)]


@pytest.mark.parametrize("fault", [{}, {"unmarked": True}])
def test_a_file_that_changed_in_between_is_begun_anew(server: WebStandin, fault: dict[str, object]) -> None:
    file = WebFile((f"{server.address}/weights.pth",), "weights.pth")
    leave_a_part(file, server, **fault)
    server.add("/weights.pth", OTHER)
    assert fetch_web(file).read_bytes() == OTHER


def test_a_server_that_mixes_up_two_versions_is_noticed(server: WebStandin) -> None:
    file = WebFile((f"{server.address}/weights.pth",), "weights.pth")
    leave_a_part(file, server)
    server.add("/weights.pth", OTHER)
    server.fault("/weights.pth", ignores_if_range=True)
    assert fetch_web(file).read_bytes() == OTHER


def test_a_server_that_breaks_each_time_is_given_up(file: WebFile, server: WebStandin) -> None:
    server.fault("/weights.pth", break_after=2_000_000, ignores_range=True)
    with pytest.raises(NetworkError, match="broke, again and again"):
        fetch_web(file)
    assert len(server.requests) == 1 + web.TRIES


def test_a_silent_server_is_given_up_within_a_minute(file: WebFile, server: WebStandin, cache: Path) -> None:
    server.fault("/weights.pth", silent=True)
    with pytest.raises(NetworkError, match="stays silent") as error:
        fetch_web(replace(file, urls=file.urls * 2))
    assert len(server.requests) == web.TRIES
    assert f"can be put at {cache / 'weights.pth'}" in str(error.value)


def test_the_patience_with_a_silent_server_is_less_than_a_minute(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.undo()
    assert web.TRIES * transfer.TIMEOUT + sum(range(1, web.TRIES)) < 60


def test_a_server_in_trouble_for_a_moment_is_asked_again(file: WebFile, server: WebStandin) -> None:
    server.fault("/weights.pth", status=503, times=2)
    assert fetch_web(file).read_bytes() == CONTENT


# Addresses that don't give the file


@pytest.mark.parametrize(
    ("fault", "words"),
    [
        ({"status": 404}, "not found (404)"),
        ({"status": 403}, "refused (403)"),
        ({"status": 429}, "too many requests (429)"),
        ({"status": 418}, "(418)"),
        ({"status": 503}, "answers 503"),
        ({"html": True}, "login page"),
    ],
)
def test_a_refusal_is_named_and_the_next_address_tried(
    file: WebFile, server: WebStandin, fault: dict[str, object], words: str
) -> None:
    server.fault("/weights.pth", **fault)
    with pytest.raises(NetworkError) as error:
        fetch_web(file)
    assert words in str(error.value)
    assert f"{server.address}/weights.pth" in str(error.value)
    mirrored = replace(file, urls=(*file.urls, server.add("/mirror.pth", CONTENT)))
    notices = list[str]()
    assert fetch_web(mirrored, runtime=Runtime(notify=notices.append)).read_bytes() == CONTENT
    assert words in notices[0]
    assert "/mirror.pth" in notices[0]


def test_a_mirror_goes_on_with_what_the_first_address_gave(file: WebFile, server: WebStandin) -> None:
    leave_a_part(file, server)
    mirrored = replace(file, urls=(server.add("/mirror.pth", CONTENT),))
    server.fault("/mirror.pth", unmarked=True)
    assert fetch_web(mirrored).read_bytes() == CONTENT
    assert server.sent == len(CONTENT) - 1_000_000


def test_nobody_there_unknown_hosts_and_proxies_are_named(file: WebFile, monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.create_server(("127.0.0.1", 0)) as closed:
        nobody = f"http://127.0.0.1:{closed.getsockname()[1]}"
    with pytest.raises(NetworkError, match=f"{nobody} refuses the connection"):
        fetch_web(replace(file, urls=(f"{nobody}/weights.pth",)))
    with pytest.raises(NetworkError, match=r"host.invalid can't be found \(DNS\)"):
        fetch_web(replace(file, urls=("http://host.invalid/weights.pth",)))
    with pytest.raises(NetworkError, match=r"can't prove who it is \(TLS\)"):
        fetch_web(replace(file, urls=tuple(url.replace("http:", "https:") for url in file.urls)))
    monkeypatch.setenv("http_proxy", nobody.replace("://", "://me:secret@"))
    with pytest.raises(NetworkError, match="the proxy doesn't let it through") as error:
        fetch_web(replace(file, urls=("http://host.invalid/weights.pth",)))
    assert "secret" not in str(error.value)


def test_a_proxy_of_the_environment_is_used(file: WebFile, server: WebStandin, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("http_proxy", server.address)
    assert fetch_web(replace(file, urls=("http://host.invalid/weights.pth",))).read_bytes() == CONTENT


# Other bytes than expected


@pytest.mark.parametrize("pin", [{"sha256": SHA256}, {"md5": MD5}])
def test_a_flipped_bit_is_noticed_and_removed(server: WebStandin, cache: Path, pin: dict[str, str]) -> None:
    flipped = bytearray(CONTENT)
    flipped[1000] ^= 1
    server.fault("/weights.pth", body=bytes(flipped), times=1)
    file = WebFile((f"{server.address}/weights.pth",), "weights.pth", **pin)
    with pytest.raises(CheckFailedError) as error:
        fetch_web(file)
    assert f"damaged, {next(iter(pin))} {next(iter(pin.values()))} expected" in str(error.value)
    assert "It is removed" in str(error.value)
    assert not (cache / "weights.pth").exists()
    assert not (cache / "weights.pth.part").exists()
    assert fetch_web(file).read_bytes() == CONTENT


def test_a_damaged_part_is_downloaded_anew(file: WebFile, server: WebStandin) -> None:
    leave_a_part(file, server).write_bytes(b"\0" * 1_000_000)
    assert fetch_web(file).read_bytes() == CONTENT
    assert [seen.sent for seen in server.requests] == [len(CONTENT) - 1_000_000, len(CONTENT)]


def test_another_size_is_refused_before_the_transfer(file: WebFile, server: WebStandin) -> None:
    with pytest.raises(CheckFailedError, match=r"another file: 7 bytes expected, 3,072,000 offered"):
        fetch_web(replace(file, size=7))
    assert not (cache_folder() / "weights.pth.part").exists()


def test_a_checksum_is_taken_once_and_again_when_the_copy_was_written_to(
    file: WebFile, server: WebStandin, monkeypatch: pytest.MonkeyPatch
) -> None:
    taken = list[Path]()
    checksum = web._checksum
    monkeypatch.setattr(web, "_checksum", lambda path, name: taken.append(path) or checksum(path, name))
    path = fetch_web(file)
    assert len(taken) == 1
    fetch_web(file)
    assert len(taken) == 1
    before = path.stat().st_mtime_ns
    path.write_bytes(OTHER)
    os.utime(path, ns=(before + 1, before + 1))
    assert cached_web(file) is None
    with pytest.raises(CheckFailedError, match=r"is damaged, sha256 .* and offline"):
        fetch_web(file, runtime=Runtime(offline=True))
    assert path.read_bytes() == OTHER, "offline there is nothing to put in its place"
    notices = list[str]()
    assert fetch_web(file, runtime=Runtime(notify=notices.append)).read_bytes() == CONTENT
    assert "the cached copy was damaged" in notices[0]


def test_a_copy_of_another_size_is_noticed_though_it_was_checked(file: WebFile) -> None:
    fetch_web(file).write_bytes(CONTENT[:-1])
    assert cached_web(file) is None
    with pytest.raises(CheckFailedError, match=r"3,072,000 bytes expected, 3,071,999 found"):
        fetch_web(file, runtime=Runtime(offline=True))


def test_a_newer_checksum_is_not_taken_for_the_remembered_one(file: WebFile) -> None:
    fetch_web(file)
    assert cached_web(replace(file, sha256="0" * 64)) is None
    assert cached_web(replace(file, md5=MD5)) is not None
    assert cached_web(replace(file, md5="0" * 32)) is None


# Without a network


@pytest.mark.parametrize("how", ["argument", "environment"])
def test_offline_says_what_to_put_where_and_that_works(
    file: WebFile, server: WebStandin, cache: Path, how: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(web.constants, "HF_HUB_OFFLINE", how == "environment")
    with pytest.raises(NetworkError, match="not in the cache, and offline") as error:
        fetch_web(file, runtime=Runtime(offline=how == "argument"))
    assert error.value.exit_code == 5
    assert f"{server.address}/weights.pth elsewhere and put it at {cache / 'weights.pth'}" in str(error.value)
    cache.mkdir()
    (cache / "weights.pth").write_bytes(CONTENT)
    assert fetch_web(file, runtime=Runtime(offline=how == "argument")) == cache / "weights.pth"
    assert server.requests == []


# Two at once


def test_two_processes_download_once(server: WebStandin, cache: Path) -> None:
    server.fault("/weights.pth", piece=300_000, pause=0.1)
    first = start(server, cache)
    wait_until((cache / "weights.pth.part").exists)
    out, _ = start(server, cache).communicate(timeout=30)
    assert first.wait(30) == 0
    assert "another process is downloading it" in out
    assert "downloading weights.pth, " not in out
    assert out.splitlines()[-1] == str(cache / "weights.pth")
    assert server.sent == len(CONTENT)
    first.communicate()


# The disk


def test_a_disk_without_room_is_noticed_before_the_transfer(
    file: WebFile, server: WebStandin, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(trouble.shutil, "disk_usage", lambda _: type("", (), {"free": 1_000_000})())
    with pytest.raises(ResourceError, match=r"weights.pth, 3 MB: not downloaded.*room for 1 MB.*VAELENS_CACHE"):
        fetch_web(file)
    assert not (cache_folder() / "weights.pth.part").exists()


def test_a_disk_that_fills_up_is_a_resource_error(server: WebStandin, cache: Path) -> None:
    code = PROGRAM.replace(
        "import sys", "import resource, sys\nresource.setrlimit(resource.RLIMIT_FSIZE, (10**6,) * 2)"
    )
    process = subprocess.run(
        [sys.executable, "-c", code, f"{server.address}/weights.pth", SHA256],
        env={**os.environ, "VAELENS_CACHE": str(cache), "PYTHONPATH": str(SOURCE)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert "ResourceError: weights.pth: not written" in process.stderr
    assert "the disk is full" in process.stderr
    assert not (cache / "weights.pth").exists()


def test_a_cache_that_cannot_be_written_is_named(
    file: WebFile, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setenv("VAELENS_CACHE", str(tmp_path / "file" / "cache"))
    with pytest.raises(BadInputError, match=r"not written to .*file/cache: Not a directory"):
        fetch_web(file)


def test_a_cache_that_cannot_be_written_still_serves(file: WebFile, monkeypatch: pytest.MonkeyPatch) -> None:
    path = fetch_web(file)
    path.with_name("weights.pth.checked.json").unlink()

    def refuse(*_: object) -> None:
        raise BadInputError("not written")

    monkeypatch.setattr(web, "write_atomic", refuse)
    assert fetch_web(file) == path


# The folder


def test_the_cache_folder_follows_the_environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setenv("VAELENS_CACHE", "~/elsewhere")
    assert cache_folder() == Path.home() / "elsewhere"
    monkeypatch.delenv("VAELENS_CACHE")
    assert cache_folder() == tmp_path / "vaelens"
    monkeypatch.delenv("XDG_CACHE_HOME")
    assert cache_folder() == Path.home() / ".cache" / "vaelens"
    monkeypatch.setattr(web.sys, "platform", "win32")
    monkeypatch.setenv("LOCALAPPDATA", str(tmp_path / "local"))
    assert cache_folder() == tmp_path / "local" / "vaelens"
