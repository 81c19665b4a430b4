"""Parquet files on this machine as datasets: ids, splits, scores, and what is refused."""

import json
from decimal import Decimal
from pathlib import Path

import pytest

from support.images.stored_images import content, folder, ids, images_column, parquet, shards, tarred
from support.properties import MB, ROOM, Tally
from vaelens.errors import BadInputError, CheckFailedError, ResourceError, UsageError
from vaelens.images.datasets import open_dataset


def test_a_local_parquet_file_is_a_dataset(tmp_path: Path) -> None:
    path = parquet(tmp_path / "some.parquet", {"label": [1, 2, 3], "image": images_column(*"abc")})
    data = open_dataset(path)
    assert ids(data) == [f"some.parquet/{row:08d}" for row in range(3)]
    assert [data.read(item) for item in data.items] == [content(name) for name in "abc"]
    assert (data.origin, data.name) == ("parquet", "some.parquet (3 images)")
    some = open_dataset(path, take=2, seed=1)
    assert set(some.items) < set(data.items)


def test_a_folder_of_parquet_files_is_a_dataset(tmp_path: Path) -> None:
    """Each file's rows are counted from its own first, so that a further file changes no id."""
    parquet(tmp_path / "b.parquet", {"image": images_column(*"de")})
    parquet(tmp_path / "in" / "a.parquet", {"jpg": [content(name) for name in "abc"]})
    folder(tmp_path, "README.md")
    data = open_dataset(tmp_path)
    expected = [*(f"b.parquet/{row:08d}" for row in range(2)), *(f"in/a.parquet/{row:08d}" for row in range(3))]
    assert ids(data) == expected
    assert [data.read(item) for item in data.items] == [content(name) for name in "deabc"]
    assert data.name == f"{tmp_path.name}/ (5 images)"


def test_splits_of_a_folder_of_parquet_files_are_named_and_never_mixed(tmp_path: Path) -> None:
    for name in ("train-00000-of-00002", "train-00001-of-00002", "validation-00000-of-00001"):
        parquet(tmp_path / "data" / f"{name}.parquet", {"image": images_column(name)})
    with pytest.raises(
        UsageError, match=r"holds several splits: validation, train\. Name one of the files; `evaluate`"
    ):
        open_dataset(tmp_path)
    data = open_dataset(tmp_path, split="train")
    assert ids(data) == [f"data/train-0000{part}-of-00002.parquet/00000000" for part in range(2)]
    assert data.name == f"{tmp_path.name}/ train (2 images)"
    assert len(open_dataset(tmp_path, split="val").items) == 1
    with pytest.raises(UsageError, match="has no split 'test'"):
        open_dataset(tmp_path, split="test")


def test_parquet_beside_images_or_shards_is_left_out(tmp_path: Path) -> None:
    parquet(folder(tmp_path / "images", "a.png") / "list.parquet", {"image": images_column("x")})
    data = open_dataset(tmp_path / "images")
    assert (ids(data), data.notes) == (["a.png"], ("1 file left out: 1 .parquet (not images)",))
    assert len(open_dataset(shards(tmp_path / "shards")).items) == 12


def test_scores_of_local_parquet_may_have_any_type_of_number(tmp_path: Path) -> None:
    for number, scores in enumerate(([4, 5, None], [4.0, 5.5, float("nan")], [Decimal("4.5"), Decimal("5.5"), None])):
        path = parquet(tmp_path / f"{number}.parquet", {"image": images_column(*"abc"), "aesthetic": scores})
        assert ids(open_dataset(path, min_aesthetic=5)) == [f"{number}.parquet/00000001"]
    for scores in (["5", "6", "7"], [b"5", None, b"7"], [[5], [6], None], [True, True, False], [{"a": 5}, None, None]):
        path = parquet(tmp_path / "wrong.parquet", {"image": images_column(*"abc"), "aesthetic": scores})
        with pytest.raises(UsageError, match="have no aesthetic score"):
            open_dataset(path, min_aesthetic=5)


