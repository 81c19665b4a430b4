"""Files from the hub, checked.

The library's own settings hold: HF_TOKEN and `hf auth login`, HF_ENDPOINT, HF_HUB_CACHE, HF_HUB_OFFLINE.
"""

import os
import re
import threading
from dataclasses import dataclass
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import Literal, TypeAlias
from urllib.parse import urlsplit

import huggingface_hub as hub
from huggingface_hub import constants

from vaelens.download.client import TEMPORARY_IN_TRANSFER, WAITS, settings, with_retries
from vaelens.download.failures import (
    NOT_A_HUB,
    MissingError,
    Request,
    as_network_error,
    check_room,
    error_names,
    in_words,
    library_errors,
    not_cached,
    not_written,
    wrong_content,
)
from vaelens.errors import CheckFailedError, NetworkError, UsageError
from vaelens.files import sha256_file
from vaelens.json_reading import quoted
from vaelens.runtime import DEFAULT, Notify, Runtime

SHA256 = re.compile(r"[0-9a-f]{64}")
HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*")  # what may be the name of a repository
COMMIT = re.compile(r"[0-9a-f]{40}")
REMOVED = "The damaged copy was removed from the cache. Run the command again to download a new one."

RepoType: TypeAlias = Literal["model", "dataset"]

_locks: dict[str, threading.Lock] = {}  # by address: several threads download a file once, and announce it once


@dataclass(frozen=True)
class RemoteFile:
    """One file on the hub; `size` in bytes and `sha256` in hexadecimal where they are known beforehand."""

    repo: str
    filename: str
    revision: str = "main"
    size: int | None = None
    sha256: str | None = None
    repo_type: RepoType = "model"

    def __str__(self) -> str:
        return f"{self.filename} of {repo_name(self.repo, self.repo_type, self.revision)}"


def fetch(file: RemoteFile, runtime: Runtime = DEFAULT) -> Path:
    """The file's path in the hub's cache, downloaded if need be and announced with its size.

    A cached copy of known content (a sha256 is given, or the revision is a commit) is used without a request; one of
    a branch where the hub says that it is current, or doesn't answer. A download is checked against size and sha256,
    the given ones and the hub's; a cached copy against the given ones.

    Raises NetworkError, within a minute if the hub is silent or has a problem; CheckFailedError for other
    bytes than expected, and damaged ones are removed from the cache; ResourceError for a full disk; BadInputError for
    a cache that can't be written; UsageError for a name that can't be on the hub.
    """
    copy = cached(file)
    pinned = bool(file.sha256) or COMMIT.fullmatch(file.revision) is not None
    if runtime.offline or constants.HF_HUB_OFFLINE:
        if copy is None:
            raise _not_cached(file, runtime.offline)
        runtime.notify(f"offline: using the cached copy of {file}")
        path = copy
    elif copy is not None and pinned:
        path = copy
    else:
        path = _from_hub(file, copy, runtime.notify)
    _check(path, file, file.sha256)
    return path


def try_fetch(file: RemoteFile, runtime: Runtime = DEFAULT) -> Path | None:
    """As `fetch`, but None where the repository has no such file, or is known to have none."""
    try:
        return fetch(file, runtime)
    except MissingError:
        return None


def cached(file: RemoteFile) -> Path | None:
    """The path of the cached copy, without any network; None without one, or with one of another sha256."""
    found = _look_up(file)
    if not isinstance(found, str):
        return None
    path = Path(found)
    blob = blob_of(path).name  # the hub names large files by their sha256
    return None if file.sha256 and SHA256.fullmatch(blob) and blob != file.sha256 else path


def access() -> dict[str, str | bool]:
    """How the hub would be reached: `endpoint`, `cache` (a folder), `token` (whether one is set), `offline`."""
    token = os.environ.get("HF_TOKEN") or os.environ.get("HUGGING_FACE_HUB_TOKEN")
    return {
        "endpoint": endpoint(),
        "cache": constants.HF_HUB_CACHE,
        "token": bool(token) or Path(constants.HF_TOKEN_PATH).is_file(),
        "offline": constants.HF_HUB_OFFLINE,
    }


def _from_hub(file: RemoteFile, copy: Path | None, notify: Notify) -> Path:
    """The current file; `copy`, the cached one of a branch, is used where the hub doesn't answer."""
    try:
        with _locks.setdefault(_request(file).url, threading.Lock()), settings:
            try:
                return _download(file, copy, notify)
            except library_errors() as error:
                if isinstance(error, OSError) and error.errno is not None:
                    raise not_written(error, str(file), constants.HF_HUB_CACHE, "HF_HUB_CACHE") from None
                raise as_network_error(error, _request(file)) from None
    except NetworkError as error:
        if copy is None or isinstance(error, MissingError):
            raise
        notify(f"{error} Using the cached copy.")
        return copy


def _download(file: RemoteFile, copy: Path | None, notify: Notify) -> Path:
    """The file's metadata first, because the library takes minutes to give up on it; then the transfer, checked."""
    request, digest = _request(file), None
    try:
        remote = with_retries(
            lambda: hub.get_hf_file_metadata(request.url, timeout=constants.HF_HUB_ETAG_TIMEOUT),  # pyright: ignore[reportUnknownMemberType]
            waits=() if copy else WAITS,
        )
    except library_errors() as error:
        if "EntryNotFoundError" not in error_names(error):
            raise
        # The call below raises it again, and notes in the cache that there is no such file.
    else:
        if remote.commit_hash is None or remote.etag is None:
            raise wrong_content(request, NOT_A_HUB)
        if copy is not None and remote.commit_hash in copy.parts:
            return copy
        digest = _announce(file, remote.etag, remote.size, notify)
    path = with_retries(
        lambda: hub.hf_hub_download(  # pyright: ignore[reportUnknownMemberType]
            file.repo, file.filename, repo_type=file.repo_type, revision=file.revision
        ),
        TEMPORARY_IN_TRANSFER,
    )
    _check(Path(path), file, digest)
    return Path(path)


