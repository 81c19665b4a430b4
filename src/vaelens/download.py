"""Files from the hub, checked: the only home of huggingface_hub.

The library's own settings hold: HF_TOKEN and `hf auth login`, HF_ENDPOINT, HF_HUB_CACHE, HF_HUB_OFFLINE.
What it raises never reaches a user: such messages carry addresses, which may be signed, so ours are
written anew and nothing is chained to them.
"""

import logging
import os
import re
import shutil
import threading
import time
from collections.abc import Callable, Generator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import cast
from urllib.parse import urlsplit

import huggingface_hub as hub  # cheap: its parts load on first use, httpx among them
from huggingface_hub import constants

from vaelens.errors import BadInputError, CheckFailedError, NetworkError, ResourceError, UsageError, VaelensError
from vaelens.files import FULL, sha256_file

SHA256 = re.compile(r"[0-9a-f]{64}")
COMMIT = re.compile(r"[0-9a-f]{40}")

# How long a hub in trouble is asked again where no cached copy can stand in: one that never answers is
# asked twice, HF_HUB_ETAG_TIMEOUT (10 s) each; one that answers 503 five times within 15 s.
PATIENCE = 20

# The library's constants for our calls. One that the user has set in the environment stays as it is.
SETTINGS = {
    # A silent transfer is taken up again five times, a second apart: 6 x 6 + 5 = 41 s. The library's 10 s make 65.
    "HF_HUB_DOWNLOAD_TIMEOUT": 6,
    # A transfer that breaks loses the chunk it was in: 1 MiB, where the library's is 10.
    "DOWNLOAD_CHUNK_SIZE": 1 << 20,
    # The Xet client knows none of these timeouts.
    "HF_HUB_DISABLE_XET": True,
}
TRANSFERS = 3  # after a connection that was reset: the library doesn't resume those
ABANDONED = 600  # seconds without a byte, far beyond the timeouts above

RETRY = "Try again in a few minutes."
CONNECTION = "Check the network; a file downloaded elsewhere can be named by its path."
LOG_IN = "Accept its licence on {page}, then run `hf auth login` or set HF_TOKEN."
WHY = {  # the name of an exception, or a status: the reason, and what to do next
    "GatedRepoError": f"the repository is gated. {LOG_IN}",
    "RepositoryNotFoundError": f"no such repository, or a private or gated one. Check the name; if it exists: {LOG_IN}",
    "RevisionNotFoundError": "the repository has no such revision. See {page}/tree/main for what there is.",
    "RemoteEntryNotFoundError": "there is no such file in the repository. See {page}/tree/main for what there is.",
    "401": f"the hub refuses access (401): a wrong token, or a missing, private or gated repository. {LOG_IN}",
    "403": f"the hub refuses access (403): your account or token may not read it. {LOG_IN}",
    "404": "not found (404). Check the name on {page}.",
    "429": "the hub answers 429, too many requests. Wait a few minutes; logged in (`hf auth login`) you may ask more.",
    "5xx": f"the hub is in trouble and answers {{status}}. {RETRY}",
    "gaierror": f"{{endpoint}} can't be found (DNS). {CONNECTION}",
    "ConnectionRefusedError": f"{{endpoint}} refuses the connection. {CONNECTION}",
    "SSLError": "{endpoint} can't prove who it is (TLS). Are you behind a login page or a company's proxy?",
    "ProxyError": "the proxy doesn't let it through. Check HTTPS_PROXY and NO_PROXY.",
    "ConnectTimeout": f"{{endpoint}} can't be reached: no answer to the connection. {CONNECTION}",
    "TimeoutException": f"{{endpoint}} accepts the connection and then stays silent, again and again. {RETRY}",
    "ConnectError": f"{{endpoint}} can't be reached. {CONNECTION}",
    "UnsupportedProtocol": "{endpoint} is no web address. HF_ENDPOINT should begin with https://.",
    "TransportError": f"the connection to {{endpoint}} broke, again and again. {RETRY}",
}
PASSING = {"5xx", "408", "TimeoutException", "RemoteProtocolError", "ReadError"}

_one_at_a_time = threading.Lock()  # a download in a process, since the constants are the process's


