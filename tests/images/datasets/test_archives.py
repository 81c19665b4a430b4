"""Datasets in zips and in webdataset shards: ids, contents, aesthetic scores, and what is refused."""

import json
import os
import tracemalloc
import zipfile
from pathlib import Path

import numpy as np
import pytest

from support.images.stored_images import content, ids, shards, tarred, zipped
from vaelens.errors import BadInputError, UsageError
from vaelens.images.datasets import open_dataset
from vaelens.runtime import Runtime


def test_a_zip_is_read_without_unpacking(tmp_path: Path) -> None:
    names = ("b.jpg", "in/a.png", "in/ü.JPG")
    path = zipped(tmp_path / "set.zip", *names, "in/readme.txt", "__MACOSX/in/._a.png", ".x/c.png", "in/.d.png")
    data = open_dataset(path)
    assert ids(data) == sorted(names)
    assert (data.origin, data.name) == ("zip", "set.zip (3 images)")
    assert [data.read(item) for item in data.items] == [content(item.id) for item in data.items]


def test_a_zip_is_read_by_a_forked_child_and_its_parent_at_once(tmp_path: Path) -> None:
    """Each has its own place in the file: with a shared one their reads mix, and the CRC is wrong."""
    noise = np.random.default_rng(0).bytes(20_000)
    data = open_dataset(zipped(tmp_path / "set.zip", **{"a.png": noise, "b.png": noise[::-1]}))

    def read_all() -> None:
        for _ in range(150):
            for item in data.items:
                data.read(item)

    child = os.fork()
    if child == 0:
        status = 1
        try:
            read_all()
            status = 0
        finally:
            os._exit(status)
    read_all()
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0


def test_damaged_and_unsafe_zips_are_refused(tmp_path: Path) -> None:
    whole = zipped(tmp_path / "a.zip", "a.png", "b.png").read_bytes()
    (tmp_path / "cut.zip").write_bytes(whole[:-30])
    (tmp_path / "text.zip").write_bytes(b"no zip at all")
    damaged = bytearray(whole)
    damaged[whole.index(b"a.png") + 7] ^= 0xFF
    (tmp_path / "damaged.zip").write_bytes(damaged)
    locked = bytearray(whole)
    for place in (6, whole.index(b"PK\x01\x02") + 8):
        locked[place] |= 1
    (tmp_path / "locked.zip").write_bytes(locked)
    zipped(tmp_path / "none.zip", "a.txt")
    zipped(tmp_path / "out.zip", "../../a.png")
    zipped(tmp_path / "absolute.zip", "/a.png")
    zipped(tmp_path / "twice.zip", "in/a.png", "in\\a.png")
    for name, message in (
        ("cut", "a damaged or incomplete zip"),
        ("text", "a damaged or incomplete zip"),
        ("damaged", r"a\.png is damaged"),
        ("locked", "locked with a password"),
        ("none", "holds no images"),
        ("out", "leads out of it"),
        ("absolute", "leads out of it"),
        ("twice", "two images that would both be called"),
    ):
        with pytest.raises(BadInputError, match=message) as caught:
            open_dataset(tmp_path / f"{name}.zip")
        assert f"{name}.zip" in str(caught.value)


def test_a_zip_bomb_is_refused_from_its_directory(tmp_path: Path) -> None:
    """600 MB of zeros in 600 kB: refused before anything is unpacked."""
    with zipfile.ZipFile(tmp_path / "bomb.zip", "w", zipfile.ZIP_DEFLATED, compresslevel=1) as archive:
        with archive.open("a.png", "w", force_zip64=True) as member:
            member.write(b"")
        archive.getinfo("a.png").file_size = 600_000_000
    tracemalloc.start()
    with pytest.raises(BadInputError, match=r"a\.png has 600,000,000 bytes"):
        open_dataset(tmp_path / "bomb.zip")
    assert tracemalloc.get_traced_memory()[1] < 5_000_000
    tracemalloc.stop()


