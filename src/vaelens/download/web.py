"""Files from plain web addresses, checked: weights of metric networks, archives of datasets.

They lie in `cache_folder()` under their names. A download goes on where an earlier one broke or was killed,
and gets its name when it has been checked. A copy brought from elsewhere may be put there by hand.
"""

import hashlib
import json
import os
import sys
import time
from collections.abc import Generator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from huggingface_hub import constants

from vaelens.download.transfer import TransferError, address, forget, host, transfer
from vaelens.download.trouble import amount, check_room, not_written
from vaelens.errors import CheckFailedError, NetworkError, VaelensError
from vaelens.files import write_atomic
from vaelens.runtime import DEFAULT, Notify, Runtime

TRIES = 4  # in a row that bring less than GAIN: with transfer.TIMEOUT and the pauses between, 46 s of silence
GAIN = 1 << 20
VARIABLE = "VAELENS_CACHE"
ABSENT = "not there"


@dataclass(frozen=True)
class WebFile:
    """One file on the web: addresses where the same bytes can be had, tried in order, and its name in the cache.

    `size` in bytes, `sha256` and `md5` in hexadecimal where they are known: what is given is checked. The name
    is the cache's alone, so two files mustn't share one; it may hold slashes.
    """

    urls: tuple[str, ...]
    name: str
    size: int | None = None
    sha256: str | None = None
    md5: str | None = None


def fetch_web(file: WebFile, runtime: Runtime = DEFAULT) -> Path:
    """The file's path in the cache, downloaded if need be.

    Notices tell of it, the size before the first byte among them; progress gets the
    bytes there, the bytes of the whole (0 where the server doesn't say) and the name, ten times a second.
    A cached copy is used without any network. Its size is compared each time, its checksum when it is new or
    was written to. Offline is also what HF_HUB_OFFLINE says. A second process waits for the first's download.

    Raises NetworkError if no address gives the file, within a minute if they are silent, and offline without
    a copy; CheckFailedError for other bytes than expected, which are removed; ResourceError for a full disk;
    BadInputError for a cache that can't be written.
    """
    path = cache_folder() / file.name
    try:
        flaw = _flaw(file, path)
        if flaw is None:
            return path
        if runtime.offline or constants.HF_HUB_OFFLINE:
            raise _not_offline(file, path, flaw)
        path.parent.mkdir(parents=True, exist_ok=True)
        with _alone(path, runtime.notify):
            flaw = _flaw(file, path)
            if flaw is None:
                return path
            if flaw is not ABSENT:
                path.unlink()
                runtime.notify(f"{file.name}: the cached copy was damaged, {flaw}. It is removed and downloaded anew.")
            _download(file, path, runtime)
    except OSError as error:
        raise not_written(error, file.name, path.parent, VARIABLE) from None
    return path


def cached_web(file: WebFile) -> Path | None:
    """The path of the cached copy, without any network; None without one, or with one of other bytes."""
    path = cache_folder() / file.name
    try:
        return path if _flaw(file, path) is None else None
    except OSError as error:
        raise not_written(error, file.name, path.parent, VARIABLE) from None


def cache_folder() -> Path:
    """Where vaelens keeps what it downloads from elsewhere than the hub; VAELENS_CACHE names another folder.

    Otherwise `vaelens` in XDG_CACHE_HOME or ~/.cache, on Windows in LOCALAPPDATA. The folder may not exist yet.
    """
    if named := os.environ.get(VARIABLE):
        return Path(named).expanduser().absolute()
    place = os.environ.get("LOCALAPPDATA" if sys.platform == "win32" else "XDG_CACHE_HOME")
    return (Path(place) if place else Path.home() / ".cache") / "vaelens"


