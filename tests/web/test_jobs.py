"""The served page's jobs: queued, carried out, cancelled, stored on disk, and found again by the next server."""

import io
import json
import os
import re
import signal
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any
from urllib.request import Request, urlopen

import numpy as np
import pytest
from PIL import Image

from support.browser.served import JSON, Served, image, serving
from support.commands import invoke
from vaelens.comparison.workflow import compare
from vaelens.errors import ResourceError, UsageError
from vaelens.files import checked_json, read_checked_json
from vaelens.web import store as storing
from vaelens.web import worker
from vaelens.web.choices import Choices
from vaelens.web.store import Store


def pixels(content: bytes) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(content)))


def test_a_job_gives_the_images_that_compare_gives(server: Served) -> None:
    chosen = {"negative_prompt": "a dog", "guidance_scale": 2.5, "scheduler": "euler"}
    done = server.wait(server.start(seeds=[3, 4], size="72x64", **chosen))
    assert [panel["title"] for panel in done["panels"]] == ["seed 3", "seed 4"]
    assert [(panel["width"], panel["height"]) for panel in done["panels"]] == [(72, 64)] * 2
    sources = {one.id: one.source for one in (*server.offer.models.values(), *server.offer.vaes.values())}
    vaes, model = [sources[vae] for vae in server.vaes], sources[server.model]
    same = compare("a cat", vaes, seeds=[3, 4], model=model, size=(64, 72), steps=2, **chosen)
    for panel, subject in zip(done["panels"], same.images, strict=True):
        for layer, decoded in zip(panel["layers"], subject.decoded, strict=True):
            status, headers, png = server.raw("GET", f"/api/jobs/{done['id']}/images/{layer['image']}")
            assert (status, headers["content-type"]) == (200, "image/png")
            assert np.array_equal(pixels(png), decoded.pixels)
            metadata = json.loads(Image.open(io.BytesIO(png)).text["vaelens"])
            assert metadata["provenance"]["sampling"]["prompt"] == "a cat"
    assert done["bytes"] == sum(f.stat().st_size for f in server.running.store.folder.rglob("result/*"))


def test_the_files_of_a_job_can_be_downloaded_and_the_history_has_a_thumbnail(server: Served) -> None:
    job = server.wait(server.start())["id"]
    page, sheet = ("page", "text/html; charset=utf-8", b"<!doctype html>"), ("sheet", "image/png", b"\x89PNG")
    for what, kind, begins in (page, sheet):
        status, headers, content = server.raw("GET", f"/api/jobs/{job}/{what}")
        assert (status, headers["content-type"], content[: len(begins)]) == (200, kind, begins)
        assert headers["content-disposition"].startswith('attachment; filename="vaelens-')
    status, record = server.ask("GET", f"/api/jobs/{job}/record")
    assert (status, [vae["name"] for vae in record["vaes"]]) == (200, ["vae-0", "vae-1"])
    assert "attachment" in server.raw("GET", f"/api/jobs/{job}/images/0?download=1")[1]["content-disposition"]
    status, answer = server.ask("GET", f"/api/jobs/{job}/images/0?download=zzz")
    assert (status, set(answer), answer["error"]) == (422, {"error"}, "download: expected true or false (found 'zzz').")
    status, headers, png = server.raw("GET", f"/api/jobs/{job}/thumbnail")
    assert (status, headers["content-type"], png[:4]) == (200, "image/png", b"\x89PNG")
    assert server.raw("GET", f"/api/jobs/{'0' * 32}/thumbnail")[0] == 404


