"""Files from the hub, checked.

The library's own settings hold: HF_TOKEN and `hf auth login`, HF_ENDPOINT, HF_HUB_CACHE, HF_HUB_OFFLINE.
"""

import os
import re
import time
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, TypeAlias

import huggingface_hub as hub
from huggingface_hub import constants

from vaelens.download.asking import (
    PATIENCE,
    Asked,
    MissingError,
    clues,
    endpoint,
    explained,
    failures,
    impostor,
    patiently,
    settings,
)
from vaelens.download.trouble import amount, check_room
from vaelens.errors import CheckFailedError, NetworkError, UsageError
from vaelens.files import sha256_file
from vaelens.runtime import DEFAULT, Notify, Runtime

SHA256 = re.compile(r"[0-9a-f]{64}")
HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*")  # what may be the name of a repository
COMMIT = re.compile(r"[0-9a-f]{40}")

TRANSFERS = 3  # after a connection that was reset: the library doesn't resume those
ABANDONED = 600  # seconds without a byte, far beyond the timeouts of a transfer
NOT_HERE = "{what}: not in the cache, and offline. Run it once without --offline and HF_HUB_OFFLINE."

RepoType: TypeAlias = Literal["model", "dataset"]


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
        at = f" at {self.revision}" if self.revision != "main" else ""
        return f"{named(self.repo, self.repo_type)} {self.filename}{at}"


def fetch(file: RemoteFile, runtime: Runtime = DEFAULT) -> Path:
    """The file's path in the hub's cache, downloaded if need be; notices tell of it.

    A cached copy of known content (a sha256 is given, or the revision is a commit) is used without asking
    the hub; one of a branch if the hub says that it is current or can't be asked. A download is checked
    against size and sha256, the given ones and the hub's; a cached copy against the given ones.

    Raises NetworkError, within a minute if the hub is silent or in trouble; CheckFailedError for other
    bytes than expected, and damaged ones leave the cache; ResourceError for a full disk; BadInputError for
    a cache that can't be written; UsageError for a name that can't be on the hub.
    """
    copy = cached(file)
    pinned = bool(file.sha256) or COMMIT.fullmatch(file.revision) is not None
    if runtime.offline or constants.HF_HUB_OFFLINE:
        if copy is None:
            raise _not_offline(file)
        runtime.notify(f"offline: using the cached copy of {file}")
        path = copy
    elif copy is not None and pinned:
        path = copy
    else:
        path = _from_hub(file, copy, runtime.notify)
    _check(path, file, file.sha256)
    _drop_abandoned(path)
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
    named = blob_of(path).name  # the hub names large files by their sha256
    return None if file.sha256 and SHA256.fullmatch(named) and named != file.sha256 else path


def access() -> dict[str, str | bool]:
    """How the hub would be reached: `endpoint`, `cache` (a folder), `token` (whether one is set), `offline`."""
    named = os.environ.get("HF_TOKEN") or os.environ.get("HUGGING_FACE_HUB_TOKEN")
    return {
        "endpoint": endpoint(),
        "cache": constants.HF_HUB_CACHE,
        "token": bool(named) or Path(constants.HF_TOKEN_PATH).is_file(),
        "offline": constants.HF_HUB_OFFLINE,
    }


def _from_hub(file: RemoteFile, copy: Path | None, say: Notify) -> Path:
    """The current file; `copy`, the cached one of a branch, stands in where the hub can't be asked."""
    try:
        with settings():
            try:
                return _download(file, copy, say)
            except failures() as error:
                raise explained(error, _asked(file)) from None
    except NetworkError as error:
        if copy is None or isinstance(error, MissingError):
            raise
        say(f"{error} Using the cached copy.")
        return copy


