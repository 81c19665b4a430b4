"""Values of the environment, and names of places in a repository, with which no request can be made."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
from huggingface_hub import close_session

import vaelens as vl
from support.commands import invoke
from support.standins.hub import HubStandin, set_endpoint
from support.standins.web import WebStandin
from vaelens.download import client
from vaelens.download.hub import RemoteFile, fetch
from vaelens.download.hub_listing import list_files
from vaelens.download.web_files import WebFile, fetch_web
from vaelens.errors import UsageError

ENDPOINTS = [
    "http://[bad",
    "not a url",
    "ftp://x",
    "http://x:99999999",
    "http://x:http",
    "127.0.0.1:80",
    "",
    "http://a b",
]


@pytest.mark.parametrize("endpoint", ENDPOINTS)
def test_an_endpoint_that_is_no_web_address_is_named(
    hub: HubStandin, monkeypatch: pytest.MonkeyPatch, endpoint: str
) -> None:
    set_endpoint(monkeypatch, endpoint)
    calls = (
        lambda: vl.load("someone/vae"),
        lambda: vl.load("https://huggingface.co/someone/vae"),
        lambda: fetch(RemoteFile("someone/vae", "config.json")),
        lambda: list_files("someone/vae"),
    )
    for call in calls:
        with pytest.raises(UsageError) as error:
            call()
        assert f"HF_ENDPOINT is {endpoint!r}, which isn't a web address. Set it to" in str(error.value)
    said = invoke("inspect", "someone/vae", code=2).stderr
    assert "HF_ENDPOINT is" in " ".join(said.split())


def test_a_password_in_a_broken_endpoint_is_not_shown(hub: HubStandin, monkeypatch: pytest.MonkeyPatch) -> None:
    set_endpoint(monkeypatch, "http://me:secret@[bad")
    with pytest.raises(UsageError, match=r"HF_ENDPOINT is '\[bad'") as error:
        vl.load("someone/vae")
    assert "secret" not in str(error.value)


@pytest.mark.parametrize("proxy", ["ftp://me:secret@x", "socks5://me:secret@x:1", "http://me:secret@x:http"])
def test_a_proxy_that_can_not_be_used_is_named(
    hub: HubStandin, server: WebStandin, file: WebFile, monkeypatch: pytest.MonkeyPatch, proxy: str
) -> None:
    close_session()
    monkeypatch.setenv("HTTPS_PROXY", proxy)
    for call in (lambda: vl.load("someone/vae"), lambda: list_files("someone/vae"), lambda: fetch_web(file)):
        with pytest.raises(UsageError, match="no request can be made with the proxies in HTTPS_PROXY: ") as error:
            call()
        assert "secret" not in str(error.value)


def test_only_the_proxies_of_requests_are_named(hub: HubStandin, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in {"NO_PROXY": "localhost", "FTP_PROXY": "ftp://x", "HTTPS_PROXY": "ftp://x"}.items():
        monkeypatch.setenv(name, value)
    close_session()
    with pytest.raises(UsageError, match="with the proxies in HTTPS_PROXY: "):
        vl.load("someone/vae")


@pytest.mark.parametrize("other", [{}, {"NO_PROXY": "localhost"}, {"HTTPS_PROXY": "http://x:1"}])
def test_certificates_that_can_not_be_read_are_not_taken_for_proxies(
    hub: HubStandin, file: WebFile, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, other: dict[str, str]
) -> None:
    (text := tmp_path / "text.pem").write_text("no certificate")
    for name, value in other.items():
        monkeypatch.setenv(name, value)
    for path, why in (
        (tmp_path / "missing.pem", "can't be read: No such file or directory"),
        (tmp_path, "can't be read: Is a directory"),
        (text, "holds no certificates"),
    ):
        close_session()
        monkeypatch.setenv("SSL_CERT_FILE", str(path))
        for call in (lambda: vl.load("someone/vae"), lambda: list_files("someone/vae"), lambda: fetch_web(file)):
            with pytest.raises(UsageError) as error:
                call()
            assert str(error.value) == (
                f"SSL_CERT_FILE names {path}, which {why}. Set it to a file of certificates in PEM format, or unset it."
            )


@pytest.mark.parametrize("failure", [RuntimeError("a bug"), ValueError("a bug"), OSError(24, "Too many open files")])
def test_other_failures_of_a_session_are_not_taken_for_the_environment_s(
    monkeypatch: pytest.MonkeyPatch, failure: Exception
) -> None:
    def fail() -> None:
        raise failure

    monkeypatch.setattr(client.hub, "get_session", fail)
    monkeypatch.setenv("NO_PROXY", "localhost")
    with pytest.raises(type(failure)) as error:
        client.with_retries(lambda: None)
    assert error.value is failure


def test_a_token_that_can_not_be_sent_is_named_without_it(hub: HubStandin, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_TOKEN", "hf_tökén")
    for call in (lambda: vl.load("someone/vae"), lambda: list_files("someone/vae")):
        with pytest.raises(UsageError, match="the token for the hub, from HF_TOKEN or `hf auth login`") as error:
            call()
        assert "tökén" not in str(error.value)


@pytest.mark.slow
def test_a_number_of_the_library_s_that_is_none_is_a_usage_error() -> None:
    command = [sys.executable, "-m", "vaelens", "inspect", "someone/vae", "--offline"]
    ended = subprocess.run(
        command, env=os.environ | {"HF_HUB_ETAG_TIMEOUT": "soon"}, capture_output=True, text=True, check=False
    )
    assert ended.returncode == 2, ended.stderr
    assert "an HF_* environment variable has an invalid value: " in " ".join(ended.stderr.split())


@pytest.mark.parametrize(
    "inner", ["..", "../other", "vae/../..", "/etc", "vae\\..", "\\\\host\\x", "C:/x", "a\0b", "a\nb", "\ud800"]
)
def test_a_subfolder_lies_inside(hub: HubStandin, tmp_path: Path, inner: str) -> None:
    """In a folder, a repository, or a pasted address."""
    (tmp_path / "pipeline" / "vae").mkdir(parents=True)
    for source in (str(tmp_path / "pipeline"), "someone/sd", f"{hub.endpoint}/someone/sd/tree/main/parts"):
        with pytest.raises(UsageError) as error:
            vl.load(source, subfolder=inner)
        assert "can't be a folder in it" in str(error.value)
        assert str(error.value).isprintable()
    assert hub.requests == []


@pytest.mark.parametrize("revision", ["../main", "/etc", "a\\b", "a\0b"])
def test_a_revision_is_no_path(hub: HubStandin, revision: str) -> None:
    for call in (
        lambda: fetch(RemoteFile("someone/vae", "config.json", revision)),
        lambda: list_files("someone/vae", revision=revision),
        lambda: vl.load(f"{hub.endpoint}/someone/vae/tree/{revision.replace('/', '%2F')}/vae"),
    ):
        with pytest.raises(UsageError):
            call()
    assert hub.requests == []