def _announce(file: RemoteFile, etag: str, size: int | None, notify: Notify) -> str | None:
    """Check what can be checked before the transfer and announce it; gives the sha256 that the file should have."""
    published = etag if SHA256.fullmatch(etag) else None
    for what, expected, found in (("sha256", file.sha256, published), ("bytes", file.size, size)):
        if expected is not None and found is not None and found != expected:
            raise CheckFailedError(f"{file}: the hub now has another file: {what} {expected} expected, {found} found.")
    cache = Path(constants.HF_HUB_CACHE)
    if not (cache / folder_of(file.repo, file.repo_type) / "blobs" / etag).exists():
        announced = f"{file}{in_words(size)}"
        check_room(announced, cache, size or 0, "HF_HUB_CACHE")
        notify(f"downloading {announced}")
    return file.sha256 or published


def _check(path: Path, file: RemoteFile, digest: str | None) -> None:
    """Raises CheckFailedError for another size than the file's, or another sha256 than `digest`."""
    size = path.stat().st_size
    if file.size is not None and size != file.size:
        what = f"{file.size:,} bytes expected, {size:,} found"
    elif digest is not None and (found := sha256_file(path)) != digest:
        what = f"sha256 {digest} expected, {found} found"
    else:
        return
    blob = blob_of(path)
    if sha256_file(path) == blob.name:
        raise CheckFailedError(f"{file}: {what}, though {path} is what the hub has. Is the revision the right one?")
    for place in (path.resolve(), blob, path):
        place.unlink(missing_ok=True)
    raise CheckFailedError(f"{file}: damaged, {what}. {REMOVED}")


def _not_cached(file: RemoteFile, offline: bool) -> NetworkError:
    found = _look_up(file)
    if found is None or isinstance(found, str):  # or in another version
        return NetworkError(f"{not_cached(str(file), offline)}.")
    return MissingError(f"{file}: there is no such file in the repository.")


def _look_up(file: RemoteFile) -> object:
    """A path (str), None, or the library's mark for a file that the repository is known not to have."""
    try:
        if not is_inner(file.filename) or not is_inner(file.revision):  # the library's 1.32 would leave the cache
            raise ValueError
        return hub.try_to_load_from_cache(file.repo, file.filename, revision=file.revision, repo_type=file.repo_type)
    except ValueError:
        raise impossible_name(str(file)) from None


def blob_of(path: Path) -> Path:
    """What a snapshot's link points at; the path itself on file systems without links."""
    return Path(os.path.normpath(path.parent / path.readlink())) if path.is_symlink() else path


def _request(file: RemoteFile) -> Request:
    url = hub.hf_hub_url(file.repo, file.filename, repo_type=file.repo_type, revision=file.revision)
    return Request(f"Can't download {file}", url, page_of(file.repo, file.repo_type))


def endpoint() -> str:
    """The hub's address, without the user and password that HF_ENDPOINT may carry. Raises UsageError for no address."""
    try:
        parts = urlsplit(constants.ENDPOINT)
        host, _ = parts.hostname, parts.port  # a port that is none raises ValueError
        if parts.scheme not in {"http", "https"} or not host or not host.isprintable() or " " in host:
            raise ValueError
    except ValueError:
        shown = quoted(constants.ENDPOINT.rpartition("@")[2])  # before it may stand a password
        raise UsageError(
            f"HF_ENDPOINT is {shown}, which isn't a web address. Set it to https://huggingface.co, or unset it."
        ) from None
    return parts._replace(netloc=parts.netloc.rpartition("@")[2]).geturl()


def is_inner(name: str) -> bool:
    """Whether it names something inside a repository or folder on every system: no way out of it, and no odd bytes."""
    path = PurePosixPath(name)
    odd = any(c < " " or c in "\\\x7f" or "\ud800" <= c <= "\udfff" for c in name)
    return not odd and not path.is_absolute() and ".." not in path.parts and not PureWindowsPath(name).drive


def repo_name(repo: str, repo_type: RepoType, revision: str = "main") -> str:
    """A repository as messages call it, with a commit's first 7 digits."""
    at = revision[:7] if COMMIT.fullmatch(revision) else revision
    return ("dataset " if repo_type == "dataset" else "") + repo + (f" at {at}" if revision != "main" else "")


def page_of(repo: str, repo_type: RepoType) -> str:
    """The address of a repository's page."""
    return f"{endpoint()}/{'datasets/' if repo_type == 'dataset' else ''}{repo}"


def folder_of(repo: str, repo_type: RepoType) -> str:
    """The name of a repository's folder in a cache."""
    return f"{repo_type}s--{repo.replace('/', '--')}"


def impossible_name(name: str) -> UsageError:
    """The error for a name that no repository or file can have."""
    return UsageError(
        f"{name}: no such name can be on the hub. A repository is named owner/name, a file by its path in it."
    )
