"""The jobs: their states, a thread a device that does one after the other, and what changed since when.

States: queued, running, done, failed, cancelled, interrupted (the server ended first). The last four are ends.
"""

import copy
import threading
import time
from collections import deque
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any

from vaelens.errors import ResourceError, VaelensError, is_out_of_memory
from vaelens.web.asked import Asked
from vaelens.web.store import new_id
from vaelens.web.work import Workshop

LONGEST = 100  # jobs that wait
ENDS = {"done", "failed", "cancelled", "interrupted"}
FORGOTTEN = 1000  # deletions that are remembered, for pages that missed them


class FullError(ResourceError):
    """No more jobs are taken for now."""


class Queue:
    """All jobs of the history, and those to come. Its methods may be called from any thread."""

    def __init__(self, workshop: Workshop, devices: Sequence[str] = ("auto",), longest: int = LONGEST) -> None:
        self._workshop, self._store, self._longest = workshop, workshop.store, longest
        self._changed = threading.Condition()
        self._jobs: dict[str, dict[str, Any]] = {}
        self._revisions: dict[str, int] = {}
        self._gone: deque[tuple[int, str]] = deque(maxlen=FORGOTTEN)
        self._revision = 0
        self._waiting: deque[tuple[str, Asked]] = deque()
        self._stops: set[str] = set()
        self._closing = False
        for job in self._store.read_all():
            self._jobs[job["id"]] = job
            if job.get("state") not in ENDS:
                job |= {"state": "interrupted", "progress": None}
                self._write(job)
            self._note(job["id"])
        self._workers = [threading.Thread(target=self._work, args=(device,), daemon=True) for device in devices]
        for worker in self._workers:
            worker.start()

    def add(self, asked: Asked, described: dict[str, Any]) -> dict[str, Any]:
        """Queue a job. Raises FullError when too many wait, UsageError for an upload that is gone, and as writing does.

        `described` is what is shown of the request: names, where the browser sent ids.
        """
        job: dict[str, Any] = {"id": new_id(), "state": "queued", "created": _now(), "asked": described}
        job |= {"settings": asked.model_dump(exclude={"upload"}, exclude_none=True)}
        job |= {"progress": None, "error": None, "said": [], "panels": [], "bytes": 0}
        self.check_room()
        try:
            if asked.upload is not None:
                job["asked"] = {**described, "upload": self._store.upload_name(asked.upload)}
                self._store.take_upload(asked.upload, job["id"])
            self._store.write_job(job)
            with self._changed:
                self.check_room()
                self._jobs[job["id"]] = job
                self._waiting.append((job["id"], asked))
                self._note(job["id"])
                return copy.deepcopy(job)
        except BaseException:
            self._store.delete_job(job["id"])
            raise

    def get(self, job: str) -> dict[str, Any] | None:
        """One job as it is now."""
        with self._changed:
            return copy.deepcopy(self._jobs.get(job))

    def cancel(self, job: str) -> bool:
        """Stop it, or never begin it; False where it has ended already. Raises KeyError for an unknown id."""
        with self._changed:
            state = self._jobs[job]["state"]
            if state in ENDS:
                return False
            if state == "queued":
                self._waiting = deque(one for one in self._waiting if one[0] != job)
                self._set(job, state="cancelled")
            else:
                self._stops.add(job)
            return True

    def delete(self, job: str) -> bool:
        """Forget an ended job and its files; False where it hasn't ended. Raises KeyError for an unknown id."""
        with self._changed:
            if self._jobs[job]["state"] not in ENDS:
                return False
            del self._jobs[job]
            self._revision += 1
            self._revisions.pop(job)
            self._gone.append((self._revision, job))
        self._store.delete_job(job)
        return True

    def since(self, revision: int) -> tuple[int, list[dict[str, Any]], list[str]]:
        """The revision now, the jobs that changed after that one, and the ids of those deleted; -1 gives all jobs."""
        with self._changed:
            if revision == self._revision:
                return revision, [], []
            changed = [copy.deepcopy(self._jobs[one]) for one, at in self._revisions.items() if at > revision]
            return self._revision, changed, [one for at, one in self._gone if at > revision]

    def close(self, patience: float = 10.0) -> bool:
        """End the workers; what waits or runs is marked as interrupted. False where one works on after `patience`."""
        with self._changed:
            self._closing = True
            for job in self._jobs.values():
                if job["state"] not in ENDS:
                    self._set(job["id"], state="interrupted", progress=None)
            self._waiting.clear()
            self._changed.notify_all()
        until = time.monotonic() + patience
        for worker in self._workers:
            worker.join(max(0.0, until - time.monotonic()))
        return not any(worker.is_alive() for worker in self._workers)

    def check_room(self) -> None:
        """Raises FullError where no job would be taken now."""
        if self._closing:
            raise FullError("the server is stopping.")
        if len(self._waiting) >= self._longest:
            raise FullError(f"{self._longest} jobs wait already. Cancel some, or try again later.")

    def _work(self, device: str) -> None:
        kept = self._workshop.kept(device)
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._closing or self._waiting)
                if self._closing:
                    return
                job, asked = self._waiting.popleft()
                self._set(job, state="running", progress={"done": 0, "total": 0, "what": "loading"}, started=_now())

            def progress(done: int, total: int, what: str, job: str = job) -> None:
                with self._changed:
                    if self._jobs[job]["state"] == "running":
                        self._set(job, write=False, progress={"done": done, "total": total, "what": what})

            def should_stop(job: str = job) -> bool:
                return self._closing or job in self._stops

            end: dict[str, Any]
            try:
                made = self._workshop.carry_out(
                    job, asked, device=device, kept=kept, progress=progress, should_stop=should_stop
                )
                end = {"state": "cancelled" if job in self._stops and self._cut(asked, made.panels) else "done"}
                end |= {"panels": made.panels, "said": made.said, "bytes": made.size}
            except KeyboardInterrupt:
                end = {"state": "cancelled"}
            except VaelensError as error:
                end = {"state": "failed", "error": self._workshop.cleaned(str(error))}
            except BaseException as error:  # noqa: BLE001  (a job's fault must not end its worker)
                end = {"state": "failed", "error": f"an unexpected error ({type(error).__name__})."}
                if is_out_of_memory(error):
                    end["error"] = "out of memory. Ask for a smaller picture, or fewer VAEs."
            with self._changed:
                self._stops.discard(job)
                if self._closing:  # it is marked already
                    return
                self._set(job, **end, progress=None, ended=_now())

    def _cut(self, asked: Asked, panels: list[dict[str, Any]]) -> bool:
        """Whether a stop left something out."""
        return asked.prompt is not None and len(panels) < len(set(asked.seeds))

    def _set(self, job: str, *, write: bool = True, **values: Any) -> None:
        self._jobs[job] |= values
        self._note(job)
        if write:
            self._write(self._jobs[job])

    def _note(self, job: str) -> None:
        self._revision += 1
        self._revisions[job] = self._revision
        with self._changed:
            self._changed.notify_all()

    def _write(self, job: dict[str, Any]) -> None:
        """To disk; where that is full, the state is known as long as the server runs."""
        try:
            self._store.write_job(job)
        except VaelensError as error:
            job["said"] = [*job.get("said", []), self._workshop.cleaned(str(error))][:8]


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")
