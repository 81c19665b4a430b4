"""What a comparison writes, and what it leaves alone."""

from pathlib import Path
from typing import Any

import pytest

from support.comparisons import run
from vaelens.comparison.results import check_plain_output
from vaelens.errors import ResourceError, UsageError
from vaelens.report.gallery import check_output
from vaelens.vae import VAE


def test_a_full_disk_loses_nothing(model: Path, vaes: list[VAE], tmp_path: Path, monkeypatch: Any) -> None:
    import errno
    import os

    made, target = run(model, vaes[:2]), tmp_path / "sheet.png"
    target.write_bytes(b"what was there")
    folder = tmp_path / "folder"
    before = {path: path.read_bytes() for path in run(model, vaes[2:4]).save(folder)}
    fsync, room = os.fsync, [0]

    def full(handle: int) -> None:
        room[0] -= 1
        if room[0] < 0:
            raise OSError(errno.ENOSPC, "No space left on device")
        fsync(handle)

    monkeypatch.setattr(os, "fsync", full)
    for files in range(len(before) - 1):  # so many have room
        for output in (target, folder) if files == 0 else (folder,):
            room[0] = files
            with pytest.raises(ResourceError, match="not written, the disk is full"):
                made.save(output)
    assert target.read_bytes() == b"what was there"
    assert {path: path.read_bytes() for path in folder.iterdir()} == before, "old and new are never mixed"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["folder", "sheet.png"]


def test_foreign_files_are_never_replaced(model: Path, vaes: list[VAE], tmp_path: Path) -> None:
    made, out = run(model, vaes[0]), tmp_path / "out"
    written = made.save(out)
    latents = next(path for path in written if path.suffix == ".safetensors")
    with pytest.raises(UsageError, match="where files with such names are replaced"):
        check_output(out, "sheet.png", [latents])
    foreign = tmp_path / "foreign" / "run.json"
    foreign.parent.mkdir()
    foreign.write_text("{}")
    for check in (lambda: check_plain_output(foreign.parent, 2), lambda: check_output(foreign.parent, "sheet.png")):
        with pytest.raises(UsageError, match="was not made by vaelens and would be lost"):
            check()
    for name in ("x.gif", "x.jpg", "x.html"):
        with pytest.raises(UsageError, match="generate writes a"):
            check_plain_output(tmp_path / name, 1)


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
