"""Where the commands print: results on stdout, everything else on stderr.

Texts may come from files, so each is escaped here before it reaches a terminal. Neither stream can fail a command in
the middle: see `streams`.
"""

import codecs
import io
import os
import select
import sys
import time
import traceback
from collections.abc import Callable, Generator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from vaelens.adapters import libraries
from vaelens.errors import ResourceError
from vaelens.text.display import escaped, message_line, shortened

if TYPE_CHECKING:
    from vaelens.report.tables import Table

PROGRESS_INTERVAL = 2.0  # seconds between two lines of progress where there is no terminal
INTERRUPTED = 130  # exit code, as shells have it for SIGINT
LONGEST_CELL = 400  # characters of a table's cell
WHOLE = 400  # columns of a table where none are given
ASCII = {"±": "+-", "×": "x", "−": "-", "–": "-", "—": "-", "…": "...", "·": "|"}  # noqa: RUF001
_level = {"quiet": False, "verbose": False}
_interrupted: dict[str, tuple[Path, str] | None] = {"left": None}


def set_level(quiet: bool, verbose: bool) -> None:
    """How much goes to stderr for the rest of this process."""
    _level.update(quiet=quiet, verbose=verbose)
    if quiet and libraries.owns_process:
        os.environ["HF_HUB_DISABLE_PROGRESS_BARS"] = "1"  # huggingface_hub reads it when it is imported


def is_verbose() -> bool:
    """Whether tracebacks are shown."""
    return _level["verbose"]


@contextmanager
def when_interrupted(folder: Path, what: str) -> Generator[None]:
    """In this context an interrupt says that `what` lies in the folder, if there is one, and how to go on."""
    before = _interrupted["left"]
    _interrupted["left"] = folder, f"{what} in {folder}; run the same command again to resume."
    try:
        yield
    finally:
        _interrupted["left"] = before


def interrupted() -> None:
    """An interrupt, on stderr in any case."""
    left = _interrupted["left"]
    failure(f"interrupted. {left[1]}" if left is not None and left[0].is_dir() else "interrupted.")


def notice(message: str) -> None:
    """A notice on stderr, in one line; silent with -q."""
    if not _level["quiet"]:
        print(message_line(message), file=sys.stderr, flush=True)  # noqa: T201


def failure(message: str) -> None:
    """An error on stderr, in one line, in any case."""
    print(f"vaelens: {message_line(message)}", file=sys.stderr, flush=True)  # noqa: T201


def show_traceback(error: BaseException) -> None:
    """An error's traceback, on stderr."""
    for part in traceback.format_exception(error):
        is_ours = part.startswith(("  File ", "Traceback ", "\n"))  # the other parts are texts of errors
        for line in part.rstrip("\n").split("\n") if is_ours else [part.rstrip("\n")]:
            print(escaped(line), file=sys.stderr)  # noqa: T201


def result(line: str = "") -> None:
    """A line of the result, on stdout, at once: a program may wait for it, as for the address of `vaelens serve`."""
    print(escaped(line), flush=True)  # noqa: T201


def written_line(files: Sequence[Path]) -> str:
    """A line of the result: the files written, the first by name."""
    return f"wrote {files[0]}" + (f" and {len(files) - 1} more beside it" if len(files) > 1 else "")


def exit_if_interrupted(interrupted: bool, failure: Exception | None) -> None:
    """End the command where some of its work is missing: with the error that stopped it, or as interrupted."""
    if failure is not None:
        notice("Note: the finished part is written.")
        raise failure
    if interrupted:
        notice("Interrupted. The finished part is written.")
        raise typer.Exit(INTERRUPTED)


def result_json(value: Any) -> None:
    """The result as strict JSON, on stdout."""
    from vaelens.files import json_text

    print(json_text(value).replace("\x7f", "\\u007f"))  # noqa: T201  (the one control character that JSON leaves)


