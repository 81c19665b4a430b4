"""What a repository on the hub holds, listed at one commit, so that a dataset stays the same while it is measured."""

from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import quote

import huggingface_hub as hub
from huggingface_hub import constants

from vaelens.download.client import settings, with_retries
from vaelens.download.failures import NOT_A_HUB, Request, as_network_error, library_errors, not_cached, wrong_content
from vaelens.download.hub import (
    SHA256,
    RemoteFile,
    RepoType,
    blob_of,
    endpoint,
    folder_of,
    impossible_name,
    is_inner,
    page_of,
    repo_name,
)
from vaelens.errors import NetworkError, VaelensError
from vaelens.files import checked_json, read_checked_json, write_atomic
from vaelens.runtime import DEFAULT, Runtime
from vaelens.text.numbers import counted
from vaelens.text.paths import cache_folder


@dataclass(frozen=True)
class Listing:
    """What a repository holds at one commit; each file's revision is that commit."""

    commit: str
    files: tuple[RemoteFile, ...]


def list_files(
    repo: str,
    *,
    repo_type: RepoType = "model",
    revision: str = "main",
    runtime: Runtime = DEFAULT,
) -> Listing:
    """What the repository holds at the commit that `revision` is now, by name, with sizes, and sha256 of large files.

    Listings are cached in vaelens' own cache. That of a commit is used without a request, that of a branch offline or
    where the hub doesn't answer. Without one the files in the hub's cache are listed, which may not be all, and a
    notice says so.

    Raises NetworkError, within a minute if the hub is silent or has a problem, and offline with nothing cached;
    UsageError for a name that can't be on the hub.
    """
    from huggingface_hub.utils import validate_repo_id  # noqa: PLC0415 - brings in httpx

    name = repo_name(repo, repo_type, revision)
    try:
        validate_repo_id(repo)
        if not is_inner(revision):
            raise ValueError
    except ValueError:
        raise impossible_name(name) from None
    path = cache_folder() / "listings" / folder_of(repo, repo_type) / f"{quote(revision, safe='')}.json"
    cached, which = _cached_list(path, repo, repo_type), f"the earlier list of files of {name}"
    if cached is not None and cached.commit == revision:
        return cached
    if cached is None and (cached := _snapshot(repo, repo_type, revision)) is not None:
        which = f"the {counted(len(cached.files), 'cached file')} of {name}, which may not be all"
    if runtime.offline or constants.HF_HUB_OFFLINE:
        if cached is None:
            raise NetworkError(f"{not_cached(name, runtime.offline)}.")
        runtime.notify(f"offline: using {which}")
        return cached
    try:
        listing = _from_hub(name, repo, repo_type, revision)
    except NetworkError as error:
        if cached is None:
            raise
        runtime.notify(f"{error} Using {which}.")
        return cached
    rows = [[file.filename, file.size, file.sha256] for file in listing.files]
    with suppress(VaelensError):  # a cache that can't be written
        write_atomic(path, checked_json({"commit": listing.commit, "files": rows}))
    return listing


def _from_hub(name: str, repo: str, repo_type: RepoType, revision: str) -> Listing:
    """What the hub lists now."""
    endpoint()  # or UsageError
    api = f"{constants.ENDPOINT}/api/{repo_type}s/{repo}"
    request = Request(
        f"Can't list the files of {name}",
        f"{api}/revision/{quote(revision, safe='')}?expand=sha",
        page_of(repo, repo_type),
    )
    with settings:
        try:
            description, _ = _get_json(request.url)
            commit, entries = str(description["sha"]), list[Any]()
            page: str | None = f"{api}/tree/{commit}?recursive=true"
            while page:
                more, page = _get_json(page)
                entries += more
            return Listing(
                commit,
                tuple(
                    RemoteFile(repo, e["path"], commit, e["size"], e["lfs"]["oid"] if e.get("lfs") else None, repo_type)
                    for e in sorted(entries, key=lambda e: e["path"])
                    if e["type"] == "file"
                ),
            )
        except library_errors() as error:
            raise as_network_error(error, request) from None
        except (ValueError, KeyError, TypeError):  # neither JSON nor what it should hold
            raise wrong_content(request, NOT_A_HUB) from None


def _get_json(url: str) -> tuple[Any, str | None]:
    """The hub's answer, read from JSON, and the address of the next page.

    Not by the library's `list_repo_tree`, which has no timeout and sends the token to any host that a page links to.
    """
    from huggingface_hub.utils import (  # noqa: PLC0415 - brings in httpx
        build_hf_headers,  # pyright: ignore[reportUnknownVariableType]
        hf_raise_for_status,
    )

    def get() -> Any:
        answer = hub.get_session().get(url, headers=build_hf_headers(), timeout=constants.HF_HUB_ETAG_TIMEOUT)
        hf_raise_for_status(answer)
        return answer

    answer = with_retries(get)
    link = answer.links.get("next", {}).get("url")
    return answer.json(), link and constants.ENDPOINT + link[link.index("/api/") :]


def _cached_list(path: Path, repo: str, repo_type: RepoType) -> Listing | None:
    """The listing that was written to `path`; None where there is none, or it has changed since."""
    try:
        cached = read_checked_json(path.read_bytes())
        files = (RemoteFile(repo, name, cached["commit"], size, sha, repo_type) for name, size, sha in cached["files"])
        return Listing(cached["commit"], tuple(files))
    except (OSError, ValueError, KeyError, TypeError):
        return None


def _snapshot(repo: str, repo_type: RepoType, revision: str) -> Listing | None:
    """What the hub's cache has of a revision."""
    folder = Path(constants.HF_HUB_CACHE) / folder_of(repo, repo_type)
    commit = revision
    with suppress(OSError):
        commit = (folder / "refs" / revision).read_text().strip()
    snapshot = folder / "snapshots" / commit
    paths = sorted(path for path in snapshot.rglob("*") if path.is_file())
    files = (
        RemoteFile(
            repo,
            path.relative_to(snapshot).as_posix(),
            commit,
            path.stat().st_size,
            sha if SHA256.fullmatch(sha := blob_of(path).name) else None,
            repo_type,
        )
        for path in paths
    )
    return Listing(commit, tuple(files)) if paths else None
