"""What persistent ids of a pickle name: the storages that tensors share, in the zip and in the legacy format."""

from collections.abc import Callable
from typing import cast

from vaelens.json_reading import quoted
from vaelens.tensors.pickles.refusals import WrongPickleError
from vaelens.tensors.pickles.values import ITEM_BYTES, DType, Inert, Known, Storage, StorageView
from vaelens.tensors.pickles.zip_records import Archive

LARGEST = 2**62  # elements


class Storages:
    """The storages met so far, by key. `find` makes the storage of a key and a size in bytes."""

    def __init__(self, find: Callable[[str, int], Storage]) -> None:
        self._find = find
        self._by_key: dict[str, Storage] = {}
        self._item_bytes: dict[str, int] = {}

    def load(self, persistent_id: object) -> object:
        """What a persistent id means: a storage, or in old files a module's class, whose source code stands beside it.

        Raises WrongPickleError for anything that PyTorch doesn't write.
        """
        if not isinstance(persistent_id, tuple) or not persistent_id:
            raise WrongPickleError("it names a storage in a form that PyTorch doesn't write")
        kind, *held = cast("tuple[object, ...]", persistent_id)
        if kind == "module" and held and isinstance(held[0], (Inert, Known)):
            return held[0]
        if kind != "storage" or len(held) not in {4, 5}:
            raise WrongPickleError("it names a storage in a form that PyTorch doesn't write")
        dtype, key, _, elements, *view = held
        if not isinstance(dtype, DType) or not isinstance(key, str) or not _is_count(elements):
            raise WrongPickleError("it names a storage in a form that PyTorch doesn't write")
        width = 1 if dtype.name is None else ITEM_BYTES[dtype.name]
        size = cast(int, elements) * width
        if key not in self._by_key:
            self._by_key[key], self._item_bytes[key] = self._find(key, size), width
        storage = self._by_key[key]
        if storage.size != size:
            raise WrongPickleError(f"its storage {quoted(key)} has {storage.size:,} bytes, and {size:,} elsewhere")
        return _part(storage, dtype.name, width, view[0] if view else None)

    @property
    def by_key(self) -> dict[str, Storage]:
        """All of them."""
        return self._by_key

    def item_bytes(self, key: str) -> int:
        """The bytes of one element of a storage."""
        return self._item_bytes[key]


def in_archive(archive: Archive) -> Storages:
    """The storages that lie in an archive's records, as long as these are."""

    def find(key: str, size: int) -> Storage:
        record = archive.records.get(f"data/{key}")
        if record is None or record.size != size:
            held = "isn't in its archive" if record is None else f"has {record.size:,} bytes in its archive"
            raise WrongPickleError(f"its storage {quoted(key)}, of {size:,} bytes, {held}")
        return Storage(key, size, record.place, record.crc)

    return Storages(find)


def _part(storage: Storage, dtype: str | None, width: int, view: object) -> StorageView:
    """The whole storage, or the part that a view of the legacy format names: its key, offset and elements."""
    if view is None:
        return StorageView(storage, dtype, 0, storage.size)
    held = cast("tuple[object, ...]", view) if isinstance(view, tuple) else ()
    if len(held) != 3 or not _is_count(held[1]) or not _is_count(held[2]):
        raise WrongPickleError("a view of a storage in it isn't one")
    begin, size = (cast(int, number) * width for number in held[1:])
    if begin + size > storage.size:
        raise WrongPickleError("a view of a storage in it is larger than the storage")
    return StorageView(storage, dtype, begin, size)


def _is_count(value: object) -> bool:
    return type(value) is int and 0 <= value <= LARGEST
