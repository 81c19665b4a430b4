"""All jobs by id, what changed since when, and the JSON that pages are told. The queue's lock guards it."""

import json
from collections import deque
from collections.abc import Iterable, Iterator
from typing import Any

from vaelens.web.job import ENDS, Job

PAGE_OF_PAST = 50  # ended jobs that a page is told at first, and at most so many more each time it asks
FORGOTTEN = 1000  # deletions that are remembered, for pages that missed them


class History:
    """In the order in which the jobs were made. No job is changed, it is replaced: so its JSON is made once."""

    def __init__(self) -> None:
        self.revision = 0
        self._jobs: dict[str, Job] = {}
        self._revisions: dict[str, int] = {}  # the lowest first
        self._gone: deque[tuple[int, str]] = deque(maxlen=FORGOTTEN)
        self._texts: dict[str, str] = {}
        self._past = self._bytes = 0  # of those that have ended

    def __iter__(self) -> Iterator[Job]:
        return iter(self._jobs.values())

    def get(self, job: str) -> Job | None:
        """One job as it is now."""
        return self._jobs.get(job)

    def put(self, job: Job) -> None:
        """A new job, or another state of it."""
        number = job["id"]
        self._count(number, -1)
        self._jobs[number] = job
        self._count(number, 1)
        self._texts.pop(number, None)
        self.revision += 1
        self._revisions.pop(number, None)
        self._revisions[number] = self.revision

    def remove(self, job: str) -> None:
        """Forget it. Raises KeyError for an unknown id."""
        self._count(job, -1)
        del self._jobs[job], self._revisions[job]
        self._texts.pop(job, None)
        self.revision += 1
        self._gone.append((self.revision, job))

    def first(self) -> str:
        """What a page is told at first: all jobs that haven't ended, and the newest that have."""
        waiting = [one["id"] for one in self if one["state"] not in ENDS]
        return self._told([*self._ended(None, PAGE_OF_PAST), *waiting])

    def older(self, before: str, count: int) -> str | None:
        """The ended jobs that were made before that one, the newest of them; None for an unknown id."""
        return self._told(self._ended(before, min(count, PAGE_OF_PAST))) if before in self._jobs else None

    def since(self, revision: int) -> str:
        """What changed after that revision."""
        changed: list[str] = []
        for job in reversed(self._revisions):
            if self._revisions[job] <= revision:
                break
            changed.append(job)
        return self._told(changed, [one for at, one in self._gone if at > revision])

    def _ended(self, before: str | None, count: int) -> list[str]:
        newest_first, found = reversed(self._jobs), list[str]()
        while before is not None and next(newest_first) != before:
            pass
        for job in newest_first:
            if len(found) >= count:
                break
            if self._jobs[job]["state"] in ENDS:
                found.append(job)
        return found

    def _told(self, jobs: Iterable[str], gone: Iterable[str] = ()) -> str:
        rest: dict[str, Any] = {"gone": list(gone), "past": self._past, "bytes": self._bytes}
        return f'{{"jobs": [{", ".join(map(self._text, jobs))}], {json.dumps(rest)[1:]}'

    def _text(self, job: str) -> str:
        if job not in self._texts:
            self._texts[job] = json.dumps(self._jobs[job])
        return self._texts[job]

    def _count(self, number: str, by: int) -> None:
        job = self._jobs.get(number)
        if job is not None and job["state"] in ENDS:
            self._past += by
            self._bytes += by * job["bytes"]
