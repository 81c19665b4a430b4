"""Datasets on the hub: parquet, shards, zips and images, by splits."""

import sys
from pathlib import Path

import pytest

from support.images.stored_images import Entry, content, folder, ids, images_column, parquet, raw_zip, shards, zipped
from support.standins.hub import HubStandin
from vaelens.download import hub, hub_listing
from vaelens.errors import BadInputError, UsageError
from vaelens.images.datasets import open_dataset
from vaelens.runtime import Runtime


class Hub:
    """A hub with one dataset, whose files lie in a folder; `fetched` lists the files that were requested."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.fetched: list[str] = []
        self.revisions: list[str] = []

    def list_files(self, repo: str, **how: object) -> hub_listing.Listing:
        assert how["repo_type"] == "dataset"
        self.revisions.append(str(how["revision"]))
        commit = "c" * 40
        names = sorted(str(path.relative_to(self.root)) for path in self.root.rglob("*") if path.is_file())
        found = [hub.RemoteFile(repo, n, commit, (self.root / n).stat().st_size, None, "dataset") for n in names]
        return hub_listing.Listing(commit, tuple(found[::-1]))

    def fetch(self, file: hub.RemoteFile, _: Runtime) -> Path:
        assert file.repo_type == "dataset"
        self.fetched.append(file.filename)
        return self.root / file.filename


@pytest.fixture
def repository(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Hub:
    stand_in = Hub(tmp_path / "repo")
    stand_in.root.mkdir()
    monkeypatch.setattr(hub_listing, "list_files", stand_in.list_files)
    monkeypatch.setattr(hub, "fetch", stand_in.fetch)
    monkeypatch.setattr(hub, "cached", lambda file: None)
    monkeypatch.chdir(tmp_path)
    folder(stand_in.root, ".gitattributes", "README.md")
    return stand_in


def test_parquet_with_one_image_per_row(repository: Hub) -> None:
    parquet(repository.root / "data/train-00000-of-00001.parquet", {"image": images_column("no")})
    parquet(repository.root / "data/test-00000-of-00001.parquet", {"image": images_column("t")})
    for part, names in enumerate(["abcde", "fg", "hij"]):
        columns = {"label": list(range(len(names))), "image": images_column(*names)}
        parquet(repository.root / f"data/validation-{part:05d}-of-00003.parquet", columns)
    notices: list[str] = []
    data = open_dataset("owner/name", runtime=Runtime(notify=notices.append))
    assert ids(data) == [f"validation/{row:08d}" for row in range(10)]
    assert [data.read(item) for item in data.items] == [content(name) for name in "abcdefghij"]
    assert (data.origin, data.name) == ("hub", "owner/name validation (10 images)")
    assert data.notes == (f"owner/name at commit {'c' * 40}",)
    assert repository.fetched == [f"data/validation-{part:05d}-of-00003.parquet" for part in range(3)]
    assert notices[0] == "owner/name isn't a path here: asking the hub for a dataset of that name"
    assert notices[1].startswith("owner/name: 3 files, 0 MB")
    assert ids(open_dataset("owner/name", split="test")) == ["test/00000000"]
    assert open_dataset("owner/name", split="val").items == data.items
    with pytest.raises(UsageError, match=r"no split 'dogs'. Its files: data/test-00000"):
        open_dataset("owner/name", split="dogs")


def test_an_address_of_the_hub_names_a_revision_or_a_folder_of_a_dataset(repository: Hub) -> None:
    for part in ("one", "two"):
        parquet(repository.root / f"{part}/test.parquet", {"image": images_column(part)})
    data = open_dataset("https://huggingface.co/datasets/owner/name/tree/v2/two")
    assert [data.read(item) for item in data.items] == [content("two")]
    assert repository.revisions == ["v2"]
    data = open_dataset("https://huggingface.co/datasets/owner/name/blob/main/one/test.parquet")
    assert [data.read(item) for item in data.items] == [content("one")]
    with pytest.raises(BadInputError, match=r"holds no parquet, .* in three\. Name"):
        open_dataset("https://huggingface.co/datasets/owner/name/tree/main/three")


def test_the_column_of_images_is_found(repository: Hub) -> None:
    sound = [{"bytes": b"sound", "path": "a.wav"}]
    kinds = {"audio": {"_type": "Audio"}, "photo_of_it": {"_type": "Image"}}
    for number, (columns, features) in enumerate(
        [
            ({"audio": sound, "photo_of_it": images_column("x")}, kinds),
            ({"other": images_column("y"), "image": images_column("x")}, None),
            ({"key": [b"k"], "jpg": [content("x")]}, None),
            ({"anything": images_column("x")}, None),
        ]
    ):
        parquet(repository.root / f"test-{number}.parquet", columns, features=features)
        data = open_dataset("owner/name")
        assert data.read(data.items[-1]) == content("x"), columns
    parquet(repository.root / "test-9.parquet", {"text": ["x"], "key": [b"x"]})
    with pytest.raises(BadInputError, match=r"test-9\.parquet has no column of images, only text \(text\), key"):
        open_dataset("owner/name")


def test_scores_in_parquet(repository: Hub) -> None:
    for part, scores in enumerate([[4.0, 5.0, None], [6.0]]):
        columns = {"image": images_column(*"abc"[: len(scores)]), "aesthetic": scores}
        parquet(repository.root / f"train-{part}.parquet", columns)
    data = open_dataset("owner/name", min_aesthetic=5)
    assert ids(data) == ["train/00000001", "train/00000003"]
    parquet(repository.root / "test.parquet", {"image": images_column("a"), "beauty": [9.0]})
    with pytest.raises(UsageError, match="the data beside them has image, beauty"):
        open_dataset("owner/name", min_aesthetic=5)


def test_damaged_or_imageless_parquet_is_refused(repository: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    path = parquet(repository.root / "test.parquet", {"image": [None, *images_column("x")]})
    data = open_dataset("owner/name")
    assert data.read(data.items[0]) == b""
    whole = path.read_bytes()
    path.write_bytes(whole[:-10])
    with pytest.raises(BadInputError, match=r"test\.parquet is a damaged parquet file"):
        open_dataset("owner/name")
    parquet(path, {"image": [{"bytes": None, "path": "http://x/a.jpg"}]})
    with pytest.raises(BadInputError, match=r"row test/00000000 only names 'http://x/a\.jpg'"):
        open_dataset("owner/name")
    parquet(path, {"image": images_column("x")})
    parquet(repository.root / "val.parquet", {"image": images_column("x")}, rows=0)
    with pytest.raises(BadInputError, match=r"owner/name: val\.parquet: no rows, and so no images"):
        open_dataset("owner/name")
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    monkeypatch.setitem(sys.modules, "pyarrow.parquet", None)
    repository.fetched.clear()
    with pytest.raises(UsageError, match=r"pip install 'vaelens\[datasets\]'"):
        open_dataset("owner/name")
    assert repository.fetched == []  # refused before anything is downloaded


def test_a_split_in_two_configurations_has_to_be_named(repository: Hub) -> None:
    for name in ("en", "de"):
        parquet(repository.root / f"{name}/test-00000-of-00001.parquet", {"image": images_column(name)})
    with pytest.raises(UsageError, match=r"has test in 2 folders \(de, en\)\. Name one with --split, as de/test"):
        open_dataset("owner/name")
    data = open_dataset("owner/name", split="en/test")
    assert ids(data) == ["en/test/00000000"]
    assert data.read(data.items[0]) == content("en")


def test_a_hub_dataset_of_shards(repository: Hub) -> None:
    shards(repository.root / "data")
    data = open_dataset("owner/name", min_aesthetic=5, take=2)
    assert data.name == "LAION-like: seeded 2 with aesthetic >= 5 from owner/name train"
    assert data.origin == "hub"
    assert all(name.startswith("data/0000") for name in ids(data))
    assert [data.read(item) for item in data.items] == [content(name.rpartition("/")[2]) for name in ids(data)]
    assert repository.fetched == [f"data/0000{i}.tar" for i in range(3)]


def test_a_hub_dataset_of_zips_and_of_images(repository: Hub) -> None:
    folder(repository.root, "val/a.png", "val/b.jpg", "train/c.png", "latest/d.png")
    data = open_dataset("owner/name", take=1)
    assert ids(data) < ["val/c"]
    assert repository.fetched == ids(data)  # what isn't taken isn't downloaded
    zipped(repository.root / "val.zip", "x/a.png")
    zipped(repository.root / "train.zip", "x/b.png")
    data = open_dataset("owner/name")
    assert ids(data) == ["val.zip/x/a.png"]
    assert data.read(data.items[0]) == content("x/a.png")


def test_a_hub_dataset_tells_what_it_leaves_out(repository: Hub) -> None:
    folder(repository.root, "a.png", "b.heic", "c.txt")
    assert open_dataset("owner/name").notes[1:] == (
        "1 file left out: 1 .heic (formats that aren't read: convert them to PNG or JPEG)",
    )
    (repository.root / "a.png").unlink()
    (repository.root / "set.zip").write_bytes(raw_zip(Entry(b"a.png")) + raw_zip(Entry(b"b.png")))
    with pytest.raises(BadInputError, match=r"set\.zip: .* stand before the archive"):
        open_dataset("owner/name")


def test_a_hub_dataset_without_images(repository: Hub) -> None:
    with pytest.raises(BadInputError, match=r"owner/name holds no parquet, \.tar, \.zip or images"):
        open_dataset("owner/name")


def test_a_hub_dataset_through_a_hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Through the real client: listed, fetched and checked once, then offline from the cache."""
    rows = parquet(tmp_path / "rows.parquet", {"image": images_column(*"abc")}).read_bytes()
    with HubStandin() as served:
        served.use(monkeypatch, tmp_path)
        served.add("datasets/owner/rows", "data/test-00000-of-00001.parquet", rows)
        served.add("datasets/owner/rows", "data/train-00000-of-00001.parquet", b"not requested")
        served.add("datasets/owner/files", "one/a.png", content("a"))
        first = [open_dataset(f"owner/{name}") for name in ("rows", "files")]
        assert not served.requests_for("data/train-00000-of-00001.parquet")
        count = len(served.requests)
        again = [open_dataset(f"owner/{name}", runtime=Runtime(offline=True)) for name in ("rows", "files")]
        assert len(served.requests) == count
    assert [ids(data) for data in first] == [[f"test/{row:08d}" for row in range(3)], ["one/a.png"]]
    assert [data.items for data in again] == [data.items for data in first]
    assert [data.notes for data in again] == [data.notes for data in first]
    assert again[0].read(again[0].items[2]) == content("c")
    assert again[1].read(again[1].items[0]) == content("a")