@dataclass(frozen=True)
class RemoteFile:
    """One file on the hub; `size` in bytes and `sha256` in hexadecimal where they are known beforehand."""

    repo: str
    filename: str
    revision: str = "main"
    size: int | None = None
    sha256: str | None = None

    def __str__(self) -> str:
        return f"{self.repo} {self.filename}" + (f" at {self.revision}" if self.revision != "main" else "")


class _MissingError(NetworkError):
    """The repository is there, and has no such file."""


def fetch(file: RemoteFile, *, offline: bool = False, announce: Callable[[str], None] | None = None) -> Path:
    """The file's path in the hub's cache, downloaded if need be; `announce` gets each notice, one a call.

    A cached copy of known content (a sha256 is given, or the revision is a commit) is used without asking
    the hub; one of a branch if the hub says that it is current or can't be asked. A download is checked
    against size and sha256, the given ones and the hub's; a cached copy against the given ones.

    Raises NetworkError, within a minute if the hub is silent or in trouble; CheckFailedError for other
    bytes than expected, and damaged ones leave the cache; ResourceError for a full disk; BadInputError for
    a cache that can't be written; UsageError for a name that can't be on the hub.
    """
    say = announce or logging.getLogger(__name__).info
    copy = cached(file)
    pinned = bool(file.sha256) or COMMIT.fullmatch(file.revision) is not None
    if offline or constants.HF_HUB_OFFLINE:
        if copy is None:
            raise _not_offline(file)
        say(f"offline: using the cached copy of {file}")
        path = copy
    elif copy is not None and pinned:
        path = copy
    else:
        path = _from_hub(file, copy, say)
    _check(path, file, file.sha256)
    _drop_abandoned(path)
    return path


def try_fetch(file: RemoteFile, *, offline: bool = False, announce: Callable[[str], None] | None = None) -> Path | None:
    """As `fetch`, but None where the repository has no such file, or is known to have none."""
    try:
        return fetch(file, offline=offline, announce=announce)
    except _MissingError:
        return None


def cached(file: RemoteFile) -> Path | None:
    """The path of the cached copy, without any network; None without one, or with one of another sha256."""
    found = _look_up(file)
    if not isinstance(found, str):
        return None
    path = Path(found)
    named = _blob(path).name  # the hub names large files by their sha256
    return None if file.sha256 and SHA256.fullmatch(named) and named != file.sha256 else path


def access() -> dict[str, str | bool]:
    """How the hub would be reached: `endpoint`, `cache` (a folder), `token` (whether one is set), `offline`."""
    named = os.environ.get("HF_TOKEN") or os.environ.get("HUGGING_FACE_HUB_TOKEN")
    return {
        "endpoint": _endpoint(),
        "cache": constants.HF_HUB_CACHE,
        "token": bool(named) or Path(constants.HF_TOKEN_PATH).is_file(),
        "offline": constants.HF_HUB_OFFLINE,
    }


def _from_hub(file: RemoteFile, copy: Path | None, say: Callable[[str], None]) -> Path:
    """The current file; `copy`, the cached one of a branch, stands in where the hub can't be asked."""
    try:
        with _settings():
            try:
                return _download(file, copy, say)
            except _failures() as error:
                raise _explained(error, file) from None
    except NetworkError as error:
        if copy is None or isinstance(error, _MissingError):
            raise
        say(f"{error} Using the cached copy.")
        return copy


def _download(file: RemoteFile, copy: Path | None, say: Callable[[str], None]) -> Path:
    """Asks first, because the library's own asking takes minutes to give up, then downloads and checks."""
    digest = None
    try:
        remote = _ask(file, 0 if copy else PATIENCE)
    except _failures() as error:
        if "EntryNotFoundError" not in _clues(error):
            raise
        # The call below raises it again, and notes in the cache that there is no such file.
    else:
        if remote.commit_hash is None or remote.etag is None:
            raise _impostor(file, "{endpoint} doesn't answer as the hub does. Check HF_ENDPOINT and proxies.")
        if copy is not None and remote.commit_hash in copy.parts:
            return copy
        digest = _announce(file, remote.etag, remote.size, say)
    for attempt in range(TRANSFERS):
        try:
            path = Path(hub.hf_hub_download(file.repo, file.filename, revision=file.revision))  # pyright: ignore[reportUnknownMemberType]
            _check(path, file, digest)
            return path
        except _failures() as error:
            if "ReadError" not in _clues(error) or attempt == TRANSFERS - 1:
                raise
    raise AssertionError("the loop above returns or raises")


