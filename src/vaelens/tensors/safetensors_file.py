"""The header of a safetensors file, checked before any tensor is read.

The format: 8 bytes little-endian header length N, N bytes of JSON, then the tensors' bytes
(https://huggingface.co/docs/safetensors). Reading the tensors themselves is the safetensors library's job.
"""

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any, TypeGuard, cast

from vaelens.errors import BadInputError, UnsafeFileError
from vaelens.json_reading import JSON_BYTES, parse_json, quoted
from vaelens.tensors.file_types import check_file
from vaelens.tensors.tensor_file import TensorFile
from vaelens.text.file_kinds import ARCHIVE, TEXT, file_kind
from vaelens.text.numbers import counted

HEADER_LIMIT = JSON_BYTES
LARGEST = 2**63 - 1  # of what torch takes as a size
DIMENSIONS = 64
BITS = {
    "BOOL": 8, "U8": 8, "I8": 8, "F8_E4M3": 8, "F8_E5M2": 8, "F8_E8M0": 8,
    "F8_E4M3FNUZ": 8, "F8_E5M2FNUZ": 8, "F4": 4, "F6_E2M3": 6, "F6_E3M2": 6,
    "I16": 16, "U16": 16, "F16": 16, "BF16": 16, "I32": 32, "U32": 32, "F32": 32, "C64": 64,
    "I64": 64, "U64": 64, "F64": 64,
}  # fmt: skip


def open_safetensors(path: Path) -> TensorFile:
    """Check a file's header, reading no tensor.

    Raises UnsafeFileError for a pickled file, BadInputError for one that is missing, incomplete, or something else
    than safetensors (which is named).
    """
    head, size = check_file(path)
    length = int.from_bytes(head[:8], "little")
    kind = file_kind(head)
    if kind is ARCHIVE:
        raise BadInputError(
            f"{path} is {ARCHIVE.name}, not a safetensors file. Unpack it, or download the .safetensors file."
        )
    if kind is not None and kind.use == "pickle":
        raise UnsafeFileError(
            f"{path} is {kind.name}, and only a safetensors file is read here. Use the .safetensors file of the same "
            "content."
        )
    if kind is TEXT:
        raise BadInputError(TEXT.instead_of_weights(path))
    if size < 8:
        raise BadInputError(
            f"{path} isn't a safetensors file: it has only {counted(size, 'byte')}. Use the file of weights itself."
        )
    if length > HEADER_LIMIT:
        raise BadInputError(
            f"{path} isn't a safetensors file (its first 8 bytes give a header of {length:,} bytes). "
            "Use the file of weights itself."
        )
    if 8 + length > size:
        raise BadInputError(f"{path} is incomplete: {size} of at least {8 + length} bytes. Download it again.")
    with path.open("rb") as file:
        file.seek(8)
        header = _parsed(path, file.read(length))
    return _checked(path, header, size - 8 - length, 8 + length)


def _parsed(path: Path, raw: bytes) -> dict[str, Any]:
    try:
        header = parse_json(raw, limit=HEADER_LIMIT)
    except ValueError as error:
        raise BadInputError(
            f"{path} isn't a safetensors file: its header isn't valid JSON ({error}). Download it again."
        ) from error
    if not isinstance(header, dict):
        raise BadInputError(f"{path} isn't a safetensors file: its header isn't a table. Download it again.")
    return cast(dict[str, Any], header)


def _checked(path: Path, header: dict[str, Any], available: int, start: int) -> TensorFile:
    """The header's entries, typed, against the `available` bytes that follow it."""
    shapes: dict[str, tuple[int, ...]] = {}
    dtypes: dict[str, str] = {}
    places: list[tuple[int, int, str]] = []
    try:
        metadata = _metadata(header.pop("__metadata__", None))
        for name, entry in header.items():
            try:
                shapes[name], dtypes[name], begin, end = _entry(entry)
            except ValueError as error:
                raise ValueError(f"{quoted(name)}: {error}") from None
            places.append((begin, end, name))
        covered = _check_places(sorted(places))
    except ValueError as error:
        raise BadInputError(
            f"{path} isn't a safetensors file: an entry of its header is malformed ({error}). Download it again."
        ) from error
    if covered > available:
        raise BadInputError(f"{path} is incomplete: {start + available} of {start + covered} bytes. Download it again.")
    if covered < available:
        raise BadInputError(
            f"{path} isn't a safetensors file: {counted(available - covered, 'byte')} after its last tensor. "
            "Download it again."
        )
    return TensorFile(path, shapes, dtypes, metadata)


def _metadata(held: object) -> dict[str, str]:
    if not isinstance(held, dict | None):
        raise ValueError(f"__metadata__ is {quoted(held)}, not a table")
    metadata = cast(dict[str, Any], held or {})
    for key, value in metadata.items():
        if not isinstance(value, str):
            raise ValueError(f"__metadata__: {quoted(key)} is {quoted(value)}, not text")
    return metadata


def _entry(entry: object) -> tuple[tuple[int, ...], str, int, int]:
    """A tensor's shape, dtype, and where its bytes begin and end. Raises ValueError where they don't fit."""
    if not isinstance(entry, dict):
        raise ValueError(f"{quoted(entry)} isn't a table")
    held = cast(dict[str, Any], entry)
    shape, dtype, offsets = (held.get(key) for key in ("shape", "dtype", "data_offsets"))
    if not isinstance(dtype, str) or dtype not in BITS:
        raise ValueError(f"the dtype is {quoted(dtype)}")
    if not _are_counts(shape) or len(shape) > DIMENSIONS:
        raise ValueError(f"the shape is {quoted(shape)}")
    if not _are_counts(offsets) or len(offsets) != 2 or offsets[0] > offsets[1]:
        raise ValueError(f"the offsets are {quoted(offsets)}")
    begin, end = offsets
    elements = math.prod(shape)
    if elements * BITS[dtype] != (end - begin) * 8:
        raise ValueError(f"{counted(end - begin, 'byte')} for the shape {quoted(shape)} in {dtype}")
    return tuple(shape), dtype, begin, end


def _are_counts(values: object) -> TypeGuard[list[int]]:
    """Whether these are whole numbers from 0 to LARGEST; JSON's true and false are neither."""
    return isinstance(values, list) and all(type(n) is int and 0 <= n <= LARGEST for n in cast(list[object], values))


def _check_places(places: Sequence[tuple[int, int, str]]) -> int:
    """The bytes covered by tensors in order of their places, each of which begins where the one before it ends."""
    covered = 0
    for begin, end, name in places:
        if begin != covered:
            problem = "overlaps the tensor before it" if begin < covered else "doesn't begin where the one before ends"
            raise ValueError(f"{quoted(name)} {problem}, at byte {begin} instead of {covered}")
        covered = end
    return covered
