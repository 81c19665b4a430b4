"""Images in several versions, saved as a page, a labelled sheet, or a folder with both; and their record."""

import json
import re
from collections.abc import Container, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast

import numpy as np

from vaelens.errors import UsageError
from vaelens.files import StrPath, json_text, writable_path, write_together
from vaelens.images.drawing import Box
from vaelens.images.reading import SUFFIXES
from vaelens.images.sheet import SheetRow, draw_sheet
from vaelens.images.writing import encode_png
from vaelens.report.page import Layer, Panel, render_page
from vaelens.report.tables import Table

PAGES = {".html", ".htm"}
SINGLE = {".png", *PAGES}
OWN_FILE = re.compile(r"\d{3}-.*\.(png|safetensors)", re.DOTALL)
NUMBERED = re.compile(r"\d{3}-")  # how the names of a folder's images and latents begin
PAGE_NAME, RECORD_NAME = "index.html", "run.json"


@dataclass(frozen=True)
class Cell:
    """One version of an image: uint8 [h,w,3], its scores, and the text chunks of its PNG.

    The sheet shows `caption`, the page `note`. Without `text` it gets no PNG of its own in a folder. A `blank` cell has
    no image: the sheet shows its caption only.
    """

    name: str
    pixels: np.ndarray
    caption: str = ""
    note: str = ""
    text: Mapping[str, str] | None = None
    blank: bool = False


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

    def page(self) -> bytes:
        """The page as UTF-8."""
        panels: list[Panel] = []
        for row in self.rows:
            h, w = row.cells[0].pixels.shape[:2]
            layers = tuple(Layer(c.name, encode_png(c.pixels, c.text or {}), c.note) for c in row.cells if not c.blank)
            panels.append(Panel(row.title, w, h, layers, row.note, row.boxes))
        return render_page(self.title, panels, self.table, self.facts).encode()

    def save(self, path: StrPath, inputs: Sequence[StrPath] = ()) -> list[Path]:
        """Write the files for that path, and the record; returns them, the one to open first at the front.

        `.png` is one sheet, `.html` one page, each with its record beside it; any other path is a folder with both, the
        record and a PNG of each version. None of `inputs` is overwritten. Raises UsageError as `check_output`, and what
        writing raises; then no file is changed.
        """
        target = Path(path)
        check_output(target, self.sheet_name, inputs)
        record = (json_text(self.record) + "\n").encode()
        earlier: list[Path] = []
        if target.suffix.lower() in SINGLE:
            made = self.page() if target.suffix.lower() in PAGES else self.sheet()
            contents = dict(zip(_outputs(target, self.sheet_name), (made, record), strict=True))
        else:
            made = (self.page(), self.sheet(), record)
            contents = dict(zip(_outputs(target, self.sheet_name), made, strict=True))
            for number, row in enumerate(self.rows, 1):
                own = [cell for cell in row.cells if cell.text is not None]
                for place, cell in enumerate(own, 1):
                    name = f"{number:03d}-{file_name(row.file)}-{place}-{file_name(cell.name)}.png"
                    contents[target / name] = encode_png(cell.pixels, cell.text)
            contents |= {target / name: content for name, content in self.more.items()}
            earlier = made_before(target)
        _check_targets(list(contents), inputs)
        write_together(contents)
        remove(earlier, contents)
        return list(contents)


def check_output(path: StrPath, sheet_name: str, inputs: Sequence[StrPath] = ()) -> None:
    """Raises UsageError if `Gallery.save` can't write there. To be called before any work."""
    target = Path(path)
    check_folder(target, inputs)
    single = target.suffix.lower() in SINGLE
    if not single and not target.is_dir() and (target.exists() or target.suffix.lower() in SUFFIXES):
        raise UsageError(f"-o {target}: an output is a .png {Path(sheet_name).stem}, an .html page or a folder.")
    _check_targets(_outputs(target, sheet_name), inputs)
    if not single:
        check_ours(target / RECORD_NAME, _outputs(target, sheet_name))


def check_folder(target: Path, inputs: Sequence[StrPath]) -> None:
    """Raises UsageError for an input in the output folder whose name looks like one of our numbered files."""
    for given in map(Path, inputs):
        if NUMBERED.match(given.name) and given.resolve().parent == target.resolve():
            raise UsageError(
                f"{given} is in -o {target}, where files with such names are replaced. Choose another folder."
            )


def check_ours(record: Path, files: Sequence[Path]) -> None:
    """Raises UsageError if one of the files exists and the record beside it isn't that of an earlier run."""
    lost = [file for file in files if file.exists()]
    if lost and not _is_ours(record):
        raise UsageError(f"{lost[0]} was not made by vaelens and would be lost. Choose another output.")


def made_before(folder: Path) -> list[Path]:
    """The numbered files of an earlier run in a folder."""
    if not _is_ours(folder / RECORD_NAME):
        return []
    return [path for path in folder.iterdir() if OWN_FILE.fullmatch(path.name) and path.is_file()]


def remove(earlier: Sequence[Path], written: Container[Path]) -> None:
    """Remove the files of an earlier run that were not overwritten, as the new record doesn't list them."""
    for path in earlier:
        if path not in written:
            path.unlink(missing_ok=True)


def file_name(text: str) -> str:
    """Text as part of a file name: no separators, nothing hidden, not too long."""
    plain = "".join(c if c.isalnum() or c in "-_." else "_" for c in text).lstrip(".")
    return plain.encode()[:80].decode(errors="ignore") or "_"


def _is_ours(record: Path) -> bool:
    """Whether a folder's run.json is the record of an earlier run, whose files may be replaced."""
    try:
        values = json.loads(record.read_bytes())
    except (OSError, ValueError, RecursionError):
        return False
    return isinstance(values, dict) and {"schema", "vaes", "rows"} <= set(cast(dict[str, Any], values))


def _outputs(target: Path, sheet_name: str) -> list[Path]:
    """The files of an output path, without the numbered ones of a folder."""
    if target.suffix.lower() in SINGLE:
        return [target, target.with_suffix(f".{RECORD_NAME}")]
    return [target / PAGE_NAME, target / sheet_name, target / RECORD_NAME]


def _check_targets(targets: Sequence[Path], inputs: Sequence[StrPath]) -> None:
    """Raises UsageError for a file that can't be written or is one of the inputs."""
    for target in targets:
        file = writable_path(target)
        if file.exists() and any(Path(given).exists() and file.samefile(given) for given in inputs):
            raise UsageError(f"{target} is one of the inputs and would be lost. Choose another output.")
