"""Downloads from plain addresses, against a stand-in on loopback; what is killed runs in a process of its own."""

import hashlib
import logging
import os
import signal
from dataclasses import replace
from pathlib import Path

import pytest
from huggingface_hub import close_session, constants

from support.standins.downloads import CHUNK, SHA256, WEB_CONTENT, WaitUntil, names, start_from_web
from support.standins.web import SIGNATURE, WebStandin
from vaelens.download import web_files
from vaelens.download.web_files import WebFile, cached_web, fetch_web
from vaelens.errors import BadInputError, CheckFailedError, NetworkError
from vaelens.runtime import Runtime

OTHER = WEB_CONTENT[::-1]
MD5 = hashlib.md5(WEB_CONTENT).hexdigest()


def leave_a_part(cache: Path, content: bytes = WEB_CONTENT[:1_000_000]) -> None:
    """What a killed download leaves."""
    cache.mkdir()
    (cache / "weights.pth.part").write_bytes(content)


def test_a_download_is_announced_checked_and_cached(file: WebFile, server: WebStandin, cache: Path) -> None:
    assert cached_web(file) is None
    assert not cache.exists()
    assert server.requests == []
    notices, shown = list[str](), list[tuple[int, int, str]]()
    path = fetch_web(file, Runtime(notify=notices.append, progress=lambda *what: shown.append(what)))
    assert path == cache / "weights.pth"
    assert path.read_bytes() == WEB_CONTENT
    assert notices == [f"downloading weights.pth, 3 MB, from {server.address.removeprefix('http://')}"]
    assert shown[-1] == (len(WEB_CONTENT), len(WEB_CONTENT), "weights.pth")
    assert [done for done, _, _ in shown] == sorted(done for done, _, _ in shown)
    assert names(cache) == ["weights.pth", "weights.pth.checked.json"]
    server.requests.clear()
    assert fetch_web(file, Runtime(notify=notices.append)) == cached_web(file) == path
    assert server.requests == []
    assert len(notices) == 1


def test_a_flipped_bit_in_the_noted_checksums_costs_no_file(file: WebFile, cache: Path) -> None:
    """They are computed again, and the intact copy stays."""
    path = fetch_web(file)
    notes = cache / "weights.pth.checked.json"
    content = bytearray(notes.read_bytes())
    content[content.index(SHA256.encode())] ^= 1
    notes.write_bytes(content)
    assert fetch_web(file, Runtime(offline=True)) == path
    assert SHA256 in notes.read_text()


def test_the_signature_of_a_redirect_is_never_shown(server: WebStandin, cache: Path, notices: list[str]) -> None:
    file = WebFile((f"{server.address}/to/weights.pth",), "a/b.pth", len(WEB_CONTENT), SHA256)
    server.fault("/weights.pth", break_after=2_500_000, times=1)
    server.fault("/weights.pth", status=404, times=1)
    with pytest.raises(NetworkError) as error:
        fetch_web(file, Runtime(notify=notices.append))
    assert names(cache / "a") == ["b.pth.part"]
    assert fetch_web(file, Runtime(notify=notices.append)).read_bytes() == WEB_CONTENT
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


@pytest.mark.parametrize("how", ["break_after", "stall_after"])
def test_a_transfer_that_breaks_is_resumed(file: WebFile, server: WebStandin, how: str) -> None:
    server.fault("/weights.pth", times=1, **{how: 1_400_000})
    assert fetch_web(file).read_bytes() == WEB_CONTENT
    assert [request.range for request in server.requests] == [None, f"bytes={CHUNK}-"]


