"""Datasets of each kind: ids, contents, what is taken, and what is refused."""

import hashlib
import json
import os
import tomllib
import zipfile
from functools import partial
from importlib.resources import files
from pathlib import Path

import numpy as np
import pytest

from support.stored_images import content, folder, ids, shards, tarred, zipped
from vaelens.download.web_files import WebFile
from vaelens.errors import BadInputError, CheckFailedError, UsageError
from vaelens.images.datasets import Item, coco, manifest_sha256, open_dataset, synthetic
from vaelens.images.datasets import items as items_module
from vaelens.images.drawing import Box
from vaelens.images.reading import decode_plain
from vaelens.runtime import Runtime

# --- folders


def test_a_folder_is_searched_to_the_bottom(tmp_path: Path) -> None:
    names = ("b.PNG", "a/z.jpg", "a/b/ä 🎉.webp", "a.jpeg")
    folder(tmp_path, *names, "notes.txt", ".hidden.png", ".cache/x.png", "a/._z.jpg")
    data = open_dataset(tmp_path)
    assert ids(data) == sorted(names)
    assert data.origin == "folder"
    assert data.name == f"{tmp_path.name} (4 images)"
    assert data.notes == ()
    for item in data.items:
        assert data.read(item) == content(item.id)
        assert item.sha256 == hashlib.sha256(content(item.id)).hexdigest()
        assert item.boxes == ()


def test_links_are_followed_and_loops_end(tmp_path: Path) -> None:
    folder(tmp_path / "set", "b/x.png")
    folder(tmp_path / "elsewhere", "y.png")
    (tmp_path / "set" / "a").symlink_to("b")  # a folder's own path names its images
    (tmp_path / "set" / "b" / "up").symlink_to("..")
    (tmp_path / "set" / "aa").mkdir()
    (tmp_path / "set" / "aa" / "to_b").symlink_to("../b")
    (tmp_path / "set" / "c").symlink_to(tmp_path / "elsewhere")
    (tmp_path / "set" / "itself").symlink_to("itself")
    (tmp_path / "set" / "z.png").symlink_to(tmp_path / "elsewhere" / "y.png")
    assert ids(open_dataset(tmp_path / "set")) == ["b/x.png", "c/y.png", "z.png"]


def test_images_that_are_not_there_are_not_passed_over(tmp_path: Path) -> None:
    folder(tmp_path, "a.png")
    (tmp_path / "b.png").symlink_to("nowhere")
    with pytest.raises(BadInputError, match=r"b\.png is a link that leads nowhere"):
        open_dataset(tmp_path)
    (tmp_path / "b.png").unlink()
    os.mkfifo(tmp_path / "b.png")
    with pytest.raises(BadInputError, match="is a device or pipe"):
        open_dataset(tmp_path)


def test_an_empty_file_is_an_images_own_problem(tmp_path: Path) -> None:
    (tmp_path / "a.png").touch()
    data = open_dataset(tmp_path)
    assert data.read(data.items[0]) == b""


def test_one_unicode_form_and_no_two_of_a_name(tmp_path: Path) -> None:
    folder(tmp_path, "a\u0308.png")
    assert ids(open_dataset(tmp_path)) == ["\u00e4.png"]
    folder(tmp_path, "\u00e4.png")
    with pytest.raises(BadInputError, match=r"two images that would both be called 'ä\.png'"):
        open_dataset(tmp_path)


def test_a_name_that_is_no_text_gets_an_id_that_is(tmp_path: Path) -> None:
    Path(os.fsdecode(bytes(tmp_path) + b"/\xff.png")).write_bytes(b"x")
    data = open_dataset(tmp_path)
    assert ids(data) == ["\\xff.png"]
    assert data.read(data.items[0]) == b"x"


def test_a_changed_image_is_noticed(tmp_path: Path) -> None:
    data = open_dataset(folder(tmp_path, "a.png", "b.png"))
    (tmp_path / "a.png").write_bytes(b"another")
    with pytest.raises(CheckFailedError, match=r"a\.png has changed"):
        data.read(data.items[0])
    (tmp_path / "b.png").unlink()
    with pytest.raises(BadInputError, match=r"b\.png: can't be read"):
        data.read(data.items[1])


def test_a_file_too_large_for_an_image_is_not_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("vaelens.images.datasets.folders.MAX_BYTES", 10)
    with pytest.raises(BadInputError, match=r"a\.png has 15 bytes; an image's file may have"):
        open_dataset(folder(tmp_path, "a.png"))


