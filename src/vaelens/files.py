"""Atomic writing, hashing, and strict JSON.

Every file that vaelens writes goes through `write_atomic`: it is there whole or not at all, and
an old file stays until the new one is complete.

While they are written, files have names of their own beside their targets: `.vaelens-ID-NUMBER`. Beside these lies
`.vaelens-ID.lock`, which its process holds locked until it has finished, so that a free lock means a dead process.
Whoever writes to a folder removes what dead processes left there, at the first write and then once a minute.
"""

import errno
import hashlib
import itertools
import json
import math
import os
import platform
import re
import secrets
import stat
import time
from collections.abc import Callable, Generator, Iterable, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, cast

from vaelens.errors import UsageError
from vaelens.text.paths import check_writable, explained

try:
    import fcntl
except ImportError:  # Windows, where an open file can't be deleted, which serves as the lock
    fcntl = None

StrPath = str | os.PathLike[str]
Content = bytes | Callable[[BinaryIO], object]  # of a file, or what writes it

NO_LOCKS = {errno.ENOLCK, errno.ENOSYS, errno.ENOTSUP, errno.EOPNOTSUPP, errno.EINVAL}  # of a file system without locks
TEMPORARY = re.compile(r"\.vaelens-([0-9a-f]{16})(\.lock|-\d+)")  # names of temporary files
CLEANED_FOR = 60.0  # seconds: who writes thousands of files to a folder doesn't list it for each
CHECKSUM = "checksum"  # the last key of checked JSON: the sha256 of the text without it
NO_CHECKSUM = "it has no checksum: another version of vaelens wrote it, or it was changed"


def write_atomic(path: StrPath, content: Content) -> Path:
    """Write `content`, bytes or a function that fills an open file, beside `path`, then move it there in one step.

    Returns the path written.

    Missing folders are made. A symlink is followed, so that the link stays and its target is replaced.
    The new file's mode follows the umask, or is that of the file it replaces.

    Raises UsageError for a folder, a device, a pipe, a socket, a target inside a Hugging Face cache or a
    name too long; ResourceError when the disk is full; BadInputError when writing isn't permitted. In
    each case no temporary file and no new folder is left, and the old file is untouched.
    """
    with written_beside([(Path(path), content)]) as (ready,):
        ready.place()
    return ready.target


def write_together(contents: Mapping[Path, Content]) -> list[Path]:
    """Write several files as `write_atomic` does; none is moved into place before all are complete.

    Returns the paths written, in order. Raises as `write_atomic` does, and leaves all old files untouched then.
    """
    with written_beside(list(contents.items())) as ready:
        for one in ready:
            one.place()
    return [one.target for one in ready]


@dataclass(frozen=True)
class Ready:
    """A complete file beside its target, under a temporary name."""

    written: Path
    target: Path

    def place(self) -> None:
        """Move it to its target."""
        self.written.replace(self.target)


@contextmanager
def written_beside(contents: Iterable[tuple[Path, Content]]) -> Generator[list[Ready]]:
    """Each content complete beside its target; the caller places them, and what isn't placed in the block is removed.

    What killed processes left in these folders is removed first (at most once a minute). Raises as `write_atomic`
    does, in the block too.
    """
    ready: list[Ready] = []
    made: list[Path] = []
    target = Path()
    with ExitStack() as held:
        names: dict[Path, Generator[Path]] = {}  # temporary names by folder
        try:
            for path, content in contents:
                target = writable_path(path)
                folder = target.parent
                if folder not in names:
                    made += _make_folder(folder)
                    _remove_leftovers_now_and_then(folder)
                    names[folder] = held.enter_context(_temporary_names(folder))
                one = Ready(next(names[folder]), target)
                ready.append(one)
                _write(one, content)
            yield ready
        except BaseException as error:
            _unlink(one.written for one in ready)
            held.close()
            for folder in reversed(made):
                with suppress(OSError):  # it holds something by now
                    folder.rmdir()
            if isinstance(error, OSError):
                raise explained(error, target) from error
            raise
        _unlink(one.written for one in ready)


