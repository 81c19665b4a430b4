"""What this machine can run, and whether its devices make the same pixels."""

import time
from dataclasses import dataclass

import torch

from vaelens.download.hub import access
from vaelens.loading import load
from vaelens.runs.versions import versions
from vaelens.runtime import DTYPES, available_devices
from vaelens.weights.registry import registry

SIDE = 64
# The largest difference from float32 on the CPU, in [0,1], that a round trip may show. float32 on a GPU may use TF32 in
# convolutions (10 bits of mantissa); 0.1 in half precision would be seen as banding.
TOLERANCES = {"float32": 5e-3, "float16": 0.02, "bfloat16": 0.1}


@dataclass(frozen=True)
class RoundTrip:
    """One test image, encoded and decoded on one device in one precision, against float32 on the CPU.

    `difference` is the largest, in [0,1]; None where `problem` stopped it.
    """

    device: str
    dtype: str
    difference: float | None
    seconds: float
    problem: str | None

    @property
    def agrees(self) -> bool:
        """Whether it ran and stayed within the tolerance."""
        return self.difference is not None and self.difference <= TOLERANCES[self.dtype]


@dataclass(frozen=True)
class Diagnosis:
    """Versions, how the hub would be reached, and a round trip per device and precision."""

    versions: dict[str, str]
    hub: dict[str, str | bool]
    threads: int
    round_trips: tuple[RoundTrip, ...]

    @property
    def healthy(self) -> bool:
        """Whether every device agrees with the CPU in float32; half precision is only reported."""
        return all(trip.agrees for trip in self.round_trips if trip.dtype == "float32")


def diagnose() -> Diagnosis:
    """Run all checks; takes seconds and downloads nothing."""
    name = registry().embedded()[0]
    image = torch.rand(1, 3, SIDE, SIDE, generator=torch.Generator().manual_seed(0))
    reference = load(name, device="cpu").reconstruct(image)
    trips: list[RoundTrip] = []
    for device in available_devices():
        for dtype in DTYPES:
            start = time.perf_counter()
            difference, problem = None, None
            try:
                again = load(name, device=device, dtype=dtype).reconstruct(image).cpu()
                difference = float((again - reference).abs().max())
            except Exception as error:  # noqa: BLE001  (whatever a driver raises is part of the diagnosis)
                problem = f"{type(error).__name__}: {error}".splitlines()[0]
            trips.append(RoundTrip(device, dtype, difference, round(time.perf_counter() - start, 3), problem))
    return Diagnosis(versions(), access(), torch.get_num_threads(), tuple(trips))
