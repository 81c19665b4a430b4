"""The served queue: slow disks, a long history, the end of the server in mid-job, and the VAEs that stay in memory."""

import json
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from support.served import GOOD, Served, serving
from vaelens.errors import ResourceError
from vaelens.runtime import Runtime
from vaelens.web import choices as choosing
from vaelens.web import history, kept, work
from vaelens.web import store as storing
from vaelens.web.choices import Choices, Decoder, settle
from vaelens.web.history import PAGE_OF_PAST, History
from vaelens.web.kept import Kept
from vaelens.web.store import Store
from vaelens.weights.registry import registry


def test_a_slow_disk_stops_nobody_who_looks(server: Served, monkeypatch: pytest.MonkeyPatch) -> None:
    job, write = server.slow(), storing.write_atomic
    server.wait(job, "running")
    writing, go_on = threading.Event(), threading.Event()

    def slow(path: Any, content: Any) -> Any:
        writing.set()
        assert go_on.wait(30)
        return write(path, content)

    monkeypatch.setattr(storing, "write_atomic", slow)
    try:
        assert server.ask("POST", f"/api/jobs/{job}/cancel", {})[0] == 200
        assert writing.wait(30)  # the worker says that the job has ended
        assert server.job(job)["state"] == "cancelled"
        assert server.ask("GET", "/api/jobs")[0] == server.raw("GET", "/")[0] == 200
        told = server.first_of_events()["jobs"]
    finally:
        go_on.set()
    assert [one["state"] for one in told] == ["cancelled"]


def test_the_disk_gets_the_last_state(server: Served) -> None:
    first, second = server.slow(), server.slow()
    server.wait(first, "running")
    for job in (second, first):
        server.ask("POST", f"/api/jobs/{job}/cancel", {})
        server.wait(job, "cancelled")
    file = server.running.store.folder / "jobs"
    server.until(lambda: all("cancelled" in (file / job / "job.json").read_text() for job in (first, second)))


def test_a_page_is_told_the_newest_of_a_long_history_and_more_when_it_asks(offer: Choices, tmp_path: Path) -> None:
    Store(tmp_path).close()
    ids = [f"{number:032x}" for number in range(120)]
    for number, job in enumerate(ids):
        (tmp_path / "jobs" / job).mkdir()
        values = GOOD | {"id": job, "created": f"2025-01-02T03:04:05.{number:03}+00:00"}
        (tmp_path / "jobs" / job / "job.json").write_text(json.dumps(values))
    with serving(offer, tmp_path) as served:
        open_one = served.slow()
        told = served.first_of_events()
        assert (told["past"], told["bytes"]) == (120, 1200)
        assert {job["id"] for job in told["jobs"]} == {*ids[-PAGE_OF_PAST:], open_one}
        more = served.ask("GET", f"/api/jobs?before={ids[70]}")[1]["jobs"]
        assert [job["id"] for job in more] == ids[69:19:-1]
        last = served.ask("GET", f"/api/jobs?before={ids[20]}&count=7")[1]
        assert [job["id"] for job in last["jobs"]] == ids[19:12:-1]
        assert served.ask("GET", f"/api/jobs?before={'f' * 32}")[0] == 404
        assert served.ask("DELETE", f"/api/jobs/{ids[0]}")[0] == 204
        left = served.ask("GET", "/api/jobs")[1]
        assert (left["past"], left["bytes"]) == (119, 1190)
        for wrong in ("0", "51", "many"):
            status, answer = served.ask("GET", f"/api/jobs?before={ids[70]}&count={wrong}")
            assert (status, set(answer)) == (422, {"error"})


