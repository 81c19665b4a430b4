"""Locks of a folder: one run or server at a time, or one writer at a time."""

from collections.abc import Generator
from contextlib import contextmanager, suppress
from pathlib import Path

from filelock import FileLock, Timeout

from vaelens.errors import UsageError

LOCK = ".lock"


def folder_lock(path: Path, name: str = LOCK, timeout: float = -1) -> FileLock:
    """A lock of this folder, which is made where it is missing. Raises UsageError where it can't be made.

    timeout: seconds to wait for another holder; -1 is without end.
    """
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UsageError(
            f"{path}: the folder can't be created: {error.strerror}. Choose another output folder with -o."
        ) from error
    return FileLock(path / name, timeout=timeout)


def acquire_folder(path: Path, name: str = LOCK, *, in_use: str) -> FileLock:
    """A lock of this folder, acquired at once.

    Raises UsageError with the message `in_use` where another holds it, and OSError where it can't be written.
    """
    lock = folder_lock(path, name, timeout=0)
    try:
        lock.acquire()
    except Timeout as error:
        raise UsageError(in_use) from error
    return lock


@contextmanager
def exclusive_run(path: Path, rank: int) -> Generator[None]:
    """In this context no other run uses the folder. Raises UsageError where one does.

    A folder that was created only for a run that was then refused is removed again.
    """
    new = not path.exists()
    name = LOCK if rank == 0 else f"{LOCK}-{rank}"
    in_use = f"{path}: another run is using this folder. Wait for it, or choose another -o."
    try:
        lock = acquire_folder(path, name, in_use=in_use)
    except OSError as error:
        raise UsageError(f"{path}: the folder can't be written: {error.strerror}. Choose another -o.") from error
    try:
        yield
    finally:
        with suppress(OSError):  # gone already, or another process has its lock there: then it stays
            if new and all(file.name.startswith(LOCK) for file in path.iterdir()):
                Path(lock.lock_file).unlink()  # while it is held, so that no other process acquires it in between
                path.rmdir()
        lock.release()
