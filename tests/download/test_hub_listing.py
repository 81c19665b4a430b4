"""Lists of a repository's files, and files of datasets; a token is set, and no error or notice may show it."""

import hashlib
import os
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from huggingface_hub import constants

from support.standins.hub import API, HubStandin, set_endpoint
from vaelens.download.hub import RemoteFile, cached, fetch
from vaelens.download.hub_listing import Listing, list_files
from vaelens.errors import NetworkError, UsageError
from vaelens.runtime import Runtime

REPO = "someone/images"
STORED = f"datasets/{REPO}"
FILES = {f"data/test-{i}.tar": bytes([i]) * 1000 for i in range(6)}
SHA256 = {name: hashlib.sha256(content).hexdigest() for name, content in FILES.items()}


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[HubStandin]:
    with HubStandin() as hub:
        hub.use(monkeypatch, tmp_path)
        for name, content in reversed(FILES.items()):
            hub.add(STORED, name, content)
        hub.add(STORED, "README.md", b"# Images", lfs=False)
        yield hub


@pytest.fixture
def listed(hub: HubStandin, notices: list[str]) -> Callable[..., Listing]:
    def listed(repo: str = REPO, **more: object) -> Listing:
        runtime = Runtime(offline=bool(more.pop("offline", False)), notify=notices.append)
        return list_files(repo, **{"repo_type": "dataset", "runtime": runtime, **more})  # type: ignore[arg-type]

    return listed


Lister = Callable[..., Listing]


def test_a_listing_names_every_page_s_files_at_one_commit(hub: HubStandin, listed: Lister) -> None:
    listing = listed()
    assert listing.commit == hub.commit(STORED)
    assert [file.filename for file in listing.files] == ["README.md", *FILES]
    assert {file.revision for file in listing.files} == {listing.commit}
    assert {file.repo_type for file in listing.files} == {"dataset"}
    assert [file.size for file in listing.files] == [8, *[1000] * 6]
    assert [file.sha256 for file in listing.files] == [None, *SHA256.values()]
    requests = [request for request in hub.requests if "/datasets/" in request.path]
    assert len(requests) == 1 + 5, "7 files and 6 times their folder are 5 pages, whose links name another host"
    assert all(request.authorized for request in requests)


def test_a_listed_file_is_fetched_from_the_dataset(hub: HubStandin, listed: Lister, notices: list[str]) -> None:
    file = listed().files[1]
    path = fetch(file, runtime=Runtime(notify=notices.append))
    assert path.read_bytes() == FILES["data/test-0.tar"]
    assert "datasets--someone--images" in path.parts
    assert notices == [f"downloading data/test-0.tar of dataset {REPO} at {hub.commit(STORED)[:7]}, 1,000 bytes"]
    hub.requests.clear()
    assert cached(file) == fetch(file) == path
    assert hub.requests == []
    assert cached(RemoteFile(REPO, "data/test-0.tar", file.revision)) is None, "no such model"


def test_what_a_dataset_lacks_is_named_with_its_page(hub: HubStandin) -> None:
    with pytest.raises(NetworkError) as error:
        fetch(RemoteFile(REPO, "data/nothing.tar", repo_type="dataset"))
    assert f"data/nothing.tar of dataset {REPO}: there is no such file" in str(error.value)
    assert f"{hub.endpoint}/datasets/{REPO}/tree/main" in str(error.value)


def test_a_model_is_listed_too(hub: HubStandin) -> None:
    hub.add("someone/vae", "config.json", b"{}", lfs=False)
    assert [(file.filename, file.repo_type) for file in list_files("someone/vae").files] == [("config.json", "model")]


def test_the_listing_of_a_commit_is_cached_and_that_of_a_branch_is_current(hub: HubStandin, listed: Lister) -> None:
    commit = hub.commit(STORED)
    first = listed(revision=commit)
    hub.requests.clear()
    assert listed(revision=commit) == first
    assert hub.requests == []
    assert listed() == first
    hub.add(STORED, "data/test-9.tar", b"9")
    assert len(listed().files) == len(first.files) + 1


