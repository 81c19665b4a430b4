"""CUDA graphs of calls whose shape comes again: a decode of 512x512 pixels is hundreds of launches otherwise."""

import threading
from collections import OrderedDict
from collections.abc import Callable, Hashable
from dataclasses import dataclass, field
from typing import Protocol

import torch
from torch import Tensor

from vaelens.resources import is_out_of_memory
from vaelens.runtime import Notify

KEPT = 4  # graphs of a network, at most
SHARE = 0.25  # of the device's memory, which they may hold
REMEMBERED = 64  # shapes that have come once

Function = Callable[[Tensor], Tensor]


class Graph(Protocol):
    """A call that was captured: of images of one shape."""

    @property
    def held_bytes(self) -> int: ...
    def replay(self, image: Tensor) -> Tensor: ...


Capture = Callable[[Function, Tensor], Graph]


@dataclass
class Graphs:
    """A network's graphs, those used last. `room` is how many bytes they may hold.

    A shape is captured when it comes for the second time: most images come once, and capturing takes longer than they
    do. Threads take turns, since a graph has one input.
    """

    capture: Capture
    room: int
    kept: "OrderedDict[Hashable, Graph]" = field(default_factory=OrderedDict[Hashable, Graph])
    failed: bool = False
    _seen: "OrderedDict[Hashable, None]" = field(default_factory=OrderedDict[Hashable, None])
    _lock: threading.RLock = field(default_factory=threading.RLock)

    def run(self, key: Hashable, function: Function, image: Tensor, notify: Notify) -> Tensor:
        """The function of an image, whose shape and all that its graph depends on are the key."""
        with self._lock:
            if (graph := self.kept.get(key)) is None and not self.failed and key in self._seen:
                graph = self._captured(key, function, image, notify)
            if graph is None:
                self._seen[key] = None
                while len(self._seen) > REMEMBERED:
                    self._seen.popitem(last=False)
                return function(image)
            self.kept.move_to_end(key)
            return graph.replay(image)

    def clear(self) -> None:
        """Give the memory of all graphs back; shapes count as new."""
        with self._lock:
            self.kept.clear()
            self._seen.clear()

    def _captured(self, key: Hashable, function: Function, image: Tensor, notify: Notify) -> Graph | None:
        """A new graph; None where there is no room for it, or capturing fails, which isn't tried again."""
        try:
            graph = self.capture(function, image)
        except RuntimeError as error:
            del self._seen[key]
            if is_out_of_memory(error):
                self.clear()
                return None
            self.failed = True
            notify(f"CUDA graphs can't be used here: {str(error).splitlines()[0]}. Calls are launched one by one.")
            return None
        if graph.held_bytes > self.room:
            del self._seen[key]
            return None
        self.kept[key] = graph
        while len(self.kept) > KEPT or sum(one.held_bytes for one in self.kept.values()) > self.room:
            self.kept.popitem(last=False)
        return graph


class CudaGraph:
    """See `Graph`."""

    def __init__(self, function: Function, image: Tensor) -> None:
        device = image.device
        with torch.cuda.device(device):
            self._input = image.clone()
            stream = torch.cuda.Stream()
            stream.wait_stream(torch.cuda.current_stream())
            with torch.cuda.stream(stream):  # libraries set themselves up on the stream that is captured
                function(self._input)
            torch.cuda.current_stream().wait_stream(stream)
            torch.cuda.empty_cache()
            before = torch.cuda.memory_reserved(device)
            self._graph = torch.cuda.CUDAGraph()
            with torch.cuda.graph(self._graph, stream=stream, capture_error_mode="thread_local"):
                self._output = function(self._input)
            self.held_bytes = torch.cuda.memory_reserved(device) - before

    def replay(self, image: Tensor) -> Tensor:
        """The result is the caller's own."""
        self._input.copy_(image)
        self._graph.replay()
        return self._output.clone()