def _download(file: RemoteFile, copy: Path | None, say: Notify) -> Path:
    """Asks first, because the library's own asking takes minutes to give up, then downloads and checks."""
    asked, digest = _asked(file), None
    try:
        remote = patiently(
            lambda: hub.get_hf_file_metadata(asked.url, timeout=constants.HF_HUB_ETAG_TIMEOUT),  # pyright: ignore[reportUnknownMemberType]
            0 if copy else PATIENCE,
        )
    except failures() as error:
        if "EntryNotFoundError" not in clues(error):
            raise
        # The call below raises it again, and notes in the cache that there is no such file.
    else:
        if remote.commit_hash is None or remote.etag is None:
            raise impostor(asked)
        if copy is not None and remote.commit_hash in copy.parts:
            return copy
        digest = _announce(file, remote.etag, remote.size, say)
    for attempt in range(TRANSFERS):
        try:
            path = Path(
                hub.hf_hub_download(  # pyright: ignore[reportUnknownMemberType]
                    file.repo, file.filename, repo_type=file.repo_type, revision=file.revision
                )
            )
            _check(path, file, digest)
            return path
        except failures() as error:
            if "ReadError" not in clues(error) or attempt == TRANSFERS - 1:
                raise
    raise AssertionError("the loop above returns or raises")


def _announce(file: RemoteFile, etag: str, size: int | None, say: Notify) -> str | None:
    """Checks before the transfer what can be, announces it, and gives the sha256 that it should have."""
    named = etag if SHA256.fullmatch(etag) else None
    for what, expected, found in (("sha256", file.sha256, named), ("bytes", file.size, size)):
        if expected is not None and found is not None and found != expected:
            raise CheckFailedError(f"{file}: the hub now has another file: {what} {expected} expected, {found} found.")
    cache = Path(constants.HF_HUB_CACHE)
    if not (cache / folder_of(file.repo, file.repo_type) / "blobs" / etag).exists():
        announced = f"{file}{amount(size)}"
        check_room(announced, cache, size or 0, "HF_HUB_CACHE")
        say(f"downloading {announced}")
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
    blob = blob_of(path)
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
    blob = blob_of(path)
    folder = blob.parent.parent
    with suppress(OSError):
        partial = blob.parent.glob(f"{blob.name}.*.incomplete")
        old = [p for p in partial if time.time() - p.stat().st_mtime > ABANDONED]
        if old:
            from huggingface_hub.utils import WeakFileLock  # noqa: PLC0415 - brings in httpx

            with WeakFileLock(folder.parent / ".locks" / folder.name / f"{blob.name}.lock", timeout=0.1):
                for p in old:
                    p.unlink()


def _not_offline(file: RemoteFile) -> NetworkError:
    found = _look_up(file)
    if found is None or isinstance(found, str):  # or in another version
        return NetworkError(NOT_HERE.format(what=file))
    return MissingError(f"{file}: there is no such file in the repository.")


def _look_up(file: RemoteFile) -> object:
    """A path (str), None, or the library's sign that the repository is known to have no such file."""
    name = Path(file.filename)
    try:
        if name.is_absolute() or ".." in name.parts:  # the library's 1.32 would leave the cache with them
            raise ValueError
        return hub.try_to_load_from_cache(file.repo, file.filename, revision=file.revision, repo_type=file.repo_type)
    except ValueError:
        raise impossible(str(file)) from None


def blob_of(path: Path) -> Path:
    """What a snapshot's link points at; the path itself on file systems without links."""
    return Path(os.path.normpath(path.parent / path.readlink())) if path.is_symlink() else path


def _asked(file: RemoteFile) -> Asked:
    url = hub.hf_hub_url(file.repo, file.filename, repo_type=file.repo_type, revision=file.revision)
    return Asked(str(file), page_of(file.repo, file.repo_type), url)


def named(repo: str, repo_type: RepoType) -> str:
    return f"dataset {repo}" if repo_type == "dataset" else repo


def page_of(repo: str, repo_type: RepoType) -> str:
    return f"{endpoint()}/{'datasets/' if repo_type == 'dataset' else ''}{repo}"


def folder_of(repo: str, repo_type: RepoType) -> str:
    """The repository's folder in a cache."""
    return f"{repo_type}s--{repo.replace('/', '--')}"


def impossible(name: str) -> UsageError:
    return UsageError(f"{name}: no such name can be on the hub. A repository is named owner/name.")