def _ask(file: RemoteFile, patience: float) -> "hub.HfFileMetadata":
    """What the hub says of the file, asked again for `patience` seconds while the trouble may pass."""
    url = hub.hf_hub_url(file.repo, file.filename, revision=file.revision)
    give_up, wait = time.monotonic() + patience, 1.0
    while True:
        try:
            return hub.get_hf_file_metadata(url, timeout=constants.HF_HUB_ETAG_TIMEOUT)  # pyright: ignore[reportUnknownMemberType]
        except _failures() as error:
            if PASSING.isdisjoint(_clues(error)) or time.monotonic() + wait > give_up:
                raise
        time.sleep(wait)
        wait *= 2


def _announce(file: RemoteFile, etag: str, size: int | None, say: Callable[[str], None]) -> str | None:
    """Checks before the transfer what can be, announces it, and gives the sha256 that it should have."""
    named = etag if SHA256.fullmatch(etag) else None
    for what, expected, found in (("sha256", file.sha256, named), ("bytes", file.size, size)):
        if expected is not None and found is not None and found != expected:
            raise CheckFailedError(f"{file}: the hub now has another file: {what} {expected} expected, {found} found.")
    cache = Path(constants.HF_HUB_CACHE)
    folder = cache / ("models--" + file.repo.replace("/", "--"))
    if not (folder / "blobs" / etag).exists():
        amount = "" if size is None else f", {size / 1e6:.0f} MB" if size >= 1e6 else f", {size:,} bytes"
        there = next(place for place in (cache, *cache.parents) if place.exists())
        if size is not None and (free := shutil.disk_usage(there).free) < size:
            raise ResourceError(f"{file}{amount}: not downloaded, {cache} has room for {free / 1e6:.0f} MB. Free some.")
        say(f"downloading {file}{amount}")
    return file.sha256 or named


def _check(path: Path, file: RemoteFile, digest: str | None) -> None:
    """Raises CheckFailedError for another size than the file's, or another sha256 than `digest`."""
    size = path.stat().st_size
    if file.size is not None and size != file.size:
        what = f"{file.size:,} bytes expected, {size:,} found"
    elif digest is not None and (found := sha256_file(path)) != digest:
        what = f"sha256 {digest} expected, {found} found"
    else:
        return
    blob = _blob(path)
    if sha256_file(path) == blob.name:
        raise CheckFailedError(f"{file}: {what}, though {path} is what the hub has. Is the revision the right one?")
    for place in (path.resolve(), blob, path):
        place.unlink(missing_ok=True)
    raise CheckFailedError(f"{file}: damaged, {what}. It is removed from the cache; run it again to download it anew.")


def _drop_abandoned(path: Path) -> None:
    """Removes what killed downloads of the same file left behind.

    Only under the lock that a download holds, and only what nobody has written to for long, since on some
    network file systems every process gets the lock.
    """
    blob = _blob(path)
    folder = blob.parent.parent
    with suppress(OSError):
        partial = blob.parent.glob(f"{blob.name}.*.incomplete")
        old = [p for p in partial if time.time() - p.stat().st_mtime > ABANDONED]
        if old:
            from huggingface_hub.utils import WeakFileLock  # noqa: PLC0415 - brings in httpx

            with WeakFileLock(folder.parent / ".locks" / folder.name / f"{blob.name}.lock", timeout=0.1):
                for p in old:
                    p.unlink()


def _failures() -> tuple[type[Exception], ...]:
    """What the library raises: the system's errors, and httpx's, or from its 2.0 on httpx2's."""
    from huggingface_hub.errors import HfHubHTTPError  # noqa: PLC0415 - brings in httpx

    return OSError, cast("type[Exception]", HfHubHTTPError.__bases__[0])


