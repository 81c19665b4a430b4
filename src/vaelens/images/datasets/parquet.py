"""Parquet files with one image per row, as the hub keeps datasets, or from there. The only home of pyarrow."""

import bisect
import threading
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any, cast

from vaelens.errors import BadInputError, UsageError
from vaelens.images.datasets.items import MAX_BYTES, Source, check_count, too_large
from vaelens.images.datasets.parquet_pages import Chunk, check_pages, chunks
from vaelens.images.datasets.shards import SCORES, aesthetic_score
from vaelens.json_reading import parse_json, quoted

FIELDS_SHOWN = 20
COLUMNS = ("image", "img", "jpg", "jpeg", "png", "webp", "picture", "photo")
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


def require_pyarrow(what: str) -> tuple[Any, Any]:
    """pyarrow and pyarrow.parquet. Raises UsageError, saying what needs them, where they aren't installed."""
    try:
        return import_module("pyarrow"), import_module("pyarrow.parquet")
    except ImportError as error:
        raise UsageError(
            f"{what} is stored in parquet files. Run `pip install 'vaelens[datasets]'` to read it."
        ) from error


def open_parquet(parts: Mapping[str, Sequence[Path]], name: str, repair: str, *, scored: bool = False) -> Source:
    """The images in parquet files, by parts: validation/00000012 is the row 12 of the files of `validation`.

    repair: what to do about a damaged file, for the error. With `scored` a column of numbers with an aesthetic score is
    read too.

    Raises UsageError without pyarrow; BadInputError for a damaged file, one without an image column or with more rows
    than there can be images, and where there is no row.
    """
    groups: list[Group] = []
    scores: dict[str, float] = {}
    fields: tuple[str, ...] = ()
    firsts: dict[str, int] = {}
    ids: list[str] = []
    count = 0
    for part, paths in parts.items():
        firsts[part] = count
        for path in paths:
            found, values, fields = _indexed(path, count, name, repair, scored)
            groups += found
            for row, value in enumerate(values, count - firsts[part]):
                if (score := aesthetic_score({SCORES[0]: value})) is not None:
                    scores[_id(part, row)] = score
            count = groups[-1].first + groups[-1].rows if groups else 0
        ids += [_id(part, row) for row in range(count - firsts[part])]
    if not ids:
        raise BadInputError(f"{name} holds no rows in {', '.join(list(parts)[:5])}. Name another one.")
    rows = _Rows(groups, name, repair)

    def pieces(key: str) -> tuple[bytes]:
        part, _, row = key.rpartition("/")
        return (rows.read(firsts[part] + int(row), key),)

    return Source(name, "parquet", tuple(sorted(ids)), pieces, scores=scores if scored else None, fields=fields)


def _id(part: str, row: int) -> str:
    return f"{part}/{row:08d}"


def _indexed(
    path: Path, first: int, name: str, repair: str, scored: bool
) -> tuple[list[Group], list[object], tuple[str, ...]]:
    """A file's row groups, its scores row by row if they are requested and there, and its columns' names."""
    arrow, parquet = require_pyarrow(name)
    footer = _footer(path, name, repair)
    try:
        stored = chunks(path, footer)
        with parquet.ParquetFile(path, buffer_size=BUFFER) as opened:
            fields = tuple(map(str, opened.schema_arrow.names))
            column = _image_column(arrow, opened.schema_arrow)
            if column is None:
                raise BadInputError(
                    f"{name}: {path.name} has no column of images, only {', '.join(fields[:FIELDS_SHOWN])}. "
                    "If it lists addresses, download the images first, for example with img2dataset."
                )
            check_count(int(opened.metadata.num_rows), "rows", path.stat().st_size, f"{name}: {path.name}")
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
            return groups, values, fields
    except _errors(arrow) as error:
        raise _damaged(name, path, error, repair) from error


def _footer(path: Path, name: str, repair: str) -> int:
    """The bytes of the metadata at the file's end.

    Raises BadInputError for a file that isn't parquet, or whose metadata would fill the memory.
    """
    try:
        with path.open("rb") as file:
            total = file.seek(0, 2)
            file.seek(max(0, total - 8))
            tail = file.read(8)
    except OSError as error:
        raise BadInputError(f"{path}: can't be read: {error.strerror}. Check its permissions.") from error
    if tail[4:] != b"PAR1":
        raise _damaged(name, path, ValueError("it doesn't end as a parquet file does"), repair)
    size = int.from_bytes(tail[:4], "little")
    if size > FREE_FOOTER + total // FOOTER_SHARE:
        raise _damaged(name, path, ValueError(f"{size:,} of its {total:,} bytes are metadata"), repair)
    if size > total - 8:
        raise _damaged(name, path, ValueError("it is shorter than its metadata"), repair)
    return size


