"""What a folder's record lists, and that nothing else is replaced or removed."""

import subprocess
import sys
from pathlib import Path

import pytest

from vaelens.errors import UsageError
from vaelens.files import checked_json
from vaelens.runs.outputs import begin_outputs, changed_outputs, check_outputs, end_outputs, write_outputs

VALUES = {"command": "compare"}
KILLED = """
import os, sys
from pathlib import Path
from vaelens import files
from vaelens.runs.outputs import write_outputs
moves, place = [0], files.Ready.place
def counted(ready):
    moves[0] += 1
    if moves[0] > int(sys.argv[2]):
        os.kill(os.getpid(), 9)
    place(ready)
files.Ready.place = counted
write_outputs(Path(sys.argv[1], "run.json"), {"command": "compare"}, {"new": b"2", "both": b"2", "more": b"2"})
"""


@pytest.fixture
def record(tmp_path: Path) -> Path:
    return tmp_path / "run.json"


def names(record: Path) -> set[str]:
    return {path.relative_to(record.parent).as_posix() for path in record.parent.rglob("*") if path.is_file()}


def test_files_of_an_earlier_run_are_replaced_and_removed_and_no_others(record: Path) -> None:
    write_outputs(record, VALUES, {"old": b"1", "both": b"1", "changed": b"1", "sub/old": b"1"})
    for name in ("mine", "sub/mine", "changed"):
        (record.parent / name).write_bytes(b"mine")
    write_outputs(record, VALUES, {"both": b"2", "new": b"2"})
    assert names(record) == {"run.json", "both", "new", "mine", "sub/mine", "changed"}
    for name in ("mine", "changed"):
        with pytest.raises(UsageError, match=f"{name} was not made by vaelens, or changed since"):
            write_outputs(record, VALUES, {"new": b"3", name: b"3"})
    assert (record.parent / "new").read_bytes() == b"2"
    write_outputs(record, VALUES, {"third": b"3"}, replace_all=False)
    check_outputs(record, ["both", "new", "third", "another"])


@pytest.mark.parametrize("moves", range(5))
def test_after_a_kill_every_file_of_ours_is_known(record: Path, moves: int) -> None:
    write_outputs(record, VALUES, {"old": b"1", "both": b"1"})
    (record.parent / "mine").write_bytes(b"mine")
    killed = subprocess.run([sys.executable, "-c", KILLED, record.parent, str(moves)], check=False)
    assert killed.returncode == -9
    write_outputs(record, VALUES, {"third": b"3"})
    assert names(record) == {"run.json", "third", "mine"}


@pytest.mark.parametrize("name", ["../outside", "/etc/hostname", "", ".", "a/../../outside", "..\\outside"])
def test_a_record_lists_nothing_outside_its_folder(tmp_path: Path, name: str) -> None:
    record, outside = tmp_path / "folder" / "run.json", tmp_path / "outside"
    outside.write_bytes(b"")
    empty = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"
    record.parent.mkdir()
    record.write_bytes(checked_json(VALUES | {"files": [{"file": name, "sha256": empty}, 1, {"file": 2}]}))
    write_outputs(record, VALUES, {"new": b""})
    assert outside.exists()


def test_files_that_are_written_by_other_means(record: Path) -> None:
    begin_outputs(record, VALUES, ["a", "b"])
    (record.parent / "a").write_bytes(b"half")
    begin_outputs(record, VALUES, ["a", "b"])  # the process was killed
    (record.parent / "a").write_bytes(b"whole")
    end_outputs(record, VALUES, ["a", "b"])
    assert changed_outputs(record) == []
    (record.parent / "a").write_bytes(b"mine")
    assert changed_outputs(record) == ["a"]
    with pytest.raises(UsageError, match="a was not made by vaelens"):
        begin_outputs(record, VALUES, ["a", "b"])