def test_a_killed_download_resumes_where_it_was(server: WebStandin, cache: Path, wait_until: WaitUntil) -> None:
    server.fault("/weights.pth", piece=300_000, pause=0.1, times=1)
    process = start_from_web(server, cache)
    part = cache / "weights.pth.part"
    wait_until(lambda: part.exists() and part.stat().st_size)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    received = part.stat().st_size
    assert not (cache / "weights.pth").exists()
    out, _ = start_from_web(server, cache).communicate(timeout=30)
    assert (cache / "weights.pth").read_bytes() == WEB_CONTENT
    assert f"resumed after {received / 1e6:.0f} MB" in out
    assert server.requests[-1].range == f"bytes={received}-"
    assert not any(request.authorized or request.cookies for request in server.requests)
    assert names(cache) == ["weights.pth", "weights.pth.checked.json"]


def test_what_was_complete_but_unchecked_is_not_requested_again(file: WebFile, server: WebStandin, cache: Path) -> None:
    leave_a_part(cache, WEB_CONTENT)
    assert fetch_web(file).read_bytes() == WEB_CONTENT
    assert server.requests == []


def test_a_server_without_ranges_starts_again(file: WebFile, server: WebStandin, cache: Path) -> None:
    leave_a_part(cache)
    server.fault("/weights.pth", ignores_range=True)
    assert fetch_web(file).read_bytes() == WEB_CONTENT
    assert [request.sent for request in server.requests] == [len(WEB_CONTENT)]


@pytest.mark.parametrize("part", [b"\0" * 1_000_000, OTHER[:2_000_000], bytes(len(WEB_CONTENT) + 1)])
def test_a_part_of_other_bytes_is_downloaded_anew(file: WebFile, server: WebStandin, cache: Path, part: bytes) -> None:
    leave_a_part(cache, part)
    assert fetch_web(file).read_bytes() == WEB_CONTENT
    assert [request.range for request in server.requests][-1] is None


@pytest.mark.parametrize("fault", [{"status": 503}, {"break_after": 1_400_000, "reset": True}])
def test_a_problem_that_passes_is_waited_for(file: WebFile, server: WebStandin, fault: dict[str, int]) -> None:
    server.fault("/weights.pth", times=2, **fault)
    assert fetch_web(file).read_bytes() == WEB_CONTENT


def test_a_connection_that_breaks_often_finishes(server: WebStandin, cache: Path) -> None:
    content = WEB_CONTENT * 3
    file = WebFile((server.add("/large.zip", content),), "large.zip", len(content), hashlib.sha256(content).hexdigest())
    server.fault("/large.zip", break_after=1_400_000, reset=True, pause=0.01, times=6)  # time to read before a reset
    assert fetch_web(file).read_bytes() == content
    assert len(server.requests) == 7


def test_a_part_that_the_server_cannot_continue_is_downloaded_anew(
    file: WebFile, server: WebStandin, cache: Path
) -> None:
    leave_a_part(cache)
    server.fault("/weights.pth", status=416, times=1)
    assert fetch_web(file).read_bytes() == WEB_CONTENT
    assert [request.range for request in server.requests] == ["bytes=1000000-", None]


@pytest.mark.parametrize(
    ("fault", "fact"),
    [
        ({"html": True}, "login page"),
        ({"body": b"an error", "ignores_range": True}, "3,072,000 bytes expected, 8 found"),
    ],
)
@pytest.mark.parametrize("breaks", [False, True])
def test_an_answer_that_is_not_the_file_leaves_the_part(
    file: WebFile, server: WebStandin, cache: Path, fault: dict[str, object], fact: str, breaks: bool
) -> None:
    leave_a_part(cache)
    if breaks:  # as where a login runs out during the download
        server.fault("/weights.pth", break_after=1_400_000, times=1)
    server.fault("/weights.pth", **fault, times=1)
    with pytest.raises((NetworkError, CheckFailedError), match=fact):
        fetch_web(file)
    received = 1_000_000 + breaks * CHUNK
    assert (cache / "weights.pth.part").read_bytes() == WEB_CONTENT[:received]
    assert fetch_web(file).read_bytes() == WEB_CONTENT
    assert server.requests[-1].range == f"bytes={received}-"