def _explained(error: Exception, file: RemoteFile) -> VaelensError:
    """The user's error for what the library raised, without a word of its message."""
    if type(error).__name__ == "LocalEntryNotFoundError" and isinstance(error.__cause__, Exception):
        return _explained(error.__cause__, file)
    if isinstance(error, OSError) and error.errno is not None:
        where = f"{file}: not written to {constants.HF_HUB_CACHE}"
        if error.errno in FULL:
            return ResourceError(f"{where}, the disk is full. Free some room, or set HF_HUB_CACHE to a larger disk.")
        return BadInputError(f"{where}: {os.strerror(error.errno)}. Check its permissions, or set HF_HUB_CACHE.")
    if type(error) is OSError:  # the library's word for another number of bytes than announced
        return _impostor(file, f"the transfer from {{endpoint}} was incomplete. {RETRY}")
    clues = _clues(error)
    status = next((clue for clue in clues if clue.isdigit()), "")
    why = next((WHY[clue] for clue in clues if clue in WHY), f"{{endpoint}} fails ({status or clues[0]}). {RETRY}")
    kind = _MissingError if "RemoteEntryNotFoundError" in clues else NetworkError
    return kind(_sentence(file, why, status))


def _impostor(file: RemoteFile, otherwise: str) -> NetworkError:
    """For something that isn't the file: looks whether it is a web page, as behind a hotel's login page."""
    kind = ""
    url = hub.hf_hub_url(file.repo, file.filename, revision=file.revision)
    with suppress(*_failures()), hub.get_session().stream("GET", url, timeout=constants.HF_HUB_ETAG_TIMEOUT) as answer:
        kind = answer.headers.get("Content-Type", "")
    page = "an HTML page came back instead of the file; are you behind a login page? Log in with a browser, try again."
    return NetworkError(_sentence(file, page if "html" in kind else otherwise))


def _sentence(file: RemoteFile, why: str, status: str = "") -> str:
    endpoint = _endpoint()
    return f"{file}: " + why.format(endpoint=endpoint, page=f"{endpoint}/{file.repo}", status=status)


def _clues(error: BaseException) -> list[str]:
    """Names to look up in WHY: of a failed connection's causes, of the error's kinds, its status; telling ones first.

    Names rather than classes, because they are httpx's or httpx2's.
    """
    own = [kind.__name__ for kind in type(error).__mro__]
    status = getattr(getattr(error, "response", None), "status_code", None)
    if status is not None:
        own += [str(status), f"{status // 100}xx"]
    cause = error.__cause__ or error.__context__
    return (_clues(cause) if cause is not None and "ConnectError" in own else []) + own


@contextmanager
def _settings() -> Generator[None]:
    """The library as SETTINGS has it, and silent: its warnings carry addresses and come at each retry."""
    log = logging.getLogger("huggingface_hub")
    with _one_at_a_time:
        before = {name: getattr(constants, name) for name in SETTINGS if not os.environ.get(name)}
        level = log.level
        try:
            log.setLevel(logging.CRITICAL)
            for name in before:
                setattr(constants, name, SETTINGS[name])
            yield
        finally:
            log.setLevel(level)
            for name, value in before.items():
                setattr(constants, name, value)


def _not_offline(file: RemoteFile) -> NetworkError:
    found = _look_up(file)
    if found is None or isinstance(found, str):  # or in another version
        return NetworkError(f"{file}: not in the cache, and offline. Run it once without --offline and HF_HUB_OFFLINE.")
    return _MissingError(f"{file}: there is no such file in the repository.")


def _look_up(file: RemoteFile) -> object:
    """A path (str), None, or the library's sign that the repository is known to have no such file."""
    name = Path(file.filename)
    try:
        if name.is_absolute() or ".." in name.parts:  # the library's 1.32 would leave the cache with them
            raise ValueError
        return hub.try_to_load_from_cache(file.repo, file.filename, revision=file.revision)
    except ValueError:
        raise UsageError(f"{file}: no such name can be on the hub. A repository is named owner/name.") from None


def _blob(path: Path) -> Path:
    """What a snapshot's link points at; the path itself on file systems without links."""
    return Path(os.path.normpath(path.parent / path.readlink())) if path.is_symlink() else path


def _endpoint() -> str:
    """Where the hub is, without the user and password that HF_ENDPOINT may carry."""
    parts = urlsplit(constants.ENDPOINT)
    return parts._replace(netloc=parts.netloc.rpartition("@")[2]).geturl()
