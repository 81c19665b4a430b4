"""Files from plain web addresses, checked: weights of metric networks, archives of datasets.

They lie in `cache_folder()` under their names. A download resumes where an earlier one broke or was killed, and gets
its name when it has been checked. A copy downloaded elsewhere may be put there by hand.
"""

import hashlib
from collections.abc import Generator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import huggingface_hub as hub
from huggingface_hub import constants

from vaelens.download.client import TEMPORARY, with_retries
from vaelens.download.failures import (
    LOGIN_PAGE,
    Request,
    address,
    as_network_error,
    check_room,
    host,
    in_words,
    library_errors,
    not_cached,
    not_written,
)
from vaelens.errors import CheckFailedError, NetworkError, VaelensError
from vaelens.files import checked_json, read_checked_json, write_atomic
from vaelens.runtime import DEFAULT, Notify, Runtime
from vaelens.text.paths import CACHE_VARIABLE, cache_folder

ABSENT = "not there"
CHUNK = 1 << 20  # bytes; a transfer that breaks loses the chunk it was in


@dataclass(frozen=True)
class WebFile:
    """One file on the web: addresses that hold the same bytes, tried in order, and its name in the cache.

    `size` in bytes, `sha256` and where it is known `md5` in hexadecimal: all are checked. The name is the cache's
    alone, so two files mustn't share one; it may hold slashes.
    """

    urls: tuple[str, ...]
    name: str
    size: int
    sha256: str
    md5: str | None = None


def fetch_web(file: WebFile, runtime: Runtime = DEFAULT) -> Path:
    """The file's path in the cache, downloaded if need be and announced with its size.

    `runtime.progress` gets the bytes received, the file's size and its name. A cached copy is used without any
    network. Its size is compared each time, its checksums when it is new or was written to. Offline is also what
    HF_HUB_OFFLINE says. A second process waits for the first one's download.

    Raises NetworkError if no address gives the file, each given up within a minute if it is silent, and offline
    without a copy; CheckFailedError for other bytes than expected, which are removed; ResourceError for a full disk;
    BadInputError for a cache that can't be written.
    """
    path = cache_folder() / file.name
    try:
        flaw = _flaw(file, path)
        if flaw is None:
            return path
        if runtime.offline or constants.HF_HUB_OFFLINE:
            raise _not_offline(file, path, flaw, runtime.offline)
        path.parent.mkdir(parents=True, exist_ok=True)
        with _locked(path, runtime.notify):
            flaw = _flaw(file, path)
            if flaw is None:
                return path
            if flaw is not ABSENT:
                path.unlink()
                runtime.notify(f"{file.name}: the cached copy was damaged, {flaw}. It is removed and downloaded again.")
            _download(file, path, runtime)
    except OSError as error:
        raise not_written(error, file.name, path.parent, CACHE_VARIABLE) from None
    return path


def cached_web(file: WebFile) -> Path | None:
    """The path of the cached copy, without any network; None without one, or with one of other bytes."""
    path = cache_folder() / file.name
    try:
        return path if _flaw(file, path) is None else None
    except OSError as error:
        raise not_written(error, file.name, path.parent, CACHE_VARIABLE) from None


def _download(file: WebFile, path: Path, runtime: Runtime) -> None:
    """Try the addresses in turn until one gives the file; what has been received is used by the next."""
    part = path.with_name(f"{path.name}.part")
    received = _size(part)
    announced = f"{file.name}{in_words(file.size)}"
    check_room(announced, path.parent, file.size - received, CACHE_VARIABLE)
    resumed = f", resumed after {received / 1e6:.0f} MB" if received else ""
    runtime.notify(f"downloading {announced}, from {host(file.urls[0])}{resumed}")
    errors: dict[str, VaelensError] = {}
    for number, url in enumerate(file.urls, 1):
        try:
            _transfer(file, url, part, runtime)
            with suppress(OSError):
                _notes(part).replace(_notes(path))
            part.replace(path)
            return
        except (NetworkError, CheckFailedError) as error:
            errors[url] = error
            if number < len(file.urls):
                runtime.notify(f"{file.name}: {error} Trying {address(file.urls[number])}.")
    kind = next((type(error) for error in errors.values() if isinstance(error, CheckFailedError)), NetworkError)
    causes: dict[str, str] = {}  # by the message without the host
    for url, error in errors.items():
        cause = str(error).replace(host(url), "")
        causes[cause] = f"{causes[cause]} The same from {host(url)}." if cause in causes else str(error)
    raise kind(f"Can't download {file.name}: {' '.join(causes.values())} Or {_by_hand(file, path)}") from None


