"""Safetensors files as bytes: the same tensors and metadata always give the same ones.

The safetensors library's own order of the metadata differs from process to process.
"""

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load, save
from torch import Tensor

from vaelens.errors import CheckFailedError

METADATA = "__metadata__"
CHECKSUM = "sha256"  # the only metadata of checked files: of the whole file, with zeros in the checksum's place
BEFORE_CHECKSUM = f'{{"{METADATA}":{{"{CHECKSUM}":"'.encode()  # how their headers begin
ZEROS = b"0" * 64


def safetensors_bytes(tensors: Mapping[str, Tensor], metadata: Mapping[str, str] | None = None) -> bytes:
    """A safetensors file of contiguous tensors on the CPU, the metadata first in its header, sorted by their keys."""
    plain = memoryview(save(dict(tensors)))
    start = 8 + int.from_bytes(plain[:8], "little")
    header = json.loads(bytes(plain[8:start]))
    if metadata:
        header = {METADATA: dict(sorted(metadata.items()))} | header
    text = json.dumps(header, separators=(",", ":"), ensure_ascii=False).encode()
    text += b" " * (-len(text) % 8)  # so that the tensors are aligned
    return b"".join((len(text).to_bytes(8, "little"), text, plain[start:]))


def tensor_bytes(tensor: Tensor) -> memoryview:
    """The bytes of a tensor on the CPU, in row-major order, as files have them."""
    return tensor.contiguous().reshape(-1).view(torch.uint8).numpy().data


def checked_safetensors(tensors: Mapping[str, Tensor]) -> bytes:
    """The same with a checksum of the whole file, by which `read_checked_safetensors` notices any change."""
    content = bytearray(safetensors_bytes(tensors, {CHECKSUM: ZEROS.decode()}))
    place = _place()
    content[place] = hashlib.sha256(content).hexdigest().encode()
    return bytes(content)


def read_checked_safetensors(path: Path) -> dict[str, Tensor]:
    """What `checked_safetensors` wrote. Raises CheckFailedError where it isn't that any more, and OSError."""
    content = bytearray(path.read_bytes())
    place = _place()
    digest, content[place] = bytes(content[place]), ZEROS
    if bytes(content[8 : place.start]) != BEFORE_CHECKSUM or digest != hashlib.sha256(content).hexdigest().encode():
        raise CheckFailedError(f"{path} is damaged: its checksum is wrong.")
    try:
        return load(bytes(content))
    except (SafetensorError, ValueError) as error:
        raise CheckFailedError(f"{path} is damaged ({error}).") from error


def _place() -> slice:
    """Where a checked file has its checksum."""
    start = 8 + len(BEFORE_CHECKSUM)
    return slice(start, start + len(ZEROS))
