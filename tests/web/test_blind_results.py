"""Blind tests of a job's images: their results are stored with the job, counted, pooled, and removed with it."""

import hashlib
import json
import threading
from collections.abc import Iterator, Mapping
from html import unescape
from pathlib import Path
from typing import Any

import pytest

from support.blind_results import abx_trials, decoders, file_text, result, sha256
from support.browser.pages import Parsed
from support.browser.served import GOOD, LAYER, PANEL, Served, image, serving
from vaelens.blind.pooling import pool_blind_results
from vaelens.errors import ResourceError
from vaelens.files import checked_json
from vaelens.web import queue as queueing
from vaelens.web import store as storing
from vaelens.web.choices import Choices
from vaelens.web.store import Store

PAGE = sha256("page of tiny-ft-ema, tiny-ft-mse")  # what the made-up results are of
JOB, UNTESTED = "1" * 32, "2" * 32
NONE = {"count": 0, "bytes": 0}


@pytest.fixture
def store(tmp_path: Path) -> Path:
    """A history of two jobs: one whose images can be tested, and one with a single decoder."""
    Store(tmp_path).close()
    layers = [{**LAYER, "name": one["name"], "decoder": n, "latents": sha256("z")} for n, one in enumerate(decoders())]
    tested = {"panels": [{**PANEL, "layers": layers}], "blind": {"page": PAGE, "vaelens": "1", "decoders": decoders()}}
    for job, values in ((JOB, tested), (UNTESTED, {"panels": [PANEL], "blind": None})):
        (tmp_path / "jobs" / job).mkdir()
        (tmp_path / "jobs" / job / "job.json").write_bytes(checked_json({**GOOD, "id": job, **values}))
    return tmp_path


@pytest.fixture
def served(offer: Choices, store: Path) -> Iterator[Served]:
    with serving(offer, store) as running:
        yield running


def send(served: Served, content: bytes, job: str = JOB) -> tuple[int, Any]:
    status, _, body = served.raw("POST", f"/api/jobs/{job}/blind", content, Content_Type="application/json")
    return status, json.loads(body)


def stored(store: Path) -> list[Path]:
    return sorted(store.rglob("blind/*"))


def test_a_jobs_results_pool_with_those_of_its_downloaded_page(server: Served) -> None:
    _, upload = server.upload(image())
    job = server.wait(server.ask("POST", "/api/jobs", {"upload": upload["id"], "vaes": server.vaes})[1]["id"])
    page = json.loads(Parsed(server.raw("GET", f"/api/jobs/{job['id']}/page")[2].decode()).texts["data"])
    assert job["blind"] == page["blind"]
    assert [one["name"] for one in job["blind"]["decoders"]] == ["vae-0", "vae-1"]
    (panel,), (same,) = job["panels"], page["panels"]
    assert [layer["decoder"] for layer in panel["layers"]] == [None, 0, 1]
    for layer, other in zip(panel["layers"], same["layers"], strict=True):
        assert (layer["decoder"], layer["latents"]) == (other["decoder"], other["latents"])
    assert server.wait(server.start(vaes=server.vaes[:1]))["blind"] is None, "of one decoder there is no test"


def test_results_are_stored_as_they_are_counted_and_found_again(offer: Choices, store: Path) -> None:
    texts = [
        file_text(result(abx_trials(hits, 8), person=name, page=PAGE, finished=f"2026-11-2{day}T00:00:00Z"))
        for hits, name, day in ((8, "Zoé", 1), (4, "Anna", 3), (5, "", 2))
    ]
    runs = [json.loads(text)["run"] for text in texts]
    with serving(offer, store) as served:
        total = served.first_of_events()["bytes"]
        assert served.job(JOB)["blind_results"] == NONE
        assert served.ask("GET", f"/api/jobs/{JOB}/blind") == (
            404,
            {"error": "no result of a blind test is stored with this job."},
        )
        for text, run in zip(texts, runs, strict=True):
            assert send(served, text) == (201, {"run": run})
        sizes = {"count": 3, "bytes": sum(map(len, texts))}
        assert served.job(JOB)["blind_results"] == sizes
        assert served.first_of_events()["bytes"] == total + sizes["bytes"], "the disk usage counts them"
    assert {path: path.read_bytes() for path in stored(store)} == {
        store / "jobs" / JOB / "blind" / f"{run}.json": text for run, text in zip(runs, texts, strict=True)
    }
    assert "blind_results" not in json.loads((store / "jobs" / JOB / "job.json").read_bytes())
    (store / "jobs" / JOB / "blind" / "notes.json").write_text("mine")
    with serving(offer, store) as served:
        assert served.job(JOB)["blind_results"] == sizes
        assert served.first_of_events()["bytes"] == total + sizes["bytes"]
        status, headers, content = served.raw("GET", f"/api/jobs/{JOB}/blind/{runs[0]}")
        assert (status, headers["content-type"], content) == (200, "application/json", texts[0])
        assert headers["content-disposition"].endswith(f'filename="vaelens-11111111-blind-{runs[0][:8]}.json"')
        for run in ("0" * 32, "notes", runs[0].upper() + "x"):
            assert served.raw("GET", f"/api/jobs/{JOB}/blind/{run}")[0] == 404
        status, headers, content = served.raw("GET", f"/api/jobs/{JOB}/blind")
        assert (status, headers["content-type"]) == (200, "text/html; charset=utf-8")
        assert headers["content-disposition"].endswith('filename="vaelens-11111111-blind.html"')
        page = unescape(content.decode())
        pooled = pool_blind_results([path for path in stored(store) if path.stem in runs])
        assert pooled.outcomes[0].pairs[0].total.hits == 17
        for sentence in (found for part in pooled.parts() for found in part.findings):
            assert sentence.replace("\N{NO-BREAK SPACE}", " ") in page.replace("\N{NO-BREAK SPACE}", " ")
        names = ["Zoé", f"blind-abx-{runs[2][:8]}.json", "Anna"]
        assert sorted(names, key=page.index) == names, "in the order in which they ended"
        assert served.ask("DELETE", f"/api/jobs/{JOB}")[0] == 204
        assert send(served, texts[0]) == (404, {"error": "this job doesn't exist, or was deleted."})
        assert served.raw("GET", f"/api/jobs/{JOB}/blind")[0] == 404
    assert not (store / "jobs" / JOB).exists()