def remove_leftovers(folder: Path, *, below: bool = False) -> None:
    """Remove the temporary files of killed processes in this folder, with `below` also in the folders inside it.

    Files of a living process stay, and so do those of which it can't be told. What can't be removed is left.
    """
    for place, _, files in os.walk(folder):
        found: dict[str, list[str]] = {}
        for name in files:
            if match := TEMPORARY.fullmatch(name):
                found.setdefault(match[1], []).append(name)
        for number, names in found.items():
            with suppress(OSError), _dead(Path(place, f".vaelens-{number}.lock")) as dead:
                if dead:
                    _unlink(Path(place, name) for name in sorted(names))
        if not below:
            break


_cleaned: dict[Path, float] = {}  # folders written to, and when they were last cleaned


def _remove_leftovers_now_and_then(folder: Path) -> None:
    now = time.monotonic()
    if now - _cleaned.get(folder, -CLEANED_FOR) >= CLEANED_FOR:
        for old in [one for one, at in list(_cleaned.items()) if now - at >= CLEANED_FOR]:
            _cleaned.pop(old, None)
        _cleaned[folder] = now
        remove_leftovers(folder)


def is_temporary(name: str) -> bool:
    """Whether a file's name is that of a temporary file of ours."""
    return TEMPORARY.fullmatch(name) is not None


@contextmanager
def _temporary_names(folder: Path) -> Generator[Generator[Path]]:
    """Names in this folder that are known as a living process' until the block ends."""
    while True:
        number = secrets.token_hex(8)
        lock = folder / f".vaelens-{number}.lock"
        handle = os.open(lock, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o600)
        try:
            os.write(handle, f"{platform.node()} {os.getpid()}".encode())
            if fcntl is not None:
                with _without_locks():
                    fcntl.flock(handle, fcntl.LOCK_EX)
                if not _is_at(handle, lock):  # taken for a dead process' in the moment before it was locked
                    os.close(handle)
                    continue
        except BaseException:
            os.close(handle)
            lock.unlink(missing_ok=True)
            raise
        break
    try:
        yield (folder / f".vaelens-{number}-{count}" for count in itertools.count())
    finally:
        if fcntl is None:
            os.close(handle)
        with suppress(OSError):
            lock.unlink()
        if fcntl is not None:
            os.close(handle)


@contextmanager
def _dead(lock: Path) -> Generator[bool]:
    """Whether the process that made this lock is gone; if so, no other process thinks the same in the block."""
    try:
        handle = os.open(lock, os.O_RDWR)
    except FileNotFoundError:  # the lock is made first and removed last
        yield True
        return
    try:
        if fcntl is None:
            os.close(handle)
            handle = -1
            lock.unlink()  # raises while another process has it open
            yield True
            return
        locked = False
        with _without_locks():
            try:
                fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                yield False
                return
            locked = True
        yield locked or _has_ended(os.read(handle, 400))
    finally:
        if handle >= 0:
            os.close(handle)


def _is_at(handle: int, path: Path) -> bool:
    """Whether the open file is still the one at this path."""
    try:
        return os.path.samestat(os.fstat(handle), path.stat())
    except FileNotFoundError:
        return False


@contextmanager
def _without_locks() -> Generator[None]:
    """Go on where the file system has no locks."""
    try:
        yield
    except OSError as error:
        if error.errno not in NO_LOCKS:
            raise


def _has_ended(written: bytes) -> bool:
    """Whether the process of a lock's text is known to have ended: it was on this machine and isn't there now."""
    host, _, process = written.decode("utf-8", "replace").rpartition(" ")
    if host != platform.node() or not process.isdecimal():
        return False
    try:
        os.kill(int(process), 0)
    except ProcessLookupError:
        return True
    except OSError:  # another user's
        return False
    return False


