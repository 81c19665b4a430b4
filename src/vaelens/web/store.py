"""The server's folder: per job a folder with `job.json`, its result and those of its blind tests; and the uploads that
no job has used yet.

A folder without our marker is never written to, and nothing in ours is removed except by an id we made.
"""

import hashlib
import os
import shutil
from collections.abc import Mapping, Sequence
from contextlib import suppress
from datetime import datetime
from pathlib import Path
from typing import Any

from vaelens.blind.result_file import SIZE_LIMIT, BlindTest, ResultFile
from vaelens.errors import CheckFailedError, UsageError
from vaelens.files import is_temporary, remove_leftovers, write_atomic
from vaelens.runs.lock import LOCK, acquire_folder
from vaelens.runs.outputs import RECORD_NAME, read_output, write_outputs
from vaelens.runtime import Notify, silent
from vaelens.text.numbers import counted
from vaelens.text.paths import explained, reason, user_path
from vaelens.web.job import BLIND_RESULTS, ID, Job, blind_test_of, job_text, read_job
from vaelens.web.uploads import Uploads

MARKER = ".vaelens-serve"
JOB, RESULT, UPLOAD, BLIND = "job.json", "result", "upload", "blind"
PAGE, SHEET, RECORD, THUMBNAIL = "page.html", "sheet.png", RECORD_NAME, "thumbnail.png"


