"""Parquet files with one image per row, as the hub keeps datasets, or from there. The only home of pyarrow."""

import bisect
import threading
from collections import OrderedDict
from collections.abc import Generator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any, cast

from vaelens.errors import BadInputError, UsageError
from vaelens.images.datasets.items import MAX_BYTES, Source, check_count, too_large
from vaelens.images.datasets.parquet_columns import image_column
from vaelens.images.datasets.parquet_pages import Chunk, check_pages, chunks
from vaelens.images.datasets.shards import SCORES, aesthetic_score
from vaelens.json_reading import quoted
from vaelens.resources import out_of_memory

FILES_SHOWN = 5
OTHERS_SHOWN = 5
GROUPS_KEPT = 2  # row groups in memory: threads that read consecutive rows are in two at most
FREE_FOOTER = 2**20  # bytes of the metadata at a file's end, which takes many times as much in memory
FOOTER_SHARE = 50
FREE_GROUP = 2**24  # bytes that a row group's images may always have
MAX_RATIO = 4  # to the file's bytes, beyond; images are compressed already
BUFFER = 2**20  # bytes of a column that are read at once


@dataclass(frozen=True, slots=True)
class Group:
    """A row group, the unit in which parquet is read: rows `first` and on of the whole set."""

    path: Path
    index: int
    first: int
    rows: int
    column: str
    limit: int  # bytes that its images may have
    chunks: list[Chunk]  # where they lie


@dataclass(frozen=True, slots=True)
class _Wording:
    """How messages call files and rows: files here by their paths, those of a dataset on the hub by its name."""

    repo: str | None

    def file(self, path: Path) -> str:
        return str(path) if self.repo is None else f"{self.repo}: {path.name}"

    def row(self, path: Path, key: str) -> str:
        """The row with this id; here each file is a part of its own, so that its number is that in the file."""
        return f"{path}, row {int(key.rpartition('/')[2])}" if self.repo is None else f"{self.repo}: row {key}"

    def damaged(self, path: Path, error: Exception) -> BadInputError:
        reason = str(error).strip().partition("\n")[0]
        again = "Copy or download it again." if self.repo is None else "Remove it from the cache to download it again."
        return BadInputError(f"{self.file(path)} is a damaged parquet file: {reason}. {again}")

    @contextmanager
    def boundary(self, path: Path, arrow: Any) -> Generator[None]:
        """Whatever reading the file raises becomes an error of ours. Where memory runs out, the file may be whole."""
        advice = "Close other programs. If that doesn't help, get the file again: a damaged one may ask for any amount."
        try:
            with out_of_memory(f"{self.file(path)}: not read, out of memory. {advice}"):
                yield
        except (OSError, ValueError, OverflowError, arrow.ArrowException) as error:
            raise self.damaged(path, error) from error


def require_pyarrow(what: str) -> tuple[Any, Any]:
    """pyarrow and pyarrow.parquet. Raises UsageError, saying what needs them, where they aren't installed."""
    try:
        return import_module("pyarrow"), import_module("pyarrow.parquet")
    except ImportError as error:
        raise UsageError(
            f"{what}: reading parquet needs pyarrow. Run `pip install 'vaelens[datasets]'`, and try again."
        ) from error


def open_parquet(
    parts: Mapping[str, Sequence[Path]], name: str, *, repo: str | None = None, scored: bool = False
) -> Source:
    """The images in parquet files, by parts: validation/00000012 is the row 12 of the files of `validation`.

    name: how reports call the dataset; repo: its name on the hub, None for files here, each of which is a part. With
    `scored` a column of numbers with an aesthetic score is read too. A note says which column was taken where several
    hold images.

    Raises UsageError without pyarrow; BadInputError for a damaged file, one without an image column or with
    more rows than there can be images, and where there is no row; ResourceError where memory runs out.
    """
    wording = _Wording(repo)
    groups: list[Group] = []
    scores: dict[str, float] = {}
    fields: tuple[str, ...] = ()
    firsts: dict[str, int] = {}
    ids: list[str] = []
    notes: list[str] = []
    count = 0
    for part, paths in parts.items():
        firsts[part] = count
        for path in paths:
            found, values, fields, note = _indexed(path, count, wording, scored)
            notes += [note] if note and note not in notes else []
            groups += found
            for row, value in enumerate(values, count - firsts[part]):
                if (score := aesthetic_score({SCORES[0]: value})) is not None:
                    scores[_id(part, row)] = score
            count = groups[-1].first + groups[-1].rows if groups else 0
        ids += [_id(part, row) for row in range(count - firsts[part])]
    if not ids:
        files = ", ".join(wording.file(path) for paths in parts.values() for path in paths[:FILES_SHOWN])
        raise BadInputError(f"{files}: no rows, and so no images. Name another dataset.")
    rows = _Rows(groups, wording)

    def pieces(key: str) -> tuple[bytes]:
        part, _, row = key.rpartition("/")
        return (rows.read(firsts[part] + int(row), key),)

    return Source(
        name, "parquet", tuple(sorted(ids)), pieces, tuple(notes), scores=scores if scored else None, fields=fields
    )


def _id(part: str, row: int) -> str:
    return f"{part}/{row:08d}"