@pytest.mark.parametrize(
    "features",
    [[], "text", 5, None, {"image": []}, {"image": {"_type": []}}, {"image": {"_type": "Image"}}, {"image": "Image"}],
)
def test_wrong_json_types_in_the_description_of_columns_are_no_fault(tmp_path: Path, features: object) -> None:
    path = parquet(tmp_path / "a.parquet", {"image": images_column("x")}, features=features)
    fits = features != {"image": []} and not (isinstance(features, dict) and features["image"] != {"_type": "Image"})
    if fits:
        assert len(open_dataset(path).items) == 1
    else:
        with pytest.raises(BadInputError, match=r"its metadata says that column 'image' doesn't hold images\. Save"):
            open_dataset(path)


def test_a_description_that_is_no_json_is_ignored(tmp_path: Path) -> None:
    import pyarrow
    import pyarrow.parquet

    for text in (b"[" * 100_000, b"\xff", b"9" * 5000, json.dumps([1]).encode(), b""):
        table = pyarrow.table({"image": images_column("x")}).replace_schema_metadata({b"huggingface": text})
        pyarrow.parquet.write_table(table, tmp_path / "a.parquet")
        assert len(open_dataset(tmp_path / "a.parquet").items) == 1


OTHER_TYPES = {
    "text": ["text"],
    "list<element: int64>": [[1, 2]],
    "int64": [5],
    "struct<bytes: string>": [{"bytes": "text"}],
    "struct<bytes: list<element: int64>>": [{"bytes": [1]}],
    "struct<path: string>": [{"path": "x"}],
}


@pytest.mark.parametrize("kind", OTHER_TYPES)
def test_a_column_named_like_images_that_holds_something_else_is_named_with_its_type(tmp_path: Path, kind: str) -> None:
    path = parquet(tmp_path / "a.parquet", {"image": OTHER_TYPES[kind], "url": ["http://x"]})
    with pytest.raises(BadInputError) as caught:
        open_dataset(path)
    assert str(caught.value) == (
        f"{path} has no images in its column 'image', which holds {kind}. vaelens reads a column of {{bytes, path}}, "
        "or one of bytes called image, jpg or png. If it lists addresses, download the images first, for example with "
        "img2dataset."
    )


def test_a_file_without_a_column_of_images_tells_what_it_has(tmp_path: Path) -> None:
    path = parquet(tmp_path / "a.parquet", {"scan": [b"x"], "age": [5]})
    with pytest.raises(BadInputError, match=r"no column of images, only scan \(bytes\), age \(int64\)\. vaelens reads"):
        open_dataset(path)
    path = parquet(tmp_path / "b.parquet", {"image": images_column("x")}, rows=0)
    with pytest.raises(BadInputError, match=r"b\.parquet: no rows, and so no images"):
        open_dataset(path)


def test_of_several_columns_of_images_a_note_names_the_one_taken(tmp_path: Path) -> None:
    columns = {"mask": images_column(*"xyz"), "image": images_column(*"abc"), "jpg": [b"1", b"2", b"3"]}
    path = parquet(tmp_path / "a.parquet", columns)
    data = open_dataset(path)
    assert [data.read(item) for item in data.items] == [content(name) for name in "abc"]
    assert data.notes == ("the images are those in the column 'image'; 'jpg', 'mask' hold images too",)
    assert open_dataset(parquet(tmp_path / "b.parquet", {"image": images_column("x")})).notes == ()
    two = open_dataset(parquet(tmp_path / "c.parquet", {"view": images_column("x"), "depth": images_column("y")}))
    assert [two.read(item) for item in two.items] == [content("x")]
    assert two.notes == ("the images are those in the column 'view'; 'depth' holds images too",)


