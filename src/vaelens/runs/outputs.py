"""The files that a command writes to a folder. Its record lists them, and only what it lists is replaced or removed.

run.json has under `files` the name of each file, by its path in the folder, and the sha256 that it had. A file that was
there before, or has changed since, isn't ours.
"""

import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path, PurePosixPath
from typing import Any, cast

from vaelens.errors import CheckFailedError, UsageError
from vaelens.files import (
    CHECKSUM,
    NO_CHECKSUM,
    Content,
    StrPath,
    checked_json,
    read_checked_json,
    sha256_file,
    write_atomic,
    written_beside,
)
from vaelens.text.display import shortened
from vaelens.text.paths import explained

RECORD_NAME = "run.json"
FILES = "files"
WRITING = None  # in the place of a file's sha256 while it is written
SHOWN, SHOWN_COMMAND = 4, 40  # names, and characters of a command's, in a message

Listed = Mapping[str, set[str | None]]  # name -> sha256 of what a run wrote there, or WRITING


def read_record(path: Path) -> dict[str, Any] | None:
    """A record as it was written, None for anything else."""
    try:
        return read_checked_json(path.read_bytes())
    except (OSError, ValueError, RecursionError):
        return None


def read_output(record: Path, name: str) -> bytes | None:
    """What a run wrote to the file of that name beside the record, or to the record; None where there is no file.

    Raises CheckFailedError where it isn't as it was written, or where the record isn't, whose list would tell.
    """
    path = record.parent / name
    listed = read_record(record)
    try:
        content = path.read_bytes()
    except OSError:
        return None
    if listed is None and not record.exists():  # the folder is being removed
        return None
    if listed is None and path != record:
        raise CheckFailedError(
            f"{path} can't be verified: {record.name}, which holds its checksum, has changed. Make the result again."
        )
    if listed is None or (
        path != record and hashlib.sha256(content).hexdigest() not in _names(listed).get(name, set())
    ):
        raise CheckFailedError(f"{path} has changed since it was written. Check the disk, and make the result again.")
    return content


def our_names(record: Path, names: Iterable[str]) -> list[str]:
    """Those of the names whose files beside the record are listed there, or are it, and are as they were written."""
    listed, own = _listed(record), {record.name} if read_record(record) is not None else set[str]()
    return [name for name in names if name in own or _is_unchanged(record.parent / name, listed.get(name, set()))]


def free_names(record: Path, names: Sequence[str]) -> list[str]:
    """The names in order, with a number at the end of each that a file beside the record has which isn't ours."""
    listed, taken = _listed(record), set(names)

    def is_free(name: str) -> bool:
        path = record.parent / name
        return not path.exists() or _is_unchanged(path, listed.get(name, set()))

    found: list[str] = []
    for name in names:
        path, free, number = PurePosixPath(name), name, 2
        while not is_free(free) or (free != name and free in taken):
            free = path.with_name(f"{path.stem}-{number}{path.suffix}").as_posix()
            number += 1
        taken.add(free)
        found.append(free)
    return found


def check_outputs(record: Path, names: Iterable[str], command: str | None = None) -> None:
    """Raises UsageError where the record, or a file of these names beside it, is there and isn't ours.

    command: the one that will write all files of the record's folder; another one's results are never replaced
    """
    names, found = list(names), read_record(record) or {}
    if command is not None and found.get("command", command) != command and _names(found):
        raise UsageError(
            f"{record.parent} holds the results of `vaelens {shortened(str(found['command']), SHOWN_COMMAND)}`, which "
            "would be removed. Choose another folder with -o."
        )
    lost = _not_ours(record, names) and _not_ours(record, names)  # again: another process may have written meanwhile
    if lost:
        if (reason := _lacks_checksum(record)) is not None:
            raise UsageError(
                f"{record}: {reason}, so which files are its own isn't known. Move it and them, or choose another "
                "output with -o."
            )
        shown = ", ".join(str(record.parent / name) for name in lost[:SHOWN])
        more = f" and {len(lost) - SHOWN} more" * (len(lost) > SHOWN)
        was, them = ("were", "them") if len(lost) > 1 else ("was", "it")
        raise UsageError(
            f"{shown}{more} {was} not made by vaelens, or changed since, and would be lost. Move {them}, or choose "
            "another output with -o."
        )


def check_empty(path: Path, what: str) -> None:
    """Raises UsageError where the folder has files that aren't hidden; call it where `what` isn't there.

    Hidden files are those of the system, our locks, and temporary ones.
    """
    try:
        found = sorted(one.name for one in path.iterdir() if not one.name.startswith(".")) if path.is_dir() else []
    except OSError as error:
        raise explained(error, path, "can't be read") from error
    if found:
        more = f" and {len(found) - 1:,} more" * (len(found) > 1)
        raise UsageError(
            f"{path} isn't empty and holds no {what}, but {shortened(found[0], SHOWN_COMMAND)}{more}. Choose another "
            "folder with -o."
        )


