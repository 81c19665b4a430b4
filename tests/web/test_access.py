"""The token: where it is required, how it gives access, and what the command prints and opens."""

import logging
import re
from pathlib import Path
from typing import Any

import pytest
import typer

from support.browser.served import TOKEN, serving
from vaelens.cli.commands import serve as command
from vaelens.errors import UsageError
from vaelens.web import server as web_server
from vaelens.web.access import AccessPolicy
from vaelens.web.choices import Choices
from vaelens.web.server import Server, prepare


def test_another_address_needs_a_token(offer: Choices, tmp_path: Path) -> None:
    for host in ("0.0.0.0", "::", "192.168.1.2", "example.org"):
        with pytest.raises(UsageError, match="so it needs --token"):
            AccessPolicy(host, 1).check()
        AccessPolicy(host, 1, TOKEN).check()
    with pytest.raises(UsageError, match="at least 16 characters; this one has 5"):
        prepare(offer, tmp_path, port=0, token="short")
    assert AccessPolicy("0.0.0.0", 80, TOKEN).allows_host("192.168.1.2")
    assert not AccessPolicy("0.0.0.0", 80, TOKEN).allows_host("evil.example")
    assert AccessPolicy("box.local", 99, TOKEN).allows_host("box.local:99")


def test_the_token_is_required_everywhere_and_stored_as_a_cookie(offer: Choices, tmp_path: Path) -> None:
    with serving(offer, tmp_path, token=TOKEN) as served:
        for method, path in (("GET", "/"), ("GET", "/static/app.js"), ("GET", "/api/events"), ("POST", "/api/jobs")):
            assert served.raw(method, path, Content_Type="application/json")[0] == 403
        for wrong in (TOKEN[:-1], TOKEN + "x", "", "é" * 20):
            bearer = f"Bearer {wrong}".encode().decode("latin-1")
            assert served.raw("GET", "/api/jobs", Authorization=bearer)[0] == 403
        assert served.raw("GET", f"/api/jobs?token={TOKEN}")[0] == 403, "only the page's own address takes it"
        assert served.raw("GET", "/api/jobs", Authorization=f"Bearer {TOKEN}")[0] == 200
        status, headers, page = served.raw("GET", f"/?token={TOKEN}")
        assert (status, headers["content-type"]) == (200, "text/html; charset=utf-8")
        assert b'http-equiv="refresh" content="0;url=/"' in page
        assert TOKEN.encode() not in page
        cookie, *how = headers["set-cookie"].split("; ")
        assert {"HttpOnly", "SameSite=Strict"} <= set(how)
        assert TOKEN not in cookie
        assert served.raw("GET", "/", Cookie=cookie)[0] == 200
        assert served.raw("GET", "/", Cookie=cookie[:-1])[0] == 403


def test_requests_are_not_logged(offer: Choices, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    with serving(offer, tmp_path, token=TOKEN) as served:
        assert served.raw("GET", f"/?token={TOKEN}")[0] == 200
    assert TOKEN not in caplog.text


def test_a_cookie_is_valid_for_one_server(offer: Choices, tmp_path: Path) -> None:
    """Two servers of a host are two to a browser; the next server has another secret."""
    with serving(offer, tmp_path / "one", token=TOKEN) as one, serving(offer, tmp_path / "two", token=TOKEN) as two:
        entered = [served.raw("GET", f"/?token={TOKEN}")[1] for served in (one, two)]
        cookies = [headers["set-cookie"].partition(";")[0] for headers in entered]
        names, values = zip(*(cookie.split("=") for cookie in cookies), strict=True)
        assert len(set(names)) == len(set(values)) == 2
        for served in (one, two):
            assert served.raw("GET", "/", Cookie="; ".join(cookies))[0] == 200
            assert served.raw("GET", "/", Cookie=f"{names[1]}={values[0]}; {names[0]}={values[1]}")[0] == 403


@pytest.fixture
def opened(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The addresses that the command opens; it doesn't serve."""
    found: list[str] = []
    monkeypatch.setattr(typer, "launch", found.append)
    monkeypatch.setattr(Server, "serve", lambda self: None)
    monkeypatch.delenv("VAELENS_TOKEN", raising=False)
    return found


@pytest.mark.parametrize(
    ("host", "token", "query"),
    [
        ("127.0.0.1", None, ""),
        ("0.0.0.0", None, r"\?token=[\w-]{32}"),
        ("0.0.0.0", "a secret & a long one", r"\?token=\.\.\."),
        ("127.0.0.1", TOKEN, r"\?token=\.\.\."),
    ],
)
def test_the_command_prints_and_opens_the_address(
    opened: list[str], tmp_path: Path, capsys: Any, host: str, token: str | None, query: str
) -> None:
    command.serve(host=host, port=0, token=token, folder=tmp_path / "s", open_it=True, offline=True)
    printed = capsys.readouterr()
    assert re.fullmatch(rf"http://127\.0\.0\.1:\d+/{query}", printed.out.strip())
    (address,) = opened
    if token is None:
        assert address == printed.out.strip()
    else:
        assert address == printed.out.strip().replace("...", token.replace(" ", "%20").replace("&", "%26"))
        assert "with your token" in printed.err
        assert token not in printed.out + printed.err


def test_one_device_by_two_names_runs_one_job(opened: list[str], tmp_path: Path, capsys: Any, monkeypatch: Any) -> None:
    made: list[Server] = []
    monkeypatch.setattr("vaelens.runtime.available_devices", lambda: ["cpu"])
    monkeypatch.setattr(web_server, "prepare", lambda *given, **more: made.append(prepare(*given, **more)) or made[-1])
    command.serve(device=["cpu", "auto", "cpu:0"], port=0, folder=tmp_path / "s", offline=True)
    assert len(made[0].queue._workers) == 1
    assert "Using cpu." in capsys.readouterr().err
    running = prepare(made[0].queue._runner.choices, tmp_path / "s", port=0, devices=["auto", "cpu"])
    assert len(running.queue._workers) == 1
    assert running.close()
    with pytest.raises(UsageError, match="no device 'cuda'"):
        command.serve(device=["cuda"], port=0, folder=tmp_path / "s", offline=True)


@pytest.mark.parametrize("verbose", [False, True])
def test_tracebacks_are_shown_on_request(
    opened: list[str], tmp_path: Path, capsys: Any, monkeypatch: pytest.MonkeyPatch, verbose: bool
) -> None:
    def serve(running: Server) -> None:
        running.queue._runner.report(ValueError("the reason"))

    monkeypatch.setattr(Server, "serve", serve)
    monkeypatch.setattr(command, "is_verbose", lambda: verbose)
    command.serve(port=0, folder=tmp_path / "s", offline=True)
    assert ("ValueError: the reason" in capsys.readouterr().err) == verbose