def _download(file: WebFile, path: Path, runtime: Runtime) -> None:
    """Tries the addresses in turn until one gives the file; whoever moves on is kept, whoever refuses is left out."""
    part = path.with_name(f"{path.name}.part")
    urls, trouble = list(file.urls), dict[str, TransferError]()
    reached, fruitless, told = _size(part), 0, False

    def begin(total: int | None, have: int) -> None:
        nonlocal told
        if not told:
            announced = f"{file.name}{amount(total)}"
            check_room(announced, path.parent, (total or 0) - have, VARIABLE)
            going_on = f", going on after {have / 1e6:.0f} MB" if have else ""
            runtime.notify(f"downloading {announced}, from {host(urls[0])}{going_on}")
            told = True

    while urls and fruitless < TRIES:
        url = urls[0]
        try:
            resumed = transfer(
                url,
                part,
                file.size,
                checksummed=bool(file.sha256 or file.md5),
                begin=begin,
                progress=lambda done, total: runtime.progress(done, total, file.name),
            )
            if flaw := _flaw(file, part):
                forget(part)
                reached = 0
                # The earlier bytes may be at fault, from this server or another, so that one more try is fair.
                raise TransferError(f"damaged, {flaw}. It is removed.", passing=resumed, damaged=True)
            with suppress(OSError):
                _notes(part).replace(_notes(path))
            part.replace(path)
            forget(part)
            return
        except TransferError as error:
            trouble[url] = error
        if trouble[url].passing and _size(part) >= reached + GAIN:
            reached, fruitless = _size(part), 0
            continue
        urls.pop(0)
        if trouble[url].passing:
            fruitless += 1
            urls.append(url)
        if urls and fruitless < TRIES:
            if urls[0] != url:
                runtime.notify(f"{file.name}: {address(url)}: {trouble[url]} Trying {address(urls[0])}.")
            if trouble[url].passing:
                time.sleep(fruitless)
    raise _given_up(file, path, trouble)


def _given_up(file: WebFile, path: Path, trouble: dict[str, TransferError]) -> VaelensError:
    said = " ".join(f"{address(url)}: {error}" for url, error in trouble.items())
    kind = CheckFailedError if any(error.damaged for error in trouble.values()) else NetworkError
    return kind(f"{file.name}: not downloaded. {said} A copy from elsewhere can be put at {path}.")


def _not_offline(file: WebFile, path: Path, flaw: str) -> VaelensError:
    what = f"download {address(file.urls[0])} elsewhere and put it at {path}."
    if flaw is ABSENT:
        return NetworkError(
            f"{file.name}: not in the cache, and offline. Run it once without --offline and HF_HUB_OFFLINE, or {what}"
        )
    return CheckFailedError(f"{path} is damaged, {flaw}, and offline. Remove it and run it once online, or {what}")


def _flaw(file: WebFile, path: Path) -> str | None:
    """What is wrong with the file that stands at `path`, or that it is ABSENT; checksums are taken when it is new."""
    try:
        there = path.stat()
    except FileNotFoundError:
        return ABSENT
    if file.size is not None and there.st_size != file.size:
        return f"{file.size:,} bytes expected, {there.st_size:,} found"
    wanted = {name: value for name, value in (("sha256", file.sha256), ("md5", file.md5)) if value}
    state = [there.st_size, there.st_mtime_ns]
    known = _remembered(path, state)
    if wanted.keys() - known.keys():
        known = {name: _checksum(path, name) for name in wanted}
        with suppress(VaelensError):  # in a cache that can't be written they are taken each time
            write_atomic(_notes(path), json.dumps({"state": state, "checksums": known}).encode())
    return next((f"{n} {value} expected, {known[n]} found" for n, value in wanted.items() if known[n] != value), None)


def _remembered(path: Path, state: list[int]) -> dict[str, str]:
    """The checksums that were taken of the file in this state, its size and time of writing."""
    with suppress(OSError, ValueError, KeyError, TypeError):
        notes = json.loads(_notes(path).read_bytes())
        if notes["state"] == state:
            return dict(notes["checksums"])
    return {}


def _checksum(path: Path, name: str) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, lambda: hashlib.new(name, usedforsecurity=False)).hexdigest()


def _notes(path: Path) -> Path:
    return path.with_name(f"{path.name}.checked.json")


def _size(part: Path) -> int:
    return part.stat().st_size if part.exists() else 0


@contextmanager
def _alone(path: Path, say: Notify) -> Generator[None]:
    """While no other process does the same with `path`."""
    from huggingface_hub.utils import WeakFileLock  # noqa: PLC0415 - brings in httpx

    lock = path.with_name(f".{path.name}.lock")
    with ExitStack() as held:
        try:
            held.enter_context(WeakFileLock(lock, timeout=0.1))
        except TimeoutError:
            say(f"{path.name}: another process is downloading it; waiting for that")
            held.enter_context(WeakFileLock(lock))
        yield
