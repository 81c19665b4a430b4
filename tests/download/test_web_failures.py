"""Plain addresses that refuse, break or give other bytes, and a full disk: what failed, where, and what to do."""

import hashlib
from dataclasses import replace
from pathlib import Path

import pytest
from huggingface_hub import close_session, constants

from support.standins.downloads import SHA256, WEB_CONTENT, WEB_PROGRAM, names, start_from_web
from support.standins.web import WebStandin
from vaelens.download import failures
from vaelens.download.web_files import WebFile, fetch_web
from vaelens.errors import BadInputError, CheckFailedError, NetworkError, ResourceError
from vaelens.runtime import Runtime
from vaelens.text.paths import cache_folder

MD5 = hashlib.md5(WEB_CONTENT).hexdigest()


@pytest.mark.parametrize(
    ("fault", "fact"),
    [
        ({"silent": True}, "stays silent"),
        ({"break_after": 10, "reset": True}, "broke, again and again"),
        ({"break_after": 2_500_000, "ignores_range": True}, "broke, again and again"),
        ({"status": 416}, "(416)"),
    ],
)
def test_a_failing_server_is_given_up(
    file: WebFile, server: WebStandin, cache: Path, fault: dict[str, object], fact: str
) -> None:
    server.fault("/weights.pth", **fault)
    with pytest.raises(NetworkError, match=fact) as error:
        fetch_web(file)
    assert 4 <= len(server.requests) <= 6
    assert f"{server.address}/weights.pth elsewhere and put it at {cache / 'weights.pth'}" in str(error.value)


@pytest.mark.parametrize(
    ("fault", "fact"),
    [
        ({"status": 404}, "(404)"),
        ({"status": 403}, "refuses access (403)"),
        ({"status": 429}, "too many requests (429)"),
        ({"status": 418}, "(418)"),
        ({"status": 503}, "answers 503"),
        ({"html": True}, "login page"),
    ],
)
def test_after_a_refusal_a_mirror_is_used(
    file: WebFile, server: WebStandin, fault: dict[str, object], fact: str
) -> None:
    server.fault("/weights.pth", **fault)
    with pytest.raises(NetworkError) as error:
        fetch_web(file)
    assert fact in str(error.value)
    assert f"{server.address}/weights.pth" in str(error.value)
    mirrored = replace(file, urls=(*file.urls, server.add("/mirror.pth", WEB_CONTENT)))
    notices = list[str]()
    assert fetch_web(mirrored, Runtime(notify=notices.append)).read_bytes() == WEB_CONTENT
    assert fact in notices[1]
    assert "/mirror.pth" in notices[1]


def test_a_host_that_cannot_be_reached_is_named(file: WebFile, nobody: str, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(NetworkError, match=f"{nobody.removeprefix('http://')} refuses the connection"):
        fetch_web(replace(file, urls=(f"{nobody}/weights.pth",)))
    with pytest.raises(NetworkError, match=r"host.invalid can't be found \(DNS\)"):
        fetch_web(replace(file, urls=("http://host.invalid/weights.pth",)))
    mirrors = tuple(f"http://{host}.invalid/weights.pth" for host in ("one", "two"))
    with pytest.raises(NetworkError, match=r"one.invalid can't be found .*The same from two.invalid\.") as error:
        fetch_web(replace(file, urls=mirrors))
    assert str(error.value).count("can't be found") == 1
    with pytest.raises(NetworkError, match=r"can't prove who it is \(TLS\)"):
        fetch_web(replace(file, urls=tuple(url.replace("http:", "https:") for url in file.urls)))
    monkeypatch.setenv("http_proxy", nobody.replace("://", "://me:secret@"))
    close_session()
    with pytest.raises(NetworkError, match="the proxy doesn't let it through") as error:
        fetch_web(replace(file, urls=("http://host.invalid/weights.pth",)))
    assert "secret" not in str(error.value)


@pytest.mark.parametrize("pin", [{"sha256": SHA256}, {"md5": MD5}])
def test_a_damaged_file_is_removed(file: WebFile, server: WebStandin, cache: Path, pin: dict[str, str]) -> None:
    flipped = bytearray(WEB_CONTENT)
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


@pytest.mark.parametrize("how", ["argument", "environment"])
def test_offline_says_what_to_put_where_and_that_works(
    file: WebFile, server: WebStandin, cache: Path, how: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", how == "environment")
    with pytest.raises(NetworkError, match="is not in the cache and can't be downloaded") as error:
        fetch_web(file, Runtime(offline=how == "argument"))
    assert error.value.exit_code == 5
    assert [cause in str(error.value) for cause in ("--offline", "HF_HUB_OFFLINE")] == [
        how == "argument",
        how != "argument",
    ]
    assert f"{server.address}/weights.pth elsewhere and put it at {cache / 'weights.pth'}" in str(error.value)
    cache.mkdir()
    (cache / "weights.pth").write_bytes(WEB_CONTENT)
    assert fetch_web(file, Runtime(offline=how == "argument")) == cache / "weights.pth"
    assert server.requests == []


def test_a_disk_without_room_is_noticed_before_the_transfer(file: WebFile, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(failures.shutil, "disk_usage", lambda _: type("", (), {"free": 1_000_000})())
    with pytest.raises(ResourceError, match=r"download weights.pth, 3 MB: .*room for 1 MB.*VAELENS_CACHE"):
        fetch_web(file)
    assert not (cache_folder() / "weights.pth.part").exists()


def test_a_disk_that_fills_up_is_a_resource_error(server: WebStandin, cache: Path) -> None:
    limit = "import resource; resource.setrlimit(resource.RLIMIT_FSIZE, (10**6,) * 2)"
    out, _ = start_from_web(server, cache, limit + WEB_PROGRAM).communicate(timeout=30)
    assert "ResourceError: weights.pth: not written" in out
    assert "the disk is full" in out
    assert not (cache / "weights.pth").exists()


def test_a_cache_that_cannot_be_written_is_named(file: WebFile, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("VAELENS_CACHE", f"{__file__}/cache")
    with pytest.raises(BadInputError, match=rf"not written to {__file__}/cache: Not a directory"):
        fetch_web(file)
