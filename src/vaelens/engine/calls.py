"""The one place that calls the engine: `VAE` and `speed_up` go through it, and nothing else does."""

import contextlib
from collections.abc import Callable, Generator, Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor

from vaelens.engine import autoencoder
from vaelens.engine.architecture import input_channels
from vaelens.engine.eligibility import is_autoencoder_kl, obstacle
from vaelens.engine.gpu import whole_network
from vaelens.engine.gpu.verdicts import WayOf, verified_way
from vaelens.engine.gpu.ways import Way
from vaelens.engine.plan import Direction, Plan
from vaelens.errors import UsageError
from vaelens.kernels.paths import TORCH, choose_path, map_dtype
from vaelens.runtime import Notify, log, silent

PLAIN = "plain"  # the path of a network that runs as it is
Call = tuple[Direction, tuple[int, int]]  # what is run, and the height and width of its input


def weight_dtype(network: Any, dtype: torch.dtype, device: torch.device) -> torch.dtype:
    """In which dtype a network's weights are kept to be computed in `dtype` on a device.

    float32 where the engine's kernels round as they load what they multiply: biases, norms and attention keep all
    their digits.
    """
    return map_dtype(dtype, device) if is_autoencoder_kl(network) else dtype


@dataclass
class EngineCalls:
    """A network's calls of the engine, and what is kept between them.

    `max_memory` is the budget in bytes of calls that name none; None: what is free. `notify` hears where memory runs
    out and a smaller plan follows. `computed_in` is the precision that the weights are kept for; None: their own.
    `counts_input`: the inputs are copies that the caller makes for the calls, so their bytes count. `plans` are those
    that ran last for each direction and size. `pinned` are bytes for single calls, as `budgets` gives them. `way_of`
    tells how a GPU runs the network: as whole maps where that was verified on this card, else, and where they don't
    fit, by plans; `planned` are the calls that ran by plans there. `progress` hears before each step of a plan how far
    the call is, "decoding 40 %"; see `reporting`.
    """

    network: Any
    max_memory: int | None = None
    notify: Notify = log
    computed_in: torch.dtype | None = None
    counts_input: bool = False
    plans: dict[Call, Plan] = field(default_factory=dict[Call, Plan])
    pinned: dict[str, int] = field(default_factory=dict[str, int])
    way_of: WayOf = verified_way
    planned: set[str] = field(default_factory=set[str])
    progress: Callable[[str], object] = silent

    @property
    def dtype(self) -> torch.dtype:
        """The precision: that of the weights, unless they are kept for `computed_in`; see `weight_dtype`."""
        weight = next(self.network.parameters())
        wanted = self.computed_in or weight.dtype
        return wanted if weight.dtype == weight_dtype(self.network, wanted, weight.device) else weight.dtype

    @property
    def path(self) -> str:
        """How calls are computed: the engine's path of kernels (`kernels.paths`), or "plain": by the network itself.

        Of a GPU that was tuned, a way of `engine.gpu.ways`.
        """
        if self.why_plain:
            return PLAIN
        way = self._way()
        return choose_path(self.dtype, self._device) if way is None else way.name

    @property
    def why_plain(self) -> str | None:
        """Why the network has to run as it is, also without gradients, in words that follow "because"; else None."""
        with torch.no_grad():
            return obstacle(self.network)

    def use(self, network: Any) -> None:
        """Run another network from now on."""
        self.network = network
        self.plans.clear()
        self.planned.clear()

    def run(self, direction: Direction, image: Tensor, max_memory: int | None = None) -> Tensor | None:
        """Raw z [b,c,h/f,w/f] to raw pixels, or raw pixels [b,3,h,w] to moments, float32; without gradients.

        None where the network has to run as it is, which `engine.eligibility` decides, or takes no such input: it says
        what is wrong. `max_memory` is this call's own budget. Raises UsageError where a budget is too little,
        ResourceError where memory runs out.
        """
        if obstacle(self.network, image):
            return None
        if image.dim() != 4 or image.shape[1] != input_channels(self.network, direction):
            return None
        call = direction, (image.shape[2], image.shape[3])
        if (way := self._way()) is not None:
            budget = self.max_memory if max_memory is None else max_memory
            whole = whole_network.run(self.network, direction, image, way, max_memory=budget, notify=self.notify)
            if whole is not None:
                return whole
            self.planned.add(_name(*call))
        plan = self.plans[call] = self._plan(*call, len(image), max_memory)
        run = autoencoder.decode if direction == "decode" else autoencoder.encode

        def replanned(smaller: Plan) -> None:
            self.plans[call] = smaller

        def report(share: float) -> None:
            self.progress(f"{direction[:-1]}ing {100 * share:.0f} %")

        return run(
            self.network, image,
            plan=plan, dtype=self.dtype, notify=self.notify, replanned=replanned, progress=report,
        )  # fmt: skip

    @contextlib.contextmanager
    def reporting(self, progress: Callable[[str], object]) -> Generator[None]:
        """While it lasts, `progress` hears of calls; what it raises ends them."""
        before, self.progress = self.progress, progress
        try:
            yield
        finally:
            self.progress = before

    def plan(self, direction: Direction, size: tuple[int, int], batch: int = 1) -> Plan | None:
        """How `run` takes inputs of that height and width; None where the network has to run as it is."""
        return None if self.why_plain else self._plan(direction, size, batch, None)

    @property
    def budgets(self) -> dict[str, int]:
        """The bytes of each call's plan, "decode 64x64", where the last bits depend on it: PyTorch's kernels on a CPU.

        Planned within as many bytes, a call is computed in the same strips, to the same bits: see `pinned`.
        """
        if self.path != TORCH or self._device.type != "cpu":
            return {}
        return {_name(*call): plan.peak_bytes for call, plan in self.plans.items()}

    def settle(self, calls: Iterable[Call], before: Mapping[str, Any] | None, batch: int = 1) -> dict[str, Any]:
        """Pin how these calls run, for the plan of a run that is resumed: by `before`, what this gave the first time.

        `batch` is the most images of a call. Gives the path and the budgets, which are others than those of `before`
        where its path or plans can't be had here.
        """
        if before and before["path"] == self.path:
            self.pinned |= before["budgets"]
        for direction, size in calls:
            if (plan := self.plan(direction, size, batch)) is not None:
                self.plans[direction, size] = plan
        self.pinned |= self.budgets
        return {"path": self.path, "budgets": self.budgets}

    def record(self) -> dict[str, Any]:
        """For `run.json`, after the calls: how they ran."""
        planned = {"planned": sorted(self.planned)} if self.planned else {}
        return {"path": self.path, "max_memory": self.max_memory, "budgets": self.budgets} | planned

    def check_budget(self, name: str) -> None:
        """Raises UsageError where the network can't be run within a budget."""
        if why := self.why_plain:
            raise UsageError(f"{name} can't be held to max_memory, because {why}. Leave max_memory out.")

    def _way(self) -> Way | None:
        return self.way_of(self._device, self.dtype, self.notify)

    @property
    def _device(self) -> torch.device:
        return next(self.network.parameters()).device

    def _plan(self, direction: Direction, size: tuple[int, int], batch: int, max_memory: int | None) -> Plan:
        """Within the call's own budget; else within the pinned one, where that can be and keeps to `max_memory`."""
        pinned = self.pinned.get(_name(direction, size))
        if max_memory is None and pinned is not None and pinned <= (self.max_memory or pinned):
            with contextlib.suppress(UsageError):  # what fitted elsewhere doesn't here: less can be parked, say
                return replace(self._planned(direction, size, batch, pinned), max_memory=self.max_memory)
        return self._planned(direction, size, batch, self.max_memory if max_memory is None else max_memory)

    def _planned(self, direction: Direction, size: tuple[int, int], batch: int, max_memory: int | None) -> Plan:
        planned = autoencoder.plan_decode if direction == "decode" else autoencoder.plan_encode
        return planned(self.network, size, batch, max_memory, self.dtype, counts_input=self.counts_input)


def _name(direction: Direction, size: tuple[int, int]) -> str:
    return f"{direction} {size[1]}x{size[0]}"
