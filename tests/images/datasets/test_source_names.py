"""Patterns as webdataset and shells have them, and addresses of the hub's pages of datasets."""

import itertools
from pathlib import Path

import pytest

from support.images.stored_images import folder, ids, images_column, parquet, shards
from vaelens.download.hub_addresses import HubAddress, parse_hub_address
from vaelens.errors import BadInputError, UsageError
from vaelens.images.datasets import open_dataset
from vaelens.images.datasets.source_names import address_in, files_of

# What bash expands these to; webdataset's braceexpand does the same.
BRACES = {
    "s-{000..004}": ["s-000", "s-001", "s-002", "s-003", "s-004"],
    "s-{8..11}": ["s-8", "s-9", "s-10", "s-11"],
    "s-{3..1}": ["s-3", "s-2", "s-1"],
    "s-{0..6..3}": ["s-0", "s-3", "s-6"],
    "{a..c}{1,2}": ["a1", "a2", "b1", "b2", "c1", "c2"],
    "{a,b{1,2}}": ["a", "b1", "b2"],
    "x{,y}": ["x", "xy"],
}


@pytest.mark.parametrize("pattern", BRACES)
def test_braces_stand_for_the_same_names_in_the_same_order_as_in_bash(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, pattern: str
) -> None:
    monkeypatch.chdir(tmp_path)
    for name in BRACES[pattern]:
        Path(name).touch()
    assert [str(path) for path in files_of(pattern) or ()] == BRACES[pattern]


