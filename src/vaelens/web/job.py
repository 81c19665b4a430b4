"""What a job's file on disk holds. Whatever doesn't fit is left out of the history: one bad file must not end a page.

In memory a job is the same as a plain dict, never changed but replaced.
"""

import json
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

SCHEMA = 1  # of job.json; another one is left alone
ENDS = frozenset({"done", "failed", "cancelled", "interrupted"})
Job = dict[str, Any]
Count = Annotated[int, Field(ge=0)]


class _Values(BaseModel):
    model_config = ConfigDict(strict=True)


class _Progress(_Values):
    done: Count
    total: Count
    what: str


class _Layer(_Values):
    name: str
    note: str
    image: Count


class _Panel(_Values):
    title: str
    note: str
    width: Annotated[int, Field(ge=1)]
    height: Annotated[int, Field(ge=1)]
    layers: Annotated[list[_Layer], Field(min_length=1)]


class _Asked(_Values):
    """What is shown of the request: names where the browser sent ids; seeds as text, as a page rounds large numbers."""

    prompt: str | None
    model: str | None
    vaes: list[str]
    seeds: str | None = None
    upload: str | None = None


class _Settings(_Values):
    """The request itself, without the upload: what "use these settings" fills in."""

    vaes: list[str]
    seeds: list[int]
    max_side: int | None = None
    prompt: str | None = None
    negative: str | None = None
    model: str | None = None
    steps: int | None = None
    cfg: float | None = None
    size: str | None = None
    scheduler: str | None = None


class _Job(_Values):
    version: Annotated[Literal[1], Field(alias="schema")]
    id: str
    state: Literal["queued", "running", "done", "failed", "cancelled", "interrupted"]
    created: str
    started: str | None = None
    ended: str | None = None
    asked: _Asked
    settings: _Settings
    progress: _Progress | None
    error: str | None
    said: list[str]
    panels: list[_Panel]
    bytes: Count


def read_job(content: bytes) -> Job | None:
    """The job in a file; None for what isn't one."""
    try:
        return _Job.model_validate_json(content).model_dump(exclude_unset=True, by_alias=True)
    except ValidationError:
        return None


def job_text(job: Job) -> bytes:
    """A job as its file holds it."""
    return json.dumps(job, indent=1).encode()