def test_a_shortage_of_memory_is_not_reported_as_a_damaged_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import pyarrow.parquet

    path = parquet(tmp_path / "a.parquet", {"image": images_column("x")})

    def fails(*_: object, **__: object) -> object:
        raise pyarrow.lib.ArrowMemoryError("malloc of size 64 failed")

    monkeypatch.setattr(pyarrow.parquet, "ParquetFile", fails)
    with pytest.raises(ResourceError, match=r"a\.parquet: not read, out of memory\. Close other programs"):
        open_dataset(path, skip_bad=True)


def test_messages_name_a_file_of_a_dataset_once(tmp_path: Path) -> None:
    """Parquet, an archive or an image that is itself the dataset: its name is in its ids, and in reasons."""
    rows = parquet(tmp_path / "a.parquet", {"image": [{"bytes": None, "path": "b.png"}]})
    with pytest.raises(BadInputError) as caught:
        open_dataset(rows)
    assert str(caught.value).startswith(f"{rows}, row 0 only names 'b.png', which isn't in the dataset.")
    rows.write_bytes(rows.read_bytes()[:-9])
    with pytest.raises(BadInputError) as caught:
        open_dataset(rows)
    assert str(caught.value).count("a.parquet") == 1
    for path in (tarred(tmp_path / "b.tar", {"x.png": b"12345"}), folder(tmp_path, "c.png") / "c.png"):
        data = open_dataset(path)
        path.write_bytes(path.read_bytes().replace(b"5", b"6").replace(b"image", b"other"))
        with pytest.raises(CheckFailedError) as changed:
            data.read(data.items[0])
        assert str(changed.value).count(path.name) == 1


def test_damaged_local_parquet_says_what_to_do_here(tmp_path: Path) -> None:
    whole = parquet(tmp_path / "a.parquet", {"image": images_column(*"abc")}).read_bytes()
    cases = {
        "cut": (whole[:-10], "it doesn't end as a parquet file does. Copy or download it again"),
        "empty": (b"", "it doesn't end as a parquet file does"),
        "begin": (b"PAR1", "it doesn't end as a parquet file does"),
        "metadata": (whole[:-8] + b"\xff\xff\xff\x7fPAR1", "bytes are metadata"),
        "pages": (whole[:4] + bytes(60) + whole[64:], "is a damaged parquet file"),
    }
    for name, (data, message) in cases.items():
        (tmp_path / f"{name}.parquet").write_bytes(data)
        with pytest.raises(BadInputError, match=message):
            open_dataset(tmp_path / f"{name}.parquet")


def test_images_that_take_far_more_memory_than_their_file_are_refused(tmp_path: Path) -> None:
    """One value that stands in many rows, and zeros that were compressed."""
    same = parquet(tmp_path / "same.parquet", {"image": [{"bytes": bytes(10**6), "path": None}] * 40}, row_group=40)
    zeros = parquet(tmp_path / "zeros.parquet", {"image": [{"bytes": bytes(60 * MB), "path": None}]})
    lying = tmp_path / "lying.parquet"
    lying.write_bytes(with_other_sizes(zeros))
    for path, message in ((same, "unpacks to more than"), (zeros, "would unpack to"), (lying, "would unpack to")):

        def opened(path: Path = path, message: str = message) -> None:
            with pytest.raises(BadInputError, match=message):
                open_dataset(path)

        Tally("parquet").check(opened, ROOM)


