"""Where the commands print: results on stdout, everything else on stderr."""

import os
import sys
import time
from collections.abc import Callable, Generator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from vaelens.adapters import libraries

if TYPE_CHECKING:
    from vaelens.report.tables import Table

PROGRESS_INTERVAL = 2.0  # seconds between two lines of progress where there is no terminal
INTERRUPTED = 130  # exit code, as shells have it for SIGINT
_level = {"quiet": False, "verbose": False}
_interrupted = {"message": "interrupted."}


def set_level(quiet: bool, verbose: bool) -> None:
    """How much goes to stderr for the rest of this process."""
    _level.update(quiet=quiet, verbose=verbose)
    if quiet and libraries.owns_process:
        os.environ["HF_HUB_DISABLE_PROGRESS_BARS"] = "1"  # huggingface_hub reads it when it is imported


def is_verbose() -> bool:
    """Whether tracebacks are shown."""
    return _level["verbose"]


@contextmanager
def when_interrupted(sentence: str) -> Generator[None]:
    """In this context an interrupt says what it leaves behind and what to do then."""
    before = _interrupted["message"]
    _interrupted["message"] = f"interrupted. {sentence}"
    try:
        yield
    finally:
        _interrupted["message"] = before


def interrupted() -> None:
    """An interrupt, on stderr in any case."""
    failure(_interrupted["message"])


def notice(message: str) -> None:
    """A notice on stderr; silent with -q."""
    if not _level["quiet"]:
        print(message, file=sys.stderr, flush=True)  # noqa: T201


def failure(message: str) -> None:
    """An error on stderr, in any case."""
    print(f"vaelens: {message}", file=sys.stderr, flush=True)  # noqa: T201


def result(text: str) -> None:
    """A line of the result, on stdout."""
    print(text)  # noqa: T201


def written_line(files: Sequence[Path]) -> str:
    """A line of the result: the files written, the first by name."""
    return f"\nwrote {files[0]}" + (f" and {len(files) - 1} more beside it" if len(files) > 1 else "")


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

    print(json_text(value))  # noqa: T201


def result_table(table: "Table", title: str | None = None) -> None:
    """A table on stdout, with the best value of each image in bold on a terminal."""
    from rich.console import Console
    from rich.table import Table as RichTable
    from rich.text import Text

    from vaelens.report.tables import best_cells, is_numeric

    best = best_cells(table)
    shown = RichTable(title=title, title_justify="left", box=None, pad_edge=False, header_style="bold")
    for c, column in enumerate(table.columns):
        shown.add_column(Text(column.name), justify="right" if is_numeric(table, c) else "left", overflow="fold")
    for r, row in enumerate(table.rows):
        cells = [Text(cell, style="bold" if (r, c) in best else "") for c, cell in enumerate(row)]
        for c, cell in enumerate(cells):
            for note in table.notes.get((r, c), ()):
                cell.append(f"\n{note}", style="not bold dim")
        shown.add_row(*cells)
    console = Console() if sys.stdout.isatty() else Console(width=400)  # in a pipe rows stay whole
    console.print(shown)


@contextmanager
def progress() -> Generator[Callable[[int, int, str], None]]:
    """A callback (done, total, what): a progress bar on a terminal, else a line every few seconds."""
    if _level["quiet"]:
        yield lambda done, total, what: None
    elif sys.stderr.isatty():
        from rich.console import Console
        from rich.progress import Progress

        with Progress(console=Console(stderr=True), transient=True) as bar:
            task = bar.add_task("", total=None)

            def show(done: int, total: int, what: str) -> None:
                bar.update(task, completed=done, total=total, description=what)

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
