"""What lies on disk: a folder a job with `job.json` and what came out of it, and the uploads that wait for a job.

Every id is made here, 32 random hexadecimal digits, and only such a one ever becomes part of a path.
"""

import json
import os
import re
import secrets
import shutil
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, cast

from filelock import FileLock, Timeout

from vaelens.errors import BadInputError, UsageError
from vaelens.files import explained, write_atomic
from vaelens.images.reading import check_picture
from vaelens.report.gallery import file_name

ID = re.compile(r"[0-9a-f]{32}")
JOB, RESULT, UPLOAD = "job.json", "result", "upload"
PAGE, SHEET, RECORD = "page.html", "sheet.png", "run.json"
KEPT_UPLOADS = 32  # that no job has taken yet; the oldest go first
UPLOAD_PIXELS = 2**24


def new_id() -> str:
    """An id that nobody can guess."""
    return secrets.token_hex(16)


class Store:
    """A folder with the history. One server at a time has it.

    Raises UsageError where another server has it, and what making the folder raises.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder.expanduser().absolute()
        try:
            for place in (self._jobs, self._uploads):
                place.mkdir(parents=True, exist_ok=True)
            self.folder.chmod(0o700)  # prompts and pictures are nobody else's business
        except OSError as error:
            raise explained(error, self.folder) from error
        self._lock = FileLock(self.folder / ".lock")
        try:
            self._lock.acquire(timeout=0)
        except Timeout as error:
            raise UsageError(f"{self.folder} is served already. Stop that server, or name another --folder.") from error
        for left in self._uploads.iterdir():  # nobody's page knows them any more
            _remove(left)

    @property
    def _jobs(self) -> Path:
        return self.folder / "jobs"

    @property
    def _uploads(self) -> Path:
        return self.folder / "uploads"

    def close(self) -> None:
        """Let another server have the folder."""
        self._lock.release()

    def read_all(self) -> list[dict[str, Any]]:
        """Every job of the history, the oldest first; what isn't one is left alone."""
        found: list[dict[str, Any]] = []
        for place in self._jobs.iterdir():
            if not ID.fullmatch(place.name):
                continue
            with suppress(OSError, ValueError, RecursionError):
                values = json.loads((place / JOB).read_bytes())
                if isinstance(values, dict) and cast(dict[str, Any], values).get("id") == place.name:
                    found.append(cast(dict[str, Any], values))
        return sorted(found, key=lambda job: (str(job.get("created")), job["id"]))

    def write_job(self, job: Mapping[str, Any]) -> None:
        """Raises what writing raises."""
        write_atomic(self._job(str(job["id"])) / JOB, json.dumps(job, indent=1).encode())

    def write_result(self, job: str, files: Mapping[str, bytes], pictures: Sequence[bytes]) -> int:
        """All that came out, or nothing: gives its bytes on disk. Raises what writing raises."""
        place = self._job(job) / RESULT
        contents = dict(files) | {f"{number}.png": png for number, png in enumerate(pictures)}
        try:
            for name, content in contents.items():
                write_atomic(place / name, content)
        except BaseException:
            _remove(place)
            raise
        return sum(map(len, contents.values()))

    def result(self, job: str, name: str) -> bytes | None:
        """A file of a job's result, by a name that the server knows."""
        return self._read(self._job(job) / RESULT / name)

    def picture(self, job: str, number: int) -> bytes | None:
        """One picture of a job's result."""
        return self._read(self._job(job) / RESULT / f"{number:d}.png")

    def delete_job(self, job: str) -> None:
        """The job and all that came out of it."""
        _remove(self._job(job))

    def begin_upload(self) -> tuple[str, Path]:
        """An id and the file to write to; `finish_upload` makes it known."""
        number = new_id()
        place = self._uploads / number
        try:
            place.mkdir()
        except OSError as error:
            raise explained(error, place) from error
        return number, place / "part"

    def finish_upload(self, number: str, name: str) -> tuple[int, int]:
        """Height and width from the header; nothing is decoded. Raises BadInputError for what is no picture."""
        place = self._uploads / number
        called = place / (file_name(Path(name.replace("\\", "/")).name) or "picture")
        (place / "part").rename(called)
        size = check_picture(called)
        if size[0] * size[1] > UPLOAD_PIXELS:
            raise BadInputError(
                f"{called.name} has {size[1]}x{size[0]} pixels; an upload has at most {UPLOAD_PIXELS}. "
                "Make it smaller first."
            )
        waiting = sorted(self._uploads.iterdir(), key=lambda one: one.stat().st_mtime)
        for old in waiting[:-KEPT_UPLOADS]:
            _remove(old)
        return size

    def drop_upload(self, number: str) -> None:
        """Forget an upload, whole or not."""
        _remove(self._uploads / number)

    def upload_name(self, number: str) -> str | None:
        """The file name of an upload that waits; None for an unknown id."""
        if not ID.fullmatch(number):
            return None
        with suppress(OSError):
            return next((one.name for one in (self._uploads / number).iterdir() if one.name != "part"), None)
        return None

    def take_upload(self, number: str, job: str) -> None:
        """Give a job its own copy, so that it lasts as long as the job. Raises what writing raises."""
        name = self.upload_name(number)
        if name is None:
            raise UsageError("that upload isn't here any more. Upload the picture again.")
        source = self._uploads / number / name
        write_atomic(self._job(job) / UPLOAD / name, source.read_bytes())

    def upload_of(self, job: str) -> Path | None:
        """The picture that a job was given."""
        with suppress(OSError):
            return next((self._job(job) / UPLOAD).iterdir(), None)
        return None

    def _job(self, job: str) -> Path:
        if not ID.fullmatch(job):
            raise ValueError("no id of ours")
        return self._jobs / job

    def _read(self, path: Path) -> bytes | None:
        try:
            return path.read_bytes()
        except OSError:
            return None


def default_folder() -> Path:
    """Where the history lies if nobody says."""
    data = os.environ.get("XDG_DATA_HOME") or str(Path.home() / ".local" / "share")
    return Path(data) / "vaelens" / "serve"


def _remove(place: Path) -> None:
    shutil.rmtree(place, ignore_errors=True)
