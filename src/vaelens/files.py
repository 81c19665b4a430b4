"""Atomic writing, hashing, and strict JSON.

Every file that vaelens writes goes through `write_atomic`: it is there whole or not at all, and
an old file stays until the new one is complete.
"""

import errno
import hashlib
import itertools
import json
import math
import os
import secrets
import stat
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, BinaryIO, cast

from vaelens.errors import BadInputError, ResourceError, UsageError

StrPath = str | os.PathLike[str]

FULL = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}


def write_atomic(path: StrPath, content: bytes | Callable[[BinaryIO], object]) -> Path:
    """Write `content`, bytes or a function that fills an open file, beside `path`, then move it there in one step.

    Returns the path written.

    Missing folders are made. A symlink is followed, so that the link stays and its target is replaced.
    The new file's mode follows the umask, or is that of the file it replaces.

    Raises UsageError for a folder, a device, a pipe, a socket, a target inside a Hugging Face cache or a
    name too long; ResourceError when the disk is full; BadInputError when writing isn't permitted. In
    each case no temporary file is left and the old file is untouched.
    """
    (target,) = write_together({Path(path): content})
    return target


def write_together(contents: Mapping[Path, bytes | Callable[[BinaryIO], object]]) -> list[Path]:
    """Write several files as `write_atomic` does; none is moved into place before all are complete.

    Returns the paths written, in order. Raises as `write_atomic` does, and leaves all old files untouched then.
    """
    ready: list[tuple[Path, Path]] = []  # complete files beside their targets
    target = Path()
    try:
        for path, content in contents.items():
            target = writable_path(path)
            ready.append((_written_beside(target, content), target))
        for written, target in ready:
            written.replace(target)
    except BaseException as error:
        for written, _ in ready:
            written.unlink(missing_ok=True)
        if isinstance(error, OSError):
            raise explained(error, target) from error
        raise
    return [target for _, target in ready]


def _written_beside(target: Path, content: bytes | Callable[[BinaryIO], object]) -> Path:
    """A complete file of the target's folder, with its mode, under another name."""
    target.parent.mkdir(parents=True, exist_ok=True)
    replaced = stat.S_IMODE(target.stat().st_mode) if target.exists() else None
    written = target.parent / f".vaelens-{secrets.token_hex(8)}"
    # Created with its mode, so that the system applies the umask: asking for that would change it for other threads.
    written.touch(0o666 if replaced is None else 0o600, exist_ok=False)
    try:
        with written.open("wb") as file:
            if isinstance(content, bytes):
                file.write(content)
            else:
                content(file)
            file.flush()
            os.fsync(file.fileno())
        if replaced is not None:
            written.chmod(replaced)
    except BaseException:
        written.unlink(missing_ok=True)
        raise
    return written


def writable_path(path: StrPath) -> Path:
    """The path with symlinks followed, where a file may be written; cheap, so call it before long work.

    Raises UsageError as `write_atomic` does.
    """
    given = Path(path)
    try:
        target = given.resolve()
        kind = target.stat().st_mode
    except FileNotFoundError:
        target, kind = given.resolve(), stat.S_IFREG
    except (OSError, RuntimeError) as error:  # RuntimeError: a loop of symlinks
        raise UsageError(f"{given}: can't be written: {_reason(error)}. Choose another output path.") from error
    if stat.S_ISDIR(kind):
        raise UsageError(f"{given} is a folder, where a file should be written. Name a file inside it.")
    if not stat.S_ISREG(kind):
        raise UsageError(f"{given} is a device, pipe or socket, which are never replaced. Name an ordinary file.")
    if _in_hub_cache(target):
        raise UsageError(
            f"{given} lies inside a Hugging Face cache, whose files are shared. Choose an output path outside it."
        )
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


def explained(error: OSError, target: Path) -> UsageError | ResourceError | BadInputError:
    """The user's error for what writing to `target` raised."""
    if error.errno in FULL:
        return ResourceError(f"{target}: not written, the disk is full ({_reason(error)}). Free some room, try again.")
    if error.errno in {errno.ENAMETOOLONG, errno.ENOTDIR, errno.EINVAL}:
        return UsageError(f"{target}: not written: {_reason(error)}. Choose another output path.")
    return BadInputError(f"{target}: not written: {_reason(error)}. Check the folder's permissions.")


def _reason(error: Exception) -> str:
    return (error.strerror if isinstance(error, OSError) else None) or str(error)


def json_text(value: Any) -> str:
    """Strict JSON: what isn't finite becomes null, as JSON has no name for it."""
    return json.dumps(_finite(value), indent=2, allow_nan=False)


def _finite(value: Any) -> Any:
    if isinstance(value, dict):
        return {k: _finite(v) for k, v in cast(dict[str, Any], value).items()}
    if isinstance(value, list | tuple):
        return [_finite(v) for v in cast(Sequence[Any], value)]
    return None if isinstance(value, float) and not math.isfinite(value) else value
