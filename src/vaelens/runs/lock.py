"""Locks of a folder: one run or server at a time, or one writer at a time."""

import itertools
from collections.abc import Generator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from vaelens.errors import UsageError
from vaelens.files import remove_leftovers
from vaelens.runs.plan import PLAN
from vaelens.text.paths import check_writable, explained

LOCK = ".lock"


def folder_lock(path: Path, name: str = LOCK, timeout: float = -1) -> FileLock:
    """A lock of this folder, which is made where it is missing. Raises what writing raises (`explained`).

    timeout: seconds to wait for another holder; -1 is without end.
    """
    _make(path)
    return _Lock(path / name, timeout=timeout)


class _Lock(FileLock):
    """A lock whose file may be impossible to write, also where `check_writable` sees no reason."""

    def acquire(self, *args: Any, **options: Any) -> Any:
        try:
            return super().acquire(*args, **options)
        except Timeout:
            raise
        except OSError as error:
            raise explained(error, Path(self.lock_file).parent) from error


def acquire_folder(path: Path, name: str = LOCK, *, in_use: str) -> FileLock:
    """A lock of this folder, acquired at once.

    Raises UsageError with the message `in_use` where another holds it, and what writing raises (`explained`).
    """
    lock = folder_lock(path, name, timeout=0)
    try:
        lock.acquire()
    except Timeout as error:
        raise UsageError(in_use) from error
    return lock


@contextmanager
def exclusive_run(path: Path, rank: int) -> Generator[None]:
    """In this context no other run uses the folder. Raises UsageError where one does, and as `acquire_folder`.

    What killed runs left half written in it is removed. The folder is removed as by `removed_if_unused`, also where it
    has only a plan: a training that failed before its first step may have been called wrongly.
    """
    name = LOCK if rank == 0 else f"{LOCK}-{rank}"
    in_use = f"{path}: another run is using this folder. Wait for it, or choose another -o."
    with removed_if_unused(path, name, (PLAN,)):
        lock = acquire_folder(path, name, in_use=in_use)
        try:
            remove_leftovers(path, below=True)
            yield
        finally:
            lock.release()


@contextmanager
def removed_if_unused(path: Path, name: str = LOCK, also: Sequence[str] = ()) -> Generator[None]:
    """After the block the folders that it made are removed again, unless they hold something by then.

    Locks don't count, and after a failure neither do files named as in `also` that weren't there before: they are
    removed, also from a folder that was there and was empty. `name` is the lock that this process had.
    """
    missing = list(itertools.takewhile(lambda one: not one.exists(), (path, *path.absolute().parents)))
    new = [file for file in (*also, name) if not (path / file).exists()]
    try:
        yield
    except BaseException:
        _remove_unused(path, missing, name, new)
        raise
    _remove_unused(path, missing, name, [name] if name in new else [])


def _remove_unused(path: Path, made: Sequence[Path], name: str, new: Sequence[str]) -> None:
    if not made and not (path / name).exists():
        return
    with suppress(OSError, Timeout):  # gone already, or it isn't empty: then it stays
        with FileLock(path / name, timeout=0):  # no other process acquires it in between
            if all(file.name.startswith(LOCK) or file.name in new for file in path.iterdir()):
                for file in new:
                    (path / file).unlink(missing_ok=True)
        for folder in made:
            folder.rmdir()


def _make(path: Path) -> None:
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise explained(error, path) from error
    check_writable(path, path)
