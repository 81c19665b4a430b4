"""Datasets that are folders: ids, contents, links, boxes, the choice of images, and what is refused."""

import hashlib
import os
import socket
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from support.images.stored_images import content, folder, ids, shards
from vaelens.errors import BadInputError, CheckFailedError, UsageError
from vaelens.images.datasets import Item, manifest_sha256, open_dataset
from vaelens.images.datasets.folders import image_files
from vaelens.images.datasets.items import UNREADABLE
from vaelens.images.drawing import Box
from vaelens.images.reading import decode_bytes, read_size


def test_images_in_subfolders_are_found(tmp_path: Path) -> None:
    names = ("b.PNG", "a/z.jpg", "a/b/ä 🎉.webp", "a.jpeg")
    folder(tmp_path, *names, "notes.txt", ".hidden.png", ".cache/x.png", "a/._z.jpg")
    data = open_dataset(tmp_path)
    assert ids(data) == sorted(names)
    assert data.origin == "folder"
    assert data.name == f"{tmp_path.name} (4 images)"
    assert data.notes == ("1 file left out: 1 .txt (not images)",)
    for item in data.items:
        assert data.read(item) == content(item.id)
        assert item.sha256 == hashlib.sha256(content(item.id)).hexdigest()
        assert item.boxes == ()


@pytest.mark.parametrize(
    ("form", "suffixes"),
    [
        ("JPEG", (".jpg", ".jpeg", ".jpe", ".jfif", ".pjpeg", ".pjp")),
        ("MPO", (".mpo",)),
        ("PNG", (".png", ".apng")),
        ("PPM", (".ppm", ".pgm", ".pbm", ".pnm")),
        ("TIFF", (".tif", ".tiff")),
        ("AVIF", (".avif", ".avifs")),
        ("JPEG2000", (".jp2", ".j2k", ".j2c", ".jpc", ".jpf", ".jpx")),
    ],
)
def test_every_suffix_of_a_format_that_is_read_marks_an_image(
    tmp_path: Path, form: str, suffixes: tuple[str, ...]
) -> None:
    image = Image.new("L", (8, 8), 200)
    for suffix in suffixes:
        image.save(tmp_path / f"a{suffix}", form)
    data = open_dataset(tmp_path)
    assert ids(data) == sorted(f"a{suffix}" for suffix in suffixes)
    for item in data.items:
        assert decode_bytes(data.read(item), item.id).size == (8, 8)


def test_a_folder_tells_how_many_files_it_leaves_out_and_why(tmp_path: Path) -> None:
    folder(tmp_path, "a.png", "b.heic", "in/c.jxl", "in/d.JXL", "e.txt", "in/readme", ".hidden.heic", "b.~weird~")
    assert open_dataset(tmp_path).notes == (
        "6 files left out: 2 .jxl, 1 .heic (formats that aren't read: convert them to PNG or JPEG); 1 .txt, "
        "1 with another suffix, 1 without a suffix (not images)",
    )
    (tmp_path / "a.png").unlink()
    with pytest.raises(BadInputError, match=r"holds no images: 6 files left out: 2 \.jxl, 1 \.heic \(formats that"):
        open_dataset(tmp_path)


def test_control_characters_in_names_are_spelled_out(tmp_path: Path) -> None:
    folder(tmp_path, "a\n.png", "\x1b[31m.png", "\u202egnp.png", "fam\u200dily.png")
    data = open_dataset(tmp_path)
    assert ids(data) == sorted(["\\x1b[31m.png", "a\\n.png", "fam\u200dily.png", "\\u202egnp.png"])
    assert data.read(data.items[1]) == content("\x1b[31m.png")


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


def not_a_file(path: Path, kind: str) -> Path:
    """A path with an image's name that leads to no file."""
    if kind == "link":
        path.symlink_to("nowhere")
    elif kind == "loop":
        path.symlink_to(path.name)
    elif kind == "device":
        path.symlink_to("/dev/zero")
    elif kind == "pipe":
        os.mkfifo(path)
    else:
        with socket.socket(socket.AF_UNIX) as server:
            server.bind(os.fspath(path.relative_to(Path.cwd())))  # a socket's address is short
    return path


@pytest.mark.parametrize("kind", ["link", "loop", "device", "pipe", "socket"])
def test_what_is_no_file_has_an_images_name_and_is_refused_or_skipped_as_a_damaged_file_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    monkeypatch.chdir(tmp_path)
    odd = not_a_file(folder(tmp_path / "set", "a.png", "in.png/c.png") / "b.png", kind)
    what = "a link that leads nowhere" if kind in {"link", "loop"} else "a device, pipe or socket"
    with pytest.raises(BadInputError, match=rf"b\.png is {what}, not an image\. Take it .* --skip-bad"):
        open_dataset(tmp_path / "set")
    data = open_dataset(tmp_path / "set", skip_bad=True)
    assert [(item.id, item.sha256 == UNREADABLE) for item in data.items] == [
        ("a.png", False),
        ("b.png", True),
        ("in.png/c.png", False),  # a folder with an image's name is a folder
    ]
    with pytest.raises(BadInputError, match=rf"b\.png is {what}"):
        data.read(data.items[1])
    with pytest.raises(BadInputError, match=rf"b\.png is {what}, not an image"):
        read_size(odd)


