"""Several processes on one run, joined through Accelerate: `torchrun ... -m vaelens evaluate ...` or finetune.

Tensors are averaged here, by one sum over all processes: nothing wraps a network, so nothing can be bypassed.
"""

import atexit
import importlib
import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, TypeVar

import torch
from torch import Tensor

from vaelens.errors import UsageError
from vaelens.files import json_text

T = TypeVar("T")
PATIENCE = timedelta(days=7)  # ranks may finish far apart


@dataclass(frozen=True)
class Ranks:
    """This process among `count`; alone it is 0 of 1."""

    number: int = 0
    count: int = 1

    @property
    def is_first(self) -> bool:
        """Whether this is the process that says, merges and writes."""
        return self.number == 0

    def wait(self) -> None:
        """Until all are here."""
        if self.count > 1:
            torch.distributed.barrier()  # pyright: ignore[reportUnknownMemberType]

    def collect(self, one: Any) -> list[Any]:
        """What each rank gives, in their order, for all of them."""
        if self.count == 1:
            return [one]
        return _utils().gather_object([one])

    def from_first(self, one: T) -> T:
        """What rank 0 gives, for all of them."""
        if self.count == 1:
            return one
        held: list[Any] = [one]
        _utils().broadcast_object_list(held)
        return held[0]

    def agree(
        self, plan: Mapping[str, Any], would: str = "measure", same: str = "images, packages, --batch and --threads"
    ) -> None:
        """Raises UsageError on every rank unless all have the same plan: images, versions, threads, batch ..."""
        plans: list[dict[str, Any]] = self.collect(json.loads(json_text(plan)))
        for number, other in enumerate(plans):
            changed = [key for key in other if other[key] != plans[0].get(key)]
            if changed:
                raise UsageError(  # --batch, since where only one has an old folder, that one takes it from there
                    f"rank {number} would {would} something else than rank 0: other {', '.join(changed)}. "
                    f"Give all machines the same {same}."
                )


def _utils() -> Any:
    from accelerate import utils  # noqa: PLC0415  # pyright: ignore[reportMissingTypeStubs]  (a second to import)

    return utils


def join_ranks(device: str) -> Ranks:
    """This process' place, from what torchrun says in the environment: gloo on the CPU, nccl on CUDA devices.

    Raises UsageError where the environment is half set.
    """
    count = int(os.environ.get("WORLD_SIZE", "1"))
    if count == 1:
        return Ranks()
    if "RANK" not in os.environ or "MASTER_ADDR" not in os.environ:
        raise UsageError("WORLD_SIZE is set, but not RANK and MASTER_ADDR. Start it with torchrun.")
    # Its functions keep the group that stands when it is first imported, so that group would never end (torch 2.13).
    importlib.import_module("torch.distributed.nn.functional")
    from accelerate import PartialState  # noqa: PLC0415  # pyright: ignore[reportMissingTypeStubs]  (a second to import)

    state: Any = PartialState(cpu=device == "cpu", timeout=PATIENCE)
    atexit.register(leave)
    return Ranks(state.process_index, state.num_processes)


def leave() -> None:
    """End the group's threads while Python still runs: ended by the process' exit, they sometimes abort it."""
    distributed: Any = torch.distributed
    if distributed.is_initialized():
        distributed.destroy_process_group()


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
