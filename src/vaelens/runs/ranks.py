"""Several processes on one run, joined through Accelerate: `torchrun ... -m vaelens evaluate ...` or finetune.

Tensors are averaged here, by one sum over all processes: nothing wraps a network, so nothing can be bypassed.
"""

import atexit
import importlib
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, TypeVar

import torch
from torch import Tensor

from vaelens.errors import UsageError
from vaelens.runs.plan import as_stored
from vaelens.text.numbers import parse_integer

T = TypeVar("T")
TIMEOUT = timedelta(days=7)  # ranks may finish far apart


@dataclass(frozen=True)
class Ranks:
    """This process, one of `count`; a single process is rank 0 of 1."""

    number: int = 0
    count: int = 1

    @property
    def is_first(self) -> bool:
        """Whether this is the process that notifies, merges and writes."""
        return self.number == 0

    def wait(self) -> None:
        """Block until all ranks have come here."""
        if self.count > 1:
            torch.distributed.barrier()  # pyright: ignore[reportUnknownMemberType]

    def gather(self, one: Any) -> list[Any]:
        """The values of all ranks, in their order, on every rank."""
        if self.count == 1:
            return [one]
        return _utils().gather_object([one])

    def broadcast(self, one: T) -> T:
        """Rank 0's value, on every rank."""
        if self.count == 1:
            return one
        held: list[Any] = [one]
        _utils().broadcast_object_list(held)
        return held[0]

    def require_same(self, plan: Mapping[str, Any]) -> None:
        """Raises UsageError on every rank unless all have the same plan: images, versions, threads, batch size ..."""
        plans: list[dict[str, Any]] = self.gather(as_stored(plan))
        for number, other in enumerate(plans):
            changed = [key for key in other if other[key] != plans[0].get(key)]
            if changed:
                raise UsageError(  # options too, since where one rank has a folder to resume, it takes them from there
                    f"rank {number} and rank 0 differ in {', '.join(changed)}. "
                    "Give all machines the same images, packages and options."
                )


def _utils() -> Any:
    from accelerate import utils  # noqa: PLC0415  # pyright: ignore[reportMissingTypeStubs]  (a second to import)

    return utils


def world_size() -> int:
    """How many processes torchrun started, by its environment variable; 1 without it. Raises UsageError."""
    text = os.environ.get("WORLD_SIZE", "1")
    try:
        count = parse_integer(text)
    except ValueError:
        count = 0
    if count < 1:
        raise UsageError(f"WORLD_SIZE is {text[:40]!r}, not a number of processes. Unset it, or start with torchrun.")
    return count


def join_ranks(device: str) -> Ranks:
    """This process' rank, from torchrun's environment variables; gloo on the CPU, nccl on CUDA devices.

    Raises UsageError where some of the variables are missing.
    """
    count = world_size()
    if count == 1:
        return Ranks()
    if "RANK" not in os.environ or "MASTER_ADDR" not in os.environ:
        raise UsageError("WORLD_SIZE is set, but not RANK and MASTER_ADDR. Start it with torchrun.")
    # Its functions keep the group that stands when it is first imported, so that group would never end (torch 2.13).
    importlib.import_module("torch.distributed.nn.functional")
    from accelerate import PartialState  # noqa: PLC0415  # pyright: ignore[reportMissingTypeStubs]  (a second to import)

    state: Any = PartialState(cpu=device == "cpu", timeout=TIMEOUT)
    atexit.register(leave_group)
    return Ranks(state.process_index, state.num_processes)


def leave_group() -> None:
    """End the group's threads while Python still runs: at the process' exit they sometimes abort it."""
    distributed: Any = torch.distributed
    if distributed.is_initialized():
        distributed.destroy_process_group()


@torch.no_grad()
def mean_over_ranks(tensors: Sequence[Tensor], ranks: int) -> None:
    """Replace each of these tensors, which have one dtype, by its mean over all ranks."""
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
    """Whether the flag is set on any rank."""
    if ranks == 1:
        return flag
    held = torch.tensor([float(flag)], device=device)
    _sum(held)
    return bool(held.item() > 0)


def _sum(tensor: Tensor) -> None:
    distributed: Any = torch.distributed
    distributed.all_reduce(tensor)
