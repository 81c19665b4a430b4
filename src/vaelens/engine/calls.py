"""The one place that calls the engine: `VAE` and `speed_up` go through it, and nothing else does."""

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from vaelens.engine import autoencoder
from vaelens.engine.eligibility import obstacle
from vaelens.engine.plan import Direction, Plan
from vaelens.errors import UsageError
from vaelens.kernels.paths import choose_path
from vaelens.runtime import Notify, log

PLAIN = "plain"  # the path of a network that runs as it is
Call = tuple[Direction, tuple[int, int]]  # what is run, and the height and width of its input


@dataclass
class EngineCalls:
    """A network's calls of the engine, and what is kept between them.

    `max_memory` is the budget in bytes of calls that name none; None: what is free. `notify` hears where memory runs
    out and a smaller plan follows. `plans` are those of the last call for each direction and size.
    """

    network: Any
    max_memory: int | None = None
    notify: Notify = log
    plans: dict[Call, Plan] = field(default_factory=dict[Call, Plan])
    pinned: dict[Call, Plan] = field(default_factory=dict[Call, Plan])

    @property
    def path(self) -> str:
        """How calls are computed: the engine's path of kernels (`kernels.paths`), or "plain": by the network itself."""
        with torch.no_grad():
            if obstacle(self.network):
                return PLAIN
        parameter = next(self.network.parameters())
        return choose_path(parameter.dtype, parameter.device)

    def run(self, direction: Direction, image: Tensor, max_memory: int | None = None) -> Tensor | None:
        """Raw z [b,c,h/f,w/f] to raw pixels, or raw pixels [b,3,h,w] to moments, float32; without gradients.

        None where the network has to run as it is, which `engine.eligibility` decides. `max_memory` is this call's own
        budget. Raises UsageError where a budget is too little.
        """
        if obstacle(self.network, image):
            return None
        size = image.shape[2], image.shape[3]
        plan = self._plan(direction, size, len(image), max_memory)
        run = autoencoder.decode if direction == "decode" else autoencoder.encode
        result = run(self.network, image, plan=plan, notify=self.notify)
        self.plans[direction, size] = plan
        return result

    @torch.no_grad()
    def plan(self, direction: Direction, size: tuple[int, int], batch: int = 1) -> Plan | None:
        """How `run` takes inputs of that height and width; None where the network has to run as it is."""
        return None if obstacle(self.network) else self._plan(direction, size, batch, None)

    def pin(self, plans: Iterable[Plan]) -> None:
        """Run by these plans from now on, for their directions and sizes, where a call has no budget of its own.

        On the path "torch" the last bits depend on the plan, so that only the same plan gives the same bits.
        """
        self.pinned |= {(plan.direction, plan.size): plan for plan in plans}

    @torch.no_grad()
    def check_budget(self, name: str) -> None:
        """Raises UsageError where the network can't be run within a budget."""
        if why := obstacle(self.network):
            raise UsageError(f"{name} can't be held to max_memory, because {why}. Leave max_memory out.")

    def _plan(self, direction: Direction, size: tuple[int, int], batch: int, max_memory: int | None) -> Plan:
        if max_memory is None and (direction, size) in self.pinned:
            return self.pinned[direction, size]
        planned = autoencoder.plan_decode if direction == "decode" else autoencoder.plan_encode
        return planned(self.network, size, batch, self.max_memory if max_memory is None else max_memory)