def test_an_upload_goes_through_the_vaes(server: Served) -> None:
    status, upload = server.upload(image(), "face%20one.png")
    assert (status, upload["width"], upload["height"], upload["name"]) == (201, 64, 64, "face_one.png")
    status, job = server.ask("POST", "/api/jobs", {"upload": upload["id"], "vaes": server.vaes})
    assert status == 202
    done = server.wait(job["id"])
    assert [layer["name"] for layer in done["panels"][0]["layers"]] == ["original", "vae-0", "vae-1"]
    original = server.raw("GET", f"/api/jobs/{job['id']}/images/0")[2]
    assert np.array_equal(pixels(original), pixels(image()))
    assert str(server.running.store.folder) not in json.dumps(server.ask("GET", f"/api/jobs/{job['id']}/record")[1])


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"prompt": "  "}, "the prompt is empty"),
        ({"vaes": []}, "vaes"),
        ({"seeds": [2**70]}, "a seed lies between"),
        ({"seeds": list(range(17))}, "field 'seeds': expected at most 16 values (found 17)."),
        ({"seeds": ["one"]}, "field 'seeds.0': expected a whole number (found 'one')."),
        ({"steps": 0}, "steps must be a number from 1 to 1000"),
        ({"size": "65"}, "multiples of 8"),
        ({"scheduler": "never"}, "no scheduler is called 'never'"),
        ({"model": "0" * 16}, "offers no such model"),
        ({"vaes": ["kl-f8"]}, "offers no such VAE"),
        ({"guidance_scale": -1}, "guidance scale must be a number from 0 to 1000"),
        ({"path": "/etc/passwd"}, "field 'path': it is unknown"),
        ({"prompt": None}, "describe what the image should show, or upload one"),
    ],
)
def test_an_invalid_job_is_refused_in_a_sentence(server: Served, changes: dict[str, Any], sentence: str) -> None:
    status, answer = server.ask("POST", "/api/jobs", server.body(**changes))
    assert status == 422
    assert sentence in answer["error"]
    assert server.ask("GET", "/api/jobs")[1]["jobs"] == []


def test_vaes_of_another_space_are_refused_in_the_librarys_words(server: Served) -> None:
    tiny = [vae.id for vae in server.offer.vaes.values() if vae.space == "tiny"]
    status, answer = server.ask("POST", "/api/jobs", server.body(vaes=tiny))
    assert (status, "has the latent space sd1" in answer["error"]) == (422, True)
    _, upload = server.upload(image())
    status, answer = server.ask("POST", "/api/jobs", {"upload": upload["id"], "vaes": [tiny[0], server.vaes[0]]})
    assert (status, all(space in answer["error"] for space in ("tiny", "sd1"))) == (422, True)
    assert "/" not in answer["error"]


def test_a_running_job_and_a_waiting_one_are_cancelled(server: Served) -> None:
    running, waiting = server.slow(), server.slow()
    shown = server.until(lambda: (server.job(running)["progress"] or {}).get("done") and server.job(running))
    assert shown["progress"]["total"] == 16 * (901 + 2)  # PNDM calls the UNet once more than it has steps
    assert "seed 0, step" in shown["progress"]["what"]
    assert server.ask("DELETE", f"/api/jobs/{running}")[0] == 409
    for job in (waiting, running):
        assert server.ask("POST", f"/api/jobs/{job}/cancel", {})[0] == 200
        assert server.wait(job, "cancelled")["error"] is None
        assert server.ask("POST", f"/api/jobs/{job}/cancel", {})[0] == 409
    server.wait(server.start())  # the worker still works
    assert server.ask("DELETE", f"/api/jobs/{running}")[0] == 204
    assert server.ask("GET", f"/api/jobs/{running}")[0] == 404
    assert not list(server.running.store.folder.rglob(running))


def test_a_full_queue_takes_no_more(offer: Choices, tmp_path: Path) -> None:
    with serving(offer, tmp_path, max_waiting=2) as served:
        served.wait(served.slow(), "running")
        for _ in range(2):
            served.start()
        status, answer = served.ask("POST", "/api/jobs", served.body())
        assert (status, answer["error"]) == (429, "2 jobs are waiting already. Cancel some, or try again later.")
        assert len(list((tmp_path / "jobs").iterdir())) == 3


def test_the_next_server_finds_the_history_and_what_was_interrupted(offer: Choices, tmp_path: Path) -> None:
    with serving(offer, tmp_path) as served:
        done = served.wait(served.start())
        running, waiting = served.slow(), served.slow()
        served.wait(running, "running")
        with pytest.raises(UsageError, match="is in use by another server"):
            Store(tmp_path)
    killed = tmp_path / "jobs" / running / "job.json"
    killed.write_bytes(checked_json(read_checked_json(killed.read_bytes()) | {"state": "running"}))
    (tmp_path / "jobs" / ("0" * 32)).mkdir()
    (tmp_path / "jobs" / ("0" * 32) / "job.json").write_text("{damaged")
    with serving(offer, tmp_path) as served:
        assert served.job(done["id"]) == done
        assert served.raw("GET", f"/api/jobs/{done['id']}/images/1")[0] == 200
        assert [served.job(job)["state"] for job in (running, waiting)] == ["interrupted"] * 2
        assert len(served.ask("GET", "/api/jobs")[1]["jobs"]) == 3


