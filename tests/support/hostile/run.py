"""Opens every file of a folder under an audit hook, in a process of its own: prints how each ended, as JSON.

    python tests/support/hostile/run.py FOLDER

A file ends with "tensors" and what was dropped, or with an error's exit code and message. Whatever reading must not do
(import, execute, start a process, connect, open a file for writing) is recorded as "caused". A payload would leave its
mark in the working folder.
"""

import json
import os
import sys
from pathlib import Path

import torch

from vaelens.errors import VaelensError
from vaelens.tensors.formats import open_tensors

FORBIDDEN = (
    "import",
    "exec",
    "compile",
    "subprocess.",
    "socket.",
    "ctypes.",
    "pickle.",
    "shutil.",
    "marshal.",
    "pty.",
    "urllib.",
    "os.system",
    "os.exec",
    "os.fork",
    "os.posix_spawn",
    "os.spawn",
    "os.startfile",
    "os.remove",
    "os.rename",
    "os.mkdir",
    "os.putenv",
    "os.kill",
    "webbrowser.",
    "tempfile.",
    "code.",
    "builtins.input",
    "sys._getframe",
    "sys.settrace",
)
WRITING = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_APPEND
caused: list[str] | None = None


def watch(event: str, arguments: tuple[object, ...]) -> None:
    """The audit hook: only while a file is read."""
    if caused is None:
        return
    writes = event == "open" and isinstance(arguments[2], int) and arguments[2] & WRITING
    if event.startswith(FORBIDDEN) or writes:
        caused.append(f"{event} {arguments!r:.200}")


def outcome(path: Path) -> dict[str, object]:
    """How one file ended."""
    global caused
    caused, found = [], dict[str, object]()
    try:
        opened = open_tensors(path)
        values = opened.read(opened.shapes)
        found = {"tensors": {name: tensor.tolist() for name, tensor in values.items()}, "dropped": opened.dropped}
    except VaelensError as error:
        found = {"code": error.exit_code, "message": str(error)}
    finally:
        seen, caused = caused, None
    return found | {"caused": seen}


if __name__ == "__main__":
    folder = Path(sys.argv[1])
    torch.save({"a": torch.zeros(1)}, folder / "honest")  # what reading imports once is there before the hook counts
    open_tensors(folder / "honest").read(["a"])
    (folder / "honest").unlink()
    sys.addaudithook(watch)
    print(json.dumps({path.name: outcome(path) for path in sorted(folder.iterdir())}))
