"""All jobs by id, what changed since a revision, and the JSON that pages get. The queue's lock guards it."""

import json
from collections import deque
from collections.abc import Iterable, Iterator
from typing import Any

from vaelens.web.job import BLIND_RESULTS, ENDED, Job

PAGE_SIZE = 50  # ended jobs that a page gets at first, and at most per request after that
MAX_DELETIONS = 1000  # deletions that are remembered, for pages that missed them


class History:
    """Jobs in the order of their creation. A job is never changed but replaced, so its JSON is made once."""

    def __init__(self) -> None:
        self.revision = 0
        self._jobs: dict[str, Job] = {}
        self._revisions: dict[str, int] = {}  # of each job's last change, the oldest first
        self._deleted: deque[tuple[int, str]] = deque(maxlen=MAX_DELETIONS)
        self._texts: dict[str, str] = {}
        self._ended = self._bytes = 0  # count and size on disk of the jobs that have ended

    def __iter__(self) -> Iterator[Job]:
        return iter(self._jobs.values())

    def get(self, job: str) -> Job | None:
        """One job in its current state."""
        return self._jobs.get(job)

    def put(self, job: Job) -> None:
        """Add a job, or replace its state."""
        number = job["id"]
        self._count(number, -1)
        self._jobs[number] = job
        self._count(number, 1)
        self._texts.pop(number, None)
        self.revision += 1
        self._revisions.pop(number, None)
        self._revisions[number] = self.revision

    def remove(self, job: str) -> None:
        """Delete a job. Raises KeyError for an unknown id."""
        self._count(job, -1)
        del self._jobs[job], self._revisions[job]
        self._texts.pop(job, None)
        self.revision += 1
        self._deleted.append((self.revision, job))

    def first(self) -> str:
        """What a page gets at first: all jobs that haven't ended, and the newest that have."""
        waiting = [one["id"] for one in self if one["state"] not in ENDED]
        return self._message([*self._newest(None, PAGE_SIZE), *waiting])

    def older(self, before: str, count: int) -> str | None:
        """The newest of the ended jobs created before that one; None for an unknown id."""
        return self._message(self._newest(before, min(count, PAGE_SIZE))) if before in self._jobs else None

    def since(self, revision: int) -> str:
        """What changed after that revision."""
        changed: list[str] = []
        for job in reversed(self._revisions):
            if self._revisions[job] <= revision:
                break
            changed.append(job)
        return self._message(changed, [job for at, job in self._deleted if at > revision])

    def _newest(self, before: str | None, count: int) -> list[str]:
        newest_first, found = reversed(self._jobs), list[str]()
        while before is not None and next(newest_first) != before:
            pass
        for job in newest_first:
            if len(found) >= count:
                break
            if self._jobs[job]["state"] in ENDED:
                found.append(job)
        return found

    def _message(self, jobs: Iterable[str], deleted: Iterable[str] = ()) -> str:
        rest: dict[str, Any] = {"deleted": list(deleted), "ended": self._ended, "bytes": self._bytes}
        return f'{{"jobs": [{", ".join(map(self._text, jobs))}], {json.dumps(rest)[1:]}'

    def _text(self, job: str) -> str:
        if job not in self._texts:
            self._texts[job] = json.dumps(self._jobs[job])
        return self._texts[job]

    def _count(self, number: str, by: int) -> None:
        job = self._jobs.get(number)
        if job is not None and job["state"] in ENDED:
            self._ended += by
            self._bytes += by * (job["bytes"] + job[BLIND_RESULTS]["bytes"])