def result_table(table: "Table", title: str | None = None, *, stacked: bool = False) -> None:
    """A table on stdout, with the best value of each image in bold on a terminal.

    stacked: on a terminal that can't hold the rows, each is a block of lines instead
    """
    from rich.console import Console
    from rich.table import Table as RichTable
    from rich.text import Text

    from vaelens.report.tables import best_cells, is_numeric

    best = best_cells(table)
    shown = RichTable(title=title, title_justify="left", box=None, pad_edge=False, header_style="bold")
    for c, column in enumerate(table.columns):
        justify = "right" if is_numeric(table, c) else "left"
        shown.add_column(Text(escaped(column.name)), justify=justify, overflow="fold")
    for r, row in enumerate(table.rows):
        cells = [Text(_cell(cell), style="bold" if (r, c) in best else "") for c, cell in enumerate(row)]
        for c, cell in enumerate(cells):
            for note in table.notes.get((r, c), ()):
                cell.append(f"\n{_cell(note)}", style="not bold dim")
        shown.add_row(*cells)
    if not sys.stdout.isatty():  # rows stay whole, and end where their text does
        piped = Console(width=WHOLE)
        with piped.capture() as printed:
            piped.print(shown)
        sys.stdout.write("\n".join(line.rstrip() for line in printed.get().split("\n")))
        return
    console = Console()
    if not stacked or Console(width=WHOLE).measure(shown).maximum <= console.width:
        console.print(shown)
        return
    for number, (first, *rest) in enumerate(table.rows):
        block = RichTable.grid(padding=(0, 2, 0, 0))
        for column, cell in zip(table.columns[1:], rest, strict=True):
            if cell != "-":
                block.add_row(Text(f"  {escaped(column.name)}"), Text(_cell(cell)))
        console.print(*[""] * bool(number), Text(_cell(first), style="bold"), block, sep="\n")


def _cell(text: str) -> str:
    return escaped(shortened(text, LONGEST_CELL))


@contextmanager
def progress() -> Generator[Callable[[int, int, str], None]]:
    """A callback (done, total, what): a progress bar on a terminal, else a line every few seconds."""
    if _level["quiet"]:
        yield lambda done, total, what: None
    elif sys.stderr.isatty():
        from rich.console import Console
        from rich.markup import escape
        from rich.progress import Progress

        with Progress(console=Console(stderr=True), transient=True) as bar:
            task = bar.add_task("", total=None)

            def show(done: int, total: int, what: str) -> None:
                bar.update(task, completed=done, total=total, description=escape(message_line(what)))

            yield show
    else:
        last = time.monotonic()

        def line(done: int, total: int, what: str) -> None:
            nonlocal last
            if time.monotonic() - last > PROGRESS_INTERVAL:
                last = time.monotonic()
                notice(f"{min(done + 1, total)} of {total}: {what}")

        yield line


@contextmanager
def live_log() -> Generator[Callable[[int, int, dict[str, float]], None]]:
    """A callback (done, total, numbers) for a training: a table that stays in place on a terminal, else lines."""
    if _level["quiet"]:
        yield lambda done, total, numbers: None
    elif sys.stderr.isatty():
        from rich.console import Console
        from rich.live import Live
        from rich.table import Table as RichTable

        known: dict[str, str] = {}
        shown_at: list[tuple[float, int]] = []

        def table(done: int, total: int) -> "RichTable":
            shown_at.append((time.monotonic(), done))
            spent, made = shown_at[-1][0] - shown_at[0][0], done - shown_at[0][1]
            left = f", about {spent / made * (total - done) / 60:.0f} minutes left" if made else ""
            shown = RichTable(title=f"step {done:,} of {total:,}{left}", title_justify="left", box=None)
            for name in known:
                shown.add_column(name, justify="right")
            shown.add_row(*known.values())
            return shown

        live = Live(console=Console(stderr=True), refresh_per_second=2)  # shown from the first numbers on

        def show(done: int, total: int, numbers: dict[str, float]) -> None:
            known.update({name: f"{value:.4g}" for name, value in numbers.items()})
            live.update(table(done, total))
            live.start()

        try:
            yield show
        finally:
            live.stop()
    else:
        last = time.monotonic()

        def line(done: int, total: int, numbers: dict[str, float]) -> None:
            nonlocal last
            if time.monotonic() - last > PROGRESS_INTERVAL or any(name.startswith("held-out") for name in numbers):
                last = time.monotonic()
                notice(f"step {done} of {total}: " + ", ".join(f"{k} {v:.4g}" for k, v in numbers.items()))

        yield line