def test_names_that_only_look_like_patterns_are_paths(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(folder(tmp_path, "a[1].png", "{1,2}.png", "1.png"))
    for name in ("a[1].png", "{1,2}.png", "no{braces}", "plain", "{1...2}"):
        assert files_of(name) is None, name
    with pytest.raises(UsageError, match="stands for more than 100,000 files"):
        files_of("{0..999999999}{0..999999999}.tar")


def test_a_pattern_may_not_stand_for_names_without_end(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(folder(tmp_path, "1.png", "2.png", "3.png"))
    for pattern in ("{,}/" * 1000, "{a}{1..9}/" * 400):
        with pytest.raises(UsageError, match=r"has (1,000|800) pairs of braces; a pattern may have 20\. Name") as e:
            open_dataset(pattern)
        assert len(str(e.value)) < 200
    assert len(files_of("{1,2}" + "{,}" * 10 + ".png") or ()) == 2
    monkeypatch.setattr("vaelens.images.datasets.source_names.MOST_FILES", 2)
    assert len(files_of("[12].png") or ()) == 2
    for pattern in ("*.png", "{[1],[2],[3]}.png"):
        with pytest.raises(UsageError, match=r"stands for more than 2 files\. Name their folder\."):
            files_of(pattern)


def test_shards_by_a_pattern_have_the_ids_that_they_have_by_their_folder(tmp_path: Path) -> None:
    whole = ids(open_dataset(shards(tmp_path / "set")))
    for pattern in ("{00000..00002}.tar", "*.tar", "0000[0-2].tar"):
        assert ids(open_dataset(str(tmp_path / "set" / pattern))) == whole
    assert len(ids(open_dataset(f"{tmp_path}/set/{{00000,00002}}.tar"))) == 8
    with pytest.raises(BadInputError, match=r"2 of 5 files that the pattern names are missing, .*00003\.tar\."):
        open_dataset(f"{tmp_path}/set/{{00000..00004}}.tar")
    everything = open_dataset(f"{tmp_path}/set/*")
    assert ids(everything) == whole
    assert everything.notes == ("6 files left out: 3 .json, 3 .parquet (not images)",)


def test_parquet_files_and_images_by_a_pattern(tmp_path: Path) -> None:
    for name in ("a", "b"):
        parquet(tmp_path / f"{name}.parquet", {"image": images_column(name)})
    assert ids(open_dataset(f"{tmp_path}/*.parquet")) == ["a.parquet/00000000", "b.parquet/00000000"]
    folder(tmp_path / "in", "1.png", "deep/2.png", "3.txt")
    assert ids(open_dataset(f"{tmp_path}/in/**/*.png")) == ["1.png", "deep/2.png"]
    assert ids(open_dataset(f"{tmp_path}/*.parque[s-u]", take=1)) != []


def test_a_pattern_reads_and_leaves_out_what_a_folder_does(tmp_path: Path) -> None:
    folder(tmp_path / "set", "1.png", "2.JPG", "readme.txt", "notes", "in/3.png", "more/4.png")
    data = open_dataset(f"{tmp_path}/set/*")
    assert ids(data) == ["1.png", "2.JPG"]
    left_out = "2 files left out: 1 .txt, 1 without a suffix (not images)"
    assert data.notes == (left_out, f"2 folders left out, of which {tmp_path}/set/* names no file")
    data, by_folder = open_dataset(f"{tmp_path}/set/**"), open_dataset(tmp_path / "set")
    assert (data.items, data.notes) == (by_folder.items, by_folder.notes)
    assert data.notes == (left_out,)
    (tmp_path / "set" / "a.tar").touch()
    with pytest.raises(UsageError, match=r"/set/\* stands for both images and \.tar shards\. Name one kind\."):
        open_dataset(f"{tmp_path}/set/*")


def test_a_pattern_of_nothing_that_is_read_says_what_to_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(folder(tmp_path, "f1/1.png", "f2/2.png", "words/a.txt", "words/b.zip", "words/c.zip"))
    for pattern in ("f?", "f?/"):
        with pytest.raises(UsageError) as caught:
            open_dataset(pattern)
        assert str(caught.value) == f"{pattern} stands for 2 folders. Name one folder, or 'f?/*.png'."
    assert ids(open_dataset("f?/*.png")) == ["f1/1.png", "f2/2.png"]
    with pytest.raises(UsageError, match=r"stands for 3 files with these suffixes: \.txt, \.zip\. Name images"):
        open_dataset("words/*")


def test_a_pattern_that_leads_out_of_the_current_folder_has_the_ids_of_the_folder_that_holds_all(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder(tmp_path, "a.png", "here/b.png")
    monkeypatch.chdir(tmp_path / "here")
    for pattern in ("{../a,b}.png", f"{{{tmp_path}/a,b}}.png"):
        assert ids(open_dataset(pattern)) == ["a.png", "here/b.png"]
    with pytest.raises(BadInputError, match=r"1 of 2 files that the pattern names is missing, the first is c\.png\."):
        open_dataset("{../a,c}.png")


HUB = "https://huggingface.co/datasets/owner/name"
ADDRESSES = {
    HUB: HubAddress("owner/name"),
    "huggingface.co/datasets/owner/name/": HubAddress("owner/name"),
    f"{HUB}/viewer": HubAddress("owner/name"),
    f"{HUB}/viewer/default/train?p=1": HubAddress("owner/name"),
    f"{HUB}/embed/viewer/default/train": HubAddress("owner/name"),
    f"{HUB}/discussions": HubAddress("owner/name"),
    f"{HUB}/discussions/3/files": HubAddress("owner/name"),
    f"{HUB}/tree": HubAddress("owner/name"),
    f"{HUB}/tree/v2": HubAddress("owner/name", "v2"),
    f"{HUB}/tree/main/data": HubAddress("owner/name", "main", "data"),
    f"{HUB}/resolve/main/a%20b.tar?download=true": HubAddress("owner/name", "main", "a b.tar"),
}


@pytest.mark.parametrize("text", ADDRESSES)
def test_a_page_of_a_dataset_pasted_from_the_hub_is_that_dataset(text: str) -> None:
    assert parse_hub_address(address_in(Path(text)) or "", "dataset") == ADDRESSES[text]


def test_pages_of_anything_else_are_no_datasets(tmp_path: Path) -> None:
    for text in ("https://huggingface.co/owner/name", "https://huggingface.co/datasets/name", "https://huggingface.co"):
        with pytest.raises(UsageError, match=r"not the page of a dataset on the hub, .*/datasets/owner/name\. Check"):
            open_dataset(text)
    for text, path in itertools.product(("https://example.org/a.zip", "s3://bucket/a.tar"), (str, Path)):
        with pytest.raises(UsageError, match=r"datasets only from there\. Download the file and name it\.") as caught:
            open_dataset(path(text))
        assert str(caught.value).startswith(f"{text} isn't on the hub, ")
    assert address_in(tmp_path) is None