def test_what_is_no_dataset(tmp_path: Path) -> None:
    folder(tmp_path, "some/a.png", "words/a.txt", "packed/b.zip", "packed/c.tgz")
    (tmp_path / "empty").mkdir()
    (tmp_path / "gone").symlink_to("nowhere")
    os.mkfifo(tmp_path / "pipe")
    for name, kind, message in (
        ("some/a.png", UsageError, "one image, not a dataset. Name its folder"),
        ("words/a.txt", UsageError, "is no dataset. It can be a folder"),
        ("empty", BadInputError, "holds no images"),
        ("words", BadInputError, "holds no images"),
        ("packed", BadInputError, r"It holds \.tgz and \.zip"),
        ("nowhere", BadInputError, "no such file or folder"),
        ("gone", BadInputError, "a link that leads nowhere"),
        ("pipe", BadInputError, "is a device or pipe"),
    ):
        with pytest.raises(kind, match=message):
            open_dataset(tmp_path / name)
    with pytest.raises(UsageError, match="Did you mean coco-val2017"):
        open_dataset("coco-val")
    with pytest.raises(UsageError, match="--split is for datasets on the hub"):
        open_dataset(tmp_path / "some", split="test")
    with pytest.raises(UsageError, match="have no aesthetic score"):
        open_dataset(tmp_path / "some", min_aesthetic=5)


# --- zips


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


def test_zips_that_are_refused(tmp_path: Path) -> None:
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
    import tracemalloc

    with zipfile.ZipFile(tmp_path / "bomb.zip", "w", zipfile.ZIP_DEFLATED, compresslevel=1) as archive:
        with archive.open("a.png", "w", force_zip64=True) as member:
            member.write(b"")
        archive.getinfo("a.png").file_size = 600_000_000
    tracemalloc.start()
    with pytest.raises(BadInputError, match=r"a\.png has 600,000,000 bytes"):
        open_dataset(tmp_path / "bomb.zip")
    assert tracemalloc.get_traced_memory()[1] < 5_000_000
    tracemalloc.stop()


# --- shards


def test_img2datasets_output_as_it_is(tmp_path: Path) -> None:
    seen: list[tuple[int, int, str]] = []
    data = open_dataset(shards(tmp_path / "laion"), runtime=Runtime(progress=lambda *what: seen.append(what)))
    assert ids(data) == [f"{s:05d}.tar/{s:05d}{i:04d}" for s in range(3) for i in range(4)]
    assert (data.origin, data.name) == ("shards", "laion/ (12 images)")
    assert [data.read(item) for item in data.items] == [content(i.partition("/")[2]) for i in ids(data)]
    assert seen[2] == (3, 3, "indexing shards")
    assert seen[-1] == (12, 12, "reading images")
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
    assert data.notes == ("1 images without an aesthetic score left out",)
    some = open_dataset(tmp_path / "laion", min_aesthetic=5, take=3, seed=1)
    assert set(ids(some)) < set(ids(data))
    assert some.name == "LAION-like: seeded 3 with aesthetic >= 5 from laion/"
    assert "3 of 7 images, chosen with seed 1" in some.notes
    with pytest.raises(UsageError, match=r"has 7 images to choose from, not 8"):
        open_dataset(tmp_path / "laion", min_aesthetic=5, take=8)
    with pytest.raises(UsageError, match=r"the highest is 6\.75"):
        open_dataset(tmp_path / "laion", min_aesthetic=9)


def test_shards_without_scores_say_what_they_have(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"the data beside them has beauty, key, status; looked for: aesthetic, AESTH"):
        open_dataset(shards(tmp_path / "laion", "beauty"), min_aesthetic=5)


def test_scores_that_are_none_and_damaged_json_count_as_missing(tmp_path: Path) -> None:
    values: list[object] = [None, "high", True, "5.5", 6, float("nan")]
    members = {f"{i}.json": json.dumps({"aesthetic": v}).encode() for i, v in enumerate(values)} | {"6.json": b"{"}
    tarred(tmp_path / "a.tar", members | {f"{i}.jpg": b"x" for i in range(8)})
    data = open_dataset(tmp_path / "a.tar", min_aesthetic=5)
    assert ids(data) == ["a.tar/3", "a.tar/4"]
    assert data.notes == ("6 images without an aesthetic score left out",)