def check_apart(output: StrPath, inputs: Iterable[StrPath], *, holds_images: bool = True) -> None:
    """Raises UsageError where an input image lies directly in the output folder, or the output is an input folder; if
    it will hold images, also where it lies in an input folder: the next run would read them.

    inputs: images, and folders that are read with all that is below them
    """
    target = Path(output).resolve()
    for given in inputs:
        path = Path(given)
        if path.is_dir() and target == path.resolve():
            what = "is itself an input"
        elif path.is_dir() and holds_images and target.is_relative_to(path.resolve()):
            what = f"lies in the input {given}"
        elif path.is_file() and target in {path.resolve().parent, path.parent.resolve()}:
            what = f"holds the input {given}"
        else:
            continue
        raise UsageError(
            f"-o {output} {what}: the next run would take what is written there for images of yours. Choose another "
            "folder."
        )


def changed_outputs(record: Path) -> list[str]:
    """The names of the record's files that are there, but not as they were written."""
    listed = _listed(record)
    paths = {name: record.parent / name for name in listed}
    return [name for name, path in paths.items() if path.exists() and not _is_unchanged(path, listed[name])]


def write_outputs(
    record: Path, values: Mapping[str, Any], contents: Mapping[str, Content], *, replace_all: bool = True
) -> list[Path]:
    """Write these files, by their names, beside the record and the record with its list of them; returns their paths.

    With `replace_all` the files of the earlier record that aren't among them are removed, as far as they are unchanged;
    else they stay listed. At each moment the record lists every file of ours, so that a killed process leaves none that
    a later run wouldn't know. Raises UsageError as `check_outputs`, and what writing raises; then nothing has changed.
    """
    check_outputs(record, contents, values.get("command") if replace_all else None)
    earlier = _pairs(_listed(record))
    with written_beside([(record.parent / name, content) for name, content in contents.items()]) as files:
        written = [(name, sha256_file(one.written)) for name, one in zip(contents, files, strict=True)]
        others = [pair for pair in earlier if pair[0] not in contents]
        final = written if replace_all else [*written, *others]
        records = [(record, _record(values, listed)) for listed in ([*earlier, *written], final)]
        with written_beside(records) as (before, after):
            before.place()
            for one in files:
                one.place()
            if replace_all:
                for name, sha256 in others:
                    _remove(record.parent / name, sha256)
            after.place()
    return [record.parent / name for name in contents]


def begin_outputs(record: Path, values: Mapping[str, Any], names: Iterable[str]) -> None:
    """Note in the record that files of these names are being written from now on, by other means than `write_outputs`.

    Raises as `check_outputs`.
    """
    names = list(names)
    check_outputs(record, names)
    earlier = [pair for pair in _pairs(_listed(record)) if pair[0] not in names]
    write_atomic(record, _record(values, [*earlier, *((name, WRITING) for name in names)]))


def end_outputs(record: Path, values: Mapping[str, Any], names: Iterable[str]) -> None:
    """Write the record with the files of these names as they are now."""
    found = [(name, sha256_file(record.parent / name)) for name in names if (record.parent / name).is_file()]
    write_atomic(record, _record(values, found))


def _not_ours(record: Path, names: Sequence[str]) -> list[str]:
    listed = _listed(record)
    found = [record.name] if record.exists() and read_record(record) is None else []
    paths = {name: record.parent / name for name in names}
    return found + [n for n, path in paths.items() if path.exists() and not _is_unchanged(path, listed.get(n, set()))]


def _lacks_checksum(record: Path) -> str | None:
    """What to say of a record that another version wrote, without a checksum; None of anything else."""
    try:
        found = json.loads(record.read_bytes())
        if isinstance(found, dict) and "command" in found and CHECKSUM not in found:
            return NO_CHECKSUM
    except (OSError, ValueError, RecursionError):
        pass
    return None


def _record(values: Mapping[str, Any], listed: Sequence[tuple[str, str | None]]) -> bytes:
    files = [{"file": name, "sha256": sha256} for name, sha256 in dict.fromkeys(listed)]
    return checked_json({**values, FILES: files})


def _listed(record: Path) -> Listed:
    return _names(read_record(record) or {})


def _names(record: Mapping[str, Any]) -> Listed:
    found: dict[str, set[str | None]] = {}
    files = record.get(FILES)
    for one in cast(list[Any], files) if isinstance(files, list) else []:
        match one:
            case {"file": str(name), "sha256": str() | None as sha256} if _is_inside(name):
                found.setdefault(name, set()).add(sha256)
            case _:
                pass
    return found


def _pairs(listed: Listed) -> list[tuple[str, str | None]]:
    return [(name, sha256) for name, hashes in listed.items() for sha256 in sorted(hashes, key=str)]


def _is_inside(name: str) -> bool:
    path = PurePosixPath(name)
    return bool(path.parts) and not path.is_absolute() and ".." not in path.parts and "\\" not in name


def _is_unchanged(path: Path, hashes: set[str | None]) -> bool:
    if not hashes or not path.is_file():
        return False
    return WRITING in hashes or sha256_file(path) in hashes


def _remove(path: Path, sha256: str | None) -> None:
    """Remove a listed file that is as it was written."""
    if sha256 is not WRITING and not path.is_symlink() and _is_unchanged(path, {sha256}):
        path.unlink(missing_ok=True)  # another process may have been here
