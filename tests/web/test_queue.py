"""The served queue: slow disks, a long history, the end of the server in mid-job, and the VAEs that stay in memory."""

import json
import threading
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from support import pipelines
from support.browser.served import GOOD, NO_RESULTS, Served, image, serving
from support.vaes import random_vae
from vaelens.errors import ResourceError
from vaelens.files import checked_json
from vaelens.runtime import Runtime
from vaelens.web import choices as choosing
from vaelens.web import history, worker
from vaelens.web import store as storing
from vaelens.web.choices import Choices, Decoder, collect_choices
from vaelens.web.history import PAGE_SIZE, History
from vaelens.web.store import Store
from vaelens.web.worker import VAECache
from vaelens.weights.registry import registry


def test_a_slow_disk_delays_no_reader(server: Served, monkeypatch: pytest.MonkeyPatch) -> None:
    job, write = server.slow(), storing.write_atomic
    server.wait(job, "running")
    writing, resume = threading.Event(), threading.Event()

    def slow(path: Any, content: Any) -> Any:
        writing.set()
        assert resume.wait(30)
        return write(path, content)

    monkeypatch.setattr(storing, "write_atomic", slow)
    try:
        assert server.ask("POST", f"/api/jobs/{job}/cancel", {})[0] == 200
        assert writing.wait(30)  # the worker says that the job has ended
        assert server.job(job)["state"] == "cancelled"
        assert server.ask("GET", "/api/jobs")[0] == server.raw("GET", "/")[0] == 200
        state = server.first_of_events()["jobs"]
    finally:
        resume.set()
    assert [one["state"] for one in state] == ["cancelled"]


def test_the_disk_gets_the_last_state(server: Served) -> None:
    first, second = server.slow(), server.slow()
    server.wait(first, "running")
    for job in (second, first):
        server.ask("POST", f"/api/jobs/{job}/cancel", {})
        server.wait(job, "cancelled")
    file = server.running.store.folder / "jobs"
    server.until(lambda: all("cancelled" in (file / job / "job.json").read_text() for job in (first, second)))


def test_a_page_gets_the_newest_jobs_and_older_ones_on_request(offer: Choices, tmp_path: Path) -> None:
    Store(tmp_path).close()
    ids = [f"{number:032x}" for number in range(120)]
    for number, job in enumerate(ids):
        (tmp_path / "jobs" / job).mkdir()
        values = GOOD | {"id": job, "created": f"2025-01-02T03:04:05.{number:03}+00:00"}
        (tmp_path / "jobs" / job / "job.json").write_bytes(checked_json(values))
    with serving(offer, tmp_path) as served:
        open_one = served.slow()
        state = served.first_of_events()
        assert (state["ended"], state["bytes"]) == (120, 1200)
        assert {job["id"] for job in state["jobs"]} == {*ids[-PAGE_SIZE:], open_one}
        more = served.ask("GET", f"/api/jobs?before={ids[70]}")[1]["jobs"]
        assert [job["id"] for job in more] == ids[69:19:-1]
        last = served.ask("GET", f"/api/jobs?before={ids[20]}&count=7")[1]
        assert [job["id"] for job in last["jobs"]] == ids[19:12:-1]
        assert served.ask("GET", f"/api/jobs?before={'f' * 32}")[0] == 404
        assert served.ask("DELETE", f"/api/jobs/{ids[0]}")[0] == 204
        left = served.ask("GET", "/api/jobs")[1]
        assert (left["ended"], left["bytes"]) == (119, 1190)
        for wrong in ("0", "51", "many"):
            status, answer = served.ask("GET", f"/api/jobs?before={ids[70]}&count={wrong}")
            assert (status, set(answer)) == (422, {"error"})


def test_the_text_of_a_job_is_made_once(monkeypatch: pytest.MonkeyPatch) -> None:
    jobs, dumps, made = History(), json.dumps, list[Any]()
    for number in range(3):
        jobs.put({"id": str(number), "state": "done", "bytes": 1, **NO_RESULTS})

    def counted(value: Any) -> str:
        made.extend([value["id"]] if "id" in value else [])
        return dumps(value)

    monkeypatch.setattr(history.json, "dumps", counted)
    first = jobs.first()
    assert jobs.first() == first
    assert sorted(made) == ["0", "1", "2"]
    before = jobs.revision
    one = {"id": "1", "state": "done", "bytes": 5, "blind_results": {"count": 2, "bytes": 300}}
    jobs.put(one)
    changed = {"jobs": [one], "deleted": [], "ended": 3, "bytes": 307}
    assert json.loads(jobs.since(before)) == changed
    assert len(made) == 4


def test_a_stopped_server_saves_the_images_of_an_unfinished_job(offer: Choices, tmp_path: Path) -> None:
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
    _, upload = server.upload(image())
    done = server.wait(server.ask("POST", "/api/jobs", {"upload": upload["id"], "vaes": server.vaes})[1]["id"])
    place = server.running.store.folder / "jobs" / done["id"]
    assert done["bytes"] == sum(f.stat().st_size for name in ("result", "upload") for f in (place / name).iterdir())


