"""Packed weights, kept beside their module while its parameters stay as they are."""

import threading
import weakref
from collections.abc import Collection, Hashable
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
    return kernel, *(identity(parameter) for parameter in layer.parameters)


def identity(parameter: Tensor | None) -> Hashable:
    """What tells one state of a parameter from another.

    On the CPU its bytes are summed up, because torch doesn't count every change in place: through `.data`, as EMAs and
    merged adapters write, it doesn't. That reads a full-size decoder in some hundredths of a second.
    """
    if parameter is None:
        return None
    version = 0 if parameter.is_inference() else parameter._version
    content = _sum(parameter) if parameter.device.type == "cpu" else None
    return id(parameter), parameter.data_ptr(), version, parameter.dtype, parameter.device, content


def _sum(parameter: Tensor) -> tuple[int, bytes]:
    raw = parameter.detach().contiguous().view(-1).view(torch.uint8).numpy()
    whole = len(raw) // 8 * 8
    return int(np.add.reduce(raw[:whole].view(np.uint64))), raw[whole:].tobytes()