def _is_number(arrow: Any, kind: Any) -> bool:
    return any(test(kind) for test in (arrow.types.is_integer, arrow.types.is_floating, arrow.types.is_decimal))


def _image_column(arrow: Any, schema: Any) -> str | None:
    """The column marked as images, else one of {bytes, path}, else bytes under one of COLUMNS' names."""
    marked = _features(schema.metadata or {})
    structs = [f.name for f in schema if arrow.types.is_struct(f.type) and _has_bytes(arrow, f.type)]
    images = [f for f in structs if not marked or _is_image(marked.get(f))]
    if not images:
        images = [f.name for f in schema if _is_bytes(arrow, f.type) and f.name in COLUMNS]
    names = [f.name for f in schema]
    images = [f for f in images if names.count(f) == 1]
    return min(images, key=lambda f: COLUMNS.index(f) if f in COLUMNS else len(COLUMNS), default=None)


def _is_bytes(arrow: Any, kind: Any) -> bool:
    return bool(arrow.types.is_binary(kind) or arrow.types.is_large_binary(kind))


def _has_bytes(arrow: Any, kind: Any) -> bool:
    place = kind.get_field_index("bytes")
    inner = kind.field(place).type if place >= 0 else None
    return inner is not None and (_is_bytes(arrow, inner) or bool(arrow.types.is_null(inner)))


def _features(metadata: dict[bytes, bytes]) -> dict[str, object]:
    """What the hub's own library notes of each column; nothing where it didn't write the file."""
    try:
        found = parse_json(metadata.get(b"huggingface", b"{}"))["info"]["features"]
    except (ValueError, LookupError, TypeError):
        return {}
    return cast(dict[str, object], found) if isinstance(found, dict) else {}


def _is_image(feature: object) -> bool:
    return isinstance(feature, dict) and cast(dict[str, object], feature).get("_type") == "Image"


class _Rows:
    """Images by row, with the row groups read last kept in memory."""

    def __init__(self, groups: Sequence[Group], name: str, repair: str) -> None:
        self._groups = [group for group in groups if group.rows]
        self._firsts = [group.first for group in self._groups]
        self._name, self._repair = name, repair
        self._kept: OrderedDict[int, list[bytes | str]] = OrderedDict()
        self._failed: dict[int, str] = {}  # so that a damaged group isn't read again for each of its rows
        self._lock = threading.Lock()

    def read(self, row: int, key: str) -> bytes:
        """The file in one row, called `key` in errors; nothing for an empty row, then refused as an empty file is."""
        place = bisect.bisect_right(self._firsts, row) - 1
        data = self._files(place)[row - self._firsts[place]]
        if isinstance(data, str):
            raise BadInputError(
                f"{self._name}: row {key} only names {quoted(data)}, which isn't in the dataset. "
                "Download its images as its card says, and name their folder."
            )
        if len(data) > MAX_BYTES:
            raise too_large(f"{self._name}: row {key}", len(data))
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
        arrow, parquet = require_pyarrow(self._name)
        found: list[bytes | str] = []
        size = 0
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
            return found
        except _errors(arrow) as error:
            found.clear()  # which the error would keep
            raise _damaged(self._name, group.path, error, self._repair) from error


def _file(value: Any) -> bytes | str:
    """What stands in a row: a file's bytes, or the path that stands in their place."""
    if not (value.is_valid and value.type.num_fields):
        return cast(bytes, value.as_py() or b"")
    data = cast(bytes | None, value["bytes"].as_py())
    if data is None and value.type.get_field_index("path") >= 0:
        try:
            return str(value["path"].as_py() or "") or b""
        except UnicodeDecodeError:
            return "what is no text"
    return data or b""


def _errors(arrow: Any) -> tuple[type[Exception], ...]:
    return OSError, ValueError, OverflowError, MemoryError, arrow.ArrowException


def _damaged(name: str, path: Path, error: Exception, repair: str) -> BadInputError:
    reason = str(error).strip().partition("\n")[0]
    return BadInputError(f"{name}: {path.name} is a damaged parquet file: {reason}. {repair}")
