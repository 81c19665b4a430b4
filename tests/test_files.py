"""Writing: whole or not at all, and what was there before stays."""

import errno
import json
import os
import platform
import stat
import subprocess
import sys
from pathlib import Path
from typing import BinaryIO
from unittest.mock import ANY

import pytest

from vaelens import files
from vaelens.errors import BadInputError, ResourceError, UsageError
from vaelens.files import checked_json, read_checked_json, sha256_file, write_atomic


def test_bytes_and_writers(tmp_path: Path) -> None:
    target = tmp_path / "new" / "folder" / "a 日本 ✓.bin"
    assert write_atomic(target, b"one") == target
    write_atomic(target, lambda file: file.write(b"two"))
    assert target.read_bytes() == b"two"
    assert os.listdir(target.parent) == [target.name]  # noqa: PTH208
    assert sha256_file(target) == "3fc4ccfe745870e2c0d99f71f30ff0656c8dedd41cc1d7d3d376b0dbe685e2f3"


def test_the_mode_follows_the_umask_or_the_old_file(tmp_path: Path) -> None:
    old = os.umask(0o027)
    try:
        write_atomic(tmp_path / "a", b"")
    finally:
        os.umask(old)
    assert stat.S_IMODE((tmp_path / "a").stat().st_mode) == 0o640
    (tmp_path / "a").chmod(0o604)
    write_atomic(tmp_path / "a", b"again")
    assert stat.S_IMODE((tmp_path / "a").stat().st_mode) == 0o604


@pytest.mark.parametrize(
    ("number", "error"),
    [(errno.ENOSPC, ResourceError), (errno.EDQUOT, ResourceError), (errno.EACCES, BadInputError)],
)
def test_a_failed_write_leaves_the_old_file_and_no_other(tmp_path: Path, number: int, error: type[Exception]) -> None:
    target = tmp_path / "a"
    target.write_bytes(b"old")

    def fail(file: BinaryIO) -> None:
        file.write(b"half")
        raise OSError(number, os.strerror(number))

    with pytest.raises(error, match="not written"):
        write_atomic(target, fail)
    assert target.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [target]


def test_a_really_full_disk(tmp_path: Path) -> None:
    """A file system of 64 KiB, where the machine lets us mount one."""
    mount = tmp_path / "small"
    mount.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", str(mount)]
    mounted = subprocess.run(command, capture_output=True, check=False)
    if mounted.returncode:
        pytest.skip("mounting a small file system needs more rights than this user has")
    try:
        (mount / "a").write_bytes(b"old")
        with pytest.raises(ResourceError, match="the disk is full"):
            write_atomic(mount / "a", b"x" * 200_000)
        assert (mount / "a").read_bytes() == b"old"
        assert len(list(mount.iterdir())) == 1
    finally:
        subprocess.run(["umount", mount], check=True)


def test_an_interrupt_leaves_no_temporary_file(tmp_path: Path) -> None:
    def interrupted(_: BinaryIO) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write_atomic(tmp_path / "a", interrupted)
    assert list(tmp_path.iterdir()) == []


def test_a_kill_in_the_middle_leaves_the_old_file(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"old")
    code = (
        "import os, signal, sys; from vaelens.files import write_atomic\n"
        "def die(file): file.write(b'half'); file.flush(); os.kill(os.getpid(), signal.SIGKILL)\n"
        "write_atomic(sys.argv[1], die)"
    )
    ran = subprocess.run([sys.executable, "-c", code, tmp_path / "a"], check=False)
    assert ran.returncode == -9
    assert (tmp_path / "a").read_bytes() == b"old"
    assert len(list(tmp_path.iterdir())) == 3  # with its half and its lock
    write_atomic(tmp_path / "b", b"another file of the folder")
    assert {path.name for path in tmp_path.iterdir()} == {"a", "b"}