def test_a_cached_listing_with_a_flipped_bit_is_made_again(hub: HubStandin, listed: Lister, cache: Path) -> None:
    commit = hub.commit(STORED)
    first = listed(revision=commit)
    (file,) = cache.rglob(f"{commit}.json")
    for part in (b"1000", SHA256["data/test-3.tar"].encode(), b"data/test-3.tar", commit.encode()):
        content = bytearray(file.read_bytes())
        content[content.rindex(part) + len(part) - 1] ^= 1
        file.write_bytes(content)
        hub.requests.clear()
        assert listed(revision=commit) == first
        assert hub.requests != [], "what has changed isn't used"
        hub.requests.clear()
        assert listed(revision=commit) == first
        assert hub.requests == []


@pytest.mark.parametrize("how", ["argument", "environment"])
def test_offline_the_last_listing_is_used(
    hub: HubStandin, listed: Lister, notices: list[str], monkeypatch: pytest.MonkeyPatch, how: str
) -> None:
    with pytest.raises(
        NetworkError, match=f"dataset {REPO} is not in the cache and can't be downloaded with --offline"
    ):
        listed(offline=True)
    listing = listed()
    hub.requests.clear()
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", how == "environment")
    assert listed(offline=how == "argument") == listing
    assert notices == [f"offline: using the earlier list of files of dataset {REPO}"]
    assert hub.requests == []


def test_offline_a_snapshot_is_listed_with_a_note(hub: HubStandin, listed: Lister, notices: list[str]) -> None:
    for name in ("data/test-1.tar", "README.md"):
        fetch(RemoteFile(REPO, name, repo_type="dataset"))
    found = listed(offline=True)
    assert found.commit == hub.commit(STORED)
    assert [(file.filename, file.size, file.sha256) for file in found.files] == [
        ("README.md", 8, None),
        ("data/test-1.tar", 1000, SHA256["data/test-1.tar"]),
    ]
    assert fetch(found.files[1], runtime=Runtime(offline=True)).read_bytes() == FILES["data/test-1.tar"]
    assert notices == [f"offline: using the 2 cached files of dataset {REPO}, which may not be all"]


def test_without_a_network_the_last_listing_is_used(
    listed: Lister, notices: list[str], nobody: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        set_endpoint(patch, nobody)
        with pytest.raises(NetworkError, match=f"{nobody.removeprefix('http://')} refuses the connection"):
            listed()
    listing = listed()
    set_endpoint(monkeypatch, nobody)
    assert listed() == listing
    assert f"{nobody.removeprefix('http://')} refuses the connection" in notices[-1]
    assert notices[-1].endswith(f"Using the earlier list of files of dataset {REPO}.")


@pytest.mark.parametrize(
    ("repo", "revision", "fault", "words"),
    [
        (REPO, "main", {"status": 401, "code": "GatedRepo"}, [f"/datasets/{REPO},", "is gated", "hf auth login"]),
        (REPO, "main", {"status": 403}, ["403", "HF_TOKEN"]),
        (REPO, "main", {"status": 429}, ["too many requests"]),
        (REPO, "main", {"html": True}, ["an HTML page came back", "login page"]),
        ("someone/nothing", "main", {}, ["dataset someone/nothing: ", "no such repository"]),
        (REPO, "v9", {}, [f"dataset {REPO} at v9: ", "no such revision", f"/datasets/{REPO}/tree/main"]),
    ],
)
def test_a_refusal_is_named_with_what_to_do(
    hub: HubStandin, listed: Lister, repo: str, revision: str, fault: dict[str, object], words: list[str]
) -> None:
    if fault:
        hub.fault(STORED, API, **fault)
    with pytest.raises(NetworkError) as error:
        listed(repo, revision=revision)
    assert error.value.__cause__ is None
    assert error.value.__suppress_context__, "a traceback would have the library's own words"
    for word in words:
        assert word in str(error.value)
    assert os.environ["HF_TOKEN"] not in str(error.value)


def test_a_silent_hub_is_given_up_and_a_problem_that_passes_waited_for(hub: HubStandin, listed: Lister) -> None:
    hub.fault(STORED, API, silent=True, times=4)
    with pytest.raises(NetworkError, match="stays silent"):
        listed()
    assert len([request for request in hub.requests if "/datasets/" in request.path]) == 4
    hub.fault(STORED, API, status=503, times=1)
    assert len(listed().files) == 7


def test_an_impossible_name_is_a_usage_error(hub: HubStandin, listed: Lister) -> None:
    with pytest.raises(UsageError, match="a/b/c: no such name"):
        listed("a/b/c")
    assert hub.requests == []