def test_a_mirror_continues_what_the_first_address_gave(file: WebFile, server: WebStandin) -> None:
    server.fault("/weights.pth", break_after=1_400_000, times=1)
    server.fault("/weights.pth", status=404, times=1)
    mirrored = replace(file, urls=(*file.urls, server.add("/mirror.pth", WEB_CONTENT)))
    assert fetch_web(mirrored).read_bytes() == WEB_CONTENT
    assert server.requests[-1].sent == len(WEB_CONTENT) - CHUNK


def test_a_proxy_of_the_environment_is_used(file: WebFile, server: WebStandin, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("http_proxy", server.address)
    close_session()
    assert fetch_web(replace(file, urls=("http://host.invalid/weights.pth",))).read_bytes() == WEB_CONTENT


def test_two_processes_download_once(server: WebStandin, cache: Path, wait_until: WaitUntil) -> None:
    server.fault("/weights.pth", piece=300_000, pause=0.1)
    first = start_from_web(server, cache)
    wait_until((cache / "weights.pth.part").exists)
    out, _ = start_from_web(server, cache).communicate(timeout=30)
    assert first.wait(30) == 0
    assert "another process is downloading it" in out
    assert "downloading weights.pth, " not in out
    assert out.splitlines()[-1] == str(cache / "weights.pth")
    assert len(server.requests) == 1
    first.communicate()


def test_the_librarys_settings_are_as_they_were_during_a_download(file: WebFile) -> None:
    log, seen = logging.getLogger("huggingface_hub"), set[tuple[object, ...]]()

    def look(*_: object) -> None:
        seen.add((log.level, constants.HF_HUB_DISABLE_XET, constants.DOWNLOAD_CHUNK_SIZE))

    look()
    fetch_web(file, Runtime(progress=look))
    assert len(seen) == 1


def test_a_checksum_is_computed_again_once_the_copy_has_changed(file: WebFile, monkeypatch: pytest.MonkeyPatch) -> None:
    read = list[Path]()
    checksum = web_files._checksum
    monkeypatch.setattr(web_files, "_checksum", lambda path, name: read.append(path) or checksum(path, name))
    path = fetch_web(file)
    assert len(read) == 1
    fetch_web(file)
    assert len(read) == 1
    before = path.stat().st_mtime_ns
    path.write_bytes(OTHER)
    os.utime(path, ns=(before + 1, before + 1))
    assert cached_web(file) is None
    with pytest.raises(CheckFailedError, match=r"is damaged, sha256 .* and offline"):
        fetch_web(file, Runtime(offline=True))
    assert path.read_bytes() == OTHER, "offline there is nothing to put in its place"
    notices = list[str]()
    assert fetch_web(file, Runtime(notify=notices.append)).read_bytes() == WEB_CONTENT
    assert "the cached copy was damaged" in notices[0]


def test_a_copy_of_another_size_is_noticed_though_it_was_checked(file: WebFile) -> None:
    fetch_web(file).write_bytes(WEB_CONTENT[:-1])
    assert cached_web(file) is None
    with pytest.raises(CheckFailedError, match=r"3,072,000 bytes expected, 3,071,999 found"):
        fetch_web(file, Runtime(offline=True))


def test_a_newer_checksum_is_not_taken_for_the_remembered_one(file: WebFile) -> None:
    fetch_web(file)
    assert cached_web(replace(file, sha256="0" * 64)) is None
    assert cached_web(replace(file, md5=MD5)) is not None
    assert cached_web(replace(file, md5="0" * 32)) is None


def test_a_cache_that_cannot_be_written_can_still_be_read(file: WebFile, monkeypatch: pytest.MonkeyPatch) -> None:
    path = fetch_web(file)
    path.with_name("weights.pth.checked.json").unlink()

    def refuse(*_: object) -> None:
        raise BadInputError("not written")

    monkeypatch.setattr(web_files, "write_atomic", refuse)
    assert fetch_web(file) == path
