"""Several processes on one training: `torchrun ... -m vaelens finetune ...`, joined through Accelerate.

Gradients are averaged here, by one sum over all of them, after the backward pass: nothing wraps the network, so nothing
can be bypassed, and a discriminator may be called as often as it likes.
"""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor


@torch.no_grad()
def mean_over_ranks(tensors: Sequence[Tensor], ranks: int) -> None:
    """Put the mean over all processes in the place of each of these tensors, which are of one precision."""
    if ranks == 1 or not tensors:
        return
    flat = torch.cat([tensor.flatten() for tensor in tensors])
    _sum(flat)
    flat /= ranks
    start = 0
    for tensor in tensors:
        tensor.copy_(flat[start : start + tensor.numel()].view_as(tensor))
        start += tensor.numel()


def any_rank(flag: bool, ranks: int, device: torch.device) -> bool:
    """Whether it is so in any process."""
    if ranks == 1:
        return flag
    held = torch.tensor([float(flag)], device=device)
    _sum(held)
    return bool(held.item() > 0)


def _sum(tensor: Tensor) -> None:
    distributed: Any = torch.distributed
    distributed.all_reduce(tensor)
