"""The served history's folder: whose it is, what is removed from it, and which files are jobs."""

from pathlib import Path
from typing import Any

import pytest

from support.browser.served import GOOD, LAYER, NO_RESULTS, PANEL, serving
from vaelens import files
from vaelens.errors import BadInputError, UsageError
from vaelens.runtime import Runtime
from vaelens.web.choices import Choices
from vaelens.web.job import new_id
from vaelens.web.store import Store


def mode(place: Path) -> int:
    return place.stat().st_mode & 0o777


def test_a_folder_with_other_files_is_refused_and_left_as_it_is(tmp_path: Path) -> None:
    (tmp_path / "uploads" / "holiday").mkdir(parents=True)
    (tmp_path / "uploads" / "holiday" / "photo.jpg").write_bytes(b"x")
    tmp_path.chmod(0o755)
    before = sorted(tmp_path.rglob("*"))
    with pytest.raises(UsageError, match=r"holds other files.*Choose a --folder that is new or empty"):
        Store(tmp_path)
    assert (sorted(tmp_path.rglob("*")), mode(tmp_path)) == (before, 0o755)


def test_a_lock_that_can_not_be_written_is_explained(tmp_path: Path) -> None:
    (tmp_path / ".lock").mkdir()
    with pytest.raises(BadInputError, match="not written: "):
        Store(tmp_path)


def test_what_is_made_is_the_owners_and_what_was_there_keeps_its_mode(tmp_path: Path) -> None:
    theirs, new = tmp_path / "theirs", tmp_path / "a" / "new"
    theirs.mkdir(mode=0o755)
    for folder in (theirs, new):
        Store(folder).close()
        Store(folder).close()  # which knows it again
    assert (mode(theirs), mode(new)) == (0o755, 0o700)
    assert {mode(folder / name) for folder in (theirs, new) for name in ("jobs", "uploads")} == {0o700}


def test_only_uploads_of_ours_go_at_the_start(tmp_path: Path) -> None:
    Store(tmp_path).close()
    uploads = tmp_path / "uploads"
    for name in (new_id(), "holiday"):
        (uploads / name).mkdir()
        (uploads / name / "photo.jpg").write_bytes(b"x")
    (uploads / f"{new_id()}.part").write_bytes(b"half")
    (uploads / "notes.part").write_bytes(b"mine")
    Store(tmp_path).close()
    assert {path.name for path in uploads.iterdir()} == {"holiday", "notes.part"}
    assert (uploads / "holiday" / "photo.jpg").exists()


@pytest.mark.parametrize(
    "changes",
    [
        {"schema": 2},
        {"schema": None},
        {"summary": None},
        {"summary": {}},
        {"request": {"vaes": "v", "seeds": [0]}},
        {"state": "odd"},
        {"created": 7},
        {"panels": [{"title": "seed 0"}]},
        {"panels": [{**PANEL, "layers": []}]},
        {"panels": [{**PANEL, "layers": [{**LAYER, "image": -1}]}]},
        {"panels": 3},
        {"notes": "x"},
        {"bytes": "many"},
        {"progress": 1},
    ],
)
def test_a_job_file_that_doesnt_fit_is_left_out(tmp_path: Path, changes: dict[str, Any]) -> None:
    Store(tmp_path).close()
    bad, good = new_id(), new_id()
    for number, values in ((bad, changes), (good, {"panels": [PANEL]})):
        (tmp_path / "jobs" / number).mkdir()
        (tmp_path / "jobs" / number / "job.json").write_bytes(files.checked_json({**GOOD, "id": number, **values}))
    said: list[str] = []
    store = Store(tmp_path, said.append)
    assert store.read_all() == [{**GOOD, **NO_RESULTS, "id": good, "panels": [PANEL]}]
    store.close()
    (notice,) = said
    assert notice.startswith(f"Warning: 1 job left out of the history. {tmp_path / 'jobs' / bad / 'job.json'}: it ")
    assert (tmp_path / "jobs" / bad / "job.json").exists()


def test_a_short_job_file_breaks_nothing(offer: Choices, tmp_path: Path) -> None:
    Store(tmp_path).close()
    short = new_id()
    (tmp_path / "jobs" / short).mkdir()
    (tmp_path / "jobs" / short / "job.json").write_bytes(files.checked_json({"id": short, "state": "done"}))
    with serving(offer, tmp_path) as served:
        assert served.ask("GET", "/api/jobs")[1]["jobs"] == []
        assert served.raw("GET", f"/api/jobs/{short}/images/0")[0] == 404


def flip(file: Path, place: int, bit: int = 0) -> None:
    content = bytearray(file.read_bytes())
    content[place] ^= 1 << bit
    file.write_bytes(content)


def test_a_flipped_bit_in_the_stored_history_is_noticed(offer: Choices, tmp_path: Path) -> None:
    """Served again by the next server, jobs and images say nothing else than what was stored."""
    names = ["images/0", "images/1", "thumbnail", "page", "sheet", "record"]
    with serving(offer, tmp_path) as served:
        job, other = (served.wait(served.start(seeds=[seed]))["id"] for seed in (0, 1))
        before = {name: served.raw("GET", f"/api/jobs/{job}/{name}")[2] for name in names}
    place = tmp_path / "jobs" / job
    stored_names = ["0.png", "1.png", "thumbnail.png", "page.html", "sheet.png", "run.json"]
    stored = tmp_path / "jobs" / other / "job.json"
    flip(stored, stored.read_bytes().index(b"a cat"))
    said: list[str] = []
    with serving(offer, tmp_path, runtime=Runtime(offline=True, notify=said.append)) as served:
        assert [one["id"] for one in served.ask("GET", "/api/jobs")[1]["jobs"]] == [job]
        (notice,) = said
        assert f"1 job left out of the history. {stored}: it has changed since it was written" in notice
        for name, file in zip(names, stored_names, strict=True):
            assert served.raw("GET", f"/api/jobs/{job}/{name}")[2] == before[name]
            for at in (0, len(before[name]) // 2, -1):
                flip(place / "result" / file, at)
                status, answer = served.ask("GET", f"/api/jobs/{job}/{name}")
                assert (status, "has changed since it was written. Check the disk" in answer["error"]) == (410, True)
                assert str(tmp_path) not in answer["error"]
                flip(place / "result" / file, at)
        flip(place / "result" / "run.json", 0)
        status, answer = served.ask("GET", f"/api/jobs/{job}/images/0")
        assert (status, "run.json, which holds its checksum, has changed" in answer["error"]) == (410, True)
