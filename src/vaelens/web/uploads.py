"""The most recently uploaded images, listed in memory and stored in one folder; and those that are arriving.

While it arrives, an upload is the file `<id>.part`, afterwards `<id>/<its name>`, so that names can't collide.
"""

import asyncio
import math
import shutil
import threading
from contextlib import suppress
from pathlib import Path

from vaelens.errors import BadInputError, UsageError
from vaelens.images.reading import read_size
from vaelens.report.gallery import file_name
from vaelens.web.job import ID, new_id

MAX_UPLOADS = 32  # kept at a time; the least recently used go first
MAX_PIXELS = 2**24
PART = ".part"
GRACE = 2.0  # seconds over which a rate is measured, and in which no upload has to give way
GONE = "that upload isn't here any more. Upload the image again."


class Arrival:
    """An upload that is arriving: how fast, and the deadline by which it can be ended. Times are the event loop's."""

    def __init__(self, deadline: asyncio.Timeout, now: float) -> None:
        self.deadline = deadline
        self._received, self._began = 0, now
        self._marks = [(now, 0), (now, 0)]  # when so many bytes had come: the last two, at least GRACE apart

    def add(self, count: int, now: float) -> None:
        """Note that so many bytes have come."""
        self._received += count
        if now - self._marks[1][0] >= GRACE:
            self._marks = [self._marks[1], (now, self._received)]

    def rate(self, now: float) -> float:
        """Bytes per second of late; infinite for one that has only begun."""
        at, received = self._marks[0]
        return (self._received - received) / (now - at) if now - self._began >= GRACE else math.inf


def end_slowest(arriving: list[Arrival], rate: float, now: float) -> bool:
    """End the slowest if it is slower than that many bytes per second; False if none is."""
    ending = [one for one in arriving if not one.deadline.expired()]  # not those whose time is up already
    slowest = min(ending, key=lambda one: one.rate(now), default=None)
    if slowest is None or slowest.rate(now) >= rate:
        return False
    arriving.remove(slowest)
    slowest.deadline.reschedule(now)
    return True


class Uploads:
    """Safe to use from any thread. Uploads left by an earlier server are removed: no page knows them any more."""

    def __init__(self, folder: Path, capacity: int = MAX_UPLOADS) -> None:
        self._folder, self._capacity = folder, capacity
        self._lock = threading.Lock()
        self._names: dict[str, str] = {}  # of the complete ones by id, the least recently used first
        for path in folder.iterdir():
            if ID.fullmatch(path.name.removesuffix(PART)):
                self.drop(path.name.removesuffix(PART))

    def begin(self) -> tuple[str, Path]:
        """A new id, and the file to write to before `finish`."""
        number = new_id()
        return number, self._folder / (number + PART)

    def finish(self, number: str, name: str) -> tuple[str, int, int]:
        """The name it is saved under, and height and width from its header; nothing is decoded.

        Raises BadInputError for a file that isn't an image or has too many pixels, and OSError.
        """
        folder = self._folder / number
        path = folder / (file_name(Path(name.replace("\\", "/")).name) or "image")
        folder.mkdir(mode=0o700)
        (self._folder / (number + PART)).rename(path)
        h, w = read_size(path)
        if h * w > MAX_PIXELS:
            raise BadInputError(
                f"{path.name} has {w}x{h} pixels; an upload has at most {MAX_PIXELS}. Make it smaller first."
            )
        with self._lock:
            self._names[number] = path.name
            old = list(self._names)[: -self._capacity]
            for one in old:
                del self._names[one]
        for one in old:
            self.drop(one)
        return path.name, h, w

    def drop(self, number: str) -> None:
        """Delete an upload, complete or not."""
        with self._lock:
            self._names.pop(number, None)
        with suppress(OSError):
            (self._folder / (number + PART)).unlink(missing_ok=True)
        shutil.rmtree(self._folder / number, ignore_errors=True)

    def take(self, number: str) -> tuple[str, bytes]:
        """Name and bytes of an upload, which then counts as the last used. Raises UsageError if it is gone."""
        with self._lock:
            name = self._names.pop(number, None)
            if name is None:
                raise UsageError(GONE)
            self._names[number] = name
        try:
            return name, (self._folder / number / name).read_bytes()
        except FileNotFoundError as error:
            raise UsageError(GONE) from error
