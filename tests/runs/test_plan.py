"""Plans in folders: read, compared, refused."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from vaelens.errors import BadInputError, CheckFailedError, UsageError
from vaelens.files import checked_json
from vaelens.runs.lock import exclusive_run, folder_lock
from vaelens.runs.plan import as_stored, differences, read_plan, refuse_differences, write_plan

PLAN = {"command": "evaluate", "batch": 2, "preset": {"side": 256, "metrics": ("psnr",)}, "hash": "ab" * 32}


def test_a_plan_reads_back(tmp_path: Path) -> None:
    assert read_plan(tmp_path, "evaluate") is None
    write_plan(tmp_path, PLAN)
    found = read_plan(tmp_path, "evaluate", ("batch",))
    assert found == as_stored(PLAN)
    assert found["preset"]["metrics"] == ["psnr"]


@pytest.mark.parametrize("text", ["{", "[]", "{}", checked_json({"command": "evaluate", "batch": 0}).decode()])
def test_a_damaged_plan(tmp_path: Path, text: str) -> None:
    (tmp_path / "plan.json").write_text(text)
    with pytest.raises(BadInputError, match=r"plan.json.*Choose another folder with -o"):
        read_plan(tmp_path, "evaluate", ("batch",))


def test_a_plan_that_has_changed_since_it_was_written(tmp_path: Path) -> None:
    write_plan(tmp_path, PLAN)
    file = tmp_path / "plan.json"
    file.write_text(file.read_text().replace('"batch": 2', '"batch": 3'))
    with pytest.raises(
        CheckFailedError, match=r"plan.json: it has changed since it was written.*Choose another folder"
    ):
        read_plan(tmp_path, "evaluate", ("batch",))


def test_a_plan_without_a_checksum_is_said_to_be_without_one(tmp_path: Path) -> None:
    """As another version wrote it: nothing in it has changed."""
    (tmp_path / "plan.json").write_text(json.dumps(PLAN))
    with pytest.raises(CheckFailedError, match=r"plan.json: it has no checksum: another version of vaelens wrote it"):
        read_plan(tmp_path, "evaluate")


def test_another_command_and_a_file(tmp_path: Path) -> None:
    write_plan(tmp_path, PLAN)
    with pytest.raises(UsageError, match="vaelens evaluate"):
        read_plan(tmp_path, "finetune")
    with pytest.raises(UsageError, match="is a file"):
        read_plan(tmp_path / "plan.json", "evaluate")


def test_differences_are_named_by_their_keys(tmp_path: Path) -> None:
    changed = json.loads(json.dumps(PLAN)) | {"preset": {"side": 128, "metrics": ["psnr"]}, "hash": "cd" * 32}
    found = differences(as_stored(PLAN), changed)
    assert found == [("preset.side", 256, 128), ("hash", "ab" * 32, "cd" * 32)]
    with pytest.raises(UsageError, match=r"preset.side was 256, now 128; hash was abababababab, now cdcdcdcdcdcd"):
        refuse_differences(tmp_path, found)
    refuse_differences(tmp_path, [])
    with pytest.raises(UsageError, match=r"the number of images was 2, now 3\. Resume"):
        refuse_differences(tmp_path, [("images", 2, 3), ("manifest_sha256", "ab" * 32, "cd" * 32)])
    with pytest.raises(UsageError, match=r"the images' hash was abababababab, now cdcdcdcdcdcd\. Resume"):
        refuse_differences(tmp_path, [("manifest_sha256", "ab" * 32, "cd" * 32)])


def test_one_run_at_a_time(tmp_path: Path) -> None:
    run = tmp_path / "run"
    with exclusive_run(run, 0), pytest.raises(UsageError, match="another run"), exclusive_run(run, 0):
        pass
    assert not (tmp_path / "run").exists(), "an empty folder is removed again"


@pytest.mark.parametrize("there", [False, True])
def test_a_run_that_fails_before_its_first_result_leaves_no_folder(tmp_path: Path, there: bool) -> None:
    run = tmp_path / "runs" / "mine"
    if there:
        run.parent.mkdir()

    def fail(write: Callable[[], object]) -> None:
        with exclusive_run(run, 0):
            write()
            raise KeyError

    with pytest.raises(KeyError):
        fail(lambda: write_plan(run, PLAN))
    assert [path.name for path in tmp_path.iterdir()] == ["runs"] * there
    with pytest.raises(KeyError):
        fail((run / "log.jsonl").touch)
    assert {path.name for path in run.iterdir()} == {"log.jsonl", ".lock"}


def test_a_folder_that_can_not_be_made(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(UsageError, match="-o"):
        folder_lock(tmp_path / "file")


def test_another_path_of_kernels_is_refused_with_the_one_to_take(tmp_path: Path) -> None:
    plans = [{"vaes": {"a": {"engine": {"path": path, "budgets": {}}}}, "batch": 1} for path in ("amx", "torch")]
    with pytest.raises(UsageError, match=r'engine.path was "amx", now "torch".*same settings \(VAELENS_KERNELS=amx, '):
        refuse_differences(tmp_path, differences(*plans))
    with pytest.raises(UsageError, match=r"batch was 1, now 2\. Resume it with the same settings, or"):
        refuse_differences(tmp_path, differences({"batch": 1}, {"batch": 2}))