def test_the_text_of_a_job_is_made_once(monkeypatch: pytest.MonkeyPatch) -> None:
    jobs, dumps, made = History(), json.dumps, list[Any]()
    for number in range(3):
        jobs.put({"id": str(number), "state": "done", "bytes": 1})

    def counted(value: Any) -> str:
        made.extend([value["id"]] if "id" in value else [])
        return dumps(value)

    monkeypatch.setattr(history.json, "dumps", counted)
    first = jobs.first()
    assert jobs.first() == first
    assert sorted(made) == ["0", "1", "2"]
    before = jobs.revision
    jobs.put({"id": "1", "state": "done", "bytes": 5})
    assert json.loads(jobs.since(before)) == {
        "jobs": [{"id": "1", "state": "done", "bytes": 5}], "gone": [], "past": 3, "bytes": 7
    }  # fmt: skip
    assert len(made) == 4


def test_the_end_of_the_server_keeps_what_a_job_has_made(offer: Choices, tmp_path: Path) -> None:
    with serving(offer, tmp_path) as served:
        job = served.start(steps=60, seeds=list(range(16)))
        served.until(lambda: (served.job(job)["progress"] or {}).get("done", 0) > 60 + 4)
    with serving(offer, tmp_path) as served:
        found = served.job(job)
        assert found["state"] == "interrupted"
        assert 1 <= len(found["panels"]) < 16
        assert found["bytes"] == sum(file.stat().st_size for file in tmp_path.rglob("result/*")) > 0
        assert served.raw("GET", f"/api/jobs/{job}/images/0")[0] == 200


def test_an_uploads_copy_counts(server: Served) -> None:
    from support.served import image

    _, upload = server.upload(image())
    done = server.wait(server.ask("POST", "/api/jobs", {"upload": upload["id"], "vaes": server.vaes})[1]["id"])
    place = server.running.store.folder / "jobs" / done["id"]
    assert done["bytes"] == sum(f.stat().st_size for name in ("result", "upload") for f in (place / name).iterdir())


