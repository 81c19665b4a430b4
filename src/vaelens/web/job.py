"""A job as its file on disk holds it. A file that doesn't fit is left out of the history: it must not break the page.

In memory a job is the same, as a plain dict that is never changed, only replaced.
"""

import re
import secrets
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError

from vaelens.files import checked_json, read_checked_json
from vaelens.web.request import check_values

SCHEMA = 1  # of job.json; files with another one are ignored
ENDED = frozenset({"done", "failed", "cancelled", "interrupted"})
ID = re.compile(r"[0-9a-f]{32}")  # of jobs and uploads; only a string of this form ever becomes part of a path
Job = dict[str, Any]
Count = Annotated[int, Field(ge=0)]


class _Model(BaseModel):
    model_config = ConfigDict(strict=True)


class _Progress(_Model):
    done: Count
    total: Count
    what: str


class _Layer(_Model):
    name: str
    note: str
    image: Count


class _Panel(_Model):
    title: str
    note: str
    width: Annotated[int, Field(ge=1)]
    height: Annotated[int, Field(ge=1)]
    layers: Annotated[list[_Layer], Field(min_length=1)]


class _Summary(_Model):
    """What is shown of the request: names instead of ids; seeds as text, as JavaScript rounds large numbers."""

    prompt: str | None
    model: str | None
    vaes: list[str]
    seeds: str | None = None
    upload: str | None = None


class _Job(_Model):
    """`request` is the body of the request without the upload: what "Use these settings" fills in."""

    version: Annotated[Literal[1], Field(alias="schema")]
    id: str
    state: Literal["queued", "running", "done", "failed", "cancelled", "interrupted"]
    created: str
    started: str | None = None
    ended: str | None = None
    summary: _Summary
    request: Annotated[dict[str, Any], AfterValidator(check_values)]
    progress: _Progress | None
    error: str | None
    notes: list[str]
    panels: list[_Panel]
    bytes: Count


def new_id() -> str:
    """An id that nobody can guess."""
    return secrets.token_hex(16)


def read_job(content: bytes) -> Job:
    """The job in a file. Raises ValueError where it isn't one, and where it has changed since it was written."""
    try:
        return _Job.model_validate(read_checked_json(content)).model_dump(exclude_unset=True, by_alias=True)
    except ValidationError as error:
        raise ValueError("it holds no job of this version") from error


def job_text(job: Job) -> bytes:
    """A job as its file holds it."""
    return checked_json(job)