GOOD_RESULT = result(abx_trials(3, 4), page=PAGE)


@pytest.mark.parametrize(
    ("content", "job", "status", "reason"),
    [
        (GOOD_RESULT | {"page": sha256("other")}, JOB, 422, "it is of other images than this job's."),
        (GOOD_RESULT | {"decoders": decoders()[::-1]}, JOB, 422, "its decoders aren't this job's."),
        (GOOD_RESULT | {"zoom": 0}, JOB, 422, "field 'zoom'"),
        (file_text(GOOD_RESULT).replace(b'"ms": 1500', b'"ms": 1501', 1), JOB, 422, "it was reformatted or edited"),
        (b'{"kind": "vaelens blind te', JOB, 422, "it"),
        (b"", JOB, 422, "it"),
        (GOOD_RESULT, UNTESTED, 422, "this job has no image of two decoders, so there is no test of it."),
        (GOOD_RESULT, "0" * 32, 404, "this job doesn't exist, or was deleted."),
        (GOOD_RESULT, "..%2f1", 404, "there is nothing at this address."),
        (b" " * 65_537, JOB, 413, "at most 64 KiB"),
    ],
)
def test_another_file_is_refused_in_a_sentence(
    served: Served, store: Path, content: bytes | Mapping[str, Any], job: str, status: int, reason: str
) -> None:
    text = content if isinstance(content, bytes) else file_text(content)
    found, answer = send(served, text, job)
    assert (found, reason in answer["error"]) == (status, True), answer
    if status == 422:
        assert answer["error"].startswith("the result can't be stored with this job: ")
        assert answer["error"].endswith(". Send the file as this job's page saved it.")
    assert (stored(store), served.job(JOB)["blind_results"]) == ([], NONE)


def test_a_test_is_stored_once_and_not_without_end(
    served: Served, store: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(queueing, "MAX_BLIND_RESULTS", 2)
    first, second, third = (file_text(result(abx_trials(hits, 4), page=PAGE)) for hits in range(3))
    assert served.raw("POST", f"/api/jobs/{JOB}/blind", first, Content_Type="text/plain")[0] == 415
    assert send(served, first)[0] == send(served, second)[0] == 201
    assert send(served, first) == (409, {"error": "this test's result is stored with the job already."})
    assert send(served, third) == (409, {"error": "this job has 2 results, and more aren't stored."})
    assert len(stored(store)) == served.job(JOB)["blind_results"]["count"] == 2


def test_what_cant_be_written_isnt_counted(served: Served, store: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(path: Path, content: bytes) -> None:
        raise ResourceError(f"{path}: not written, the disk is full (No space left on device). Free some room.")

    monkeypatch.setattr(storing, "write_atomic", full)
    status, answer = send(served, file_text(GOOD_RESULT))
    assert (status, "the disk is full" in answer["error"], str(store) in answer["error"]) == (503, True, False)
    assert served.job(JOB)["blind_results"] == NONE


def test_a_job_deleted_while_a_result_is_written_leaves_nothing(
    served: Served, store: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write, deleted = storing.write_atomic, list[int]()
    delete = threading.Thread(target=lambda: deleted.append(served.ask("DELETE", f"/api/jobs/{JOB}")[0]))

    def late(path: Path, content: bytes) -> Path:
        delete.start()
        served.until(lambda: served.raw("GET", f"/api/jobs/{JOB}")[0] == 404)
        return write(path, content)

    monkeypatch.setattr(storing, "write_atomic", late)
    assert send(served, file_text(GOOD_RESULT))[0] == 404
    delete.join()
    assert (deleted, (store / "jobs" / JOB).exists(), served.first_of_events()["ended"]) == ([204], False, 1)


def test_a_stored_result_that_has_changed_is_said(served: Served, store: Path) -> None:
    texts = [file_text(result(abx_trials(hits, 4), page=PAGE)) for hits in range(2)]
    runs = [send(served, text)[1]["run"] for text in texts]
    path = store / "jobs" / JOB / "blind" / f"{runs[0]}.json"
    foreign = file_text(result(abx_trials(2, 4), page=sha256("other"), run=runs[0]))
    reasons = {
        texts[0].replace(b'"planned": 4', b'"planned": 5'): "it was reformatted or edited after it was saved",
        texts[1]: "it is another test's",
        foreign: "it is of other images than this job's",
    }
    for content, reason in reasons.items():
        path.write_bytes(content)
        for address in ("blind", f"blind/{runs[0]}"):
            status, answer = served.ask("GET", f"/api/jobs/{JOB}/{address}")
            assert status == 410
            assert f"{runs[0]}.json isn't the result that was stored: {reason}" in answer["error"]
            assert str(store) not in answer["error"]
        assert served.raw("GET", f"/api/jobs/{JOB}/blind/{runs[1]}")[2] == texts[1]
    path.unlink()
    assert hashlib.sha256(texts[1]).hexdigest()[:12] in served.raw("GET", f"/api/jobs/{JOB}/blind")[2].decode()
