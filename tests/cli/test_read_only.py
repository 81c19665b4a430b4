"""Output where nothing may be written: the same exit code in every command, before any long work."""

import errno
import os
import sys
from pathlib import Path

import pytest

from support.blind_results import abx_trials, result, save
from support.commands import invoke
from support.comparisons import face_photo
from vaelens.errors import BadInputError, ResourceError, UsageError
from vaelens.text.paths import explained

REFUSING = "/sys"  # where even root can make no file and no folder
CALIBRATION = ["synthetic", "--vae", "tiny-kl-f8", "--take", "2", "--table", "t.toml"]
TRAINING = ["--recipe", "tiny-scratch", "--set", "run.steps=1", "--set", "optimizer.warmup_steps=0", "--take", "60"]
COMMANDS = [
    ["reconstruct", "photo.png", "-o", f"{REFUSING}/strip.png"],
    ["reconstruct", "photo.png", "-o", f"{REFUSING}/folder"],
    pytest.param(
        ["evaluate", "synthetic", "--take", "2", "--preset", "offline", "-o", f"{REFUSING}/folder"],
        marks=pytest.mark.slow,
    ),
    ["blind", "r.json", "-o", f"{REFUSING}/page.html"],
    ["evaluate", "synthetic", "--take", "2", "--preset", "offline", "-o", REFUSING],
    pytest.param(["calibrate", *CALIBRATION, "-o", f"{REFUSING}/folder"], marks=pytest.mark.slow),
    ["finetune", "synthetic", *TRAINING, "-o", f"{REFUSING}/folder"],
    ["encode", "photo.png", "--size", "16", "-o", f"{REFUSING}/folder"],
    ["serve", "--port", "0", "--folder", f"{REFUSING}/folder"],
]


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The working folder, with a photo, a published table and a result of the blind test."""
    monkeypatch.chdir(tmp_path)
    face_photo(tmp_path / "photo.png", 16, 16)
    (tmp_path / "t.toml").write_text("[tiny-kl-f8]\npsnr = 23.4\n")
    save(tmp_path / "r.json", result(abx_trials(1, 1)))
    return tmp_path


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="it needs a folder that refuses even root")
@pytest.mark.parametrize("arguments", COMMANDS, ids=lambda one: f"{one[0]} {one[-1]}")
@pytest.mark.usefixtures("folder")
def test_a_read_only_output_folder_gives_one_code_in_all_commands(arguments: list[str]) -> None:
    ran = invoke(*arguments, code=BadInputError.exit_code)
    assert f"{arguments[-1]}" in ran.stderr
    assert "not written: " in ran.stderr
    assert "permissions" in ran.stderr


@pytest.mark.parametrize(
    "arguments",
    [["generate", "a face"], ["compare", "a face"], ["reconstruct", "photo.png"], ["replay", "photo.png"]],
    ids=lambda one: one[0],
)
def test_a_read_only_output_folder_is_noticed_before_the_work(
    arguments: list[str], folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By a stand-in for the system's answer, since root may write anywhere."""
    (folder / "closed").mkdir()
    access = os.access
    monkeypatch.setattr(os, "access", lambda path, mode: "closed" not in str(path) and access(path, mode))
    ran = invoke(*arguments, "-o", "closed/a.png", code=BadInputError.exit_code)
    assert "closed/a.png: not written: Permission denied" in ran.stderr
    assert "step" not in ran.stderr


@pytest.mark.parametrize(
    ("number", "expected"),
    [
        *((number, ResourceError) for number in (errno.ENOSPC, errno.EDQUOT, errno.EMFILE, errno.ENFILE, errno.ENOMEM)),
        *((number, UsageError) for number in (errno.ENAMETOOLONG, errno.ENOTDIR, errno.EEXIST, errno.ELOOP)),
        *((number, BadInputError) for number in (errno.EACCES, errno.EPERM, errno.EROFS, errno.EIO)),
    ],
)
def test_each_refusal_of_the_system_has_one_kind_of_error(number: int, expected: type[Exception]) -> None:
    error = explained(OSError(number, os.strerror(number)), Path("out.png"))
    assert type(error) is expected
    assert str(error).startswith("out.png: not written")
