"""Hostile pickles: whatever a file asks for, nothing runs; it is refused, or read with a note of what was dropped.

A process of its own opens them all under an audit hook, in a folder where a payload would leave a file.
"""

import json
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from support import properties
from support.commands import invoke
from support.hostile import run
from support.hostile.archives import archives, polyglots
from support.hostile.code import inert, unsafe
from support.hostile.damage import damaged
from support.hostile.parts import RAN, as_legacy, as_zip, calls, item, table
from support.properties import ROOM, Tally
from vaelens.tensors.formats import open_tensors

FORMS = {"zip": as_zip, "legacy": as_legacy}
CASES = {"unsafe": unsafe(), "damaged": damaged(), "inert": inert()}
WHOLE = {"unsafe": polyglots(), "damaged": archives()}
SUFFIXES = (".ckpt", ".pt", ".safetensors", ".bin", "")


def files() -> Iterator[tuple[str, str, bytes]]:
    """Each file: its kind, its name, its bytes."""
    for kind, cases in CASES.items():
        for name, pickled in cases.items():
            for form, make in FORMS.items():
                yield kind, f"{kind}: {name} ({form})", make(pickled)
    for kind, cases in WHOLE.items():
        for name, content in cases.items():
            yield kind, f"{kind}: {name}", content


FILES = {name: (kind, content) for kind, name, content in files()}


@pytest.fixture(scope="module")
def outcomes(tmp_path_factory: pytest.TempPathFactory) -> dict[str, dict[str, Any]]:
    """How each file ended, by its name, read in one process under the audit hook."""
    folder, work = tmp_path_factory.mktemp("hostile"), tmp_path_factory.mktemp("work")
    for number, (_, content) in enumerate(FILES.values()):
        (folder / f"{number:04}{SUFFIXES[number % 5]}").write_bytes(content)  # the name is no evidence
    command = [sys.executable, run.__file__, str(folder)]
    ran = subprocess.run(command, cwd=work, capture_output=True, text=True, check=False, timeout=600)
    assert ran.returncode == 0, ran.stderr[-2000:]
    assert not [*work.iterdir()], "a payload left something behind"
    found = json.loads(ran.stdout)
    return dict(zip(FILES, (found[name] for name in sorted(found)), strict=True))


def test_there_are_enough() -> None:
    assert sum(len(cases) for cases in (*CASES.values(), *WHOLE.values())) > 200


@pytest.mark.parametrize("name", FILES)
def test_nothing_runs(name: str, outcomes: dict[str, dict[str, Any]]) -> None:
    kind, _ = FILES[name]
    found = outcomes[name]
    assert found["caused"] == []
    if kind == "inert":
        assert found["tensors"] == {"w": [1.5, -2.0]}
        assert any(one.startswith(("mine.", "pytorch_lightning.", "omegaconf.")) for one in found["dropped"])
        return
    assert found.get("code") == {"unsafe": 4, "damaged": 3}[kind], found
    assert found["message"].isprintable()
    assert len(found["message"]) < 800  # with a path of the test's
    if kind == "unsafe":
        assert "nothing in it was run" in found["message"]


GUARDED = """
import pickle, sys
sys.path.insert(0, sys.argv[2])
from support.hostile import run
sys.addaudithook(run.watch)
run.caused = []
try:
    pickle.loads(bytes.fromhex(sys.argv[1]))
finally:
    seen, run.caused = run.caused, None
print(seen)
"""


def test_the_hook_and_the_mark_notice_what_runs(tmp_path: Path) -> None:
    """What guards the tests above fails where code does run: here by Python's own unpickler."""
    payload = b"\x80\x02" + calls("os.system", f"touch {RAN}") + b"."
    command = [sys.executable, "-c", GUARDED, payload.hex(), str(Path(__file__).parents[2])]
    ran = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=True)
    assert "os.system" in ran.stdout
    assert (tmp_path / RAN).exists()


@pytest.mark.parametrize("name", [name for name, (kind, _) in FILES.items() if kind == "damaged"])
def test_a_wrong_file_is_refused_soon_and_in_little_memory(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(properties, "SECONDS", 20.0)  # elapsed, for a hang; the machine may be busy
    path = tmp_path / "a.ckpt"
    path.write_bytes(FILES[name][1])

    def read() -> None:
        opened = open_tensors(path)
        opened.read(opened.shapes)

    start = time.process_time()
    assert Tally(name).check(read, int(path.stat().st_size * 1.2) + ROOM) == "BadInputError"
    assert time.process_time() - start < 6  # half a second here; without limits it would be minutes


def test_commands_end_with_the_exit_code(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("code.ckpt").write_bytes(as_zip(table(item(calls("os.system", f"touch {RAN}")))))
    assert "code.ckpt asks for os.system" in invoke("inspect", "code.ckpt", code=4).stderr
    assert "os.system" in invoke("convert", "code.ckpt", "-o", "new.safetensors", code=4).stderr
    assert [path.name for path in tmp_path.iterdir()] == ["code.ckpt"]
