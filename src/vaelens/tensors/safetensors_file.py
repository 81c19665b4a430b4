"""The header of a safetensors file, checked before any tensor is read.

The format: 8 bytes little-endian header length N, N bytes of JSON, then the tensors' bytes
(https://huggingface.co/docs/safetensors). Reading the tensors themselves is the safetensors library's job.
"""

import json
from pathlib import Path
from typing import Any, cast

from vaelens.errors import BadInputError, UnsafeFileError
from vaelens.tensors.file_types import PICKLED, ZIP, check_file
from vaelens.tensors.tensor_file import TensorFile

HEADER_LIMIT = 16_000_000  # bytes; a whole SDXL checkpoint's is 0.4 MB, and Python's view of it 20 times larger


def open_safetensors(path: Path) -> TensorFile:
    """Check a file's header, reading no tensor.

    Raises UnsafeFileError for a pickled file, by its name, before it is opened; BadInputError for a file that is
    missing, incomplete, or something else than safetensors (which is named).
    """
    if path.suffix.lower() in PICKLED:
        raise UnsafeFileError(
            f"{path} is a pickled file, which can run any code when it is read; vaelens doesn't open it. "
            "Use the .safetensors file of the same weights, which most publishers offer beside it."
        )
    head, size = check_file(path)
    length = int.from_bytes(head[:8], "little")
    if head.startswith(ZIP):
        raise BadInputError(f"{path} is a zip archive, most likely a renamed pickled checkpoint, not safetensors.")
    # A pickle's first bytes, read as a header's length, are absurd; a real header may begin with 0x80 too.
    if length > HEADER_LIMIT and head[:1] == b"\x80" and head[1:2] in b"\x02\x03\x04\x05":
        raise BadInputError(f"{path} is a renamed pickled file, not safetensors. Get the .safetensors file.")
    if size < 8:
        raise BadInputError(
            f"{path} isn't a safetensors file: it has only {size} bytes. Use the file of weights itself."
        )
    if length > HEADER_LIMIT:
        raise BadInputError(
            f"{path} isn't a safetensors file (its first 8 bytes give a header of {length} bytes). "
            "Use the file of weights itself."
        )
    if 8 + length > size:
        raise BadInputError(f"{path} is incomplete: {size} of at least {8 + length} bytes. Download it again.")
    with path.open("rb") as file:
        file.seek(8)
        header = _parsed(path, file.read(length))
    return _checked(path, header, size - 8 - length, 8 + length)


def _parsed(path: Path, raw: bytes) -> dict[str, Any]:
    def unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        if len({key for key, _ in pairs}) < len(pairs):
            raise ValueError("a key stands twice")
        return dict(pairs)

    try:
        header = json.loads(raw.decode("utf-8"), object_pairs_hook=unique)
    except (ValueError, RecursionError) as error:
        raise BadInputError(f"{path} isn't a safetensors file: its header isn't valid JSON ({error}).") from error
    if not isinstance(header, dict):
        raise BadInputError(f"{path} isn't a safetensors file: its header isn't a table.")
    return cast(dict[str, Any], header)


def _checked(path: Path, header: dict[str, Any], available: int, start: int) -> TensorFile:
    """The header's entries, typed, against the `available` bytes that follow it."""
    metadata = header.pop("__metadata__", {})
    shapes: dict[str, tuple[int, ...]] = {}
    dtypes: dict[str, str] = {}
    end = 0
    try:
        for name, entry in header.items():
            shapes[name] = tuple(int(n) for n in entry["shape"])
            dtypes[name] = str(entry["dtype"])
            end = max(end, int(entry["data_offsets"][1]))
        metadata = {str(k): str(v) for k, v in metadata.items()}
    except (KeyError, TypeError, ValueError, IndexError, AttributeError, OverflowError) as error:
        raise BadInputError(f"{path} isn't a safetensors file: an entry of its header is malformed.") from error
    if end > available:
        raise BadInputError(f"{path} is incomplete: {start + available} of {start + end} bytes. Download it again.")
    return TensorFile(path, shapes, dtypes, metadata)