@pytest.mark.parametrize("locks", [True, False], ids=["locks", "no locks on this file system"])
def test_temporary_files_of_a_living_process_stay(tmp_path: Path, locks: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    code = (
        "import sys; from vaelens import files\n"
        "def refuse(*_): raise OSError(37, 'No locks available')\n"
        "if sys.argv[2] == 'False': files.fcntl.flock = refuse\n"
        "def wait(file): file.write(b'half'); file.flush(); print('writing', flush=True); sys.stdin.readline()\n"
        "files.write_together({files.Path(sys.argv[1], 'a'): wait, files.Path(sys.argv[1], 'b'): b'whole'})"
    )
    if not locks:

        def refused(*_: object) -> None:
            raise OSError(errno.ENOLCK, "No locks available")

        monkeypatch.setattr(files.fcntl, "flock", refused)
    process = subprocess.Popen(
        [sys.executable, "-c", code, tmp_path, str(locks)], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )
    assert process.stdin is not None
    assert process.stdout is not None
    with process:
        process.stdout.readline()
        write_atomic(tmp_path / "c", b"meanwhile")
        files.remove_leftovers(tmp_path.parent, below=True)
        assert len(list(tmp_path.iterdir())) == 3
        process.stdin.write(b"\n")
    assert process.returncode == 0
    assert {path.name for path in tmp_path.iterdir()} == {"a", "b", "c"}


@pytest.mark.parametrize("written", ["elsewhere 1", "{here} 1", "damaged"])
def test_without_locks_only_what_a_dead_process_of_this_machine_left_is_removed(
    tmp_path: Path, written: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refused(*_: object) -> None:
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(files.fcntl, "flock", refused)
    number = "0" * 16
    ended = subprocess.Popen([sys.executable, "-c", ""])
    ended.wait()
    for name, text in ((".lock", written.format(here=platform.node())), ("-0", "half")):
        (tmp_path / f".vaelens-{number}{name}").write_text(text)
    write_atomic(tmp_path / "a", b"")
    assert len(list(tmp_path.iterdir())) == 3, "process 1 always lives, and what can't be told stays"
    (tmp_path / f".vaelens-{number}.lock").write_text(f"{platform.node()} {ended.pid}")
    files.remove_leftovers(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["a"]


def test_files_with_similar_names_stay(tmp_path: Path) -> None:
    names = [".vaelens-serve", ".vaelens-0", ".vaelens-0123456789abcdef-x", "vaelens-0123456789abcdef.lock"]
    for name in names:
        (tmp_path / name).touch()
    write_atomic(tmp_path / "a", b"")
    assert {path.name for path in tmp_path.iterdir()} == {"a", *names}


def test_a_failed_write_leaves_no_new_folder(tmp_path: Path) -> None:
    def fail(_: BinaryIO) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    (tmp_path / "there").mkdir()
    for path in (tmp_path / "new" / "folder" / "a", tmp_path / "there" / "folder" / "a"):
        with pytest.raises(ResourceError):
            write_atomic(path, fail)
    assert [path.name for path in tmp_path.rglob("*")] == ["there"]


def test_checked_json_notices_each_flipped_bit() -> None:
    values = {"text": '日本 " , }', "number": 0.1, "none": None, "list": [1, {"checksum": "x"}]}
    content = checked_json(values)
    assert {**read_checked_json(content), "checksum": ANY} == json.loads(content) == {**values, "checksum": ANY}
    for place in range(len(content) * 8):
        damaged = bytearray(content)
        damaged[place // 8] ^= 1 << place % 8
        with pytest.raises(ValueError, match=r"checksum|codec"):
            read_checked_json(bytes(damaged))
    for other in (b"", b"{}", b"[]", content[:-1], content + b" "):
        with pytest.raises(ValueError, match="checksum"):
            read_checked_json(other)


def test_a_symlink_stays_and_its_target_is_replaced(tmp_path: Path) -> None:
    (tmp_path / "target").write_bytes(b"old")
    (tmp_path / "link").symlink_to("target")
    assert write_atomic(tmp_path / "link", b"new") == tmp_path / "target"
    assert (tmp_path / "link").is_symlink()
    assert (tmp_path / "target").read_bytes() == b"new"
    (tmp_path / "dangling").symlink_to("later")
    write_atomic(tmp_path / "dangling", b"x")
    assert (tmp_path / "later").read_bytes() == b"x"


def test_special_targets_are_refused(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "loop").symlink_to("loop")
    blob = tmp_path / "models--a--b" / "blobs" / "0123"
    blob.parent.mkdir(parents=True)
    blob.write_bytes(b"shared")
    (tmp_path / "link").symlink_to(blob)
    for target, message in (
        (tmp_path, "is a folder"),
        (Path("/dev/null"), "device, pipe or socket"),
        (tmp_path / "pipe", "device, pipe or socket"),
        (tmp_path / "loop", "not written"),
        (blob, "inside a Hugging Face cache"),
        (tmp_path / "link", "inside a Hugging Face cache"),
        (tmp_path / ("x" * 300), "not written: File name too long"),
    ):
        with pytest.raises(UsageError, match=message):
            write_atomic(target, b"new")
    assert blob.read_bytes() == b"shared"


def test_no_permission_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """By a stand-in for the system's refusal, since root may write anywhere."""

    def refused(*_: object, **__: object) -> None:
        raise PermissionError(errno.EACCES, "Permission denied")

    monkeypatch.setattr(Path, "touch", refused)
    with pytest.raises(BadInputError, match=r"Permission denied\. Check the folder's permissions"):
        write_atomic(tmp_path / "a", b"")


def test_a_folder_is_searched_for_leftovers_once_for_many_writes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    walk, walked = os.walk, list[Path]()
    monkeypatch.setattr(os, "walk", lambda top: (walked.append(top), walk(top))[1])
    for number in range(20):
        write_atomic(tmp_path / str(number % 2) / str(number), b"")
    assert walked == [tmp_path / "0", tmp_path / "1"]