def test_shards_of_img2dataset_are_read(tmp_path: Path) -> None:
    steps: list[tuple[int, int, str]] = []
    data = open_dataset(shards(tmp_path / "laion"), runtime=Runtime(progress=lambda *step: steps.append(step)))
    assert ids(data) == [f"{s:05d}.tar/{s:05d}{i:04d}" for s in range(3) for i in range(4)]
    assert (data.origin, data.name) == ("shards", "laion/ (12 images)")
    assert [data.read(item) for item in data.items] == [content(i.partition("/")[2]) for i in ids(data)]
    assert steps[2] == (2, 3, "indexing shards")
    assert steps[-1] == (11, 12, "reading images")
    one = open_dataset(tmp_path / "laion" / "00001.tar")
    assert ids(one) == ids(data)[4:8]
    assert one.items == data.items[4:8]


@pytest.mark.parametrize("key", ["aesthetic", "AESTHETIC_SCORE", "aesthetic_score_laion_v2"])
def test_images_are_chosen_by_their_aesthetic_score(tmp_path: Path, key: str) -> None:
    """Scores run from 4.0 in quarters; the sixth has none."""
    data = open_dataset(shards(tmp_path / "laion", key), min_aesthetic=5)
    numbers = [4 * int(i[:5]) + int(i[-4:]) for i in ids(data)]
    assert numbers == [4, 6, 7, 8, 9, 10, 11]
    assert data.name == "LAION-like: all 7 with aesthetic >= 5 from laion/"
    assert data.notes == ("1 image without an aesthetic score left out",)
    some = open_dataset(tmp_path / "laion", min_aesthetic=5, take=3, seed=1)
    assert set(ids(some)) < set(ids(data))
    assert some.name == "LAION-like: seeded 3 with aesthetic >= 5 from laion/"
    assert "3 of 7 images, chosen with seed 1" in some.notes
    with pytest.raises(UsageError, match=r"has 7 images, fewer than the 8 to take"):
        open_dataset(tmp_path / "laion", min_aesthetic=5, take=8)
    with pytest.raises(UsageError, match=r"the highest is 6\.75"):
        open_dataset(tmp_path / "laion", min_aesthetic=9)


def test_shards_without_scores_are_refused_with_their_fields(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"the data beside them has beauty, key, status; looked for: aesthetic, AESTH"):
        open_dataset(shards(tmp_path / "laion", "beauty"), min_aesthetic=5)


def test_invalid_scores_and_damaged_json_count_as_missing(tmp_path: Path) -> None:
    values: list[object] = [None, "high", True, "5.5", 6, float("nan")]
    members = {f"{i}.json": json.dumps({"aesthetic": v}).encode() for i, v in enumerate(values)} | {"6.json": b"{"}
    tarred(tmp_path / "a.tar", members | {f"{i}.jpg": b"x" for i in range(8)})
    data = open_dataset(tmp_path / "a.tar", min_aesthetic=5)
    assert ids(data) == ["a.tar/3", "a.tar/4"]
    assert data.notes == ("6 images without an aesthetic score left out",)


def test_damaged_and_unsafe_tars_are_refused(tmp_path: Path) -> None:
    whole = tarred(tmp_path / "a.tar", {f"{i}.jpg": b"x" * 700 for i in range(3)}).read_bytes()
    member = 512 * 3
    cases = {
        "in-an-image": (whole[: member + 900], "incomplete"),
        "after-an-image": (whole[: 2 * member], "doesn't end as a tar does"),
        "in-a-header": (whole[: 2 * member + 100], r"no header at byte 3,072 \(truncated"),
        "damaged-header": (whole[:member] + b"\xff" + whole[member + 1 :], r"no header at byte 1,536 \(bad checksum"),
        "text": (b"no tar at all" * 100, "damaged or incomplete tar"),
        "empty": (b"", "damaged or incomplete tar"),
        "packed": (b"\x1f\x8b" + bytes(600), "a tar compressed by gzip can't be read at random"),
        "nothing": (bytes(10240), "holds no images"),
        "twice": (tarred(tmp_path / "a", {"a.jpg": b"1", "./a.jpg": b"2"}).read_bytes(), r"two images called 'a\.jpg'"),
        "out": (tarred(tmp_path / "a", {"../a.jpg": b"1"}).read_bytes(), "leads out of it"),
    }
    for name, (data, message) in cases.items():
        (tmp_path / f"{name}.tar").write_bytes(data)
        with pytest.raises(BadInputError, match=message) as caught:
            open_dataset(tmp_path / f"{name}.tar")
        assert f"{name}.tar" in str(caught.value)


