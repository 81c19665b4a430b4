"""The jobs: their states, a thread a device that does one after the other, and what changed since when.

States: queued, running, done, failed, cancelled, interrupted (the server ended first). The last four are ends.
"""

import threading
import time
from collections import deque
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any

from vaelens.errors import ResourceError, VaelensError
from vaelens.resources import is_out_of_memory
from vaelens.web.asked import Asked
from vaelens.web.history import History
from vaelens.web.ids import new_id
from vaelens.web.job import ENDS, SCHEMA, Job
from vaelens.web.kept import Kept
from vaelens.web.work import Workshop

LONGEST = 100  # jobs that wait


class FullError(ResourceError):
    """No more jobs are taken for now."""


class Queue:
    """All jobs of the history, and those to come. Its methods may be called from any thread.

    `_changed` is held for moments only, as the page's own loop takes it; what writes to disk waits for `_saving`.
    """

    def __init__(self, workshop: Workshop, devices: Sequence[str] = ("auto",), longest: int = LONGEST) -> None:
        self._workshop, self._store, self._longest = workshop, workshop.store, longest
        self._changed, self._saving = threading.Condition(), threading.Lock()
        self._jobs = History()
        self._waiting: deque[tuple[str, Asked]] = deque()
        self._stops: set[str] = set()
        self._closing = False
        for job in self._store.read_all():
            self._jobs.put(job)
            if job["state"] not in ENDS:
                self._put(job["id"], state="interrupted", progress=None)
                self._save(job["id"])
        self._workers = [threading.Thread(target=self._work, args=(device,), daemon=True) for device in devices]
        for worker in self._workers:
            worker.start()

    def add(self, asked: Asked, described: dict[str, Any]) -> Job:
        """Queue a job. Raises FullError when too many wait, UsageError for an upload that is gone, and as writing does.

        `described` is what is shown of the request: names, where the browser sent ids.
        """
        job: Job = {"schema": SCHEMA, "id": new_id(), "state": "queued", "created": _now(), "asked": described}
        job |= {"settings": asked.model_dump(exclude={"upload"}, exclude_none=True)}
        job |= {"progress": None, "error": None, "said": [], "panels": [], "bytes": 0}
        self.check_room()
        try:
            if asked.upload is not None:
                name, size = self._store.take_upload(asked.upload, job["id"])
                job |= {"asked": {**described, "upload": name}, "bytes": size}
            self._store.write_job(job)
            with self._changed:
                self.check_room()
                self._jobs.put(job)
                self._waiting.append((job["id"], asked))
                self._changed.notify_all()
                return job
        except BaseException:
            self._store.delete_job(job["id"])
            raise

    def get(self, job: str) -> Job | None:
        """One job as it is now; not to be changed."""
        with self._changed:
            return self._jobs.get(job)

    def first(self) -> tuple[int, str]:
        """The revision now, and what a page is told at first, as JSON."""
        with self._changed:
            return self._jobs.revision, self._jobs.first()

    def older(self, before: str, count: int) -> str | None:
        """More of the history, as JSON; None for an unknown id."""
        with self._changed:
            return self._jobs.older(before, count)

    def since(self, revision: int) -> tuple[int, str | None]:
        """The revision now, and what changed after that one, as JSON; None where nothing did."""
        with self._changed:
            now = self._jobs.revision
            return now, None if now == revision else self._jobs.since(revision)

    def cancel(self, job: str) -> bool:
        """Stop it, or never begin it; False where it has ended already. Raises KeyError for an unknown id."""
        with self._changed:
            state = self._known(job)["state"]
            if state in ENDS:
                return False
            if state == "running":
                self._stops.add(job)
                return True
            self._waiting = deque(one for one in self._waiting if one[0] != job)
            self._put(job, state="cancelled")
        self._save(job)
        return True

    def delete(self, job: str) -> bool:
        """Forget an ended job and its files; False where it hasn't ended. Raises KeyError for an unknown id."""
        with self._changed:
            if self._known(job)["state"] not in ENDS:
                return False
            self._jobs.remove(job)
        with self._saving:
            self._store.delete_job(job)
        return True

    def close(self, patience: float = 10.0) -> bool:
        """End the workers; what waits or is cut short is marked as interrupted. A running job keeps what it made.

        False where a worker works on after `patience`.
        """
        with self._changed:
            self._closing = True
            never_begun = [job for job, _ in self._waiting]
            self._waiting.clear()
            for job in never_begun:
                self._put(job, state="interrupted")
            self._changed.notify_all()
        for job in never_begun:
            self._save(job)
        until = time.monotonic() + patience
        for worker in self._workers:
            worker.join(max(0.0, until - time.monotonic()))
        with self._changed:
            unfinished = [job["id"] for job in self._jobs if job["state"] not in ENDS]
            for job in unfinished:
                self._put(job, state="interrupted", progress=None)
        for job in unfinished:
            self._save(job)
        return not any(worker.is_alive() for worker in self._workers)

    def check_room(self) -> None:
        """Raises FullError where too many wait, ResourceError where the server is about to end."""
        if self._closing:
            raise ResourceError("the server is stopping.")
        if len(self._waiting) >= self._longest:
            raise FullError(f"{self._longest} jobs wait already. Cancel some, or try again later.")

    def _work(self, device: str) -> None:
        kept = self._workshop.kept(device)
        self._workshop.warm_up()
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._closing or self._waiting)
                if self._closing:
                    return
                job, asked = self._waiting.popleft()
                self._put(job, state="running", progress={"done": 0, "total": 0, "what": "loading"}, started=_now())
            self._save(job)
            end = self._carried_out(job, asked, device, kept)
            with self._changed:
                self._stops.discard(job)
                if self._known(job)["state"] != "running":  # `close` gave it up: the folder may be another server's
                    return
                self._put(job, **end, progress=None, ended=_now())
            self._save(job)

    def _carried_out(self, job: str, asked: Asked, device: str, kept: Kept) -> dict[str, Any]:
        """What becomes of the job. A fault of it must not end its worker."""

        def progress(done: int, total: int, what: str) -> None:
            with self._changed:
                if self._known(job)["state"] == "running":
                    self._put(job, progress={"done": done, "total": total, "what": what})

        def should_stop() -> bool:
            return self._closing or job in self._stops

        try:
            made = self._workshop.carry_out(
                job, asked, device=device, kept=kept, progress=progress, should_stop=should_stop
            )
        except KeyboardInterrupt:
            return {"state": self._stopped(job)}
        except VaelensError as error:
            return {"state": "failed", "error": self._workshop.cleaned(str(error))}
        except BaseException as error:  # noqa: BLE001
            if is_out_of_memory(error):
                return {"state": "failed", "error": "out of memory. Ask for a smaller image, or fewer VAEs."}
            self._workshop.report(error)
            return {"state": "failed", "error": f"an unexpected error ({type(error).__name__})."}
        cut = asked.prompt is not None and len(made.panels) < len(set(asked.seeds))  # a stop left something out
        bytes_now = self._known(job)["bytes"] + made.size  # with its upload
        end = {"state": self._stopped(job) if cut else "done"}
        return end | {"panels": made.panels, "said": made.said, "bytes": bytes_now}

    def _stopped(self, job: str) -> str:
        return "cancelled" if job in self._stops else "interrupted"

    def _known(self, job: str) -> Job:
        found = self._jobs.get(job)
        if found is None:
            raise KeyError(job)
        return found

    def _put(self, job: str, **values: Any) -> None:
        self._jobs.put({**self._known(job), **values})

    def _save(self, job: str) -> None:
        """To disk as it is now, never an earlier state; where that is full, it is known as long as the server runs."""
        with self._saving:
            found = self.get(job)
            if found is None:
                return
            try:
                self._store.write_job(found)
            except VaelensError as error:
                sentence = self._workshop.cleaned(str(error))
                with self._changed:
                    if self._jobs.get(job) is not None:
                        self._put(job, said=[*self._known(job)["said"], sentence][:8])


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="milliseconds")
