"""A hub that refuses, has a problem or isn't there, and a disk that is full: what failed, why and what to do."""

import subprocess
from pathlib import Path
from typing import Any

import pytest
from huggingface_hub import constants

from support.standins.downloads import HUB_PROGRAM, REPO, WEIGHTS, Fetch, partial_files, snapshot_files, start_from_hub
from support.standins.hub import HubStandin, set_endpoint
from vaelens.download.failures import AccessError
from vaelens.errors import BadInputError, NetworkError, ResourceError, UsageError

GET = {"methods": ("GET",)}


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
def test_a_refusal_is_explained(hub: HubStandin, fetched: Fetch, fault: dict[str, object], facts: list[str]) -> None:
    hub.fault(REPO, WEIGHTS, **fault)
    with pytest.raises(NetworkError) as error:
        fetched()
    assert isinstance(error.value, AccessError) is (fault["status"] in {401, 403})
    assert str(error.value).startswith(f"Can't download {WEIGHTS} of {REPO}: ")
    for fact in facts:
        assert fact in str(error.value)
    assert [request.authorized for request in hub.requests_for(WEIGHTS)] == [True]


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


@pytest.mark.parametrize("file", [{"repo": "a/b/c/d"}, {"filename": "/etc/hostname"}, {"filename": "vae\\a"}])
def test_an_impossible_name_is_a_usage_error(hub: HubStandin, fetched: Fetch, file: dict[str, str]) -> None:
    with pytest.raises(UsageError):
        fetched(**file)
    assert hub.requests == []


@pytest.mark.parametrize("methods", [("HEAD", "GET"), ("GET",)])
def test_a_login_page_is_recognised(hub: HubStandin, tmp_path: Path, fetched: Fetch, methods: tuple[str, ...]) -> None:
    hub.fault(REPO, WEIGHTS, html=True, methods=methods)
    with pytest.raises(NetworkError, match=r"an HTML page came back.*login page"):
        fetched()
    assert snapshot_files(tmp_path) == []


def test_without_a_network_the_cache_is_used(fetched: Fetch, notices: list[str], nobody: str, monkeypatch: Any) -> None:
    fetched("config.json")
    set_endpoint(monkeypatch, nobody)
    with pytest.raises(NetworkError, match=f"{nobody.removeprefix('http://')} refuses the connection"):
        fetched()
    assert fetched("config.json").read_bytes() == b"{}"
    assert f"{nobody.removeprefix('http://')} refuses the connection" in notices[-1]
    assert "Using the cached copy." in notices[-1]


@pytest.mark.parametrize(
    ("endpoint", "fact"),
    [
        ("https://hub.invalid", ": hub.invalid can't be found (DNS)"),
        ("https://{host}", ": {host} can't prove who it is (TLS)"),  # where only http is spoken
    ],
)
def test_a_wrong_endpoint_is_named(hub: HubStandin, fetched: Fetch, monkeypatch: Any, endpoint: str, fact: str) -> None:
    host = hub.endpoint.removeprefix("http://")
    set_endpoint(monkeypatch, endpoint.format(host=host))
    with pytest.raises(NetworkError) as error:
        fetched()
    assert fact.format(host=host) in str(error.value)


@pytest.mark.parametrize(
    ("faults", "fact", "requests"),
    [
        ([{"status": 503, "headers": {"Retry-After": "120"}}], "503", 4),
        ([{"status": 500, **GET}], "500", 9),
        ([{"methods": ("HEAD",), "times": 1}, {"status": 403, "methods": ("HEAD",)}], "403", 2),
        ([{"silent": True}], "stays silent", 4),
        ([{"silent": True, **GET}], "stays silent", 8),
        ([{"stall_after": 500_000, **GET}], "stays silent", 8),
        ([{"break_after": 2_500_000, **GET, "times": 1}, {"silent": True, **GET}], "stays silent", 8),
        ([{"break_after": 2_500_000, "reset": True, **GET}], "broke", 9),
    ],
)
def test_a_failing_hub_is_given_up(
    hub: HubStandin, fetched: Fetch, faults: list[dict[str, object]], fact: str, requests: int
) -> None:
    for fault in faults:
        hub.fault(REPO, WEIGHTS, **fault)
    with pytest.raises(NetworkError, match=fact):
        fetched()
    assert len(hub.methods(WEIGHTS)) == requests


def test_a_disk_that_fills_up_is_a_resource_error(hub: HubStandin, tmp_path: Path) -> None:
    limit = "import resource; resource.setrlimit(resource.RLIMIT_FSIZE, (2_500_000, 2_500_000))\n"
    _, err = start_from_hub(hub, tmp_path, subprocess.PIPE, limit + HUB_PROGRAM).communicate()
    assert "ResourceError" in err.decode()
    assert "the disk is full" in err.decode()
    assert partial_files(tmp_path) == snapshot_files(tmp_path) == []


def test_a_cache_that_cannot_be_written_is_named(fetched: Fetch, monkeypatch: pytest.MonkeyPatch) -> None:
    cache = f"{__file__}/hub"
    monkeypatch.setattr(constants, "HF_HUB_CACHE", cache)
    with pytest.raises(BadInputError, match=f"not written to {cache}: Not a directory"):
        fetched()


def test_a_disk_without_room_is_noticed_first(hub: HubStandin, fetched: Fetch, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("shutil.disk_usage", lambda _: type("", (), {"free": 1_000_000})())
    with pytest.raises(ResourceError, match="has room for 1 MB"):
        fetched()
    assert hub.methods(WEIGHTS) == ["HEAD"]