def test_what_cant_be_stopped_is_done_before_the_first_job(
    offer: Choices, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    done: list[str] = []
    monkeypatch.setattr(work, "diffusers", lambda: done.append("imported"))
    compare = work.workflow.compare

    def compared(**options: Any) -> Any:
        done.append("compared")
        return compare(**options)

    monkeypatch.setattr(work.workflow, "compare", compared)
    with serving(offer, tmp_path) as served:
        served.wait(served.start())
    assert done == ["imported", "compared"]


@pytest.fixture
def loaded(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The sources that were loaded, in order; nothing is."""
    found: list[str] = []

    class Loaded:
        name = ""

    def load(source: str, **_: Any) -> Any:
        found.append(source)
        return Loaded()

    monkeypatch.setattr(kept, "load", load)
    return found


def decoders(*names: str) -> list[Decoder]:
    return [Decoder(name, name, name, "sd1") for name in names]


def test_four_vaes_stay_in_memory_the_last_used(loaded: list[str]) -> None:
    cache = Kept("cpu", "float32", None)
    cache.get(decoders("a", "b", "c", "d"))
    cache.get(decoders("a"))  # no new one, so none has to go
    cache.get(decoders("b", "c", "d"))
    assert loaded == ["a", "b", "c", "d"]
    cache.get(decoders("e"))  # a was used before the others
    cache.get(decoders("b", "c", "d", "e"))
    assert loaded == ["a", "b", "c", "d", "e"]
    many = [f"m{number}" for number in range(16)]
    assert [vae.name for vae in cache.get(decoders(*many))] == many
    cache.trim()
    del loaded[:]
    cache.get(decoders(*many[-4:]))
    assert loaded == []
    cache.get(decoders(many[0]))
    assert loaded == [many[0]]


@pytest.mark.parametrize(
    ("error", "freed"),
    [(MemoryError(), True), (ResourceError("out of memory on cuda"), True), (ValueError("odd"), False)],
)
def test_a_lack_of_memory_frees_the_vaes_and_each_job_leaves_four(
    server: Served, loaded: list[str], monkeypatch: pytest.MonkeyPatch, error: Exception, freed: bool
) -> None:
    called: list[str] = []

    def fails(**_: Any) -> Any:
        raise error

    def note(what: str) -> Callable[[Kept], None]:
        return lambda self: called.append(what)

    monkeypatch.setattr(work.workflow, "compare", fails)
    for what in ("trim", "clear"):
        monkeypatch.setattr(Kept, what, note(what))
    server.wait(server.start(), "failed")
    assert called == [*["clear"] * freed, "trim"]


def test_without_names_what_compare_takes_is_ticked(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(choosing, "_is_cached", lambda name: True)
    usual = {one.name for one in settle([], [], runtime=Runtime(offline=True)).vaes.values() if one.usual}
    assert usual == {name for space in registry().spaces.values() for name in space.compared}
    assert usual < registry().vaes.keys()


def test_what_was_named_is_ticked_and_paths_that_differ_in_case_are_two_choices(tmp_path: Path) -> None:
    from support import pipelines
    from support.vaes import random_vae

    model = pipelines.sd()
    models = [pipelines.write(model, tmp_path / place / "same") for place in ("one", "two", "TWO")]
    files = [random_vae(seed=n).save(tmp_path / name) for n, name in enumerate(("a.safetensors", "A.safetensors"))]
    found = settle([*map(str, models)], [*map(str, files), "TINY-kl-f8"], runtime=Runtime(offline=True))
    assert [one.name for one in found.models.values()][:3] == ["same", "same (2)", "same (3)"]
    mine = [one for one in found.vaes.values() if one.source in {*map(str, files), "TINY-kl-f8"}]
    assert [(one.name, one.usual) for one in mine] == [("a", True), ("A", True), ("tiny-kl-f8", True)]
    assert [one.name for one in found.vaes.values()].count("tiny-kl-f8") == 1
    assert (
        settle([], ["tiny-kl-f8"], runtime=Runtime(offline=True)).vaes.keys()
        == settle([], ["Tiny-KL-f8"], runtime=Runtime(offline=True)).vaes.keys()
    )


@pytest.mark.parametrize(("h", "w"), [(8, 8), (264, 264), (265, 300), (1024, 768), (1, 4096)])
def test_a_thumbnail_is_means_of_blocks(h: int, w: int) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (h, w, 3)).astype(np.uint8)
    small = work._thumbnail(pixels)
    assert max(small.shape) <= work.THUMB
    by_h, by_w = h // small.shape[0], w // small.shape[1]
    assert np.array_equal(small[0, 0], pixels[:by_h, :by_w].reshape(-1, 3).astype(float).mean(0).round())
    assert np.array_equal(small, pixels) == (max(h, w) <= work.THUMB)


def test_the_history_shows_a_small_image(server: Served) -> None:
    job = server.wait(server.start())["id"]
    status, headers, png = server.raw("GET", f"/api/jobs/{job}/thumbnail")
    assert (status, headers["content-type"], png[:4]) == (200, "image/png", b"\x89PNG")
    assert server.raw("GET", f"/api/jobs/{'0' * 32}/thumbnail")[0] == 404


def test_jobs_of_one_second_keep_their_order(server: Served) -> None:
    jobs = [server.slow() for _ in range(5)]
    created = [server.job(job)["created"] for job in jobs]
    assert created == sorted(set(created))
    for job in jobs:
        server.ask("POST", f"/api/jobs/{job}/cancel", {})


def test_a_fault_that_nobody_foresaw_is_reported(server: Served, monkeypatch: pytest.MonkeyPatch) -> None:
    reported: list[BaseException] = []
    monkeypatch.setattr(server.running.queue._workshop, "report", reported.append)
    monkeypatch.setattr(server.running.queue, "get", lambda _: 1 / 0)
    status, answer = server.ask("GET", f"/api/jobs/{'0' * 32}")
    assert (status, answer) == (500, {"error": "an unexpected error (ZeroDivisionError)."})
    assert [type(error) for error in reported] == [ZeroDivisionError]


def test_a_models_own_size_is_known(offer: Choices) -> None:
    assert {one["name"]: one["side"] for one in offer.shown()["models"]} == {"narrow-sd": 64, "tiny-sd": 256}