def test_tars_that_are_refused(tmp_path: Path) -> None:
    whole = tarred(tmp_path / "a.tar", {f"{i}.jpg": b"x" * 700 for i in range(3)}).read_bytes()
    member = 512 * 3
    cases = {
        "in-an-image": (whole[: member + 900], "incomplete"),
        "after-an-image": (whole[: 2 * member], "doesn't end as a tar does"),
        "in-a-header": (whole[: 2 * member + 100], "doesn't end as a tar does"),
        "damaged-header": (whole[:member] + b"\xff" + whole[member + 1 :], "doesn't end as a tar does"),
        "text": (b"no tar at all" * 100, "damaged or incomplete tar"),
        "empty": (b"", "damaged or incomplete tar"),
        "packed": (b"\x1f\x8b" + bytes(600), "compressed tar can't be read at random"),
        "nothing": (bytes(10240), "holds no images"),
    }
    for name, (data, message) in cases.items():
        (tmp_path / f"{name}.tar").write_bytes(data)
        with pytest.raises(BadInputError, match=message) as caught:
            open_dataset(tmp_path / f"{name}.tar")
        assert f"{name}.tar" in str(caught.value)
    tarred(tmp_path / "twice.tar", {"a.jpg": b"1", "a.png": b"2"})
    with pytest.raises(BadInputError, match=r"two images with the key 'a'"):
        open_dataset(tmp_path / "twice.tar")
    tarred(tmp_path / "out.tar", {"../a.jpg": b"1"})
    with pytest.raises(BadInputError, match="leads out of it"):
        open_dataset(tmp_path / "out.tar")


def test_a_folder_of_images_and_shards_is_ambiguous(tmp_path: Path) -> None:
    folder(shards(tmp_path), "a.png")
    with pytest.raises(UsageError, match="both images and"):
        open_dataset(tmp_path)


# --- what is taken


def test_the_choice_depends_on_names_and_seed_only(tmp_path: Path) -> None:
    names = [f"{i:03d}.png" for i in range(50)]
    one = open_dataset(folder(tmp_path / "one", *names), take=10, seed=0)
    two = open_dataset(folder(tmp_path / "two", *reversed(names)), take=10, seed=0)
    expected = np.sort(np.random.default_rng(0).choice(50, 10, replace=False))
    assert ids(one) == [names[i] for i in expected]
    assert one.items == two.items
    assert manifest_sha256(one.items) == manifest_sha256(two.items)
    assert one.name == "one (seeded 10 of 50 images)"
    assert ids(open_dataset(tmp_path / "one", take=10, seed=1)) != ids(one)
    assert ids(open_dataset(tmp_path / "one", take=50)) == names
    for take in (0, -1):
        with pytest.raises(UsageError, match="can't be taken"):
            open_dataset(tmp_path / "one", take=take)
    with pytest.raises(UsageError, match="is no seed"):
        open_dataset(tmp_path / "one", take=3, seed=-1)


def test_a_manifest_knows_every_id_and_content_but_no_order() -> None:
    items = [Item("a", "1" * 64), Item("b", "2" * 64)]
    digest = manifest_sha256(items)
    assert digest == manifest_sha256(items[::-1])
    lines = b'["a", "%s"]\n["b", "%s"]\n' % (b"1" * 64, b"2" * 64)
    assert digest == hashlib.sha256(lines).hexdigest()
    assert digest != manifest_sha256([items[0], Item("b", "3" * 64)])
    assert digest != manifest_sha256([items[0], Item("c", "2" * 64)])
    assert digest != manifest_sha256(items[:1])


def test_the_users_boxes_reach_their_images(tmp_path: Path) -> None:
    folder(tmp_path / "set", "a.png", "b.png")
    (tmp_path / "boxes.csv").write_text(
        "id,label,left,top,right,bottom\na.png,eye,1,2,3,4\na.png,eye,5,2,7,4\nz.png,eye,1,2,3,4\n"
    )
    data = open_dataset(tmp_path / "set", boxes=tmp_path / "boxes.csv")
    assert [item.boxes for item in data.items] == [(Box("eye", 1, 2, 3, 4), Box("eye", 5, 2, 7, 4)), ()]
    assert data.notes == (f"1 of the 2 ids in {tmp_path / 'boxes.csv'} match no image",)


# --- synthetic datasets


@pytest.fixture
def small_images(monkeypatch: pytest.MonkeyPatch) -> None:
    small = {name: partial(draw, side=24) for name, draw in synthetic.GENERATORS.items()}
    monkeypatch.setattr(synthetic, "GENERATORS", small)


