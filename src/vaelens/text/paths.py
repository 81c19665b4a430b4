"""Paths that users name: whether a file can have such a name, and what the system's refusals mean to a user.

And the folder of vaelens' cache, which they may name.
"""

import errno
import os
import stat
import sys
from contextlib import suppress
from pathlib import Path

from vaelens.errors import BadInputError, ResourceError, UsageError

CACHE_VARIABLE = "VAELENS_CACHE"
FULL = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}
SCARCE = {errno.EMFILE: "open files", errno.ENFILE: "open files", errno.ENOMEM: "memory"}
WRONG_PATH = {errno.ENAMETOOLONG, errno.ENOTDIR, errno.EINVAL, errno.ELOOP}


def exists(name: str) -> bool:
    """Whether a file or folder of that name exists, for text that may not be a path at all."""
    return os.path.lexists(name)


def is_file(name: str) -> bool:
    """Whether that is the path of a file, for text that may not be a path at all."""
    try:
        return Path(name).is_file()
    except (OSError, ValueError):
        return False


def is_folder(path: str | os.PathLike[str]) -> bool:
    """Whether that is a folder; no folder has a name that is too long for one."""
    try:
        return Path(path).is_dir()
    except (OSError, ValueError):
        return False


def why_unreadable(path: Path) -> str | None:
    """What a path leads to that is neither a file nor a folder, for "... is X"; None for these, and for nothing at all.

    Opening a pipe would wait for a writer: so what reads files that users name asks first.
    """
    try:
        mode = path.stat().st_mode
    except (OSError, ValueError):
        return "a link that leads nowhere" if path.is_symlink() else None
    return None if stat.S_ISREG(mode) or stat.S_ISDIR(mode) else "a device, pipe or socket"


def lost_target(path: Path) -> Path | None:
    """Where a link leads if nothing is there; None for anything else, a link that leads in a circle included."""
    try:
        path.stat()
    except FileNotFoundError:
        return Path(os.path.realpath(path)) if path.is_symlink() else None
    except (OSError, ValueError):
        return None
    return None


def user_path(source: str | os.PathLike[str]) -> Path:
    """The path that a user names, `~` and `~name` being homes; it needn't exist.

    Raises UsageError for the home of an unknown user, and for a name that no file can have.
    """
    if not os.fspath(source):
        raise UsageError("the path '' is empty, which would mean the current folder. Name a file or folder.")
    try:
        path = Path(source).expanduser()
        with suppress(FileNotFoundError, NotADirectoryError):
            os.stat(path)  # noqa: PTH116 - Path.exists takes names that no file can have for missing files
    except RuntimeError as error:
        raise UsageError(f"{source}: this machine has no user of that name. Write the folder's whole path.") from error
    except ValueError as error:  # a NUL byte, half a surrogate pair
        raise UsageError(f"{str(source)!r} can't be the name of a file: {error}. Choose another.") from error
    except OSError as error:
        raise explained(error, Path(source), "can't be used") from error
    return path


def cache_folder() -> Path:
    """Where vaelens keeps what doesn't come from the hub; VAELENS_CACHE names another folder.

    Otherwise `vaelens` in XDG_CACHE_HOME or ~/.cache, on Windows in LOCALAPPDATA. The folder may not exist yet.
    Raises UsageError where there is no home folder.
    """
    if named := os.environ.get(CACHE_VARIABLE):
        return user_path(named).absolute()
    place = os.environ.get("LOCALAPPDATA" if sys.platform == "win32" else "XDG_CACHE_HOME")
    if place:
        return Path(place) / "vaelens"
    try:
        return Path.home() / ".cache" / "vaelens"
    except RuntimeError as error:
        raise UsageError(f"there is no home folder for the cache. Name one: {CACHE_VARIABLE}=FOLDER.") from error


def check_writable(path: Path, folder: Path) -> None:
    """Raises BadInputError, as writing does, if the folder for `path` is read-only, or can't be made in one that is."""
    there = next(one for one in (folder, *folder.parents) if one.exists())
    if there.is_dir() and not os.access(there, os.W_OK | os.X_OK):
        # Which of the two it is shows only in an attempt, and a folder that is there must not be touched.
        reason = errno.EROFS if os.name == "posix" and os.statvfs(there).f_flag & os.ST_RDONLY else errno.EACCES
        raise explained(OSError(reason, os.strerror(reason)), path)


def explained(error: OSError, target: Path, what: str = "not written") -> UsageError | ResourceError | BadInputError:
    """The user's error for what the system raised about `target`: the one place that decides which.

    UsageError where the path itself can't be written; ResourceError for a full disk, and where the process has too
    many open files or too little memory; BadInputError where the system refuses: no permission, read-only.
    """
    if error.errno in FULL:
        return ResourceError(f"{target}: {what}, the disk is full ({reason(error)}). Free some room, try again.")
    if error.errno in SCARCE:
        scarce = SCARCE[error.errno]
        return ResourceError(f"{target}: {what}, out of {scarce} ({reason(error)}). Close other programs.")
    if error.errno == errno.EEXIST:
        return UsageError(f"{target}: {what}: it is a file, not a folder. Choose another path.")
    if error.errno in WRONG_PATH:
        return UsageError(f"{target}: {what}: {reason(error)}. Choose another path.")
    return BadInputError(f"{target}: {what}: {reason(error)}. Check the folder's permissions, or name another.")


def unreadable(path: Path, error: Exception) -> BadInputError:
    """The user's error for what the system raised when a file of theirs was opened or read."""
    advice = "Check its permissions." if isinstance(error, PermissionError) else "Check the path."
    return BadInputError(f"{path}: can't be read: {reason(error)}. {advice}")


def reason(error: Exception) -> str:
    """What the system says of an error, for the middle of a sentence."""
    return (error.strerror if isinstance(error, OSError) else None) or str(error)