def test_a_full_disk_fails_the_job_and_leaves_nothing(server: Served, monkeypatch: pytest.MonkeyPatch) -> None:
    write, folder = storing.write_outputs, str(server.running.store.folder)

    def full(record: Path, values: Any, contents: Any) -> Any:
        path, *_ = write(record, values, dict(list(contents.items())[:1]))
        raise ResourceError(f"{path}: not written, the disk is full (No space left on device). Free some room.")

    monkeypatch.setattr(storing, "write_outputs", full)
    failed = server.wait(server.start(), "failed")
    assert "the disk is full" in failed["error"]
    assert folder not in failed["error"]
    assert not list(server.running.store.folder.rglob("result"))


def test_failures_are_reported_without_paths_or_tracebacks(server: Served, monkeypatch: pytest.MonkeyPatch) -> None:
    reported: list[BaseException] = []
    monkeypatch.setattr(server.running.queue._runner, "report", reported.append)

    def fails(**_: Any) -> Any:
        raise ValueError("/root/secret")

    monkeypatch.setattr(worker.workflow, "compare", fails)
    assert server.wait(server.start(), "failed")["error"] == "an unexpected error (ValueError)."
    assert [str(error) for error in reported] == ["/root/secret"], "whoever started the server can see why"
    source = next(iter(server.offer.models.values())).source

    def fails_with_paths(**_: Any) -> Any:
        raise UsageError(f"{source}/unet/config.json and /root/other/place.txt are odd; see https://example.org/a.")

    monkeypatch.setattr(worker.workflow, "compare", fails_with_paths)
    message = server.wait(server.start(), "failed")["error"]
    assert "/root" not in message
    assert source not in message
    assert "place.txt" in message


def test_events_begin_with_the_whole_state_and_continue_with_changes(server: Served) -> None:
    before = server.wait(server.start())
    with urlopen(f"http://127.0.0.1:{server.port}/api/events", timeout=60) as stream:

        def next_event() -> tuple[str, Any]:
            while not (line := stream.readline().decode().rstrip("\n")).startswith("event: "):
                pass
            return line[7:], json.loads(stream.readline().decode().removeprefix("data: "))

        state = {"jobs": [before], "deleted": [], "ended": 1, "bytes": before["bytes"]}
        assert next_event() == ("state", state)
        job, events = server.start(), list[tuple[str, Any]]()
        while not events or events[-1][1]["jobs"][0]["state"] != "done":
            events.append(next_event())
        assert {kind for kind, _ in events} == {"change"}
        assert {one["id"] for _, change in events for one in change["jobs"]} == {job}
        server.ask("DELETE", f"/api/jobs/{before['id']}")
        left = {"ended": 1, "bytes": server.job(job)["bytes"]}
        assert next_event() == ("change", {"jobs": [], "deleted": [before["id"]], **left})


@pytest.mark.parametrize("number", [pytest.param(signal.SIGINT, marks=pytest.mark.slow), signal.SIGTERM])
def test_a_signal_ends_the_command_with_130(offer: Choices, tmp_path: Path, number: int) -> None:
    model = next(model for model in offer.models.values() if model.name == "narrow-sd")
    own = next(vae for vae in offer.vaes.values() if vae.own_of == model.id)
    command = [sys.executable, "-W", "error", "-m", "vaelens", "serve", "--port", "0", "--offline"]
    command += ["--model", model.source, "--folder", str(tmp_path / "s")]
    buffered = {name: value for name, value in os.environ.items() if name != "PYTHONUNBUFFERED"}  # as users have it
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=buffered)
    address = process.stdout.readline().strip() if process.stdout else ""
    body = {"prompt": "a cat", "model": model.id, "vaes": [own.id], "steps": 900, "seeds": list(range(16))}
    with urlopen(Request(f"{address}api/jobs", json.dumps(body).encode(), JSON), timeout=60) as answer:
        job = json.load(answer)["id"]
    with urlopen(f"{address}api/events", timeout=60) as stream:
        while not re.search(rb'"progress": {"done": [1-9]', stream.readline()):
            pass  # it can be stopped from its first step on, and not while it is loading
        process.send_signal(number)
        out, error = process.communicate(timeout=60)
    assert (process.returncode, error.splitlines()[-1]) == (130, "vaelens: interrupted."), error
    assert json.loads((tmp_path / "s" / "jobs" / job / "job.json").read_text())["state"] == "interrupted"
    assert out == ""


def test_a_port_in_use_is_one_sentence(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        ran = invoke("serve", "--port", port, "--folder", tmp_path, code=2)
    reason = "Address already in use. Is a server running there already? Choose another --port."
    assert ran.stderr == f"can't listen on 127.0.0.1, port {port}: {reason}"
