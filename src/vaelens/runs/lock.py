"""One run in a folder at a time."""

from collections.abc import Generator
from contextlib import contextmanager, suppress
from pathlib import Path

from filelock import FileLock, Timeout

from vaelens.errors import UsageError

LOCK = ".lock"


@contextmanager
def alone(path: Path, rank: int) -> Generator[None]:
    """In this context no other training runs in the folder. Raises UsageError where one does.

    A folder that was made for nothing, because the training was refused, is taken away again.
    """
    new = not path.exists()
    try:
        path.mkdir(parents=True, exist_ok=True)
        lock = FileLock(path / (LOCK if rank == 0 else f"{LOCK}-{rank}"), timeout=0)
        lock.acquire()
    except Timeout as error:
        raise UsageError(f"{path}: a training is running there already. Wait for it, or choose another -o.") from error
    except OSError as error:
        raise UsageError(f"{path}: can't be written: {error.strerror}. Choose another -o.") from error
    try:
        yield
    finally:
        with suppress(OSError):  # gone already, or another process has its lock there: then it stays
            if new and all(file.name.startswith(LOCK) for file in path.iterdir()):
                Path(lock.lock_file).unlink()  # while it is held, so that nobody takes it in between
                path.rmdir()
        lock.release()
