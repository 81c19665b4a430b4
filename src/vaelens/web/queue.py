"""The job queue: jobs in their states, and a worker thread per device that runs one after the other.

States: queued, running, done, failed, cancelled, interrupted (the server ended first). The last four are final.
"""

import threading
import time
from collections import deque
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any

from vaelens.errors import ResourceError, UsageError, VaelensError
from vaelens.web.history import History
from vaelens.web.job import BLIND_RESULTS, ENDED, SCHEMA, Job, blind_test_of, new_id
from vaelens.web.request import JobRequest
from vaelens.web.worker import JobRunner, VAECache

MAX_WAITING = 100
MAX_NOTES = 8
MAX_BLIND_RESULTS = 200  # of a job: reading so many takes seconds


class QueueFullError(ResourceError):
    """No more jobs are accepted for now."""


class ConflictError(UsageError):
    """What was sent doesn't go with what is stored."""


class Queue:
    """All jobs of the history and the queue. Its methods may be called from any thread.

    `_changed` is held for moments only, as the server's event loop takes it too; writing to disk takes `_saving`.
    """

    def __init__(self, runner: JobRunner, devices: Sequence[str] = ("cpu",), max_waiting: int = MAX_WAITING) -> None:
        self._runner, self._store, self._max_waiting = runner, runner.store, max_waiting
        self._changed, self._saving = threading.Condition(), threading.Lock()
        self._jobs = History()
        self._waiting: deque[tuple[str, JobRequest]] = deque()
        self._cancelled: set[str] = set()
        self._closing = False
        for job in self._store.read_all():
            self._jobs.put(job)
            if job["state"] not in ENDED:
                self._put(job["id"], state="interrupted", progress=None)
                self._save(job["id"])
        self._workers = [threading.Thread(target=self._work, args=(device,), daemon=True) for device in devices]
        for worker in self._workers:
            worker.start()

    def add(self, request: JobRequest, summary: dict[str, Any]) -> Job:
        """Queue a job; `summary` is what the page shows of the request.

        Raises QueueFullError if too many wait, UsageError for an upload that is gone, and what writing raises.
        """
        job: Job = {"schema": SCHEMA, "id": new_id(), "state": "queued", "created": _now(), "summary": summary}
        job |= {"request": request.model_dump(exclude={"upload"}, exclude_none=True)}
        job |= {"progress": None, "error": None, "notes": [], "panels": [], "blind": None, "bytes": 0}
        job |= {BLIND_RESULTS: {"count": 0, "bytes": 0}}
        self.check_room()
        try:
            if request.upload is not None:
                name, size = self._store.take_upload(request.upload, job["id"])
                job |= {"summary": {**summary, "upload": name}, "bytes": size}
            self._store.write_job(job)
            with self._changed:
                self.check_room()
                self._jobs.put(job)
                self._waiting.append((job["id"], request))
                self._changed.notify_all()
                return job
        except BaseException:
            self._store.delete_job(job["id"])
            raise

    def get(self, job: str) -> Job | None:
        """One job in its current state; not to be changed."""
        with self._changed:
            return self._jobs.get(job)

    def first(self) -> tuple[int, str]:
        """The current revision, and what a page gets at first, as JSON."""
        with self._changed:
            return self._jobs.revision, self._jobs.first()

    def older(self, before: str, count: int) -> str | None:
        """More of the history, as JSON; None for an unknown id."""
        with self._changed:
            return self._jobs.older(before, count)

    def since(self, revision: int) -> tuple[int, str | None]:
        """The current revision, and what changed since the given one, as JSON; None if nothing did."""
        with self._changed:
            now = self._jobs.revision
            return now, None if now == revision else self._jobs.since(revision)

    def cancel(self, job: str) -> bool:
        """Stop a job, or remove it from the queue; False if it has ended. Raises KeyError for an unknown id."""
        with self._changed:
            state = self._known(job)["state"]
            if state in ENDED:
                return False
            if state == "running":
                self._cancelled.add(job)
                return True
            self._waiting = deque(one for one in self._waiting if one[0] != job)
            self._put(job, state="cancelled")
        self._save(job)
        return True

    def delete(self, job: str) -> bool:
        """Delete an ended job and its files; False if it hasn't ended. Raises KeyError for an unknown id."""
        with self._changed:
            if self._known(job)["state"] not in ENDED:
                return False
            self._jobs.remove(job)
        with self._saving:
            self._store.delete_job(job)
        return True

    def add_blind_result(self, job: str, content: bytes) -> str:
        """Store the result file of a blind test of this job; returns the test's id, by which the store has it.

        Raises KeyError for an unknown job, UsageError for a file that is no result of its test, ConflictError for a
        test that is stored already or is one too many, and what writing raises.
        """
        with self._changed:
            found = self._known(job)
        try:
            run = blind_test_of(found, content).run
        except ValueError as error:
            raise UsageError(
                f"the result can't be stored with this job: {error}. Send the file as this job's page saved it."
            ) from error
        with self._saving:  # nobody else stores or deletes anything meanwhile
            with self._changed:
                stored = self._known(job)[BLIND_RESULTS]
            if self._store.has_blind_result(job, run):
                raise ConflictError("this test's result is stored with the job already.")
            if stored["count"] >= MAX_BLIND_RESULTS:
                raise ConflictError(f"this job has {MAX_BLIND_RESULTS:,} results, and more aren't stored.")
            self._store.write_blind_result(job, run, content)
            with self._changed:
                count, size = stored["count"] + 1, stored["bytes"] + len(content)
                self._put(job, **{BLIND_RESULTS: {"count": count, "bytes": size}})
        return run

    def close(self, timeout: float = 10.0) -> bool:
        """Stop the workers and mark unfinished jobs as interrupted. A running job keeps the images it has finished.

        Returns False if a worker still runs after `timeout` seconds.
        """
        with self._changed:
            self._closing = True
            never_started = [job for job, _ in self._waiting]
            self._waiting.clear()
            for job in never_started:
                self._put(job, state="interrupted")
            self._changed.notify_all()
        for job in never_started:
            self._save(job)
        until = time.monotonic() + timeout
        for worker in self._workers:
            worker.join(max(0.0, until - time.monotonic()))
        with self._changed:
            unfinished = [job["id"] for job in self._jobs if job["state"] not in ENDED]
            for job in unfinished:
                self._put(job, state="interrupted", progress=None)
        for job in unfinished:
            self._save(job)
        return not any(worker.is_alive() for worker in self._workers)

    def check_room(self) -> None:
        """Raises QueueFullError if too many jobs wait, ResourceError if the server is stopping."""
        if self._closing:
            raise ResourceError("the server is stopping.")
        if len(self._waiting) >= self._max_waiting:
            raise QueueFullError(f"{self._max_waiting} jobs are waiting already. Cancel some, or try again later.")

    def _work(self, device: str) -> None:
        cache = self._runner.cache(device)
        self._runner.warm_up()
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._closing or self._waiting)
                if self._closing:
                    return
                job, request = self._waiting.popleft()
                self._put(job, state="running", progress={"done": 0, "total": 0, "what": "loading"}, started=_now())
            self._save(job)
            end = self._run(job, request, cache)
            with self._changed:
                self._cancelled.discard(job)
                if self._known(job)["state"] != "running":  # `close` gave up on it; the folder may be another server's
                    return
                self._put(job, **end, progress=None, ended=_now())
            self._save(job)

    def _run(self, job: str, request: JobRequest, cache: VAECache) -> dict[str, Any]:
        """The job's final state and result. An error in a job must not end its worker."""

        def progress(done: int, total: int, what: str) -> None:
            with self._changed:
                if self._known(job)["state"] == "running":
                    self._put(job, progress={"done": done, "total": total, "what": what})

        def should_stop() -> bool:
            return self._closing or job in self._cancelled

        try:
            outcome = self._runner.run(job, request, cache, progress=progress, should_stop=should_stop)
        except KeyboardInterrupt:
            return {"state": self._stopped(job)}
        except VaelensError as error:
            return {"state": "failed", "error": self._runner.without_paths(str(error))}
        except BaseException as error:  # noqa: BLE001
            self._runner.report(error)
            return {"state": "failed", "error": f"an unexpected error ({type(error).__name__})."}
        incomplete = request.prompt is not None and len(outcome.panels) < len(set(request.seeds))
        size = self._known(job)["bytes"] + outcome.size  # with its upload
        state = self._stopped(job) if incomplete else "done"
        shown = {"panels": outcome.panels, "blind": outcome.blind, "notes": outcome.notes}
        return {"state": state, **shown, "bytes": size}

    def _stopped(self, job: str) -> str:
        return "cancelled" if job in self._cancelled else "interrupted"

    def _known(self, job: str) -> Job:
        found = self._jobs.get(job)
        if found is None:
            raise KeyError(job)
        return found

    def _put(self, job: str, **values: Any) -> None:
        self._jobs.put({**self._known(job), **values})

    def _save(self, job: str) -> None:
        """Write the job's current state, never an earlier one. If the disk is full, it lives as long as the server."""
        with self._saving:
            found = self.get(job)
            if found is None:
                return
            try:
                self._store.write_job(found)
            except VaelensError as error:
                note = self._runner.without_paths(str(error))
                with self._changed:
                    if self._jobs.get(job) is not None:
                        self._put(job, notes=[*self._known(job)["notes"], note][:MAX_NOTES])


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="milliseconds")