def test_an_empty_file_is_an_image_of_the_dataset(tmp_path: Path) -> None:
    (tmp_path / "a.png").touch()
    data = open_dataset(tmp_path)
    assert data.read(data.items[0]) == b""


def test_names_have_one_unicode_form_and_are_unique(tmp_path: Path) -> None:
    folder(tmp_path, "a\u0308.png")
    assert ids(open_dataset(tmp_path)) == ["\u00e4.png"]
    folder(tmp_path, "\u00e4.png")
    with pytest.raises(BadInputError, match=r"two images that would both be called 'ä\.png'"):
        open_dataset(tmp_path)


@pytest.mark.parametrize("name", ["Cafe\u0301.png", "two\nlines.png", "back\\slash.png", os.fsdecode(b"caf\xe9.png")])
def test_any_name_in_a_folder_of_photos_can_be_opened(tmp_path: Path, name: str) -> None:
    Image.new("RGB", (8, 8)).save(tmp_path / name)
    assert image_files([tmp_path]) == [tmp_path / name]
    assert read_size(tmp_path / name) == (8, 8)


def test_a_name_that_is_no_unicode_gets_an_escaped_id(tmp_path: Path) -> None:
    Path(os.fsdecode(bytes(tmp_path) + b"/\xff.png")).write_bytes(b"x")
    data = open_dataset(tmp_path)
    assert ids(data) == ["\\xff.png"]
    assert data.read(data.items[0]) == b"x"


def test_a_changed_or_deleted_image_is_an_error(tmp_path: Path) -> None:
    data = open_dataset(folder(tmp_path, "a.png", "b.png"))
    (tmp_path / "a.png").write_bytes(b"another")
    with pytest.raises(CheckFailedError, match=r"a\.png has changed"):
        data.read(data.items[0])
    (tmp_path / "b.png").unlink()
    with pytest.raises(BadInputError, match=r"b\.png: can't be read"):
        data.read(data.items[1])


def test_a_file_too_large_for_an_image_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("vaelens.images.datasets.folders.MAX_BYTES", 10)
    with pytest.raises(BadInputError, match=r"a\.png has 15 bytes; an image's file may have"):
        open_dataset(folder(tmp_path, "a.png"))


def test_sources_that_are_no_dataset_are_refused(tmp_path: Path) -> None:
    folder(tmp_path, "some/a.png", "words/a.txt", "packed/b.zip", "packed/c.tgz")
    (tmp_path / "empty").mkdir()
    (tmp_path / "gone").symlink_to("nowhere")
    os.mkfifo(tmp_path / "pipe")
    for name, kind, message in (
        ("words/a.txt", UsageError, "isn't a dataset. A dataset is an image, a folder"),
        ("empty", BadInputError, "holds no images"),
        ("words", BadInputError, "holds no images"),
        ("packed", BadInputError, r"It holds \.tgz and \.zip"),
        ("nowhere", BadInputError, "no such file or folder"),
        ("gone", BadInputError, "a link that leads nowhere"),
        ("pipe", BadInputError, "is a device, pipe or socket"),
    ):
        with pytest.raises(kind, match=message):
            open_dataset(tmp_path / name)
    with pytest.raises(UsageError, match="Did you mean coco-val2017"):
        open_dataset("coco-val")
    with pytest.raises(UsageError, match="--split is for datasets on the hub"):
        open_dataset(tmp_path / "some", split="test")
    with pytest.raises(UsageError, match="have no aesthetic score"):
        open_dataset(tmp_path / "some", min_aesthetic=5)


def test_a_folder_of_images_and_shards_is_ambiguous(tmp_path: Path) -> None:
    folder(shards(tmp_path), "a.png")
    with pytest.raises(UsageError, match="both images and"):
        open_dataset(tmp_path)


def test_given_boxes_belong_to_their_images(tmp_path: Path) -> None:
    folder(tmp_path / "set", "a.png", "b.png")
    (tmp_path / "boxes.csv").write_text(
        "id,label,left,top,right,bottom\na.png,eye,1,2,3,4\na.png,eye,5,2,7,4\nz.png,eye,1,2,3,4\n"
    )
    data = open_dataset(tmp_path / "set", boxes=tmp_path / "boxes.csv")
    assert [item.boxes for item in data.items] == [(Box("eye", 1, 2, 3, 4), Box("eye", 5, 2, 7, 4)), ()]
    assert data.notes == (f"1 of the 2 ids in {tmp_path / 'boxes.csv'} matches no image",)


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
        with pytest.raises(UsageError, match="must be 1 or more, not"):
            open_dataset(tmp_path / "one", take=take)
    with pytest.raises(UsageError, match="must be 0 or more, not -1"):
        open_dataset(tmp_path / "one", take=3, seed=-1)


def test_a_manifest_depends_on_ids_and_contents_but_not_on_order() -> None:
    items = [Item("a", "1" * 64), Item("b", "2" * 64)]
    digest = manifest_sha256(items)
    assert digest == manifest_sha256(items[::-1])
    lines = b'["a", "%s"]\n["b", "%s"]\n' % (b"1" * 64, b"2" * 64)
    assert digest == hashlib.sha256(lines).hexdigest()
    assert digest != manifest_sha256([items[0], Item("b", "3" * 64)])
    assert digest != manifest_sha256([items[0], Item("c", "2" * 64)])
    assert digest != manifest_sha256(items[:1])
