"""`vaelens doctor --tune`: which ways of running a VAE are right on each GPU here, and which of them is the fastest.

Each way is tried in each precision: by its errors against the network in float64, which mustn't be larger than those of
the network as it is, and by its time. The verdicts are kept (`engine.gpu.verdicts`) and used from then on.
"""

import copy
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from vaelens.engine.calls import PLAIN, EngineCalls
from vaelens.engine.gpu.norms import has_triton
from vaelens.engine.gpu.verdicts import Card, Trial, Verdict, card_of, read_verdicts, write_verdicts
from vaelens.engine.gpu.ways import BUDGETED, WAYS, Way
from vaelens.engine.plan import Direction
from vaelens.images.datasets.synthetic import EVALUATION_FIRST
from vaelens.images.faces import draw_face
from vaelens.images.writing import from_uint8
from vaelens.loading import load
from vaelens.networks.autoencoder_kl import AutoencoderKL, AutoencoderKLConfig
from vaelens.resources import is_out_of_memory, seeded
from vaelens.runtime import DTYPES, Notify, find_dtype, log
from vaelens.weights.registry import registry

# Relative L2, in float32: docs/exactness.md. A network's own error may be far below what the order of sums changes.
EXACT = 1e-4
WORSE = 1.1  # times the error of the network as it is
# Pixels. At 576 attention takes its queries in several chunks; the embedded VAE is trained, but narrow.
EMBEDDED_SIDE, WIDE_SIDE, TIMED_SIDE = 576, 256, 512
ROUNDS = 7
WARM_UP = 3  # calls: compiling, then capturing on the second, then a replay

Images = dict[Direction, Tensor]
Values = dict[Direction, float]


@dataclass(frozen=True)
class Subject:
    """A float32 network of pixels in [-1,1] on the CPU, and the sides of the images it is checked and timed with."""

    network: AutoencoderKL
    checked_side: int
    timed_side: int = TIMED_SIDE


class Bench(Protocol):
    """What is tuned, and its clock."""

    @property
    def devices(self) -> Sequence[torch.device]: ...
    @property
    def has_triton(self) -> bool: ...
    def card(self, device: torch.device) -> Card: ...
    def seconds(self, way: str, direction: Direction, call: Callable[[], object], device: torch.device) -> float:
        """One call, run to its end; `way` and `direction` say which."""
        ...


class CudaBench:
    """See `Bench`: the GPUs of this machine."""

    @property
    def devices(self) -> Sequence[torch.device]:
        """In PyTorch's order; none where it has no CUDA."""
        return [torch.device("cuda", i) for i in range(torch.cuda.device_count())]

    @property
    def has_triton(self) -> bool:
        """Whether it is installed."""
        return has_triton()

    def card(self, device: torch.device) -> Card:
        """What a verdict depends on."""
        return card_of(device)

    def seconds(self, way: str, direction: Direction, call: Callable[[], object], device: torch.device) -> float:
        """See `Bench`."""
        torch.cuda.synchronize(device)
        start = time.perf_counter()
        call()
        torch.cuda.synchronize(device)
        return time.perf_counter() - start


def tune(
    *,
    bench: Bench | None = None,
    subjects: Sequence[Subject] | None = None,
    dtypes: Sequence[str] | None = None,
    notify: Notify = log,
) -> tuple[Verdict, ...]:
    """Try every way on every GPU of this machine, keep the verdicts, and give them; none where there is no GPU.

    Takes a minute or two for each GPU; nothing is downloaded. The last subject is the one that is timed. Raises what
    writing to the cache folder raises.
    """
    bench = bench or CudaBench()
    found = list[Verdict]()
    for device in bench.devices:
        given = subjects or default_subjects()
        for dtype in dtypes or DTYPES:
            card = bench.card(device)
            notify(f"tuning {dtype} on {card.device}")
            trials = _trials(bench, device, find_dtype(dtype), given)
            found.append(Verdict(card, dtype, given[-1].timed_side, fastest(trials), trials))
    if found:
        write_verdicts(found)
    return tuple(found)


def fastest(trials: Sequence[Trial]) -> str:
    """The way to use: of those without a problem the fastest; the engine's plans where there is none."""
    right = [one for one in trials if one.way != PLAIN and one.problem is None and one.seconds is not None]
    return min(right, key=lambda one: one.seconds or 0.0, default=Trial(BUDGETED)).way


def ways_in_use(bench: Bench | None = None) -> dict[str, str]:
    """For `vaelens doctor`: how each GPU here runs networks, by card and precision, and what the cache says wrongly."""
    bench = bench or CudaBench()
    verdicts, problem = read_verdicts() if bench.devices else ((), None)
    found = {"tuning": problem} if problem else dict[str, str]()
    for device in bench.devices:
        card = bench.card(device)
        for dtype in DTYPES:
            of_card = [one for one in verdicts if one.card.device == card.device and one.dtype == dtype]
            current = next((one.way for one in of_card if one.card == card), None)
            stale = f"; {'; '.join(card.changes(of_card[0].card))}" if of_card else ""
            found[f"{card.device}, {dtype}"] = current or f"{BUDGETED} (not tuned{stale})"
    return found


