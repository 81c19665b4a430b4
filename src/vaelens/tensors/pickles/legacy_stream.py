"""PyTorch's format before the zip: pickles one behind the other, then the storages (torch/serialization.py).

A magic number, the protocol's version, facts about the system, the object, the list of storage keys; then for each key
8 bytes that say how many elements, and these.
"""

from typing import cast

from vaelens.tensors.pickles.budget import Budget
from vaelens.tensors.pickles.byte_source import ByteSource
from vaelens.tensors.pickles.machine import Machine
from vaelens.tensors.pickles.refusals import WrongPickleError
from vaelens.tensors.pickles.storages import Storages
from vaelens.tensors.pickles.values import Storage, Table

MAGIC = 0x1950A86A20F9469CFC6C
VERSION = 1001


def read_stream(source: ByteSource, budget: Budget, met: dict[str, None]) -> object:
    """The object of a file in the legacy format, its storages placed; of any other pickle, its object.

    Raises WrongPickleError and UnsafePickleError.
    """
    storages = Storages(Storage)
    machine = Machine(source, budget, met, storages.load)
    first = machine.read()
    if first != MAGIC or type(first) is not int:
        if storages.by_key:
            raise WrongPickleError("it is a pickled table of tensors alone, without their numbers")
        return first
    if machine.read() != VERSION:
        raise WrongPickleError("it has another version of PyTorch's old format than 1001")
    system = machine.read()
    if isinstance(system, Table) and system.named.get("little_endian") is False:
        raise WrongPickleError("its numbers are in big-endian byte order")
    held = machine.read()
    keys = machine.read()
    _place(source, storages, keys)
    return held


def _place(source: ByteSource, storages: Storages, keys: object) -> None:
    if not isinstance(keys, list):
        raise WrongPickleError("its storages aren't listed")
    for key in cast("list[object]", keys):
        storage = storages.by_key.get(key) if isinstance(key, str) else None
        if storage is None or storage.place is not None:
            raise WrongPickleError("it lists a storage twice, or one that no tensor has")
        elements = source.signed(8)
        if elements * storages.item_bytes(storage.key) != storage.size:
            raise WrongPickleError(f"its storage {storage.key} has another size than its tensors say")
        storage.place = source.at
        source.skip(storage.size)
    if any(storage.place is None for storage in storages.by_key.values()):
        raise WrongPickleError("it is incomplete: a storage is missing")
    if source.at != source.end:
        raise WrongPickleError(f"{source.end - source.at:,} bytes follow its last storage, another file perhaps")
