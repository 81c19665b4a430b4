"""What the pages of a parquet file say that they unpack to, before pyarrow unpacks any.

pyarrow takes the memory that a page's header asks for, up to 2 GB each, and ends the process where some metadata are
damaged. So the footer and the headers of pages, in Thrift's compact protocol, are read here for the few numbers needed.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

MAX_DEPTH = 16
MAX_ENTRIES = 200_000  # structs and list elements in a footer: pyarrow takes some hundred bytes for each
HEADER_BYTES = 2**16  # of a page's header, which may hold the least and the greatest value
STOP, TRUE, FALSE, BYTE, I16, I32, I64, DOUBLE, BINARY, LIST, SET, MAP, STRUCT = range(13)
NUMBERS = {I16, I32, I64}
# Which fields are needed, by their ids in parquet's definition, and of which types: a dict is a struct, a list a list.
Fields = dict[int, Any]
CHUNK: Fields = {3: {3: [bytes], 7: int, 9: int, 11: int}}  # path, compressed size, the pages' offsets
FOOTER: Fields = {4: [{1: [CHUNK]}]}  # row groups, their columns
PAGE: Fields = {2: int, 3: int}  # size and compressed size


@dataclass(frozen=True, slots=True)
class Chunk:
    """A row group's part of one column of values: its path in the schema, and where its pages lie."""

    path: tuple[str, ...]
    start: int
    size: int


def chunks(path: Path, footer: int) -> list[list[Chunk]]:
    """Each row group's columns, from the `footer` bytes of metadata before the last 8 of the file.

    Raises ValueError where they are damaged or more than MAX_ENTRIES.
    """
    with path.open("rb") as file:
        total = file.seek(0, 2)
        file.seek(total - 8 - footer)
        found = _Reader(file.read(footer)).struct(FOOTER)
    groups = [cast(list[dict[int, dict[int, Any]]], group.get(1, [])) for group in found.get(4, [])]
    return [[_chunk(column.get(3, {}), total) for column in group] for group in groups]


def check_pages(path: Path, places: list[Chunk], rows: int, limit: int) -> None:
    """Raises ValueError where the pages would unpack to more than `limit` bytes, or are more than the rows."""
    size = 0
    for place in places:
        for number, (unpacked, _) in enumerate(_pages(path, place)):
            size += unpacked
            if size > limit:
                raise ValueError(f"its pages would unpack to more than {limit:,} bytes")
            if number > rows + 1:
                raise ValueError("it has more pages than rows")


def _chunk(found: dict[int, Any], total: int) -> Chunk:
    size, offsets = found.get(7, -1), [found[field] for field in (9, 11) if found.get(field)]
    start = min(offsets, default=-1)
    if start < 0 or size < 0 or start + size > total:
        raise ValueError("a column isn't where its metadata say")
    return Chunk(tuple(part.decode("utf-8", "replace") for part in found.get(3, [])), start, size)


def _pages(path: Path, place: Chunk) -> Iterator[tuple[int, int]]:
    """The size of each page, unpacked and packed."""
    at, end = place.start, place.start + place.size
    with path.open("rb") as file:
        while at < end:
            file.seek(at)
            reader = _Reader(file.read(min(HEADER_BYTES, end - at)))
            header = reader.struct(PAGE)
            unpacked, packed = header.get(2, -1), header.get(3, -1)
            if unpacked < 0 or packed < 0:
                raise ValueError("a page has no size")
            at += reader.at + packed
            yield unpacked, packed


class _Reader:
    """Thrift's compact protocol: what is needed of a struct, the rest skipped. Raises ValueError for damage."""

    def __init__(self, data: bytes) -> None:
        self.at = 0
        self._data = data
        self._entries = 0

    def struct(self, fields: Fields, depth: int = 0) -> dict[int, Any]:
        """The struct's values of these fields."""
        self._count(1)
        found: dict[int, Any] = {}
        field = 0
        while (head := self._byte()) & 15 != STOP:
            field = field + (head >> 4) if head >> 4 else self._number()
            needed = fields.get(field)
            value = self._value(head & 15, needed, depth)
            if needed is not None:
                if not _fits(value, needed):
                    raise ValueError("its metadata are damaged")
                found[field] = value
        return found

    def _value(self, kind: int, needed: Any, depth: int) -> Any:
        if depth > MAX_DEPTH:
            raise ValueError("its metadata are nested too deeply")
        if kind in {TRUE, FALSE}:
            return kind == TRUE
        if kind in NUMBERS:
            return self._number()
        if kind == STRUCT:
            return self.struct(cast(Fields, needed) if isinstance(needed, dict) else {}, depth + 1)
        if kind in {LIST, SET}:
            return self._list(needed[0] if isinstance(needed, list) else None, depth)
        if kind == MAP:
            return self._map(depth)
        if kind not in {BYTE, DOUBLE, BINARY}:
            raise ValueError("its metadata are damaged")
        return self._bytes({BYTE: 1, DOUBLE: 8}[kind] if kind != BINARY else self._varint())

    def _list(self, needed: Any, depth: int) -> list[Any]:
        head = self._byte()
        count, kind = head >> 4 if head >> 4 != 15 else self._varint(), head & 15
        self._count(count)
        if kind in {TRUE, FALSE}:
            return list(self._bytes(count))
        return [self._value(kind, needed, depth + 1) for _ in range(count)]

    def _map(self, depth: int) -> None:
        if count := self._varint():
            self._count(count)
            kinds = self._byte()
            for _ in range(count):
                for kind in (kinds >> 4, kinds & 15):
                    self._value(BYTE if kind in {TRUE, FALSE} else kind, None, depth + 1)

    def _count(self, more: int) -> None:
        self._entries += more
        if self._entries > MAX_ENTRIES:
            raise ValueError(f"its metadata have more than {MAX_ENTRIES:,} entries")

    def _bytes(self, size: int) -> bytes:
        found = self._data[self.at : self.at + size]
        if len(found) < size:
            raise ValueError("its metadata are incomplete")
        self.at += size
        return found

    def _byte(self) -> int:
        return self._bytes(1)[0]

    def _varint(self) -> int:
        found = shift = 0
        while True:
            byte = self._byte()
            found |= (byte & 127) << shift
            shift += 7
            if byte < 128:
                return found
            if shift > 63:
                raise ValueError("its metadata are damaged")

    def _number(self) -> int:
        found = self._varint()
        return found >> 1 if found & 1 == 0 else -(found >> 1) - 1


def _fits(value: object, needed: Any) -> bool:
    if isinstance(needed, list):
        return isinstance(value, list) and all(_fits(each, needed[0]) for each in cast(list[object], value))
    return isinstance(value, dict) if isinstance(needed, dict) else type(value) is needed