def test_libraries_are_imported_before_the_first_job(offer: Choices, tmp_path: Path, monkeypatch: Any) -> None:
    done: list[str] = []
    monkeypatch.setattr(worker, "diffusers", lambda: done.append("imported"))
    compare = worker.workflow.compare
    monkeypatch.setattr(worker.workflow, "compare", lambda **given: done.append("compared") or compare(**given))
    with serving(offer, tmp_path) as served:
        served.wait(served.start())
    assert done == ["imported", "compared"]


@pytest.fixture
def loaded(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The sources that were opened, in order; nothing is read."""
    sources: list[str] = []
    monkeypatch.setattr(worker, "open_vae", lambda source, *_, **__: sources.append(source) or SimpleNamespace())
    return sources


def decoders(*names: str) -> list[Decoder]:
    return [Decoder(name, name, name, "sd1") for name in names]


def test_four_vaes_stay_in_memory_the_last_used(loaded: list[str]) -> None:
    cache = VAECache(Runtime(), None)
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

    monkeypatch.setattr(worker.workflow, "compare", fails)
    for method in ("trim", "clear"):
        monkeypatch.setattr(VAECache, method, lambda self, method=method: called.append(method))
    server.wait(server.start(), "failed")
    assert called == [*["clear"] * freed, "trim"]


def test_the_default_vaes_are_preselected_where_none_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(choosing, "_is_cached", lambda name: True)
    vaes = collect_choices([], [], runtime=Runtime(offline=True)).vaes.values()
    preselected = {vae.name for vae in vaes if vae.preselected}
    assert preselected == {name for space in registry().spaces.values() for name in space.default_vaes}
    assert preselected < registry().vaes.keys()


def test_named_vaes_are_preselected_and_paths_that_differ_in_case_are_two(tmp_path: Path) -> None:
    model = pipelines.sd()
    models = [pipelines.write(model, tmp_path / place / "same") for place in ("one", "two", "TWO")]
    files = [random_vae(seed=n).save(tmp_path / name) for n, name in enumerate(("a.safetensors", "A.safetensors"))]
    runtime = Runtime(offline=True)
    found = collect_choices([*map(str, models)], [*map(str, files), "TINY-kl-f8"], runtime=runtime)
    assert [one.name for one in found.models.values()][:3] == ["same", "same (2)", "same (3)"]
    mine = [one for one in found.vaes.values() if one.source in {*map(str, files), "TINY-kl-f8"}]
    assert [(one.name, one.preselected) for one in mine] == [("a", True), ("A", True), ("tiny-kl-f8", True)]
    assert [one.name for one in found.vaes.values()].count("tiny-kl-f8") == 1
    lower, mixed = (collect_choices([], [name], runtime=runtime).vaes for name in ("tiny-kl-f8", "Tiny-KL-f8"))
    assert lower.keys() == mixed.keys()


@pytest.mark.parametrize(("h", "w"), [(8, 8), (264, 264), (265, 300), (1024, 768), (1, 4096)])
def test_a_thumbnail_averages_blocks(h: int, w: int) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (h, w, 3)).astype(np.uint8)
    small = worker._thumbnail(pixels)
    assert max(small.shape) <= worker.THUMBNAIL_SIDE
    by_h, by_w = h // small.shape[0], w // small.shape[1]
    assert np.array_equal(small[0, 0], pixels[:by_h, :by_w].reshape(-1, 3).astype(float).mean(0).round())
    assert np.array_equal(small, pixels) == (max(h, w) <= worker.THUMBNAIL_SIDE)


def test_jobs_of_one_second_keep_their_order(server: Served) -> None:
    jobs = [server.slow() for _ in range(5)]
    created = [server.job(job)["created"] for job in jobs]
    assert created == sorted(set(created))
    for job in jobs:
        server.ask("POST", f"/api/jobs/{job}/cancel", {})


def test_an_unexpected_error_is_reported(server: Served, monkeypatch: pytest.MonkeyPatch) -> None:
    reported: list[BaseException] = []
    monkeypatch.setattr(server.running.queue._runner, "report", reported.append)
    monkeypatch.setattr(server.running.queue, "get", lambda _: 1 / 0)
    status, answer = server.ask("GET", f"/api/jobs/{'0' * 32}")
    assert (status, answer) == (500, {"error": "an unexpected error (ZeroDivisionError)."})
    assert [type(error) for error in reported] == [ZeroDivisionError]


def test_a_models_own_size_is_known(offer: Choices) -> None:
    sizes = {one["name"]: one["defaults"]["size"] for one in offer.as_json()["models"]}
    assert sizes == {"narrow-sd": "64x64", "tiny-sd": "256x256"}