@pytest.mark.usefixtures("small_images")
def test_synthetic_images_alternate_and_bring_their_boxes() -> None:
    data = open_dataset("synthetic", take=5, seed=2)
    assert ids(data) == ["face-1200000", "face-1200001", "face-1200002", "letters-1200000", "letters-1200001"]
    assert (data.origin, data.name) == ("synthetic", "synthetic faces and letters (5 images)")
    assert data.notes == ("generated with seed 2",)
    for item in data.items:
        name, _, seed = item.id.partition("-")
        drawing = synthetic.GENERATORS[name](int(seed))
        assert np.array_equal(decode_plain(data.read(item), item.id), drawing.pixels)
        assert item.boxes == drawing.boxes
        assert item.boxes
    assert open_dataset("synthetic", take=5, seed=2).items == data.items
    assert ids(open_dataset("synthetic-letters", take=2)) == ["letters-1000000", "letters-1000001"]
    assert ids(open_dataset("synthetic-faces", take=1)) == ["face-1000000"]
    assert len(synthetic.open_synthetic("synthetic", None, 0).ids) == 200


@pytest.mark.usefixtures("small_images")
def test_images_that_do_not_fit_in_memory_are_generated_again(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(synthetic, "CACHE_BYTES", 0)
    data = open_dataset("synthetic", take=2)
    assert all(hashlib.sha256(data.read(item)).hexdigest() == item.sha256 for item in data.items)


@pytest.mark.parametrize(("take", "seed"), [(100_001, 0), (1, -1)])
def test_seeds_of_two_datasets_never_meet(take: int, seed: int) -> None:
    with pytest.raises(UsageError, match="1 to 100,000 images for each seed from 0 up"):
        open_dataset("synthetic-faces", take=take, seed=seed)


def test_options_that_named_datasets_do_not_have(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(UsageError, match="neither aesthetic scores nor splits"):
        open_dataset("synthetic", min_aesthetic=5)
    monkeypatch.chdir(tmp_path)
    folder(tmp_path / "synthetic", "a.png")
    assert (
        ids(open_dataset("./synthetic"))
        == ids(open_dataset("synthetic/"))
        == ids(open_dataset(Path("synthetic")))
        == ["a.png"]
    )


# --- COCO


def test_coco_comes_from_its_two_archives(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    images = zipped(tmp_path / "val2017.zip", "val2017/000000000139.jpg", "val2017/000000000285.jpg")
    table = {
        "images": [{"id": 285, "file_name": "000000000285.jpg"}],
        "categories": [{"id": 1, "keypoints": ["left_eye", "right_eye"]}],
        "annotations": [{"id": 1, "image_id": 285, "category_id": 1, "keypoints": [20, 10, 2, 10, 10, 2]}],
    }
    with zipfile.ZipFile(tmp_path / "annotations.zip", "w") as archive:
        archive.writestr("annotations/person_keypoints_val2017.json", json.dumps(table))
    asked: list[tuple[str, bool]] = []

    def fetch(file: WebFile, runtime: Runtime) -> Path:
        asked.append((file.name, runtime.offline))
        return tmp_path / "annotations.zip" if "annotations" in file.name else images

    monkeypatch.setattr(coco, "fetch_web", fetch)
    data = open_dataset("coco-val2017", runtime=Runtime(offline=True))
    assert ids(data) == ["000000000139.jpg", "000000000285.jpg"]
    assert (data.origin, data.name) == ("coco-val2017", "coco-val2017 (2 images)")
    assert data.read(data.items[1]) == content("val2017/000000000285.jpg")
    assert data.items[0].boxes == ()
    assert [box.label for box in data.items[1].boxes] == ["eye", "eye"]
    assert asked == [("coco/val2017.zip", True), ("coco/annotations_trainval2017.zip", True)]

    with zipfile.ZipFile(images) as archive:
        archive.extractall(tmp_path / "unpacked")
    assert manifest_sha256(open_dataset(tmp_path / "unpacked" / "val2017").items) == manifest_sha256(data.items)

    (tmp_path / "own.jsonl").write_text(
        '{"id": "000000000139.jpg", "label": "cat", "left": 0, "top": 0, "right": 9, "bottom": 9}\n'
    )
    asked.clear()
    own = open_dataset("coco-val2017", boxes=tmp_path / "own.jsonl")
    assert [len(item.boxes) for item in own.items] == [1, 0]
    assert asked == [("coco/val2017.zip", False)]


def test_cocos_facts() -> None:
    """The same as the published lists of checksums say; a digit lost here would cost a gigabyte of download."""
    table = tomllib.loads(files("vaelens.images.datasets").joinpath("coco.toml").read_text())
    assert {name: (file["size"], file["md5"][:6], len(file["sha256"])) for name, file in table.items()} == {
        "images": (815_585_330, "442b8d", 64),
        "annotations": (252_907_541, "f4bbac", 64),
    }
    assert items_module.MAX_BYTES < 815_585_330
