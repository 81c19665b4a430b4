"""What a folder's record lists, and that nothing else is replaced or removed."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from vaelens.errors import UsageError
from vaelens.files import checked_json, remove_leftovers
from vaelens.report.gallery import check_folder, write_folder
from vaelens.runs import outputs
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
    remove_leftovers(record.parent)  # as the first write of the next process does; this one wrote here a moment ago
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


def test_a_record_without_a_checksum_is_said_to_be_without_one(record: Path) -> None:
    """As another version wrote it: nothing in it has changed."""
    write_outputs(record, VALUES, {"a": b"1"})
    written = json.loads(record.read_bytes())
    del written["checksum"]
    record.write_text(json.dumps(written))
    with pytest.raises(UsageError, match=r"run.json: it has no checksum: another version of vaelens wrote it.*Move it"):
        check_outputs(record, ["a"])


def test_a_record_is_read_once_for_all_files_of_a_folder(record: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    names = [f"{number:03d}.png" for number in range(200)]
    inputs = [record.parent / f"photo-{number}.png" for number in range(200)]
    write_folder(record.parent, VALUES, {}, dict.fromkeys(names, b"1"))
    (record.parent / names[3]).write_bytes(b"mine")
    read, calls = outputs.read_record, list[Path]()

    def counted(path: Path) -> Any:
        calls.append(path)
        return read(path)

    monkeypatch.setattr(outputs, "read_record", counted)
    check_folder(record.parent, "compare", [], inputs)
    written = write_folder(record.parent, VALUES, {}, dict.fromkeys(names, b"2"))
    assert {path.name for path in written} - {record.name} == {*names, "003-2.png"} - {names[3]}
    assert len(calls) < 20


def test_results_of_another_command_are_never_replaced(record: Path) -> None:
    write_outputs(record, {"command": "evaluate"}, {"report.html": b"1"})
    with pytest.raises(UsageError, match=r"holds the results of `vaelens evaluate`, which would be removed\. Choose"):
        write_outputs(record, {"command": "reconstruct"}, {"index.html": b"2"})
    with pytest.raises(UsageError, match="`vaelens evaluate`"):
        check_folder(record.parent, "compare", [])
    assert sorted(path.name for path in record.parent.iterdir()) == ["report.html", record.name]
    write_outputs(record, {"command": "evaluate"}, {"report.md": b"3"})
    assert sorted(path.name for path in record.parent.iterdir()) == ["report.md", record.name]


def test_numbered_names_are_distinct(record: Path) -> None:
    (record.parent / "a.png").write_bytes(b"mine")
    written = write_folder(record.parent, VALUES, {}, {"a.png": b"1", "a-2.png": b"2", "b.png": b"3"})
    assert {path.name: path.read_bytes() for path in written[1:]} == {
        "a-3.png": b"1", "a-2.png": b"2", "b.png": b"3",
    }  # fmt: skip


@pytest.mark.parametrize("place", ["", "elsewhere/"])
@pytest.mark.parametrize("sub", ["", "sub/"])
def test_an_input_that_is_or_links_to_a_file_of_an_earlier_run_is_refused(tmp_path: Path, place: str, sub: str) -> None:
    target = tmp_path / "run"
    write_outputs(target / "run.json", VALUES, {f"{sub}a.png": b"1"})
    (tmp_path / "elsewhere").mkdir()
    link = tmp_path / place / "photo.png"
    link.symlink_to(target / sub / "a.png")
    folder = tmp_path / place / "folder"
    folder.symlink_to(target / sub)
    for given in (target / sub / "a.png", link, folder / "a.png"):
        with pytest.raises(UsageError, match="is of an earlier run"):
            check_folder(target, "compare", [], [tmp_path / "other.png", given])
    check_folder(target, "compare", [], [tmp_path / "other.png", target / "mine.png"])
