"""The largest activation of each layer, recorded while the network runs."""

import math
import re
from collections.abc import Callable, Collection, Generator, Iterable
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, cast

import torch
from torch import Tensor, nn

HALF_LIMIT = torch.finfo(torch.float16).max  # 65504
BLOCK = re.compile(r"(?:encoder|decoder)\.(?:[a-z_]+(?:\.\d+)?)")


@dataclass
class Maxima:
    """Running maxima per layer; read them with `largest`."""

    _tops: dict[str, Tensor] = field(default_factory=dict[str, Tensor])

    def add(self, name: str, output: Tensor) -> None:
        """Add one output. Stays on its device: a transfer per layer would make a GPU wait 250 times."""
        low, high = torch.aminmax(output.detach())
        top = torch.maximum(-low, high).float()
        self._tops[name] = torch.maximum(self._tops[name], top) if name in self._tops else top

    def largest(self) -> dict[str, float]:
        """The largest absolute output of each layer, in the order of execution; infinity where one was NaN."""
        tops = {name: float(top) for name, top in self._tops.items()}
        return {name: math.inf if math.isnan(top) else top for name, top in tops.items()}


@contextmanager
def recorded(network: nn.Module, residual_blocks: Collection[str]) -> Generator[Maxima]:
    """In this context record every layer of a network, and every block of these classes, whose output is a sum."""
    maxima = Maxima()
    layers = cast(Iterable[tuple[str, nn.Module]], network.named_modules())
    handles = [
        layer.register_forward_hook(_hook(maxima, name))
        for name, layer in layers
        if type(layer).__name__ in residual_blocks or not any(True for _ in layer.children())
    ]
    try:
        yield maxima
    finally:
        for handle in handles:
            handle.remove()


def block_of(layer: str) -> str:
    """The block a layer belongs to: `decoder.up_blocks.1` of `decoder.up_blocks.1.resnets.0.conv1`."""
    found = BLOCK.match(layer)
    return found.group() if found else layer


def worst_by_block(largest: dict[str, float]) -> list[tuple[str, float]]:
    """The layer with the largest activation of each block, and its value; the worst block first."""
    worst: dict[str, tuple[str, float]] = {}
    for layer, top in largest.items():
        block = block_of(layer)
        if block not in worst or top > worst[block][1]:
            worst[block] = layer, top
    return sorted(worst.values(), key=lambda found: -found[1])


def _hook(maxima: Maxima, name: str) -> Callable[[nn.Module, Any, Tensor], None]:
    def add(_layer: nn.Module, _inputs: Any, output: Tensor) -> None:
        maxima.add(name, output)

    return add
