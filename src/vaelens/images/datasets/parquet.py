"""Parquet files with one image per row, as the hub keeps datasets. The only home of pyarrow."""

import bisect
import json
import threading
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any, cast

from vaelens.errors import BadInputError, UsageError
from vaelens.images.datasets.folders import too_large
from vaelens.images.datasets.items import MAX_BYTES, Source
from vaelens.images.datasets.shards import SCORES, aesthetic_score

COLUMNS = ("image", "img", "jpg", "jpeg", "png", "webp", "picture", "photo")
GROUPS_KEPT = 2  # row groups in memory: threads that read consecutive rows are in two at most


@dataclass(frozen=True)
class Group:
    """A row group, the unit in which parquet is read: rows `first` and on of the whole set."""

    path: Path
    index: int
    first: int
    rows: int
    column: str


def require_pyarrow(what: str) -> tuple[Any, Any]:
    """pyarrow and pyarrow.parquet. Raises UsageError, saying what needs them, where they aren't installed."""
    try:
        return import_module("pyarrow"), import_module("pyarrow.parquet")
    except ImportError as error:
        raise UsageError(
            f"{what} is stored in parquet files. Run `pip install 'vaelens[datasets]'` to read it."
        ) from error


def open_parquet(paths: Sequence[Path], split: str, name: str, *, scored: bool = False) -> Source:
    """The images in parquet files, rows counted through all of them in the order given: split/00000012.

    With `scored` a column with an aesthetic score is read too.

    Raises BadInputError for a damaged file, one without an image column, and where there is no row.
    """
    groups: list[Group] = []
    scores: dict[str, float] = {}
    fields: tuple[str, ...] = ()
    for path in paths:
        first = groups[-1].first + groups[-1].rows if groups else 0
        found, values, fields = _indexed(path, first, name, scored)
        groups += found
        for row, value in enumerate(values, first):
            if (score := aesthetic_score({SCORES[0]: value})) is not None:
                scores[_id(split, row)] = score
    count = groups[-1].first + groups[-1].rows if groups else 0
    if not count:
        raise BadInputError(f"{name} holds no rows in its split {split}. Name another one.")
    rows = _Rows(groups, name)
    return Source(
        name,
        "hub",
        tuple(_id(split, row) for row in range(count)),
        lambda key: rows.read(int(key.rpartition("/")[2])),
        scores=scores if scored else None,
        fields=fields,
    )


def _id(split: str, row: int) -> str:
    return f"{split}/{row:08d}"


def _indexed(path: Path, first: int, name: str, scored: bool) -> tuple[list[Group], list[object], tuple[str, ...]]:
    """A file's row groups, its scores row by row if they are requested and there, and its columns' names."""
    arrow, parquet = require_pyarrow(name)
    try:
        with parquet.ParquetFile(path) as opened:
            fields = tuple(map(str, opened.schema_arrow.names))
            column = _image_column(arrow, opened.schema_arrow)
            if column is None:
                raise BadInputError(f"{name}: {path.name} has no column of images, only {', '.join(fields)}.")
            groups: list[Group] = []
            for index in range(opened.num_row_groups):
                rows = int(opened.metadata.row_group(index).num_rows)
                groups.append(Group(path, index, first, rows, column))
                first += rows
            score = next((each for each in SCORES if each in fields), None) if scored else None
            return groups, opened.read(columns=[score]).column(0).to_pylist() if score else [], fields
    except (OSError, ValueError, arrow.ArrowException) as error:
        raise _damaged(name, path, error) from error


def _image_column(arrow: Any, schema: Any) -> str | None:
    """The column marked as images, else one of {bytes, path}, else bytes under one of COLUMNS' names."""
    marked = cast(dict[str, Any], _features(schema.metadata or {}))
    structs = [f.name for f in schema if arrow.types.is_struct(f.type) and f.type.get_field_index("bytes") >= 0]
    images = [f for f in structs if not marked or _is_image(marked.get(f))]
    if not images:
        binary = [f.name for f in schema if arrow.types.is_binary(f.type) or arrow.types.is_large_binary(f.type)]
        images = [f for f in binary if f in COLUMNS]
    return min(images, key=lambda f: COLUMNS.index(f) if f in COLUMNS else len(COLUMNS), default=None)


def _features(metadata: dict[bytes, bytes]) -> object:
    """What the hub's own library notes of each column; nothing where it didn't write the file."""
    try:
        return json.loads(metadata.get(b"huggingface", b"{}"))["info"]["features"]
    except (ValueError, LookupError, TypeError):
        return {}


def _is_image(feature: Any) -> bool:
    return isinstance(feature, dict) and cast(dict[str, object], feature).get("_type") == "Image"


class _Rows:
    """Images by row, with the row groups read last kept in memory."""

    def __init__(self, groups: Sequence[Group], name: str) -> None:
        self._groups = [group for group in groups if group.rows]
        self._firsts = [group.first for group in self._groups]
        self._name = name
        self._kept: OrderedDict[int, Any] = OrderedDict()
        self._lock = threading.Lock()

    def read(self, row: int) -> bytes:
        """The file in one row; nothing for an empty row, which is then refused as an empty file is."""
        place = bisect.bisect_right(self._firsts, row) - 1
        value = self._column(place)[row - self._firsts[place]].as_py()
        if isinstance(value, dict):
            found = cast(dict[str, object], value)
            value = found.get("bytes")
            if value is None and found.get("path"):
                raise BadInputError(
                    f"{self._name}: row {row} only names {found['path']!r}, which isn't in the dataset. "
                    "Download its images as its card says, and name their folder."
                )
        data = cast(bytes, value or b"")
        if len(data) > MAX_BYTES:
            raise too_large(f"{self._name}: row {row}", len(data))
        return data

    def _column(self, place: int) -> Any:
        with self._lock:
            if place not in self._kept:
                group = self._groups[place]
                arrow, parquet = require_pyarrow(self._name)
                try:
                    with parquet.ParquetFile(group.path) as opened:
                        table = opened.read_row_group(group.index, columns=[group.column], use_threads=False)
                except (OSError, ValueError, arrow.ArrowException) as error:
                    raise _damaged(self._name, group.path, error) from error
                while len(self._kept) >= GROUPS_KEPT:
                    self._kept.popitem(last=False)
                self._kept[place] = table.column(0)
            self._kept.move_to_end(place)
            return self._kept[place]


def _damaged(name: str, path: Path, error: Exception) -> BadInputError:
    reason = str(error).strip().partition("\n")[0]
    return BadInputError(f"{name}: {path.name} is a damaged parquet file: {reason}. Remove it from the hub's cache.")
