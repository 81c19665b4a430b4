"""The names that a pickle may call: each builds a tensor's description, a container or a number, and nothing else.

What torch's own functions do with the same arguments is in torch/_utils.py and torch/_tensor.py.
"""

import struct
from collections.abc import Callable, Mapping
from contextlib import suppress
from typing import cast

from vaelens.tensors.pickles.refusals import WrongPickleError
from vaelens.tensors.pickles.values import (
    DType,
    Inert,
    Known,
    Members,
    NumpyDType,
    StorageView,
    StoredTensor,
    Table,
    counts,
    stored_tensor,
)

Arguments = tuple[object, ...]
# numpy's codes of numbers, as struct has them.
NUMPY_CODES = {
    "f2": "e", "f4": "f", "f8": "d", "i1": "b", "i2": "h", "i4": "i", "i8": "q", "u1": "B", "u2": "H", "u4": "I",
    "u8": "Q", "b1": "?",
}  # fmt: skip
ENCODED = 2**16  # bytes of a string that stands for bytes: of a numpy scalar
TRANSFORMED = ("conj", "neg")  # keys of a tensor's metadata: its numbers aren't those of its storage


def _tensor(arguments: Arguments) -> StoredTensor:
    view, offset, shape, stride, *rest = arguments
    found = stored_tensor(view, offset, shape, stride)
    return _checked_metadata(found, rest[2] if len(rest) > 2 else None)


def _tensor_of_dtype(arguments: Arguments) -> StoredTensor:
    view, offset, shape, stride, _, _, dtype, *rest = arguments
    if not isinstance(dtype, DType) or dtype.name is None:
        raise WrongPickleError("a tensor in it has no dtype")
    return _checked_metadata(stored_tensor(view, offset, shape, stride, dtype), rest[0] if rest else None)


def _checked_metadata(tensor: StoredTensor, metadata: object) -> StoredTensor:
    table = metadata.items if isinstance(metadata, Inert) else metadata
    if isinstance(table, Table) and any(table.named.get(key) for key in TRANSFORMED):
        return _unreadable("a conjugated or negated view")((tensor.shape,))
    return tensor


def _parameter(arguments: Arguments) -> object:
    if not arguments or not isinstance(arguments[0], (StoredTensor, Inert)):
        raise WrongPickleError("a parameter in it has no tensor")
    return arguments[0]


def _of_type(arguments: Arguments) -> object:
    """A tensor with attributes, or of a subclass, which are left out."""
    function, _, inner, *_ = arguments
    if isinstance(function, Inert):
        return function
    if not isinstance(function, Known) or function.build is _of_type or not isinstance(inner, tuple):
        raise WrongPickleError("a tensor of a subclass in it isn't built by torch")
    return function.build(cast(Arguments, inner))


def _unreadable(what: str) -> Callable[[Arguments], StoredTensor]:
    """A tensor that isn't a plain block of numbers: its shape where it is among the first arguments."""

    def build(arguments: Arguments) -> StoredTensor:
        for held in arguments[:4]:
            inner = cast(Arguments, held) if isinstance(held, tuple) else ()
            for candidate in (inner, *inner[:4]):
                with suppress(WrongPickleError):
                    if isinstance(candidate, tuple) and candidate:
                        return StoredTensor(what, counts(cast(object, candidate)))
        return StoredTensor(what, ())

    return build


def _quantized(arguments: Arguments) -> StoredTensor:
    view, _, shape, *_ = arguments
    dtype = view.dtype if isinstance(view, StorageView) else None
    return StoredTensor(f"quantized {dtype or 'numbers'}", counts(shape))


def _mapping(arguments: Arguments) -> Table:
    table = Table()
    for held in arguments[:1]:
        if isinstance(held, Table):
            table.named |= held.named
            table.others += held.others
        elif isinstance(held, list):
            for pair in cast("list[object]", held):
                if not isinstance(pair, (tuple, list)) or len(cast("list[object]", pair)) != 2:
                    raise WrongPickleError("a mapping in it is built from something else than pairs")
                table.put(*cast("list[object]", pair))
    return table


def _default_mapping(arguments: Arguments) -> Table:
    return _mapping(arguments[1:])


def _items(arguments: Arguments) -> list[object]:
    held = arguments[0] if arguments else ()
    if isinstance(held, Members):
        return list(held.values)
    if not isinstance(held, (list, tuple)):
        raise WrongPickleError("a container in it is built from something else than a list")
    return list(cast("list[object]", held))


def _encoded(arguments: Arguments) -> object:
    """Bytes that old protocols write as a string."""
    text, encoding = (*arguments, "utf-8")[:2]
    if isinstance(text, Inert):
        return text
    # Its type first: to hash tuples that lie very deep in one another overflows the stack of the process.
    if not isinstance(encoding, str) or encoding not in {"latin1", "latin-1", "utf-8", "ascii"}:
        return Inert("builtins.bytes")
    if not isinstance(text, str) or len(text) > ENCODED:
        return Inert("builtins.bytes")
    try:
        return text.encode(encoding)
    except UnicodeEncodeError:
        raise WrongPickleError("a string in it can't be encoded") from None


