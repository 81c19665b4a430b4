"""Packed weights, kept beside their module while its parameters stay as they are."""

import threading
import weakref
import zlib
from collections.abc import Collection, Hashable, Sequence
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from vaelens.engine.architecture import Layer
from vaelens.kernels.convolution import Convolution, Kernel

Key = tuple[Hashable, ...]


class _Entry(NamedTuple):
    key: Key
    convolution: Convolution
    device: str  # its type
    bytes: int


COLUMNS = 1021  # prime: no channel or row of a weight begins in the column of another
INTEGERS = {2: torch.int16, 4: torch.int32, 8: torch.int64}  # by bytes of a value

_kept: "weakref.WeakKeyDictionary[nn.Module, dict[str, _Entry]]" = weakref.WeakKeyDictionary()
_lock = threading.Lock()


def prepare(layer: Layer, kernel: Kernel, keep: bool) -> Convolution:
    """The convolution of a layer: that of an earlier call where its parameters are the same, else packed now.

    With `keep` it serves later calls, as long as the layer's module lives and `make_room` leaves it. Several threads
    may call it.
    """
    key = _key(layer, kernel)
    with _lock:
        entries = _kept.get(layer.owner, {})
        if (found := entries.get(layer.name)) is not None and found.key == key:
            return found.convolution
        entries.pop(layer.name, None)  # before others are made
        found = None
    with torch.no_grad():
        weight, bias = layer.weights()
        convolution = kernel.prepare(weight.detach(), None if bias is None else bias.detach())
    tracked = not any(p is not None and p.is_inference() for p in layer.parameters)  # those have no version
    if keep and kernel.packed_bytes and tracked:
        with _lock:
            _kept.setdefault(layer.owner, {})[layer.name] = _Entry(
                key, convolution, weight.device.type, kernel.packed_bytes
            )
    return convolution


def kept_bytes(device: torch.device) -> int:
    """What all packed weights of earlier calls take, of any network, in the memory of a device."""
    with _lock:
        return sum(entry.bytes for _, _, entry in _entries(device))


def make_room(used: Collection[tuple[Layer, Kernel]], device: torch.device, room: float) -> None:
    """Drop the packed weights of earlier calls, of any network, but for those `used` where the rest takes more room.

    `room` is in bytes. What is dropped is packed again when it is needed.
    """
    wanted = {(layer.owner, layer.name): kernel for layer, kernel in used}
    with _lock:
        others = [one for one in _entries(device) if wanted.get(one[:2]) != one[2].convolution.kernel]
        if sum(entry.bytes for _, _, entry in others) > room:
            for owner, name, _ in others:
                del _kept[owner][name]


def _entries(device: torch.device) -> list[tuple[nn.Module, str, _Entry]]:
    return [
        (owner, name, entry)
        for owner, entries in _kept.items()
        for name, entry in entries.items()
        if entry.device == device.type
    ]


def _key(layer: Layer, kernel: Kernel) -> Key:
    return kernel, *state([one for one in layer.parameters if one is not None])


def state(parameters: Sequence[Tensor]) -> tuple[Hashable, ...]:
    """What tells one state of parameters from another. Those on one device are read together.

    Their bytes count, because torch doesn't count every change in place: through `.data`, as EMAs and merged adapters
    write, it doesn't. On the CPU that reads a full-size decoder in some hundredths of a second; a GPU has to finish
    what it was given before.
    """
    elsewhere = [one for one in parameters if one.device.type != "cpu"]
    read = (_identity(one, _content(one) if one.device.type == "cpu" else None) for one in parameters)
    return *read, _content_on_device(elsewhere) if elsewhere else None


def _identity(parameter: Tensor, content: Hashable) -> Hashable:
    version = 0 if parameter.is_inference() else parameter._version
    layout = parameter.data_ptr(), parameter.stride(), parameter.dtype, parameter.device
    return id(parameter), version, *layout, content


def _content(parameter: Tensor) -> int:
    """CRC-32 of the sums of every COLUMNS-th eight bytes, in which places count, and of the rest: as fast as a sum."""
    raw = _as_stored(parameter).view(torch.uint8).numpy()
    whole = len(raw) // (8 * COLUMNS) * (8 * COLUMNS)
    columns = np.add.reduce(raw[:whole].view(np.uint64).reshape(-1, COLUMNS), axis=0)
    return zlib.crc32(raw[whole:].data, zlib.crc32(columns.data))


def _content_on_device(parameters: Sequence[Tensor]) -> int:
    """A sum over all of them in which the places of output channels, of vectors of values, count; in few launches."""
    found, vectors = list[Tensor](), list[Tensor]()
    for one in parameters:
        if one.dim() < 2:
            vectors.append(one.detach().flatten())
        else:
            found.append(_integers(_as_stored(one)).view(one.shape[0], -1).sum(dim=1, dtype=torch.int64))
    if vectors:
        found.append(_integers(torch.cat(vectors)).to(torch.int64))
    sums = torch.cat(found)
    return int((sums * torch.arange(1, 2 * len(sums), 2, device=sums.device)).sum())


def _integers(values: Tensor) -> Tensor:
    return values.view(INTEGERS[values.element_size()])


def _as_stored(parameter: Tensor) -> Tensor:
    """All values in the order of memory, copied only where they aren't side by side."""
    values = parameter.detach()
    if values.is_contiguous():
        return values.view(-1)
    order = sorted(range(values.dim()), key=lambda axis: (-values.stride(axis), axis))
    return values.permute(order).reshape(-1)
