"""The served history's folder: whose it is, what is removed from it, and which files are jobs."""

import json
from pathlib import Path
from typing import Any

import pytest

from support.browser.served import GOOD, LAYER, PANEL, serving
from vaelens.errors import BadInputError, UsageError
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
        (tmp_path / "jobs" / number / "job.json").write_text(json.dumps({**GOOD, "id": number, **values}))
    store = Store(tmp_path)
    assert store.read_all() == [{**GOOD, "id": good, "panels": [PANEL]}]
    store.close()
    assert (tmp_path / "jobs" / bad / "job.json").exists()


def test_a_short_job_file_breaks_nothing(offer: Choices, tmp_path: Path) -> None:
    Store(tmp_path).close()
    short = new_id()
    (tmp_path / "jobs" / short).mkdir()
    (tmp_path / "jobs" / short / "job.json").write_text(json.dumps({"id": short, "state": "done"}))
    with serving(offer, tmp_path) as served:
        assert served.ask("GET", "/api/jobs")[1]["jobs"] == []
        assert served.raw("GET", f"/api/jobs/{short}/images/0")[0] == 404
