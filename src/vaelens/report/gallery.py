"""Images in several versions, saved as a page, a labelled sheet, or a folder with both; and their record."""

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from vaelens.errors import UsageError
from vaelens.files import StrPath, writable_path
from vaelens.images.drawing import Box
from vaelens.images.reading import SUFFIXES
from vaelens.images.sheet import SheetRow, draw_sheet
from vaelens.images.writing import encode_png
from vaelens.report.page import render_page
from vaelens.report.panels import Decoder, Layer, Panel
from vaelens.report.tables import Table
from vaelens.runs.outputs import RECORD_NAME, check_apart, check_outputs, free_names, our_names, write_outputs

PAGES = {".html", ".htm"}
SINGLE = {".png", *PAGES}
PAGE_NAME = "index.html"


@dataclass(frozen=True)
class Cell:
    """One version of an image: uint8 [h,w,3], its scores, and the text chunks of its PNG.

    The sheet shows `caption`, the page `note`. Without `text` it gets no PNG of its own in a folder. A `blank` cell has
    no image: the sheet shows its caption only. `decoder` made it from the latents with that sha256, where they are
    known; the original has neither.
    """

    name: str
    pixels: np.ndarray
    caption: str = ""
    note: str = ""
    text: Mapping[str, str] | None = None
    blank: bool = False
    decoder: Decoder | None = None
    latents_sha256: str | None = None


@dataclass(frozen=True)
class Row:
    """One image in all its versions, of one size; `file` is the start of their file names in a folder."""

    title: str
    file: str
    cells: tuple[Cell, ...]
    note: str = ""
    boxes: tuple[Box, ...] = ()


@dataclass(frozen=True)
class Gallery:
    """Everything to save; `text` are the sheet's text chunks, `more` further files of a folder by name.

    Cells of the same column belong together: each row has the versions of `headings`, in this order.
    """

    title: str
    sheet_name: str
    rows: tuple[Row, ...]
    table: Table
    facts: Mapping[str, str]
    record: Mapping[str, Any]
    text: Mapping[str, str]
    more: Mapping[str, bytes] = field(default_factory=dict[str, bytes])

    @property
    def headings(self) -> list[str]:
        """The versions' names."""
        return [cell.name for cell in self.rows[0].cells]

    def sheet(self) -> bytes:
        """The labelled sheet as a PNG."""
        rows = [
            SheetRow(
                row.title, tuple(None if c.blank else c.pixels for c in row.cells), tuple(c.caption for c in row.cells)
            )
            for row in self.rows
        ]
        return encode_png(draw_sheet(rows, self.headings), self.text)

    def panels(self) -> list[Panel]:
        """The rows for the viewer."""
        panels: list[Panel] = []
        for row in self.rows:
            h, w = row.cells[0].pixels.shape[:2]
            layers = tuple(
                Layer(cell.name, encode_png(cell.pixels, cell.text or {}), cell.note, cell.decoder, cell.latents_sha256)
                for cell in row.cells
                if not cell.blank
            )
            panels.append(Panel(row.title, w, h, layers, row.note, row.boxes))
        return panels

    def page(self, *, blind: bool = False) -> bytes:
        """The page as UTF-8; a `blind` one opens as a blind test, see `render_page`."""
        return render_page(self.title, self.panels(), self.table, self.facts, blind=blind).encode()

    def save(self, path: StrPath, inputs: Sequence[StrPath] = (), *, blind: bool = False) -> list[Path]:
        """Write the files for that path, and the record; returns them, the one to open first at the front.

        `.png` is one sheet, `.html` one page, each with its record beside it; any other path is a folder with both, the
        record and a PNG of each version. A `blind` test is a page alone. None of `inputs` is overwritten, nor is a file
        that isn't an earlier run's. Raises UsageError as `check_output`, and what writing raises; then no file is
        changed.
        """
        target = Path(path)
        check_output(target, self.record["command"], self.sheet_name, inputs, blind=blind)
        if target.suffix.lower() in SINGLE:
            made = self.page(blind=blind) if target.suffix.lower() in PAGES else self.sheet()
            return write_single(target, self.record, made)
        first = {PAGE_NAME: self.page(), self.sheet_name: self.sheet()}
        numbered: dict[str, bytes] = {}
        for number, row in enumerate(self.rows, 1):
            own = [cell for cell in row.cells if cell.text is not None]
            for place, cell in enumerate(own, 1):
                name = f"{number:03d}-{file_name(row.file)}-{place}-{file_name(cell.name)}.png"
                numbered[name] = encode_png(cell.pixels, cell.text)
        return write_folder(target, self.record, first, {**numbered, **self.more})


