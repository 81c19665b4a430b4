"""The images that were uploaded and wait for a job: the newest ones, known in memory and lying in one folder.

While it comes, an upload is the file `<id>.part`; then it is `<id>/<its name>`, so that no name can be in the way.
"""

import shutil
import threading
from contextlib import suppress
from pathlib import Path

from vaelens.errors import BadInputError, UsageError
from vaelens.images.reading import read_size
from vaelens.report.gallery import file_name
from vaelens.web.ids import ID, new_id

KEPT_UPLOADS = 32  # that no job has taken lately; the oldest go first
UPLOAD_PIXELS = 2**24
PART = ".part"
GONE = "that upload isn't here any more. Upload the image again."


class Uploads:
    """Any thread may ask. What an earlier server left is removed: nobody's page knows it any more."""

    def __init__(self, folder: Path, most: int = KEPT_UPLOADS) -> None:
        self._folder, self._most = folder, most
        self._lock = threading.Lock()
        self._names: dict[str, str] = {}  # of those that are whole, by id, the oldest first
        for left in folder.iterdir():
            if ID.fullmatch(left.name.removesuffix(PART)):
                self.drop(left.name.removesuffix(PART))

    def begin(self) -> tuple[str, Path]:
        """An id and the file to write to; `finish` makes it known."""
        number = new_id()
        return number, self._folder / (number + PART)

    def finish(self, number: str, name: str) -> tuple[str, int, int]:
        """Its name here, height and width from the header; nothing is decoded.

        Raises BadInputError for what is no image, and OSError.
        """
        place = self._folder / number
        called = place / (file_name(Path(name.replace("\\", "/")).name) or "image")
        place.mkdir(mode=0o700)
        (self._folder / (number + PART)).rename(called)
        h, w = read_size(called)
        if h * w > UPLOAD_PIXELS:
            raise BadInputError(
                f"{called.name} has {w}x{h} pixels; an upload has at most {UPLOAD_PIXELS}. Make it smaller first."
            )
        with self._lock:
            self._names[number] = called.name
            old = list(self._names)[: -self._most]
            for one in old:
                del self._names[one]
        for one in old:
            self.drop(one)
        return called.name, h, w

    def drop(self, number: str) -> None:
        """Forget an upload, whole or not."""
        with self._lock:
            self._names.pop(number, None)
        with suppress(OSError):
            (self._folder / (number + PART)).unlink(missing_ok=True)
        shutil.rmtree(self._folder / number, ignore_errors=True)

    def take(self, number: str) -> tuple[str, bytes]:
        """Name and bytes of an upload, which then counts as the newest. Raises UsageError where it is gone."""
        with self._lock:
            name = self._names.pop(number, None)
            if name is None:
                raise UsageError(GONE)
            self._names[number] = name
        try:
            return name, (self._folder / number / name).read_bytes()
        except FileNotFoundError as error:
            raise UsageError(GONE) from error