def _make_folder(folder: Path) -> list[Path]:
    """Make it, and give those that were missing, the outermost first."""
    missing = list(itertools.takewhile(lambda one: not one.exists(), (folder, *folder.parents)))
    folder.mkdir(parents=True, exist_ok=True)
    return missing[::-1]


def _write(one: Ready, content: Content) -> None:
    """Write the temporary file, with its target's mode."""
    replaced = stat.S_IMODE(one.target.stat().st_mode) if one.target.exists() else None
    # Created with its mode, so that the system applies the umask: asking for that would change it for other threads.
    one.written.touch(0o666 if replaced is None else 0o600, exist_ok=False)
    with one.written.open("wb") as file:
        if isinstance(content, bytes):
            file.write(content)
        else:
            content(file)
        file.flush()
        os.fsync(file.fileno())
    if replaced is not None:
        one.written.chmod(replaced)


def _unlink(paths: Iterable[Path]) -> None:
    for path in paths:
        path.unlink(missing_ok=True)


def writable_path(path: StrPath) -> Path:
    """The path with symlinks followed, where a file may be written; cheap, so call it before long work.

    Raises UsageError as `write_atomic` does, and BadInputError for a folder where nothing may be written.
    """
    given = Path(path)
    try:
        target = given.resolve()
        kind = target.stat().st_mode
    except FileNotFoundError:
        target, kind = given.resolve(), stat.S_IFREG
    except OSError as error:
        raise explained(error, given) from error
    except RuntimeError as error:
        raise UsageError(f"{given}: not written: a loop of symbolic links. Choose another path.") from error
    if stat.S_ISDIR(kind):
        raise UsageError(f"{given} is a folder, where a file should be written. Name a file inside it.")
    if not stat.S_ISREG(kind):
        raise UsageError(f"{given} is a device, pipe or socket, which are never replaced. Name an ordinary file.")
    if _in_hub_cache(target):
        raise UsageError(
            f"{given} lies inside a Hugging Face cache, whose files are shared. Choose an output path outside it."
        )
    check_writable(given, target.parent)
    return target


def sha256_file(path: StrPath) -> str:
    """The file's sha256 in hexadecimal."""
    with Path(path).open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _in_hub_cache(target: Path) -> bool:
    """By its shape (models--name/blobs|snapshots|refs), so that a cache moved elsewhere is known too."""
    parts = target.parts
    return any(
        a.startswith(("models--", "datasets--", "spaces--")) and b in {"blobs", "snapshots", "refs"}
        for a, b in itertools.pairwise(parts)
    )


def json_text(value: Any) -> str:
    """Strict JSON: what isn't finite becomes null, as JSON has no name for it."""
    return json.dumps(_finite(value), indent=2, allow_nan=False)


def _finite(value: Any) -> Any:
    if isinstance(value, dict):
        return {k: _finite(v) for k, v in cast(dict[str, Any], value).items()}
    if isinstance(value, list | tuple):
        return [_finite(v) for v in cast(Sequence[Any], value)]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def checked_json(values: Mapping[str, Any]) -> bytes:
    """A JSON object with a checksum of its text as its last value, by which `read_checked_json` notices any change."""
    text = json_text(dict(values)).removesuffix("\n}")
    return f'{text},\n  "{CHECKSUM}": "{_sha256(text)}"\n}}\n'.encode()


def read_checked_json(content: bytes) -> dict[str, Any]:
    """The object without its checksum. Raises ValueError where the text isn't what `checked_json` wrote."""
    text, mark, rest = content.decode().rpartition(f',\n  "{CHECKSUM}": "')
    if not mark:
        raise ValueError(NO_CHECKSUM)
    if rest != f'{_sha256(text)}"\n}}\n':
        raise ValueError("it has changed since it was written: its checksum is wrong")
    return cast(dict[str, Any], json.loads(text + "\n}"))


def _sha256(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()