def test_keys_end_at_the_first_dot_as_in_webdataset(tmp_path: Path) -> None:
    members = {
        "0.image.png": b"0",
        "0.json": b'{"aesthetic": 6}',
        "in.to/1.jpg": b"1",
        "in.to/1.meta.json": b'{"aesthetic": 9}',
        "in.to/1.json": b'{"aesthetic": 7}',
        ".hidden.png": b"no",
    }
    tarred(tmp_path / "a.tar", members)
    data = open_dataset(tmp_path / "a.tar", min_aesthetic=6)
    assert ids(data) == ["a.tar/0", "a.tar/in.to/1"]
    assert [data.read(item) for item in data.items] == [b"0", b"1"]
    assert ids(open_dataset(tmp_path / "a.tar", min_aesthetic=7)) == ["a.tar/in.to/1"]


def test_each_image_of_a_key_with_several_counts_under_its_whole_name(tmp_path: Path) -> None:
    members = {name: name.encode() for name in ("0.input.png", "0.target.png", "1.jpg", "1.png", "2.jpg")}
    members |= {"0.json": b'{"aesthetic": 6}', "0.target.json": b'{"aesthetic": 7}', "1.json": b'{"aesthetic": 8}'}
    tarred(tmp_path / "a.tar", members)
    data = open_dataset(tmp_path / "a.tar")
    assert ids(data) == ["a.tar/0.input.png", "a.tar/0.target.png", "a.tar/1.jpg", "a.tar/1.png", "a.tar/2"]
    assert data.read(data.items[1]) == b"0.target.png"
    assert data.notes == ("4 images share their keys with others: each counts, under its whole name",)
    assert ids(open_dataset(tmp_path / "a.tar", min_aesthetic=6.5)) == ids(data)[1:4]


def test_scores_of_hundreds_of_digits_and_of_wrong_types_count_as_missing(tmp_path: Path) -> None:
    values = ["9" * 400, "-" + "9" * 4000, "9" * 5000, '"' + "9" * 400 + '"', "1e999", "[]", "{}", '"\\ud800"', "5"]
    texts = [f'{{"aesthetic": {value}}}' for value in values] + ["[" * 100_000, "5", "null", "\xff", ""]
    members = {f"{i:02d}.json": text.encode("latin-1") for i, text in enumerate(texts)}
    tarred(tmp_path / "a.tar", members | {f"{i:02d}.jpg": b"x" for i in range(len(texts))})
    assert ids(open_dataset(tmp_path / "a.tar", min_aesthetic=4)) == ["a.tar/08"]


@pytest.mark.parametrize("score", ["1_0", " 10", "\uff11\uff10", "nan", "1e999"])
def test_a_score_written_as_text_is_read_strictly(tmp_path: Path, score: str) -> None:
    """NaN in another field, as img2dataset may write it, is no matter."""
    members = {}
    for name, value in (("a", score), ("b", "6.5")):
        members |= {f"{name}.jpg": content(name)}
        members |= {f"{name}.json": json.dumps({"similarity": float("nan"), "aesthetic": value}).encode()}
    data = open_dataset(tarred(tmp_path / "0.tar", members), min_aesthetic=5)
    assert ids(data) == ["0.tar/b"]
