"""What the commands print, whatever stdout and stderr are, and whatever the texts hold."""

import io
import os
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
from PIL import Image, PngImagePlugin

from support.commands import invoke
from vaelens.cli import main, output

LIST, WRONG = "list", "inspect nosuch-vae"
EVERY_END = [
    (LIST, ">&-", 0),
    (LIST, "2>&-", 0),
    (LIST, "<&- >&- 2>&-", 0),
    (LIST, "| head -1 >/dev/null; exit ${PIPESTATUS[0]}", 0),
    (LIST, ">/dev/full", 6),
    (LIST, ">/dev/full 2>/dev/full", 6),
    ("--help", ">/dev/full", 6),
    (WRONG, "2>&-", 2),
    (WRONG, "2>/dev/full", 2),
    (WRONG, ">/dev/full", 2),
]


def shell(command: str, **environment: str) -> subprocess.CompletedProcess[str]:
    line = ["bash", "-c", f"{sys.executable} -m vaelens {command}"]
    return subprocess.run(line, capture_output=True, text=True, check=False, env=os.environ | environment)


@pytest.mark.parametrize(
    ("command", "redirection", "code"),
    [pytest.param(*end, marks=() if number in {3, 4, 8} else pytest.mark.slow) for number, end in enumerate(EVERY_END)],
)
def test_closed_and_full_streams_give_the_documented_codes(command: str, redirection: str, code: int) -> None:
    ran = shell(f"{command} {redirection}")
    assert ran.returncode == code, ran.stderr
    assert "Traceback" not in ran.stderr
    assert "Exception ignored" not in ran.stderr
    assert ran.stderr.count("\n") <= 1


@pytest.mark.parametrize(
    "environment",
    [
        {"PYTHONIOENCODING": "ascii"},
        pytest.param({"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}, marks=pytest.mark.slow),
    ],
    ids=["PYTHONIOENCODING", "LC_ALL"],
)
def test_an_ascii_terminal_gets_everything_in_ascii(environment: dict[str, str]) -> None:
    ran = shell("list; exec 1>&2; " + f"{sys.executable} -m vaelens inspect 日本語.safetensors", **environment)
    assert ran.returncode == 3
    assert "24.5 +- 3.7" in ran.stdout
    assert (ran.stdout + ran.stderr).isascii()
    assert ran.stderr.count("\n") == 1


@pytest.mark.usefixtures("handlers")
def test_a_files_name_and_its_metadata_can_not_control_the_terminal(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    evil = "\x1b]0;title\x07\x1b[2Jred\nvaelens: all is well"
    text = PngImagePlugin.PngInfo()
    text.add_text("vaelens", '{"sheet": 5, "\x1b[31m": "\x1b[2J"}')
    Image.new("RGB", (8, 8)).save(tmp_path / "metadata.png", pnginfo=text)
    for arguments in (["inspect", f"{evil}.safetensors"], ["replay", tmp_path / "metadata.png"]):
        monkeypatch.setattr(sys, "argv", ["vaelens", *map(str, arguments), "-v"])
        with pytest.raises(SystemExit, match="3"):
            main.main()
        error = capsys.readouterr().err
        assert not set(map(chr, range(32))) & set(error) - {"\n"}, error
        assert error.splitlines()[-1].startswith("vaelens: ")
        assert "\nvaelens: all is well" not in error


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        (["inspect", "~nosuchuser/vae"], 2, "no user of that name"),
        (["inspect", "x" * 300], 2, "File name too long"),
        (["reconstruct", "x" * 300], 3, "File name too long"),
        (["compare", "日本語" * 60], 2, "tiny-sd doesn't know"),
        (["compare", "a face", "--model", "~nosuchuser"], 2, "no user of that name"),
        (["compare", "a face", "--latents", "x" * 300], 2, "File name too long"),
        (["compare", "a face", "-o", "x" * 300 + ".html"], 2, "File name too long"),
        (["serve", "--port", "0", "--host", "0.0.0.1"], 2, "0.0.0.1 is not an address of this machine"),
        (["serve", "--port", "0", "--host", "x" * 300], 2, "is not an address of this machine"),
        (["serve", "--port", "0", "--folder", "~nosuchuser/serve"], 2, "no user of that name"),
    ],
    ids=lambda one: one[:2] if isinstance(one, list) else "",
)
def test_names_that_no_file_can_have_give_the_documented_codes(arguments: list[str], code: int, words: str) -> None:
    assert words in invoke(*arguments, code=code).stderr


class Counted(io.FileIO):
    """A file whose calls of `write` are counted."""

    calls = 0

    def write(self, data: object, /) -> int:
        self.calls += 1
        return super().write(data)  # type: ignore[arg-type]


def test_a_full_pipe_that_does_not_block_is_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    """Such as a terminal or a pipe that another program of the same shell has set so; not by trying all the time."""
    reading, writing = os.pipe()
    os.set_blocking(writing, False)
    read: list[bytes] = []

    def read_late() -> None:
        time.sleep(0.3)
        with os.fdopen(reading, "rb") as file:
            read.append(file.read())

    reader = threading.Thread(target=read_late)
    with Counted(writing, "w") as raw:
        monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(io.BufferedWriter(raw), "utf-8"))
        monkeypatch.setattr(sys, "stderr", io.StringIO())
        reader.start()
        with output.streams() as lost:
            output.result("x" * 1_000_000)
            assert lost() is None
        sys.stdout.close()
    reader.join(60)
    assert read == [b"x" * 1_000_000 + b"\n"]
    assert raw.calls < 5_000
