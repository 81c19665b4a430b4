"""A network run on whole maps, with what is kept between calls: weights in another layout, and graphs."""

import threading
import weakref
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from vaelens.engine.architecture import Step, decoder_steps, encoder_steps
from vaelens.engine.gpu.graphs import SHARE, Capture, CudaGraph, Graphs
from vaelens.engine.gpu.norms import by_torch, by_triton
from vaelens.engine.gpu.ways import Way
from vaelens.engine.gpu.whole_maps import WholeMaps, whole_bytes
from vaelens.engine.packed_weights import state
from vaelens.engine.plan import Direction
from vaelens.resources import free_memory, is_out_of_memory
from vaelens.runtime import Notify, log

RESERVE = 0.1  # of the free memory, for what else the device does


@dataclass
class _Kept:
    """What belongs to one state of a network's parameters."""

    state: tuple[Hashable, ...]
    dtype: torch.dtype
    graphs: Graphs
    steps: dict[Direction, list[Step]] = field(default_factory=dict[Direction, list[Step]])
    halves: dict[Direction, WholeMaps] = field(default_factory=dict[Direction, WholeMaps])


_kept: "weakref.WeakKeyDictionary[nn.Module, _Kept]" = weakref.WeakKeyDictionary()
_lock = threading.Lock()


@torch.no_grad()
def run(
    network: nn.Module,
    direction: Direction,
    image: Tensor,
    way: Way,
    *,
    max_memory: int | None = None,
    notify: Notify = log,
    capture: Capture = CudaGraph,
) -> Tensor | None:
    """Raw z [b,c,h/f,w/f] to raw pixels, or raw pixels [b,3,h,w] to moments, float32.

    As many images are run at once as fit. None where whole maps of one don't fit into `max_memory` (bytes; None: what
    is free), or memory ran out all the same, of which `notify` hears. With a `max_memory` nothing is captured, since
    graphs hold their memory. Raises UsageError for a network of another kind.
    """
    kept = _kept_for(network, capture, image.device)
    if direction not in kept.steps:
        kept.steps[direction] = decoder_steps(network) if direction == "decode" else encoder_steps(network)
    steps = kept.steps[direction]
    size = image.shape[2], image.shape[3]
    budget, count = _budget(max_memory, image.device), len(image)
    while whole_bytes(steps, size, count, kept.dtype, fp32_norms=not way.triton) > budget:
        if count == 1:
            return None
        count = -(-count // 2)
    found = _attempt(kept, direction, torch.split(image, count), way if max_memory is None else Way(way.triton), notify)
    if found is None:
        kept.halves.clear()
        kept.graphs.clear()
        _forget(network)
        doing = f"{direction[:-1]}ing {size[0]}x{size[1]}"
        notify(f"Memory ran out while {doing} as a whole. It begins again within a plan.")
    return found


def _attempt(kept: _Kept, direction: Direction, images: Sequence[Tensor], way: Way, notify: Notify) -> Tensor | None:
    """None where memory ran out. When this returns, all that the attempt held is free, but for what is kept."""
    normalise, parts = by_triton if way.triton else by_torch, list[Tensor]()
    try:
        if direction not in kept.halves:
            kept.halves[direction] = WholeMaps(kept.steps[direction], kept.dtype)
        half = kept.halves[direction]
        function: Callable[[Tensor], Tensor] = lambda x: half.run(x, normalise)  # noqa: E731
        for image in images:
            if way.graphs:
                key = direction, tuple(image.shape), image.dtype, image.device, way, _stream(image.device)
                parts.append(kept.graphs.run(key, function, image, notify))
            else:
                parts.append(function(image))
        return parts[0] if len(parts) == 1 else torch.cat(parts)
    except (MemoryError, RuntimeError) as error:
        if not is_out_of_memory(error):
            raise
        return None


def _budget(max_memory: int | None, device: torch.device) -> float:
    if max_memory is not None:
        return max_memory
    free = free_memory(device)
    return float("inf") if free is None else free * (1 - RESERVE)


def _kept_for(network: nn.Module, capture: Capture, device: torch.device) -> _Kept:
    """What is kept for the parameters as they are; what belongs to an earlier state is dropped."""
    parameters = list(network.parameters())
    present = state(parameters)
    with _lock:
        found = _kept.get(network)
        if found is not None and found.state == present:
            return found
        found = _Kept(present, parameters[0].dtype, Graphs(capture, _room(device)))
        if not any(parameter.is_inference() for parameter in parameters):  # those don't tell when they change
            _kept[network] = found
        else:
            _kept.pop(network, None)
    return found


def _forget(network: nn.Module) -> None:
    with _lock:
        _kept.pop(network, None)
    if torch.cuda.is_available():
        torch.cuda.empty_cache()


def _room(device: torch.device) -> int:
    """Bytes that a network's graphs may hold."""
    if device.type != "cuda":
        return 0
    return int(torch.cuda.mem_get_info(device)[1] * SHARE)


def _stream(device: torch.device) -> int:
    """A graph is replayed on the stream that it was captured for: on two, calls could overlap in its one input."""
    return torch.cuda.current_stream(device).cuda_stream if device.type == "cuda" else 0
