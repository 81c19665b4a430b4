"""The server's folder: per job a folder with `job.json` and its result, and the uploads that no job has used yet.

A folder without our marker is never written to, and nothing in ours is removed except by an id we made.
"""

import os
import shutil
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path

from vaelens.errors import UsageError
from vaelens.files import is_temporary, remove_leftovers, write_atomic
from vaelens.runs.lock import LOCK, acquire_folder
from vaelens.text.paths import explained, user_path
from vaelens.web.job import ID, Job, job_text, read_job
from vaelens.web.uploads import Uploads

MARKER = ".vaelens-serve"
JOB, RESULT, UPLOAD = "job.json", "result", "upload"
PAGE, SHEET, RECORD, THUMBNAIL = "page.html", "sheet.png", "run.json", "thumbnail.png"


class Store:
    """The folder with the history, locked by one server at a time.

    Raises UsageError if another server has it or if it holds other files, and what writing to the folder raises.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = user_path(folder).absolute()
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
        """Every job of the history, the oldest first; other files are ignored."""
        found: list[Job] = []
        for place in self._jobs.iterdir():
            if not ID.fullmatch(place.name):
                continue
            with suppress(OSError):
                job = read_job((place / JOB).read_bytes())
                if job is not None and job["id"] == place.name:
                    found.append(job)
        return sorted(found, key=lambda job: (job["created"], job["id"]))

    def write_job(self, job: Job) -> None:
        """Raises what writing raises."""
        write_atomic(self._job(job["id"]) / JOB, job_text(job))

    def write_result(self, job: str, files: Mapping[str, bytes], images: Sequence[bytes]) -> int:
        """Write the whole result, or nothing; returns its size in bytes. Raises what writing raises."""
        place = self._job(job) / RESULT
        contents = dict(files) | {f"{number}.png": png for number, png in enumerate(images)}
        try:
            for name, content in contents.items():
                write_atomic(place / name, content)
        except BaseException:
            _remove(place)
            raise
        return sum(map(len, contents.values()))

    def result(self, job: str, name: str) -> bytes | None:
        """A file of a job's result; `name` is one of this module's constants."""
        return self._read(self._job(job) / RESULT / name)

    def image(self, job: str, number: int) -> bytes | None:
        """One image of a job's result."""
        return self._read(self._job(job) / RESULT / f"{number:d}.png")

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

    def _job(self, job: str) -> Path:
        if not ID.fullmatch(job):
            raise ValueError("not a job id")
        return self._jobs / job

    def _read(self, path: Path) -> bytes | None:
        try:
            return path.read_bytes()
        except OSError:
            return None


def default_folder() -> Path:
    """The default folder of the history."""
    data = os.environ.get("XDG_DATA_HOME") or str(Path.home() / ".local" / "share")
    return Path(data) / "vaelens" / "serve"


def _remove(place: Path) -> None:
    shutil.rmtree(place, ignore_errors=True)