class Store:
    """The folder with the history, locked by one server at a time.

    Raises UsageError if another server has it or if it holds other files, and what writing to the folder raises.
    """

    def __init__(self, folder: Path, notify: Notify = silent) -> None:
        self.folder = user_path(folder).absolute()
        self._notify = notify
        self._jobs, uploads = self.folder / "jobs", self.folder / "uploads"
        try:
            self._claim(self._jobs, uploads)
            in_use = f"{self.folder} is in use by another server. Stop it, or choose another --folder."
            self._lock = acquire_folder(self.folder, in_use=in_use)
        except OSError as error:
            raise explained(error, self.folder) from error
        remove_leftovers(self.folder, below=True)
        self.uploads = Uploads(uploads)

    def _claim(self, *places: Path) -> None:
        # Prompts and images are private, so new folders are readable by their owner only. An existing folder keeps its
        # mode: others may work in it.
        self.folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        there = {one.name for one in self.folder.iterdir() if not is_temporary(one.name)} - {LOCK}
        if there and MARKER not in there:
            raise UsageError(
                f"{self.folder} holds other files and no history of `vaelens serve`, so nothing is written there. "
                "Choose a --folder that is new or empty."
            )
        (self.folder / MARKER).touch()
        for place in places:
            place.mkdir(mode=0o700, exist_ok=True)

    def close(self) -> None:
        """Unlock the folder."""
        self._lock.release()

    def read_all(self) -> list[Job]:
        """Every job of the history, the oldest first. Damaged ones are left out with a notice, other files without."""
        found: list[Job] = []
        damaged: list[str] = []
        for place in self._jobs.iterdir():
            file = place / JOB
            if not ID.fullmatch(place.name) or not file.is_file():
                continue
            try:
                job = read_job(file.read_bytes())
                if job["id"] != place.name:
                    raise ValueError("it is another job's")
                found.append(job | {BLIND_RESULTS: self._blind_size(place.name)})
            except (OSError, ValueError) as error:
                damaged.append(f"{file}: {reason(error)}")
        if damaged:
            self._notify(
                f"Warning: {counted(len(damaged), 'job')} left out of the history. {min(damaged)}. Check the disk."
            )
        return sorted(found, key=lambda job: (job["created"], job["id"]))

    def write_job(self, job: Job) -> None:
        """Raises what writing raises."""
        write_atomic(self._job(job["id"]) / JOB, job_text(job))

    def write_result(
        self, job: str, record: Mapping[str, Any], files: Mapping[str, bytes], images: Sequence[bytes]
    ) -> int:
        """Write the whole result, or nothing; returns its size in bytes. Raises what writing raises."""
        place = self._job(job) / RESULT
        contents = dict(files) | {f"{number}.png": png for number, png in enumerate(images)}
        try:
            written = write_outputs(place / RECORD, record, contents)
        except BaseException:
            _remove(place)
            raise
        return sum(path.stat().st_size for path in (place / RECORD, *written))

    def result(self, job: str, name: str) -> bytes | None:
        """A file of a job's result; `name` is one of this module's constants.

        Raises CheckFailedError where it has changed since it was written.
        """
        return read_output(self._job(job) / RESULT / RECORD, name)

    def image(self, job: str, number: int) -> bytes | None:
        """One image of a job's result. Raises as `result`."""
        return self.result(job, f"{number:d}.png")

    def has_blind_result(self, job: str, run: str) -> bool:
        """Whether the result of that blind test is stored."""
        return self._blind(job, run).exists()

    def write_blind_result(self, job: str, run: str, content: bytes) -> None:
        """Store the result file of a blind test. Raises what writing raises."""
        write_atomic(self._blind(job, run), content)

    def blind_result(self, job: Job, run: str) -> bytes | None:
        """The result file of one blind test. Raises as `blind_results`."""
        read = self._read_blind(job, self._blind(job["id"], run))
        return read and read[0]

    def blind_results(self, job: Job) -> list[ResultFile]:
        """The results of the job's blind tests, in the order in which they ended.

        Raises CheckFailedError for a file that isn't as it was written.
        """
        found: list[ResultFile] = []
        for path in self._blind_files(job["id"]):
            if (read := self._read_blind(job, path)) is None:
                continue
            content, test = read
            name = f"blind-{test.test}-{test.run[:8]}.json"  # as the page calls the file that it saves
            found.append(ResultFile(name, hashlib.sha256(content).hexdigest(), test))
        return sorted(found, key=lambda one: (datetime.fromisoformat(one.test.finished), one.test.run))

    def delete_job(self, job: str) -> None:
        """Remove a job's folder with its result."""
        _remove(self._job(job))

    def take_upload(self, number: str, job: str) -> tuple[str, int]:
        """Copy an upload into a job's folder; returns its name and size in bytes.

        Raises UsageError if it is gone, and what writing raises.
        """
        name, content = self.uploads.take(number)
        write_atomic(self._job(job) / UPLOAD / name, content)
        return name, len(content)

    def upload_of(self, job: str) -> Path | None:
        """The job's copy of its upload, if it has one."""
        with suppress(OSError):
            return next((self._job(job) / UPLOAD).iterdir(), None)
        return None

    def _blind(self, job: str, run: str) -> Path:
        if not ID.fullmatch(run):
            raise ValueError("not a test's id")
        return self._job(job) / BLIND / f"{run}.json"

    def _blind_files(self, job: str) -> list[Path]:
        files = (self._job(job) / BLIND).glob("*.json")
        return sorted(path for path in files if ID.fullmatch(path.stem) and path.is_file())

    def _blind_size(self, job: str) -> dict[str, int]:
        files = self._blind_files(job)
        return {"count": len(files), "bytes": sum(path.stat().st_size for path in files)}

    def _read_blind(self, job: Job, path: Path) -> tuple[bytes, BlindTest] | None:
        try:
            with path.open("rb") as file:
                content = file.read(SIZE_LIMIT + 1)
            test = blind_test_of(job, content)
            if test.run != path.stem:
                raise ValueError("it is another test's")
        except FileNotFoundError:  # none of that name, or the job is being deleted
            return None
        except (OSError, ValueError) as error:
            raise CheckFailedError(
                f"{path} isn't the result that was stored: {reason(error)}. Check the disk, or remove the file."
            ) from error
        return content, test

    def _job(self, job: str) -> Path:
        if not ID.fullmatch(job):
            raise ValueError("not a job id")
        return self._jobs / job


def default_folder() -> Path:
    """The default folder of the history."""
    data = os.environ.get("XDG_DATA_HOME") or str(Path.home() / ".local" / "share")
    return Path(data) / "vaelens" / "serve"


def _remove(place: Path) -> None:
    shutil.rmtree(place, ignore_errors=True)