def default_subjects() -> tuple[Subject, ...]:
    """The embedded VAE, which is trained, and a network of kl-f8's full width with random weights, which is timed."""
    embedded = load(registry().embedded()[0], device="cpu").network
    with seeded(0):
        wide = AutoencoderKL(AutoencoderKLConfig())
    return Subject(embedded, EMBEDDED_SIDE), Subject(wide, WIDE_SIDE)


class _Candidate:
    """A network, to be run in one way."""

    def __init__(self, network: Any, way: str) -> None:
        self.way, self._network = way, network
        self._notices = list[str]()

        def way_of(*_: object) -> Way | None:
            return WAYS.get(way)

        self._calls = EngineCalls(network, notify=self._notices.append, way_of=way_of)

    def run(self, direction: Direction, image: Tensor) -> Tensor:
        """Raises RuntimeError where another way than this one ran."""
        if self.way == PLAIN:
            return self._network.decode(image) if direction == "decode" else self._network.moments(image)
        found = self._calls.run(direction, image)
        if self._notices:
            raise RuntimeError(self._notices[0])
        if self._calls.planned or found is None:
            raise RuntimeError("whole maps don't fit into the free memory of this GPU")
        return found


class _Check:
    """A subject in one precision on a device, with a face, its latents, and what float64 makes of them."""

    def __init__(self, subject: Subject, device: torch.device, dtype: torch.dtype) -> None:
        self.network: Any = nn.Module.to(copy.deepcopy(subject.network).eval().requires_grad_(False), device, dtype)
        self._exact = dtype == torch.float32
        wide: Any = nn.Module.to(copy.deepcopy(self.network), torch.float64)
        pixels = _face(subject.checked_side).to(device, dtype)
        moments: Tensor = wide.moments(pixels.double())
        z = _mean(moments).to(dtype)
        self._images: Images = {"encode": pixels, "decode": z}
        self._wanted: Images = {"encode": moments, "decode": wide.decode(z.double())}
        self._plain = self.errors(PLAIN)

    def errors(self, way: str) -> Values:
        """Relative L2. Earlier calls have other values, so that a graph that doesn't read its input is found."""
        candidate, found = _Candidate(self.network, way), Values()
        for direction, image in self._images.items():
            for _ in range(WARM_UP):
                candidate.run(direction, image.flip(2))
            result, wanted = candidate.run(direction, image).double(), self._wanted[direction]
            found[direction] = float(((result - wanted).square().sum() / wanted.square().sum()).sqrt())
        return found

    def flaw(self, errors: Values) -> str | None:
        """What is wrong with a way of these errors. Of NaN everything is."""
        for direction, error in errors.items():
            most = max(EXACT if self._exact else 0.0, WORSE * self._plain[direction])
            if not error <= most:
                return f"{direction}: error {error:.1e}, more than {most:.1e}"
        return None


@torch.no_grad()
def _trials(bench: Bench, device: torch.device, dtype: torch.dtype, subjects: Sequence[Subject]) -> tuple[Trial, ...]:
    """The network as it is, the engine's plans, and all ways, on one device in one precision."""
    try:
        checks = [_Check(subject, device, dtype) for subject in subjects]
        network, pixels = checks[-1].network, _face(subjects[-1].timed_side).to(device, dtype)
        images: Images = {"encode": pixels, "decode": _mean(network.moments(pixels))}
    except Exception as error:  # noqa: BLE001  (whatever a driver raises is a verdict)
        return (Trial(PLAIN, problem=_line(error)),)
    return tuple(_trial(way, checks, images, bench) for way in (PLAIN, BUDGETED, *WAYS))


def _trial(way: str, checks: Sequence[_Check], images: Images, bench: Bench) -> Trial:
    """One way: the largest errors of all subjects, and the last one's times."""
    if way in WAYS and WAYS[way].triton and not bench.has_triton:
        return Trial(way, problem="Triton isn't installed")
    try:
        errors = [check.errors(way) for check in checks]
        worst = {direction: max(one[direction] for one in errors) for direction in images}
        flaws = [check.flaw(one) for check, one in zip(checks, errors, strict=True)] if way in WAYS else []
        if flaw := next(filter(None, flaws), None):
            return Trial(way, worst["encode"], worst["decode"], problem=flaw)
        seconds = _seconds(_Candidate(checks[-1].network, way), images, bench)
    except Exception as error:  # noqa: BLE001  (whatever a driver raises is a verdict)
        return Trial(way, problem=_line(error))
    return Trial(way, worst["encode"], worst["decode"], seconds["encode"], seconds["decode"])


def _seconds(candidate: "_Candidate", images: Images, bench: Bench) -> Values:
    """Of a call, the median of some."""
    found = Values()
    for direction, image in images.items():
        calls = [
            bench.seconds(candidate.way, direction, partial(candidate.run, direction, image), image.device)
            for _ in range(WARM_UP + ROUNDS)
        ]
        found[direction] = statistics.median(calls[WARM_UP:])
    return found


def _mean(moments: Tensor) -> Tensor:
    return moments[:, : moments.shape[1] // 2].contiguous()


def _face(side: int) -> Tensor:
    """A synthetic face [1,3,side,side] in [-1,1]."""
    drawing = draw_face(EVALUATION_FIRST, side)
    return from_uint8(torch.as_tensor(drawing.pixels).permute(2, 0, 1)[None]) * 2 - 1


def _line(error: Exception) -> str:
    if is_out_of_memory(error):
        return "out of memory"
    return (str(error).strip() or type(error).__name__).splitlines()[0]
