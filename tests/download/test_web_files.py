"""Downloads from plain addresses, against a stand-in on loopback; what is killed runs in a process of its own."""

import hashlib
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from huggingface_hub import close_session, constants

from support.web_standin import SIGNATURE, WebStandin
from vaelens.download import failures, web_files
from vaelens.download.web_files import WebFile, cache_folder, cached_web, fetch_web
from vaelens.errors import BadInputError, CheckFailedError, NetworkError, ResourceError
from vaelens.runtime import Runtime

CONTENT = bytes(range(256)) * 12_000  # 3.07 MB: resumed at 1.05 or 2.10
OTHER = CONTENT[::-1]
SHA256 = hashlib.sha256(CONTENT).hexdigest()
MD5 = hashlib.md5(CONTENT).hexdigest()
CHUNK = 1 << 20
SOURCE = Path(__file__).parents[2] / "src"
PROGRAM = f"""
import sys
from vaelens.download.web_files import WebFile, fetch_web
from vaelens.runtime import Runtime
print(fetch_web(WebFile((sys.argv[1],), "weights.pth", {len(CONTENT)}, {SHA256!r}), Runtime(notify=print)))
"""


@pytest.fixture
def server() -> Iterator[WebStandin]:
    with WebStandin() as server:
        server.add("/weights.pth", CONTENT)
        yield server


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("VAELENS_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture
def file(server: WebStandin) -> WebFile:
    return WebFile((f"{server.address}/weights.pth",), "weights.pth", len(CONTENT), SHA256)


def start(server: WebStandin, cache: Path, program: str = PROGRAM) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-W", "error", "-c", program, f"{server.address}/weights.pth"],
        env={**os.environ, "VAELENS_CACHE": str(cache), "PYTHONPATH": str(SOURCE)},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def names(cache: Path) -> list[str]:
    return sorted(path.name for path in cache.iterdir() if not path.name.startswith("."))


def leave_a_part(cache: Path, content: bytes = CONTENT[:1_000_000]) -> None:
    """What a killed download leaves."""
    cache.mkdir()
    (cache / "weights.pth.part").write_bytes(content)


# What is downloaded


def test_a_download_is_announced_shown_checked_and_used_again_without_a_network(
    file: WebFile, server: WebStandin, cache: Path
) -> None:
    notices, shown = list[str](), list[tuple[int, int, str]]()
    path = fetch_web(file, Runtime(notify=notices.append, progress=lambda *what: shown.append(what)))
    assert path == cache / "weights.pth"
    assert path.read_bytes() == CONTENT
    assert notices == [f"downloading weights.pth, 3 MB, from {server.address}"]
    assert shown[-1] == (len(CONTENT), len(CONTENT), "weights.pth")
    assert [done for done, _, _ in shown] == sorted(done for done, _, _ in shown)
    assert names(cache) == ["weights.pth", "weights.pth.checked.json"]
    server.requests.clear()
    assert fetch_web(file, Runtime(notify=notices.append)) == cached_web(file) == path
    assert server.requests == []
    assert len(notices) == 1


def test_nothing_is_cached_before_the_first_download(file: WebFile, server: WebStandin, cache: Path) -> None:
    assert cached_web(file) is None
    assert not cache.exists()
    assert server.requests == []


def test_a_redirect_is_followed_and_its_signature_never_shown(
    server: WebStandin, cache: Path, notices: list[str]
) -> None:
    file = WebFile((f"{server.address}/to/weights.pth",), "a/b.pth", len(CONTENT), SHA256)
    server.fault("/weights.pth", break_after=2_500_000, times=1)
    server.fault("/weights.pth", status=404, times=1)
    with pytest.raises(NetworkError) as error:
        fetch_web(file, Runtime(notify=notices.append))
    assert names(cache / "a") == ["b.pth.part"]
    assert fetch_web(file, Runtime(notify=notices.append)).read_bytes() == CONTENT
    assert "resumed after 2 MB" in notices[-1]
    assert SIGNATURE not in str(error.value) + str(notices)
    assert error.value.__suppress_context__ or error.value.__context__ is None


def test_neither_user_nor_query_of_an_address_is_shown(file: WebFile, server: WebStandin) -> None:
    file = replace(file, urls=(f"{server.address.replace('://', '://me:secret@')}/weights.pth?{SIGNATURE}",))
    with pytest.raises(NetworkError) as error:
        fetch_web(file, Runtime(offline=True))
    assert "secret" not in str(error.value)
    assert SIGNATURE not in str(error.value)
    assert f"{server.address}/weights.pth" in str(error.value)


# Transfers that break


@pytest.mark.parametrize("how", ["break_after", "stall_after"])
def test_a_transfer_that_breaks_is_resumed(file: WebFile, server: WebStandin, how: str) -> None:
    server.fault("/weights.pth", times=1, **{how: 1_400_000})
    assert fetch_web(file).read_bytes() == CONTENT
    assert [seen.range for seen in server.requests] == [None, f"bytes={CHUNK}-"]


def test_a_killed_download_resumes_where_it_was(
    server: WebStandin, cache: Path, wait_until: Callable[[Callable[[], object]], None]
) -> None:
    server.fault("/weights.pth", piece=300_000, pause=0.1, times=1)
    process = start(server, cache)
    part = cache / "weights.pth.part"
    wait_until(lambda: part.exists() and part.stat().st_size)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    received = part.stat().st_size
    assert not (cache / "weights.pth").exists()
    out, _ = start(server, cache).communicate(timeout=30)
    assert (cache / "weights.pth").read_bytes() == CONTENT
    assert f"resumed after {received / 1e6:.0f} MB" in out
    assert server.requests[-1].range == f"bytes={received}-"
    assert not any(seen.secrets for seen in server.requests)
    assert names(cache) == ["weights.pth", "weights.pth.checked.json"]


def test_what_was_complete_but_unchecked_is_not_requested_again(file: WebFile, server: WebStandin, cache: Path) -> None:
    leave_a_part(cache, CONTENT)
    assert fetch_web(file).read_bytes() == CONTENT
    assert server.requests == []


def test_a_server_without_ranges_starts_again(file: WebFile, server: WebStandin, cache: Path) -> None:
    leave_a_part(cache)
    server.fault("/weights.pth", ignores_range=True)
    assert fetch_web(file).read_bytes() == CONTENT
    assert [seen.sent for seen in server.requests] == [len(CONTENT)]


@pytest.mark.parametrize("part", [b"\0" * 1_000_000, OTHER[:2_000_000], bytes(len(CONTENT) + 1)])
def test_a_part_of_other_bytes_is_downloaded_anew(file: WebFile, server: WebStandin, cache: Path, part: bytes) -> None:
    leave_a_part(cache, part)
    assert fetch_web(file).read_bytes() == CONTENT
    assert [seen.range for seen in server.requests][-1] is None


@pytest.mark.parametrize(
    ("fault", "fact"), [({"silent": True}, "stays silent"), ({"reset_after": 10}, "broke, again and again")]
)
def test_a_server_with_a_problem_is_given_up(
    file: WebFile, server: WebStandin, cache: Path, fault: dict[str, object], fact: str
) -> None:
    server.fault("/weights.pth", **fault)
    with pytest.raises(NetworkError, match=fact) as error:
        fetch_web(file)
    assert 4 <= len(server.requests) <= 6
    assert f"can be put at {cache / 'weights.pth'}" in str(error.value)


@pytest.mark.parametrize("fault", [{"status": 503}, {"reset_after": 1_400_000}])
def test_a_problem_that_passes_is_waited_for(file: WebFile, server: WebStandin, fault: dict[str, int]) -> None:
    server.fault("/weights.pth", times=2, **fault)
    assert fetch_web(file).read_bytes() == CONTENT


# Addresses that don't give the file


@pytest.mark.parametrize(
    ("fault", "fact"),
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
    file: WebFile, server: WebStandin, fault: dict[str, object], fact: str
) -> None:
    server.fault("/weights.pth", **fault)
    with pytest.raises(NetworkError) as error:
        fetch_web(file)
    assert fact in str(error.value)
    assert f"{server.address}/weights.pth" in str(error.value)
    mirrored = replace(file, urls=(*file.urls, server.add("/mirror.pth", CONTENT)))
    notices = list[str]()
    assert fetch_web(mirrored, Runtime(notify=notices.append)).read_bytes() == CONTENT
    assert fact in notices[1]
    assert "/mirror.pth" in notices[1]


def test_a_mirror_continues_what_the_first_address_gave(file: WebFile, server: WebStandin) -> None:
    server.fault("/weights.pth", break_after=1_400_000, times=1)
    server.fault("/weights.pth", status=404, times=1)
    mirrored = replace(file, urls=(*file.urls, server.add("/mirror.pth", CONTENT)))
    assert fetch_web(mirrored).read_bytes() == CONTENT
    assert server.requests[-1].sent == len(CONTENT) - CHUNK


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
    close_session()
    with pytest.raises(NetworkError, match="the proxy doesn't let it through") as error:
        fetch_web(replace(file, urls=("http://host.invalid/weights.pth",)))
    assert "secret" not in str(error.value)


def test_a_proxy_of_the_environment_is_used(file: WebFile, server: WebStandin, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("http_proxy", server.address)
    close_session()
    assert fetch_web(replace(file, urls=("http://host.invalid/weights.pth",))).read_bytes() == CONTENT


# Other bytes than expected


@pytest.mark.parametrize("pin", [{"sha256": SHA256}, {"md5": MD5}])
def test_a_flipped_bit_is_noticed_and_removed(
    file: WebFile, server: WebStandin, cache: Path, pin: dict[str, str]
) -> None:
    flipped = bytearray(CONTENT)
    flipped[1000] ^= 1
    server.fault("/weights.pth", body=bytes(flipped), times=1)
    if "md5" in pin:
        file = replace(file, sha256=hashlib.sha256(flipped).hexdigest(), **pin)
    with pytest.raises(CheckFailedError) as error:
        fetch_web(file)
    assert f"damaged, {next(iter(pin))} {next(iter(pin.values()))} expected" in str(error.value)
    assert names(cache) == []


def test_a_file_of_another_size_is_refused(file: WebFile, cache: Path) -> None:
    with pytest.raises(CheckFailedError, match=r"7 bytes expected, 3,072,000 found"):
        fetch_web(replace(file, size=7))
    assert names(cache) == []


def test_a_checksum_is_computed_once_and_again_when_the_copy_was_written_to(
    file: WebFile, server: WebStandin, monkeypatch: pytest.MonkeyPatch
) -> None:
    taken = list[Path]()
    checksum = web_files._checksum
    monkeypatch.setattr(web_files, "_checksum", lambda path, name: taken.append(path) or checksum(path, name))
    path = fetch_web(file)
    assert len(taken) == 1
    fetch_web(file)
    assert len(taken) == 1
    before = path.stat().st_mtime_ns
    path.write_bytes(OTHER)
    os.utime(path, ns=(before + 1, before + 1))
    assert cached_web(file) is None
    with pytest.raises(CheckFailedError, match=r"is damaged, sha256 .* and offline"):
        fetch_web(file, Runtime(offline=True))
    assert path.read_bytes() == OTHER, "offline there is nothing to put in its place"
    notices = list[str]()
    assert fetch_web(file, Runtime(notify=notices.append)).read_bytes() == CONTENT
    assert "the cached copy was damaged" in notices[0]


def test_a_copy_of_another_size_is_noticed_though_it_was_checked(file: WebFile) -> None:
    fetch_web(file).write_bytes(CONTENT[:-1])
    assert cached_web(file) is None
    with pytest.raises(CheckFailedError, match=r"3,072,000 bytes expected, 3,071,999 found"):
        fetch_web(file, Runtime(offline=True))


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
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", how == "environment")
    with pytest.raises(NetworkError, match="not in the cache, and offline") as error:
        fetch_web(file, Runtime(offline=how == "argument"))
    assert error.value.exit_code == 5
    assert f"{server.address}/weights.pth elsewhere and put it at {cache / 'weights.pth'}" in str(error.value)
    cache.mkdir()
    (cache / "weights.pth").write_bytes(CONTENT)
    assert fetch_web(file, Runtime(offline=how == "argument")) == cache / "weights.pth"
    assert server.requests == []


# Two at once


def test_two_processes_download_once(
    server: WebStandin, cache: Path, wait_until: Callable[[Callable[[], object]], None]
) -> None:
    server.fault("/weights.pth", piece=300_000, pause=0.1)
    first = start(server, cache)
    wait_until((cache / "weights.pth.part").exists)
    out, _ = start(server, cache).communicate(timeout=30)
    assert first.wait(30) == 0
    assert "another process is downloading it" in out
    assert "downloading weights.pth, " not in out
    assert out.splitlines()[-1] == str(cache / "weights.pth")
    assert len(server.requests) == 1
    first.communicate()


# The disk


def test_a_disk_without_room_is_noticed_before_the_transfer(
    file: WebFile, server: WebStandin, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(failures.shutil, "disk_usage", lambda _: type("", (), {"free": 1_000_000})())
    with pytest.raises(ResourceError, match=r"weights.pth, 3 MB: not downloaded.*room for 1 MB.*VAELENS_CACHE"):
        fetch_web(file)
    assert not (cache_folder() / "weights.pth.part").exists()


def test_a_disk_that_fills_up_is_a_resource_error(server: WebStandin, cache: Path) -> None:
    limit = "import resource; resource.setrlimit(resource.RLIMIT_FSIZE, (10**6,) * 2)"
    out, _ = start(server, cache, limit + PROGRAM).communicate(timeout=30)
    assert "ResourceError: weights.pth: not written" in out
    assert "the disk is full" in out
    assert not (cache / "weights.pth").exists()


def test_a_cache_that_cannot_be_written_is_named(
    file: WebFile, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setenv("VAELENS_CACHE", str(tmp_path / "file" / "cache"))
    with pytest.raises(BadInputError, match=r"not written to .*file/cache: Not a directory"):
        fetch_web(file)


def test_a_cache_that_cannot_be_written_can_still_be_read(file: WebFile, monkeypatch: pytest.MonkeyPatch) -> None:
    path = fetch_web(file)
    path.with_name("weights.pth.checked.json").unlink()

    def refuse(*_: object) -> None:
        raise BadInputError("not written")

    monkeypatch.setattr(web_files, "write_atomic", refuse)
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
    monkeypatch.setattr(web_files.sys, "platform", "win32")
    monkeypatch.setenv("LOCALAPPDATA", str(tmp_path / "local"))
    assert cache_folder() == tmp_path / "local" / "vaelens"