def _transfer(file: WebFile, url: str, part: Path, runtime: Runtime) -> None:
    """Complete `part` from one address and check it; damaged bytes are removed."""
    received = _size(part)
    try:
        if received < file.size:
            with_retries(
                lambda: _receive(file, url, part, runtime),
                # A connection that broke may be refused for some seconds. 416: `_receive` has removed the part.
                TEMPORARY | {"ConnectError", "416"},
                received=lambda: _size(part),
            )
    except library_errors() as error:
        if isinstance(error, OSError) and error.errno is not None:
            raise
        raise as_network_error(error, Request("", url)) from None
    flaw = _flaw(file, part)
    if flaw is None:
        return
    part.unlink()
    _notes(part).unlink(missing_ok=True)
    if not received:
        raise CheckFailedError(f"the file from {host(url)} is damaged, {flaw}. It is removed.")
    _transfer(file, url, part, runtime)  # the earlier bytes may be at fault, from this server or another


def _receive(file: WebFile, url: str, part: Path, runtime: Runtime) -> None:
    """Add to `part` what one request brings. An answer that can't be the file leaves the part as it is.

    Not by the library's `http_get`, which empties the part before it looks at the answer. No token is sent, and no
    compression requested: a range of bytes can't be taken of compressed data.
    """
    received = _size(part)
    headers = {"Accept-Encoding": "identity"} | ({"Range": f"bytes={received}-"} if received else {})
    timeout = constants.HF_HUB_DOWNLOAD_TIMEOUT
    with hub.get_session().stream("GET", url, headers=headers, timeout=timeout) as answer:
        if answer.status_code == 416:  # Range Not Satisfiable: the part isn't the beginning of this file
            part.unlink(missing_ok=True)
        answer.raise_for_status()
        if "html" in answer.headers.get("Content-Type", ""):
            raise NetworkError(LOGIN_PAGE.format(host=host(url)))
        if answer.status_code != 206:  # Partial Content: the server knows no ranges and sends the whole file
            received = 0
        size = received + int(answer.headers.get("Content-Length", file.size - received))
        if size != file.size:
            raise CheckFailedError(f"{host(url)} has another file: {file.size:,} bytes expected, {size:,} found.")
        with part.open("ab" if received else "wb") as opened:
            for chunk in answer.iter_bytes(CHUNK):
                opened.write(chunk)
                received += len(chunk)
                runtime.progress(received, file.size, file.name)


def _by_hand(file: WebFile, path: Path) -> str:
    return f"download {address(file.urls[0])} elsewhere and put it at {path}."


def _not_offline(file: WebFile, path: Path, flaw: str, offline: bool) -> VaelensError:
    advice = _by_hand(file, path)
    if flaw is ABSENT:
        return NetworkError(f"{not_cached(file.name, offline)}, or {advice}")
    return CheckFailedError(f"{path} is damaged, {flaw}, and offline. Remove it and run it once online, or {advice}")


def _flaw(file: WebFile, path: Path) -> str | None:
    """What is wrong with the copy at `path`, or that it is ABSENT; checksums are computed when it is new."""
    try:
        status = path.stat()
    except FileNotFoundError:
        return ABSENT
    if status.st_size != file.size:
        return f"{file.size:,} bytes expected, {status.st_size:,} found"
    expected = {"sha256": file.sha256} | ({"md5": file.md5} if file.md5 else {})
    state = [status.st_size, status.st_mtime_ns]
    found = _noted_checksums(path, state)
    if expected.keys() - found.keys():
        found = {name: _checksum(path, name) for name in expected}
        with suppress(VaelensError):  # in a cache that can't be written they are computed each time
            write_atomic(_notes(path), checked_json({"state": state, "checksums": found}))
    return next((f"{n} {value} expected, {found[n]} found" for n, value in expected.items() if found[n] != value), None)


def _noted_checksums(path: Path, state: list[int]) -> dict[str, str]:
    """The checksums that were computed for the file in this state, its size and time of writing."""
    with suppress(OSError, ValueError, KeyError, TypeError):
        notes = read_checked_json(_notes(path).read_bytes())
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
def _locked(path: Path, notify: Notify) -> Generator[None]:
    """While no other process does the same with `path`."""
    from huggingface_hub.utils import WeakFileLock  # noqa: PLC0415 - brings in httpx

    lock = path.with_name(f".{path.name}.lock")
    with ExitStack() as held:
        try:
            held.enter_context(WeakFileLock(lock, timeout=0.1))
        except TimeoutError:
            notify(f"{path.name}: another process is downloading it; waiting for that")
            held.enter_context(WeakFileLock(lock))
        yield