def _bytes(arguments: Arguments) -> object:
    if not arguments:
        return b""
    if isinstance(arguments[0], bytes):
        return arguments[0]
    return _encoded(arguments) if isinstance(arguments[0], str) else Inert("builtins.bytes")


def _complex(arguments: Arguments) -> complex:
    if len(arguments) != 2 or not all(isinstance(part, (int, float)) for part in arguments):
        raise WrongPickleError("a complex number in it isn't one")
    try:
        return complex(*cast("tuple[float, float]", arguments))
    except OverflowError:
        raise WrongPickleError("a complex number in it is too large") from None


def _numpy_dtype(arguments: Arguments) -> object:
    code = arguments[0] if arguments else None
    return NumpyDType(code) if isinstance(code, str) and len(code) <= 10 else Inert("numpy.dtype")


def _numpy_scalar(arguments: Arguments) -> object:
    dtype, raw = (*arguments, None, None)[:2]
    if isinstance(raw, str) and len(raw) <= 8:
        raw = raw.encode("latin-1", "ignore")
    if not isinstance(dtype, NumpyDType) or dtype.code not in NUMPY_CODES or not isinstance(raw, bytes):
        return Inert("numpy.generic")
    code = (">" if dtype.order == ">" else "<") + NUMPY_CODES[dtype.code]
    if struct.calcsize(code) != len(raw):
        raise WrongPickleError("a numpy scalar in it has a wrong length")
    return struct.unpack(code, raw)[0]


_BUILDS: Mapping[str, Callable[[Arguments], object]] = {
    "torch._utils._rebuild_tensor": _tensor,
    "torch._utils._rebuild_tensor_v2": _tensor,
    "torch._utils._rebuild_tensor_v3": _tensor_of_dtype,
    "torch._utils._rebuild_parameter": _parameter,
    "torch._utils._rebuild_parameter_with_state": _parameter,
    "torch.nn.parameter.Parameter": _parameter,
    "torch.nn.parameter.Buffer": _parameter,
    "torch.nn.Parameter": _parameter,
    "torch._tensor._rebuild_from_type": _of_type,
    "torch._tensor._rebuild_from_type_v2": _of_type,
    "torch._utils._rebuild_qtensor": _quantized,
    "torch._utils._rebuild_sparse_tensor": _unreadable("sparse numbers"),
    "torch._utils._rebuild_sparse_csr_tensor": _unreadable("sparse numbers"),
    "torch._utils._rebuild_nested_tensor": _unreadable("a nested tensor"),
    "torch._utils._rebuild_meta_tensor_no_storage": _unreadable("a shape without numbers (device meta)"),
    "torch._utils._rebuild_wrapper_subclass": _unreadable("a tensor of a subclass"),
    "torch._utils._rebuild_xla_tensor": _unreadable("a numpy array"),
    "torch._utils._rebuild_device_tensor_from_numpy": _unreadable("a numpy array"),
    "torch._utils._rebuild_device_tensor_from_cpu_tensor": _parameter,
    "torch.Size": lambda arguments: counts(arguments[0] if arguments else ()),
    "collections.OrderedDict": _mapping,
    "collections.Counter": _mapping,
    "collections.defaultdict": _default_mapping,
    "collections.deque": _items,
    "builtins.dict": _mapping,
    "builtins.list": _items,
    "builtins.tuple": lambda arguments: tuple(_items(arguments)),
    "builtins.set": lambda arguments: Members(_items(arguments)),
    "builtins.frozenset": lambda arguments: Members(_items(arguments)),
    "builtins.bytes": _bytes,
    "builtins.bytearray": _bytes,
    "builtins.complex": _complex,
    "_codecs.encode": _encoded,
    "numpy.dtype": _numpy_dtype,
    "numpy.core.multiarray.scalar": _numpy_scalar,
    "numpy._core.multiarray.scalar": _numpy_scalar,
}
KNOWN: Mapping[str, Known] = {name: Known(name, build) for name, build in _BUILDS.items()}


def memory_of(built: object) -> int:
    """Bytes that what a constructor built takes in Python, roughly."""
    if isinstance(built, StoredTensor):
        return 150 + 100 * len(built.shape)
    if isinstance(built, Table):
        return 180 + 120 * (len(built.named) + len(built.others))
    if isinstance(built, Members):
        return 120 + 8 * len(built.values)
    if isinstance(built, (list, tuple)):
        return 60 + 8 * len(cast("list[object]", built))
    return 100


def work_on(arguments: Arguments) -> int:
    """Bytes that a constructor may copy of its arguments, before it is known what it builds."""
    total = 0
    for one in arguments:
        if isinstance(one, Table):
            total += 120 * (len(one.named) + len(one.others))
        elif isinstance(one, Members):
            total += 8 * len(one.values)
        elif isinstance(one, list):
            total += 120 * len(cast("list[object]", one))
        elif isinstance(one, (tuple, str)):
            total += 8 * len(cast("tuple[object, ...]", one))
    return total
