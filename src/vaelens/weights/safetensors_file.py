"""A safetensors file, opened without trust: what it really is, whether it is whole, and its tensors' values.

The format: 8 bytes little-endian header length N, N bytes of JSON, then the tensors' bytes
(https://huggingface.co/docs/safetensors). Reading the tensors themselves is the safetensors library's job.
"""

import json
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from vaelens.errors import BadInputError, CheckFailedError, UnsafeFileError

HEADER_LIMIT = 16_000_000  # bytes; a whole SDXL checkpoint's is 0.4 MB, and Python's view of it 20 times larger
PICKLED = {".ckpt", ".pt", ".pth", ".bin", ".pkl"}
DTYPES = {"F64", "F32", "F16", "BF16"}


@dataclass(frozen=True)
class TensorFile:
    """A safetensors file whose header was checked: shapes and dtypes by name, and its metadata."""

    path: Path
    shapes: dict[str, tuple[int, ...]]
    dtypes: dict[str, str]
    metadata: dict[str, str]

    def read(self, names: Iterable[str]) -> dict[str, Tensor]:
        """The named tensors, each checked to be finite.

        Raises BadInputError for a dtype that weights don't come in and for a file that the library
        refuses; CheckFailedError, naming the tensor, for a NaN or infinity.
        """
        names = list(names)
        for name in names:
            if self.dtypes[name] not in DTYPES:
                raise BadInputError(
                    f"{self.path}: {name} is stored as {self.dtypes[name]}; weights are read from "
                    f"{', '.join(sorted(DTYPES))}. Convert the file first."
                )
            if any(n < 1 for n in self.shapes[name]):
                raise BadInputError(
                    f"{self.path}: {name} is empty, {list(self.shapes[name])}. Download the file again."
                )
        tensors: dict[str, Tensor] = {}
        try:
            with cast(Any, safe_open(self.path, framework="pt", device="cpu")) as opened:
                for name in names:
                    tensors[name] = opened.get_tensor(name)
        except (SafetensorError, OSError) as error:
            raise BadInputError(f"{self.path}: damaged safetensors file: {error}. Download it again.") from error
        for name, tensor in tensors.items():
            bad = int(tensor.numel() - torch.isfinite(tensor).sum())
            if bad:
                raise CheckFailedError(
                    f"{self.path}: {name} holds {bad} value{'s' * (bad > 1)} that {'are' if bad > 1 else 'is'} NaN or "
                    "infinite. The file is damaged: download it again."
                )
        return tensors


def open_tensor_file(path: Path) -> TensorFile:
    """Check a file's header, reading no tensor.

    Raises UnsafeFileError for a pickled file, by its name, before it is opened; BadInputError for a
    file that is missing, incomplete, or something else than safetensors (which is named).
    """
    if path.suffix.lower() in PICKLED:
        raise UnsafeFileError(
            f"{path} is a pickled file, which can run any code when it is read; vaelens doesn't open it. "
            "Use the .safetensors file of the same weights, which most publishers offer beside it."
        )
    try:
        size = path.stat().st_size
        if not path.is_file():
            raise BadInputError(f"{path} is no ordinary file. Name a .safetensors file or a VAE's folder.")
        with path.open("rb") as file:
            head = file.read(512)
            other = _what_it_is(head, size)
            if other:
                raise BadInputError(f"{path} is {other}, not a safetensors file. Download the weights themselves.")
            length = _length(head)
            if length > HEADER_LIMIT:
                raise BadInputError(f"{path} is no safetensors file: it claims a header of {length} bytes.")
            if 8 + length > size:
                raise BadInputError(f"{path} is incomplete: {size} of at least {8 + length} bytes. Download it again.")
            file.seek(8)
            raw = file.read(length)
    except OSError as error:
        raise BadInputError(f"{path}: can't be read: {error.strerror}. Check the path.") from error
    return _checked(path, _header(path, raw), size - 8 - len(raw), 8 + len(raw))


def _what_it_is(head: bytes, size: int) -> str | None:
    """The name of a well-known thing that isn't safetensors; None if it may be one."""
    text = head.lstrip().lower()
    # A pickle's first bytes, read as a header's length, are absurd; a real header may begin with 0x80 too.
    pickle = head[:1] == b"\x80" and head[1:2] in b"\x02\x03\x04\x05" and _length(head) > HEADER_LIMIT
    kinds = (
        (size == 0, "an empty file"),
        (
            text.startswith((b"<!doctype html", b"<html", b"<head")),
            "an HTML page (a login page or an error, saved in its place?)",
        ),
        (
            head.startswith(b"version https://git-lfs"),
            "a git-lfs pointer, not the file it points to (run `git lfs pull`)",
        ),
        (head.startswith(b"PK\x03\x04"), "a zip archive, most likely a renamed pickled checkpoint"),
        (head.startswith(b"GGUF"), "a GGUF file"),
        (pickle, "a renamed pickled file"),
        (size < 8, f"a file of {size} bytes"),
    )
    return next((name for it_is, name in kinds if it_is), None)


def _length(head: bytes) -> int:
    return int.from_bytes(head[:8], "little")


def _header(path: Path, raw: bytes) -> dict[str, Any]:
    def unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        if len({key for key, _ in pairs}) < len(pairs):
            raise ValueError("a key stands twice")
        return dict(pairs)

    try:
        header = json.loads(raw.decode("utf-8"), object_pairs_hook=unique)
    except (ValueError, RecursionError) as error:
        raise BadInputError(f"{path} is no safetensors file: its header isn't valid JSON ({error}).") from error
    if not isinstance(header, dict):
        raise BadInputError(f"{path} is no safetensors file: its header isn't a table.")
    return cast(dict[str, Any], header)


def _checked(path: Path, header: dict[str, Any], have: int, start: int) -> TensorFile:
    """The header's entries, typed, against the `have` bytes that follow it."""
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
        raise BadInputError(f"{path} is no safetensors file: an entry of its header is malformed.") from error
    if end > have:
        raise BadInputError(f"{path} is incomplete: {start + have} of {start + end} bytes. Download it again.")
    return TensorFile(path, shapes, dtypes, metadata)
