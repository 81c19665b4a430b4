"""What a pickle can hold here besides Python's numbers, strings, bytes, lists and tuples."""

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import ClassVar, cast

from vaelens.tensors.pickles.refusals import WrongPickleError

# Bytes of one element, by the names that the safetensors format has for most of these dtypes.
ITEM_BYTES = {
    "F64": 8, "F32": 4, "F16": 2, "BF16": 2, "F8_E4M3": 1, "F8_E5M2": 1, "F8_E4M3FNUZ": 1, "F8_E5M2FNUZ": 1,
    "F8_E8M0": 1, "I64": 8, "I32": 4, "I16": 2, "I8": 1, "U64": 8, "U32": 4, "U16": 2, "U8": 1, "BOOL": 1,
    "C32": 4, "C64": 8, "C128": 16, "QINT8": 1, "QUINT8": 1, "QINT32": 4, "QUINT4X2": 1, "QUINT2X4": 1,
}  # fmt: skip
DIMENSIONS = 64
LARGEST = 2**63 - 1


class Table:
    """A dict, an OrderedDict or another mapping: by its names in `named`; keys that aren't strings in `others`.

    Keys of other types are never hashed: a file could choose numbers that all collide.
    """

    __slots__ = ("named", "others")

    def __init__(self) -> None:
        self.named: dict[str, object] = {}
        self.others: list[tuple[object, object]] = []

    def put(self, key: object, value: object) -> None:
        """Set an item."""
        if isinstance(key, str):
            self.named[key] = value
        else:
            self.others.append((key, value))


class Members:
    """A set: its members in the file's order, unhashed, perhaps repeated."""

    __slots__ = ("values",)

    def __init__(self, values: list[object]) -> None:
        self.values = values


class Inert:
    """What stands for a class or function that vaelens doesn't import, for its instances and for its results.

    Nothing can be done with it. `items` are those of a mapping, as of a configuration's class.
    """

    __slots__ = ("items", "name")

    def __init__(self, name: str) -> None:
        self.name = name
        self.items: Table | None = None


@dataclass(frozen=True, slots=True, eq=False)
class Known:
    """A name from the fixed list: what a call of it builds from its arguments. Raises WrongPickleError or TypeError."""

    name: str
    build: Callable[[tuple[object, ...]], object]


@dataclass(frozen=True, slots=True, eq=False)
class Getattr:
    """Python's getattr, by which pickles name methods and members of enumerations. It is called, and never held: what
    is handed on could be called out of sight, with any name.
    """

    name: ClassVar[str] = "builtins.getattr"


@dataclass(frozen=True, slots=True, eq=False)
class DType:
    """torch.float32 and the like, or the class of a typed storage; None for an untyped one's."""

    name: str | None


@dataclass(slots=True, eq=False)
class NumpyDType:
    """A dtype of numpy: its code, as f8, and its byte order."""

    code: str
    order: str = "<"


@dataclass(slots=True, eq=False)
class Storage:
    """Bytes of a file that tensors share: `size` of them at `place`, which the old format tells last; their CRC-32."""

    key: str
    size: int
    place: int | None = None
    crc: int | None = None


@dataclass(frozen=True, slots=True, eq=False)
class StorageView:
    """What a persistent id names: `size` bytes of a storage from `begin` on, of a dtype, or None where it has none."""

    storage: Storage
    dtype: str | None
    begin: int
    size: int


@dataclass(frozen=True, slots=True, eq=False)
class StoredTensor:
    """Where a tensor lies: `begin` in bytes of its storage, `shape` and `stride` in elements of `dtype`.

    `storage` is None for one that isn't a plain block of numbers; `dtype` then says what it is.
    """

    dtype: str
    shape: tuple[int, ...]
    stride: tuple[int, ...] = ()
    begin: int = 0
    storage: Storage | None = field(default=None)

    @property
    def elements(self) -> int:
        """How many there are."""
        return math.prod(self.shape)

    @property
    def extent(self) -> int:
        """How many elements of its storage it reaches over."""
        return extent(self.shape, self.stride)

    @property
    def is_contiguous(self) -> bool:
        """Whether its elements lie one behind the other, in the order of its axes."""
        expected = 1
        for size, step in zip(reversed(self.shape), reversed(self.stride), strict=True):
            if size != 1 and step != expected:
                return False
            expected *= size
        return True


def stored_tensor(view: object, offset: object, shape: object, stride: object, dtype: object = None) -> StoredTensor:
    """The tensor of a view, `offset` elements behind its beginning. Raises WrongPickleError where it doesn't fit in."""
    if not isinstance(view, StorageView):
        raise WrongPickleError("a tensor in it has no storage")
    name = dtype.name if isinstance(dtype, DType) else view.dtype
    if name is None:
        raise WrongPickleError("a tensor in it has no dtype")
    sizes, strides = counts(shape), counts(stride)
    if len(sizes) != len(strides) or not isinstance(offset, int) or not 0 <= offset <= LARGEST:
        raise WrongPickleError("a tensor in it has a wrong shape, stride or offset")
    width = ITEM_BYTES[name]
    last = extent(sizes, strides)
    if (offset + last) * width > view.size:
        raise WrongPickleError(
            f"a tensor in it, {list(sizes)}, needs {(offset + last) * width:,} bytes of a storage of {view.size:,}"
        )
    return StoredTensor(name, sizes, strides, view.begin + offset * width, view.storage)


def extent(shape: tuple[int, ...], stride: tuple[int, ...]) -> int:
    """The elements of a storage from a tensor's first to its last."""
    return 0 if 0 in shape else 1 + sum((size - 1) * step for size, step in zip(shape, stride, strict=True))


def counts(values: object) -> tuple[int, ...]:
    """A shape or a stride. Raises WrongPickleError for anything else than a few whole numbers from 0 on."""
    held = cast("tuple[object, ...] | list[object]", values) if isinstance(values, (tuple, list)) else None
    if held is None or len(held) > DIMENSIONS:
        raise WrongPickleError("a shape in it isn't a short list of numbers")
    found = tuple(value for value in held if type(value) is int and 0 <= value <= LARGEST)
    if len(found) != len(held):
        raise WrongPickleError("a shape in it holds something else than whole numbers from 0 on")
    return found