class _Raw(io.RawIOBase):
    """A stream below Python's buffers that takes everything, and remembers the error of what it couldn't write."""

    def __init__(self, raw: io.RawIOBase) -> None:
        self._raw = raw
        self.error: OSError | None = None

    def write(self, data: Any, /) -> int:
        rest = memoryview(data)
        try:
            while rest:
                written = self._raw.write(rest)
                if written is None:  # a pipe that doesn't block, and is full
                    select.select([], [self._raw.fileno()], [])
                rest = rest[written or 0 :]
        except BrokenPipeError:  # whoever read it has enough
            pass
        except OSError as error:
            self.error = error
        return len(data)

    def writable(self) -> bool:
        return True

    def fileno(self) -> int:
        return self._raw.fileno()

    def isatty(self) -> bool:
        return self._raw.isatty()


@contextmanager
def streams() -> Generator[Callable[[], OSError | None]]:
    """In this context stdout and stderr take every text, whatever they are, so that the work goes on and ends as such.

    Closed ones, and pipes whose reader has gone, lose it silently. Characters that the terminal's encoding doesn't have
    are written in ASCII. The callable gives the error if a part of stdout could not be written, to a full disk say.
    """
    _open_closed()
    codecs.register_error("vaelens", _in_ascii)
    before = sys.stdout, sys.stderr
    raw, _ = [_replaced(name) for name in ("stdout", "stderr")]

    def lost() -> OSError | None:
        sys.stdout.flush()
        return raw.error if raw is not None else None

    try:
        yield lost
    finally:
        for stream in (sys.stdout, sys.stderr):
            stream.flush()
        sys.stdout, sys.stderr = before


def code_with_loss(code: int | str | None, lost: Callable[[], OSError | None]) -> Any:
    """The command's exit code; ResourceError's, with a message, where only its result was `lost` (see `streams`)."""
    if not code and (error := lost()):
        failure(f"the result could not be written to stdout: {error.strerror}. Direct it to another disk.")
        return ResourceError.exit_code
    return code


def _open_closed() -> None:
    """Open what is closed of stdin, stdout and stderr: else the next file opened gets its number, and the output."""
    for number in range(3):
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # the lowest number that is free
    for number, name in ((1, "stdout"), (2, "stderr")):
        if getattr(sys, name) is None:
            setattr(sys, name, os.fdopen(number, "w", encoding="utf-8", closefd=False))


def _replaced(name: str) -> _Raw | None:
    """Put a stream that can't fail in place of sys.stdout or sys.stderr; None where it isn't the system's."""
    stream = getattr(sys, name)
    buffer = getattr(stream, "buffer", None)
    inner = getattr(buffer, "raw", buffer)  # with `python -u` there is no buffer
    if not isinstance(inner, io.RawIOBase):  # another program's, such as a test's
        return None
    stream.flush()
    raw = _Raw(inner)
    below: Any = raw if inner is buffer else io.BufferedWriter(raw)
    behaviour = {"line_buffering": stream.line_buffering, "write_through": stream.write_through}
    setattr(sys, name, io.TextIOWrapper(below, stream.encoding, "vaelens", **behaviour))
    return raw


def _in_ascii(error: UnicodeError) -> tuple[str, int]:
    assert isinstance(error, UnicodeEncodeError)
    text = error.object[error.start : error.end]
    return "".join(ASCII.get(one) or one.encode("ascii", "backslashreplace").decode() for one in text), error.end
