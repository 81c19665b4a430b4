"""More processes and machines on one evaluation, through Accelerate: `torchrun ... -m vaelens evaluate ...`.

Whole chunks go round the ranks, so nothing is padded and no picture counts twice. At the end rank 0 takes over
what its folder lacks; where all ranks share one folder, nothing has to be sent.
"""

import atexit
import importlib
import json
import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, cast

import torch

from vaelens.errors import UsageError
from vaelens.evaluation.folder import RunFolder
from vaelens.report.record import json_text

PORTION = 256  # units sent at once
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
        from accelerate import utils  # noqa: PLC0415  # pyright: ignore[reportMissingTypeStubs]  (a second to import)

        accelerate: Any = utils
        return accelerate.gather_object([one])

    def agree(
        self, plan: Mapping[str, Any], would: str = "measure", same: str = "pictures, packages, --batch and --threads"
    ) -> None:
        """Raises UsageError on every rank unless all have the same plan: pictures, versions, threads, batch ..."""
        plans: list[dict[str, Any]] = self.collect(json.loads(json_text(plan)))
        for number, other in enumerate(plans):
            changed = [key for key in other if other[key] != plans[0].get(key)]
            if changed:
                raise UsageError(  # --batch, since where only one has an old folder, that one takes it from there
                    f"rank {number} would {would} something else than rank 0: other {', '.join(changed)}. "
                    f"Give all machines the same {same}."
                )

    def gather(self, folder: RunFolder, vaes: Iterable[str]) -> None:
        """Bring every unit that rank 0's folder lacks, and another rank's has, into rank 0's."""
        if self.count == 1:
            return
        from accelerate import utils  # noqa: PLC0415  # pyright: ignore[reportMissingTypeStubs]  (a second to import)

        accelerate: Any = utils
        folder.refresh()
        units = [(chunk, vae) for chunk in range(folder.chunks) for vae in vaes]
        asked: list[Any] = [[unit for unit in units if not folder.is_done(*unit)]]
        accelerate.broadcast_object_list(asked)  # what rank 0 lacks
        lacking = cast(list[tuple[int, str]], asked[0])
        for start in range(0, len(lacking), PORTION):  # a portion at a time is in memory
            portion = lacking[start : start + PORTION]
            mine = [] if self.is_first else [unit for unit in portion if folder.is_done(*unit)]
            sent: Any = accelerate.gather_object([(unit, folder.unit(*unit)) for unit in mine])
            if self.is_first:
                for (chunk, vae), (rows, bad, features) in cast(list[Any], sent):
                    folder.add(chunk, vae, rows, bad, features)


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
