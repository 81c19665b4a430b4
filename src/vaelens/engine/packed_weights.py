"""Packed weights, kept beside their module while its parameters stay as they are."""

import threading
import weakref
from collections.abc import Hashable

import numpy as np
import torch
from torch import Tensor, nn

from vaelens.engine.architecture import Layer
from vaelens.kernels.convolution import Convolution, Kernel

Key = tuple[Hashable, ...]

_kept: "weakref.WeakKeyDictionary[nn.Module, dict[str, tuple[Key, Convolution]]]" = weakref.WeakKeyDictionary()
_lock = threading.Lock()


def prepare(layer: Layer, kernel: Kernel, keep: bool) -> Convolution:
    """The convolution of a layer: that of an earlier call where its parameters are the same, else packed now.

    With `keep` it serves later calls, as long as the layer's module lives. Several threads may call it.
    """
    key = _key(layer, kernel)
    with _lock:
        found = _kept.get(layer.owner, {}).get(layer.name)
    if found is not None and found[0] == key:
        return found[1]
    with torch.no_grad():
        weight, bias = layer.weights()
        convolution = kernel.prepare(weight.detach(), None if bias is None else bias.detach())
    tracked = not any(p is not None and p.is_inference() for p in layer.parameters)  # those have no version
    if keep and kernel.packed_bytes and tracked:
        with _lock:
            _kept.setdefault(layer.owner, {})[layer.name] = key, convolution
    return convolution


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
