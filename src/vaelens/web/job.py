"""A job as its file on disk holds it. A file that doesn't fit is left out of the history: it must not break the page.

In memory a job is the same, as a plain dict that is never changed, only replaced.
"""

import re
import secrets
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError

from vaelens.blind.result_file import BlindTest, Decoder, Sha256, parse_result
from vaelens.files import checked_json, read_checked_json
from vaelens.web.request import check_values

SCHEMA = 1  # of job.json; files with another one are ignored
ENDED = frozenset({"done", "failed", "cancelled", "interrupted"})
ID = re.compile(r"[0-9a-f]{32}")  # of jobs and uploads; only a string of this form ever becomes part of a path
BLIND_RESULTS = "blind_results"  # of a job in memory, {"count", "bytes"}: the folder tells them, not the job's file
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
    decoder: Count | None = None
    latents: Sha256 | None = None


class _Box(_Model):
    label: str
    left: float
    top: float
    right: float
    bottom: float
    glyph: bool


class _Panel(_Model):
    title: str
    note: str
    width: Annotated[int, Field(ge=1)]
    height: Annotated[int, Field(ge=1)]
    layers: Annotated[list[_Layer], Field(min_length=1)]
    boxes: list[_Box] = []


class _Blind(_Model):
    """What a blind test of the panels records, as `panels.blind_data` gives it."""

    page: Sha256
    vaelens: str
    decoders: Annotated[list[Decoder], Field(min_length=2)]


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
    blind: _Blind | None = None
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
    return checked_json({name: value for name, value in job.items() if name != BLIND_RESULTS})


def blind_test_of(job: Job, content: bytes) -> BlindTest:
    """The blind test in a result file's bytes.

    Raises ValueError, with a reason to put into a sentence, as `parse_result`, and for a test of another page than the
    job's: its images through its decoders.
    """
    test, own = parse_result(content), job.get("blind")
    if own is None:
        raise ValueError("this job has no image of two decoders, so there is no test of it")
    if test.page != own["page"]:
        raise ValueError("it is of other images than this job's")
    if [decoder.model_dump() for decoder in test.decoders] != own["decoders"]:
        raise ValueError("its decoders aren't this job's")
    return test