def with_other_sizes(path: Path) -> bytes:
    """The file with 1,000 bytes for each larger size in its metadata, in as many bytes as before."""
    import pyarrow.parquet

    def varint(number: int, length: int) -> bytes:
        return bytes((2 * number >> 7 * i) & 127 | (128 if i < length - 1 else 0) for i in range(length))

    content = path.read_bytes()
    group = pyarrow.parquet.ParquetFile(path).metadata.row_group(0)
    sizes = [group.total_byte_size, *(group.column(i).total_uncompressed_size for i in range(group.num_columns))]
    for size in sizes:
        length = -(-(2 * size).bit_length() // 7)
        if size > 1000:
            assert varint(size, length) in content
            content = content.replace(varint(size, length), varint(1000, length))
    return content


def test_metadata_that_would_fill_the_memory_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "a.parquet"
    cases = {
        "its metadata have more than 200,000 entries": b"\x49\xfc\xc0\x84\x3d" + bytes(900_000),
        "its metadata are nested too deeply": b"\x1c" * 100_000,
        "its metadata are incomplete": b"\x18\xff\xff\xff\xff\x0f",
        "its metadata are damaged": b"\x16" + b"\xff" * 100,
    }
    for message, footer in cases.items():
        path.write_bytes(b"PAR1" + footer + len(footer).to_bytes(4, "little") + b"PAR1")

        def opened(message: str = message) -> None:
            with pytest.raises(BadInputError, match=message):
                open_dataset(path)

        Tally("parquet").check(opened, ROOM)


def test_the_places_of_columns_are_those_that_pyarrow_finds(tmp_path: Path) -> None:
    import pyarrow
    import pyarrow.parquet

    from vaelens.images.datasets import parquet_pages

    table = pyarrow.table(
        {
            "image": images_column(*"abcdef"),
            "many": [[1.5, None], [], None, [2.0], [True], [0]],
            "map": pyarrow.array([[("k", 1)]] * 6, pyarrow.map_(pyarrow.string(), pyarrow.int64())),
            "empty": [None] * 6,
            "time": pyarrow.array([1] * 6, pyarrow.timestamp("us", tz="UTC")),
        }
    ).replace_schema_metadata({"note": "x" * 1000})
    path = tmp_path / "a.parquet"
    pyarrow.parquet.write_table(table, path, row_group_size=4, write_page_index=True, data_page_version="2.0")
    metadata = pyarrow.parquet.ParquetFile(path).metadata
    found = parquet_pages.chunks(path, metadata.serialized_size)
    for group, columns in enumerate(found):
        expected = [metadata.row_group(group).column(i) for i in range(metadata.num_columns)]
        starts = [each.dictionary_page_offset or each.data_page_offset for each in expected]
        assert [".".join(each.path) for each in columns] == [each.path_in_schema for each in expected]
        assert [(each.start, each.size) for each in columns] == [
            (start, each.total_compressed_size) for start, each in zip(starts, expected, strict=True)
        ]
        parquet_pages.check_pages(path, columns, 4, 10_000)
    assert len(found) == 2


def test_more_rows_than_images_could_be_are_refused(tmp_path: Path) -> None:
    path = parquet(tmp_path / "a.parquet", {"image": [None] * 200_000, "jpg": [b""] * 200_000}, row_group=200_000)

    def opened() -> None:
        with pytest.raises(BadInputError, match=r"holds 200,000 rows in .* bytes, too few bytes"):
            open_dataset(path)

    Tally("parquet").check(opened, ROOM)


def test_compressed_archives_are_named_as_such(tmp_path: Path) -> None:
    for name in ("a.tgz", "a.tar.gz", "a.7z", "a.rar"):
        (tmp_path / name).write_bytes(b"x")
        with pytest.raises(UsageError, match=r"is a compressed archive\. Unpack it"):
            open_dataset(tmp_path / name)


@pytest.mark.parametrize(
    "footer", [b"\x19" * 3000, b"\x1b" + b"\x01\xbb" * 3000, b"\x1c" * 3000], ids=["lists", "maps", "structs"]
)
def test_metadata_nested_without_end_are_a_damaged_file(tmp_path: Path, footer: bytes) -> None:
    (tmp_path / "a.parquet").write_bytes(b"PAR1" + footer + len(footer).to_bytes(4, "little") + b"PAR1")
    with pytest.raises(BadInputError, match=r"a\.parquet is a damaged parquet file: .* nested too deeply"):
        open_dataset(tmp_path / "a.parquet")
