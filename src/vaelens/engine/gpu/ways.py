"""The ways to run a network on a GPU."""

from dataclasses import dataclass

BUDGETED = "torch"  # by the engine's plans, in PyTorch's operations: what no verdict is needed for


@dataclass(frozen=True)
class Way:
    """Whole maps, with norms by Triton or by PyTorch, each call launched anew or replayed as a CUDA graph."""

    triton: bool = False
    graphs: bool = False

    @property
    def name(self) -> str:
        """As records and verdicts write it."""
        return "gpu" + "-triton" * self.triton + "-graphs" * self.graphs


WAYS = {way.name: way for way in (Way(t, g) for t in (False, True) for g in (False, True))}
