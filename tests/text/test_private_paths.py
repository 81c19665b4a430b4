"""Texts that get passed on name no folders of this machine."""

from pathlib import Path

import pytest

from vaelens.report.record import public_name
from vaelens.text.private_paths import without_folders


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("/home/jane doe/my photos/x.png: can't be read.", "x.png: can't be read."),
        ("C:\\Users\\Jane Doe\\pics\\x.png is empty", "x.png is empty"),
        ("C:/Users/Jane Doe/pics/x.png is empty", "x.png is empty"),
        ("~/my photos/x.png", "x.png"),
        ("[Errno 2] No such file: '/home/jane, doe (2)/a/x y.png'", "[Errno 2] No such file: 'x y.png'"),
        ('"/home/jane/x.png", "/home/jo/y.png"', '"x.png", "y.png"'),
        ("(/home/jane/x.png)", "(x.png)"),
        ("/a/b/x.png and /c/d/y.png", "x.png and y.png"),
        ("/a/b/x.png or c/y.png, /m/x.safetensors and c/d", "x.png or c/y.png, x.safetensors and c/d"),
        ("/a b/x and ~/c d/y and ./z", "x and y and z"),
        ("photos (2024)/x.png", "photos (2024)/x.png"),
        ("'my photos'/x.png", "'my photos'/x.png"),
        ("[2024]/x, {a}/x, 50%/x, a/x, ../x, ./a/x", "[2024]/x, {a}/x, 50%/x, a/x, ../x, x"),
        ("see https://example.org/a/b, 1/2 of all / none", "see https://example.org/a/b, 1/2 of all / none"),
        ("it can't be '/' or 'a/b'", "it can't be '/' or 'a/b'"),
    ],
)
def test_absolute_paths_are_reduced_to_their_last_part_whatever_their_folders_are_called(
    text: str, expected: str
) -> None:
    assert without_folders(text) == expected


@pytest.mark.parametrize("name", ["my photos", "photos (2024)", "it's, well: [odd]; 50%", "-x"])
def test_known_paths_disappear_whatever_their_folders_are_called(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    home, work = tmp_path / f"home {name}", tmp_path / f"work {name}"
    link = tmp_path / f"link {name}"
    for folder in (home, work):
        folder.mkdir()
    link.symlink_to(work)
    monkeypatch.setenv("HOME", str(home))
    monkeypatch.chdir(work)
    assert without_folders(f"{work}/x.png and {home}/y.png in {home}") == "x.png and y.png in ~"
    data = tmp_path / f"data {name}" / "set"
    for written in (str(data), f"~/../data {name}/set", f"../data {name}/set", f"{link}/../data {name}/set"):
        text = f"{written}/x.png, {data.resolve()}/x.png and file://{data}: damaged"
        assert without_folders(text, {written: "set"}) == "set/x.png, set/x.png and file://set: damaged"
    assert without_folders(f"{data}/x.png, {data}-2", {str(data): "set"}).startswith("set/x.png, ")


def test_a_source_is_recorded_by_the_name_that_the_user_gave_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As in the hub's cache, where each file is a link to one that is named by its hash."""
    blob = tmp_path / "blobs" / ("0" * 64)
    blob.parent.mkdir()
    blob.write_bytes(b"")
    link = tmp_path / "decoder.safetensors"
    link.symlink_to(blob)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path))
    for source in (link, str(link), "decoder.safetensors", "~/decoder.safetensors", "blobs/../decoder.safetensors"):
        assert public_name(source) == "decoder.safetensors"
    assert public_name(".") == tmp_path.name
    assert public_name("someone/decoder") == "someone/decoder"
