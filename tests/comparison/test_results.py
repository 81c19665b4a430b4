"""What a comparison writes, and what it leaves alone."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from support.comparisons import run
from support.reports import files_with_folder
from vaelens.comparison.results import Comparison, check_plain_output
from vaelens.comparison.workflow import compare
from vaelens.errors import ResourceError, UsageError
from vaelens.files import sha256_file
from vaelens.reconstruction import reconstruct
from vaelens.report.gallery import check_output
from vaelens.vae import VAE


def test_a_full_disk_loses_nothing(model: Path, vaes: list[VAE], tmp_path: Path, monkeypatch: Any) -> None:
    import errno
    import os

    made, target = run(model, vaes[:2]), tmp_path / "sheet.png"
    run(model, vaes[2:4]).save(target)
    sheet = target.read_bytes()
    folder = tmp_path / "folder"
    before = {path: path.read_bytes() for path in run(model, vaes[2:4]).save(folder)}
    fsync, room = os.fsync, [0]

    def full(handle: int) -> None:
        room[0] -= 1
        if room[0] < 0:
            raise OSError(errno.ENOSPC, "No space left on device")
        fsync(handle)

    monkeypatch.setattr(os, "fsync", full)
    for files in range(len(before) + 1):  # so many have room, the record twice
        for output in (target, folder) if files == 0 else (folder,):
            room[0] = files
            with pytest.raises(ResourceError, match="not written, the disk is full"):
                made.save(output)
    assert target.read_bytes() == sheet
    assert {path: path.read_bytes() for path in folder.iterdir()} == before, "old and new are never mixed"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["folder", "sheet.png", "sheet.run.json"]


def test_foreign_files_are_never_replaced(model: Path, vaes: list[VAE], tmp_path: Path) -> None:
    made, out = run(model, vaes[0]), tmp_path / "out"
    written = made.save(out)
    latents = next(path for path in written if path.suffix == ".safetensors")
    with pytest.raises(UsageError, match=r"of an earlier run in -o .* which is replaced"):
        check_output(out, "compare", "sheet.png", [latents])
    foreign = tmp_path / "foreign" / "run.json"
    foreign.parent.mkdir()
    foreign.write_text("{}")
    for check in (
        lambda: check_plain_output(foreign.parent, 2),
        lambda: check_output(foreign.parent, "compare", "sheet.png"),
    ):
        with pytest.raises(UsageError, match=r"was not made by vaelens.* would be lost"):
            check()
    for name in ("x.gif", "x.jpg", "x.html"):
        with pytest.raises(UsageError, match="generate writes a"):
            check_plain_output(tmp_path / name, 1)


@pytest.mark.parametrize("save", [Comparison.save, Comparison.save_plain])
def test_files_of_the_user_with_names_like_ours_stay(
    model: Path, vaes: list[VAE], tmp_path: Path, save: Callable[[Comparison, Path], list[Path]]
) -> None:
    """Numbered, of a kind that we write, changed by the user, or called just as one of ours would be."""
    out = tmp_path / "out"
    written = save(run(model, vaes[0], seeds=(0, 1)), out)
    changed = next(path for path in written if path.name.startswith("002") and path.suffix == ".png")
    next_name = next(path for path in written if path.name.startswith("001") and path.suffix == ".png").name
    mine = {out / "123-holiday.png": b"mine", out / "001-mine.safetensors": b"mine", changed: b"changed"}
    mine[out / next_name.replace("seed-0", "seed-7")] = b"there before"
    for path, content in mine.items():
        path.write_bytes(content)
    again = save(run(model, vaes[0], seeds=(7,)), out)
    assert {path: path.read_bytes() for path in mine} == mine
    assert set(out.iterdir()) == {*mine, *again}
    assert any(path.stem.endswith("-2") for path in again)
    assert set(save(run(model, vaes[0], seeds=(7,)), out)) == set(again), "a name with a number is found again"


def test_what_the_user_changed_is_never_replaced(model: Path, vaes: list[VAE], tmp_path: Path) -> None:
    made, folder, page = run(model, vaes[0]), tmp_path / "out", tmp_path / "page.html"
    for path, changed in (
        (folder, folder / "index.html"),
        (folder, folder / "sheet.png"),
        (folder, folder / "run.json"),
        (page, page),
        (page, tmp_path / "page.run.json"),
    ):
        made.save(path)
        before = changed.read_bytes()
        changed.write_bytes(before + b"<!-- mine -->")
        with pytest.raises(UsageError, match=rf"{changed.name}.* not made by vaelens, or changed since"):
            check_output(path, "compare", "sheet.png")
        with pytest.raises(UsageError, match="would be lost"):
            made.save(path)
        assert changed.read_bytes() == before + b"<!-- mine -->"
        changed.write_bytes(before)


def test_no_file_of_a_comparison_names_a_folder_of_this_machine(
    model: Path, vaes: list[VAE], photo: Path, tmp_path: Path
) -> None:
    files = [vae.save(tmp_path / f"{vae.name}.safetensors") for vae in vaes[:2]]
    first = run(model, files)
    latents = next(path for path in first.save(tmp_path / "out") if path.suffix == ".safetensors")
    first.save_plain(tmp_path / "out" / "plain")
    compare(vaes=files, photos=[photo], latents=latents).save(tmp_path / "out" / "both")
    reconstruct(photo, files, device="cpu").save(tmp_path / "out" / "reconstruct")
    assert files_with_folder(tmp_path / "out", tmp_path.parent) == []
    assert files_with_folder(tmp_path / "out", model.parent) == []
    record = json.loads((tmp_path / "out" / "both" / "run.json").read_text())
    assert [vae["source"] for vae in record["vaes"]] == ["v0.safetensors", "v1.safetensors"]
    assert record["settings"]["latents"] == {"file": latents.name, "sha256": sha256_file(latents)}
    record = json.loads((tmp_path / "out" / "reconstruct" / "run.json").read_text())
    assert (record["images"][0]["file"], record["images"][0]["sha256"]) == (photo.name, sha256_file(photo))


def test_a_page_and_a_sheet_of_one_name_stay_beside_each_other(model: Path, vaes: list[VAE], tmp_path: Path) -> None:
    made = run(model, vaes[0])
    for _ in range(2):
        for name in ("a.html", "a.png"):
            made.save(tmp_path / name)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.html", "a.png", "a.run.json"]


def test_images_of_an_earlier_run_in_the_folder_are_removed(model: Path, vaes: list[VAE], tmp_path: Path) -> None:
    out = tmp_path / "out"
    run(model, vaes[:2], seeds=(0, 1)).save(out)
    (out / "notes.txt").write_text("mine")
    (out / "holiday.png").write_bytes(b"mine")
    written = run(model, vaes[0], seeds=(7,)).save(out)
    assert {path.name for path in out.iterdir()} == {path.name for path in written} | {"notes.txt", "holiday.png"}
    plain = tmp_path / "plain"
    run(model, vaes[0], seeds=(0, 1)).save_plain(plain)
    run(model, vaes[0], seeds=(5,)).save_plain(plain)
    assert sorted(path.name for path in plain.iterdir()) == ["001-seed-5-v0.png", "001-seed-5.safetensors", "run.json"]