def write_single(target: Path, record: Mapping[str, Any], content: bytes) -> list[Path]:
    """Write one file with its record beside it. Raises what `write_outputs` raises."""
    beside = record_beside(target)
    return [*write_outputs(beside, record, {target.name: content}, replace_all=False), beside]


def write_folder(
    target: Path, record: Mapping[str, Any], first: Mapping[str, bytes], numbered: Mapping[str, bytes]
) -> list[Path]:
    """Write a folder's files and the record; those of an earlier run are replaced. Gives the paths of `first`, the
    record, and those of `numbered`, whose names get a number at the end where the folder has another file of this name.

    Raises what `write_outputs` raises.
    """
    beside = target / RECORD_NAME
    contents = {**first, **dict(zip(free_names(beside, list(numbered)), numbered.values(), strict=True))}
    written = write_outputs(beside, record, contents)
    return [*written[: len(first)], beside, *written[len(first) :]]


def record_beside(target: Path) -> Path:
    """The record of a single file."""
    return target.with_suffix(f".{RECORD_NAME}")


def check_output(
    path: StrPath,
    command: str,
    sheet_name: str,
    inputs: Sequence[StrPath] = (),
    folders: Sequence[StrPath] = (),
    *,
    blind: bool = False,
) -> None:
    """Raises UsageError if `Gallery.save` can't write that command's results there, or would write images into one of
    the folders among `folders`, from which the inputs are; and for a `blind` test that is no page. To be called before
    any work.
    """
    target = Path(path)
    if blind and target.suffix.lower() not in PAGES:
        raise UsageError(f"-o {target}: a blind test is an .html page, as a sheet or a folder shows the names.")
    single = target.suffix.lower() in SINGLE
    if not single and not target.is_dir() and (target.exists() or target.suffix.lower() in SUFFIXES):
        raise UsageError(f"-o {target}: an output is a .png {Path(sheet_name).stem}, an .html page or a folder.")
    if single:
        check_single(target, inputs)
    else:
        check_folder(target, command, [PAGE_NAME, sheet_name], inputs)
    check_apart(target, filter(os.path.isdir, folders), holds_images=target.suffix.lower() not in PAGES)


def check_blind(vaes: Sequence[object], *, blind: bool = True) -> None:
    """Raises UsageError for a blind test of fewer than two VAEs."""
    if blind and len(vaes) < 2:
        raise UsageError(
            "a blind test (--blind) needs the images of two decoders, but there is only one. Name another VAE."
        )


def check_single(target: Path, inputs: Sequence[StrPath] = ()) -> None:
    """Raises UsageError where `write_single` can't write, or would replace an input or what isn't an earlier run's."""
    record = record_beside(target)
    check_targets([target, record], inputs)
    check_outputs(record, [target.name])


def check_folder(target: Path, command: str, names: Sequence[str], inputs: Sequence[StrPath] = ()) -> None:
    """Raises UsageError where the folder holds another command's results, where files of these names, or the record,
    can't be written to it or aren't ours, where images among the inputs lie in it, and where one of the inputs is an
    earlier run's file there, which would be replaced.
    """
    record = target / RECORD_NAME
    check_targets([*(target / name for name in names), record], inputs)
    check_outputs(record, names, command)
    named: dict[str, StrPath] = {}
    for given in inputs:
        for path in (Path(given).parent.resolve() / Path(given).name, Path(os.path.realpath(given))):
            if path.is_relative_to(target.resolve()):
                named[path.relative_to(target.resolve()).as_posix()] = given
    for name in our_names(record, named):
        raise UsageError(
            f"{named[name]} is of an earlier run in -o {target}, which is replaced. Choose another folder."
        )
    check_apart(target, [given for given in inputs if Path(given).suffix.lower() in SUFFIXES])


def check_targets(targets: Sequence[Path], inputs: Sequence[StrPath]) -> None:
    """Raises UsageError for a file that can't be written or is one of the inputs."""
    for target in targets:
        file = writable_path(target)
        if file.exists() and any(Path(given).exists() and file.samefile(given) for given in inputs):
            raise UsageError(f"{target} is one of the inputs and would be lost. Choose another output.")


def file_name(text: str) -> str:
    """Text as part of a file name: no separators, nothing hidden, not too long."""
    plain = "".join(c if c.isalnum() or c in "-_." else "_" for c in text).lstrip(".")
    return plain.encode()[:80].decode(errors="ignore") or "_"
