"""How far apart the weights of several VAEs are: one pass over all of them, a block of a tensor at a time.

The distance of a from b is ‖a - b‖ / ‖b‖, the relative L2 distance over all tensors of one half.
"""

import math
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import torch
from torch import Tensor

Weights = Mapping[str, Tensor]

BLOCK = 1 << 15  # values of each VAE at a time, so that a few VAEs' blocks stay in the processor's cache


@dataclass(frozen=True)
class Distances:
    """Inner products in float64 of n VAEs' weights: `gram` [n,n] of their differences from the first, `squares` [n]."""

    gram: Tensor
    squares: Tensor

    def between(self, a: int, b: int) -> float:
        """‖a - b‖ / ‖b‖; it resolves about 1e-7."""
        return math.sqrt(max(0.0, self.product(a, a, b)) / max(self.squares[b].item(), 1e-300))

    def product(self, a: int, b: int, origin: int) -> float:
        """The inner product of a - origin and b - origin."""
        gram = self.gram
        return (gram[a, b] - gram[a, origin] - gram[origin, b] + gram[origin, origin]).item()


def distances(vaes: Sequence[Weights]) -> Distances:
    """Of VAEs, or halves of them, whose tensors have the same names and numbers of values."""
    together = ([vae[name] for vae in vaes] for name in sorted(vaes[0]))
    with ThreadPoolExecutor() as pool:
        parts = list(pool.map(_of_tensor, together))
    gram = torch.zeros(len(vaes), len(vaes), dtype=torch.float64)
    squares = torch.zeros(len(vaes), dtype=torch.float64)
    for of_gram, of_squares in parts:  # always in the same order
        gram += of_gram
        squares += of_squares
    return Distances(gram, squares)


def _of_tensor(tensors: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
    flat = [tensor.reshape(-1) for tensor in tensors]
    gram = torch.zeros(len(flat), len(flat), dtype=torch.float64)
    squares = torch.zeros(len(flat), dtype=torch.float64)
    for start in range(0, flat[0].numel(), BLOCK):
        block = torch.stack([one[start : start + BLOCK].double() for one in flat])
        squares += (block * block).sum(dim=1)
        block -= block[0].clone()
        gram += block @ block.T
    return gram, squares