def _indexed(
    path: Path, first: int, wording: _Wording, scored: bool
) -> tuple[list[Group], list[object], tuple[str, ...], str | None]:
    """A file's row groups, its scores row by row if they are requested and there, its columns' names, and a note."""
    arrow, parquet = require_pyarrow(wording.file(path))
    with wording.boundary(path, arrow):
        stored = chunks(path, _footer(path))
        with parquet.ParquetFile(path, buffer_size=BUFFER) as opened:
            fields = tuple(map(str, opened.schema_arrow.names))
            column, others = image_column(arrow, opened.schema_arrow, wording.file(path))
            check_count(int(opened.metadata.num_rows), "rows", path.stat().st_size, wording.file(path))
            groups: list[Group] = []
            begins = first
            if len(stored) != opened.num_row_groups:
                raise ValueError("its numbers of row groups contradict each other")
            limit = max(FREE_GROUP, MAX_RATIO * path.stat().st_size)
            for index in range(opened.num_row_groups):
                rows = int(opened.metadata.row_group(index).num_rows)
                places = [chunk for chunk in stored[index] if chunk.path[:1] == (column,)]
                groups.append(Group(path, index, first, rows, column, limit, places))
                first += rows
            if first - begins != opened.metadata.num_rows or any(group.rows < 0 for group in groups):
                raise ValueError("its numbers of rows contradict each other")
            score = next((each for each in SCORES if each in fields), None) if scored else None
            values = list[object]()
            if score and _is_number(arrow, opened.schema_arrow.field(score).type):
                places = [chunk for group in stored for chunk in group if chunk.path[:1] == (score,)]
                check_pages(path, places, first - begins, FREE_GROUP)
                values = opened.read(columns=[score], use_threads=False).column(0).to_pylist()
            return groups, values, fields, _note(column, others)


def _note(column: str, others: Sequence[str]) -> str | None:
    unused = ", ".join(map(repr, others[:OTHERS_SHOWN])) + (", ..." if len(others) > OTHERS_SHOWN else "")
    what = "holds" if len(others) == 1 else "hold"
    return f"the images are those in the column {column!r}; {unused} {what} images too" if others else None


def _footer(path: Path) -> int:
    """The bytes of the metadata at the file's end.

    Raises ValueError for a file that isn't parquet, or whose metadata would fill the memory; BadInputError for one that
    can't be read.
    """
    try:
        with path.open("rb") as file:
            total = file.seek(0, 2)
            file.seek(max(0, total - 8))
            tail = file.read(8)
    except OSError as error:
        raise BadInputError(f"{path}: can't be read: {error.strerror}. Check its permissions.") from error
    if tail[4:] != b"PAR1":
        raise ValueError("it doesn't end as a parquet file does")
    size = int.from_bytes(tail[:4], "little")
    if size > FREE_FOOTER + total // FOOTER_SHARE:
        raise ValueError(f"{size:,} of its {total:,} bytes are metadata")
    if size > total - 8:
        raise ValueError("it is shorter than its metadata")
    return size


def _is_number(arrow: Any, kind: Any) -> bool:
    return any(test(kind) for test in (arrow.types.is_integer, arrow.types.is_floating, arrow.types.is_decimal))


class _Rows:
    """Images by row, with the row groups read last kept in memory."""

    def __init__(self, groups: Sequence[Group], wording: _Wording) -> None:
        self._groups = [group for group in groups if group.rows]
        self._firsts = [group.first for group in self._groups]
        self._wording = wording
        self._kept: OrderedDict[int, list[bytes | str]] = OrderedDict()
        self._failed: dict[int, str] = {}  # so that a damaged group isn't read again for each of its rows
        self._lock = threading.Lock()

    def read(self, row: int, key: str) -> bytes:
        """The file in one row, called `key` in errors; nothing for an empty row, then refused as an empty file is."""
        place = bisect.bisect_right(self._firsts, row) - 1
        called = self._wording.row(self._groups[place].path, key)
        data = self._files(place)[row - self._firsts[place]]
        if isinstance(data, str):
            raise BadInputError(
                f"{called} only names {quoted(data)}, which isn't in the dataset. "
                "Download its images as its card says, and name their folder."
            )
        if len(data) > MAX_BYTES:
            raise too_large(called, len(data))
        return data

    def _files(self, place: int) -> list[bytes | str]:
        with self._lock:
            if place in self._failed:
                raise BadInputError(self._failed[place])
            if place not in self._kept:
                while len(self._kept) >= GROUPS_KEPT:
                    self._kept.popitem(last=False)
                try:
                    self._kept[place] = self._read(self._groups[place])
                except BadInputError as error:
                    self._failed[place] = str(error)
                    raise
            self._kept.move_to_end(place)
            return self._kept[place]

    def _read(self, group: Group) -> list[bytes | str]:
        """A row group's images. Row by row, since a few bytes may stand for the same large value a thousand times."""
        arrow, parquet = require_pyarrow(self._wording.file(group.path))
        found: list[bytes | str] = []
        size = 0
        with self._wording.boundary(group.path, arrow):
            try:
                check_pages(group.path, group.chunks, group.rows, group.limit)
                with parquet.ParquetFile(group.path, buffer_size=BUFFER) as opened:
                    for batch in opened.iter_batches(1, [group.index], [group.column], use_threads=False):
                        found += [_file(value) for value in batch.column(0)]
                        size += len(found[-1]) if found else 0
                        if size > group.limit:
                            raise ValueError(f"row group {group.index} unpacks to more than {group.limit:,} bytes")
                        if len(found) > group.rows:
                            break
                if len(found) != group.rows:
                    raise ValueError(f"row group {group.index} hasn't the {group.rows:,} rows that it should have")
            except BaseException:
                found.clear()  # which the error would keep
                raise
        return found


def _file(value: Any) -> bytes | str:
    """What stands in a row: a file's bytes, or the path that stands in their place."""
    if not (value.is_valid and value.type.num_fields):
        return cast(bytes, value.as_py() or b"")
    data = cast(bytes | None, value["bytes"].as_py())
    if data is None and value.type.get_field_index("path") >= 0:
        try:
            return str(value["path"].as_py() or "") or b""
        except UnicodeDecodeError:
            return "something that isn't text"
    return data or b""
