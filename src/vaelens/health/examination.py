"""Examine one VAE: run images, plain colours and round trips through it, measure, and find what is wrong.

vaelens inspect ft-mse --health
"""

import statistics
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from vaelens.errors import CheckFailedError, UsageError
from vaelens.files import StrPath
from vaelens.health.activations import recorded
from vaelens.health.findings import Finding, find
from vaelens.health.latent_statistics import LatentSums
from vaelens.health.measurements import ImageSums, Measurements, Plain, Timing, Trip, measure_plain
from vaelens.health.thresholds import THRESHOLDS
from vaelens.images.datasets.folders import image_files
from vaelens.images.datasets.synthetic import EVALUATION_FIRST
from vaelens.images.faces import draw_face
from vaelens.images.letters import draw_letters
from vaelens.images.reading import decode_file, read_size
from vaelens.images.writing import from_uint8
from vaelens.metrics.psnr import psnr
from vaelens.metrics.statistics import shared_images, spread
from vaelens.report.record import run_record, vae_record
from vaelens.resources import out_of_memory
from vaelens.runtime import Progress, silent
from vaelens.text.numbers import counted
from vaelens.vae import VAE, Encoded
from vaelens.weights.registry import registry

SYNTHETIC_IMAGES = 16  # faces and pages of letters in turn
SYNTHETIC_SIDE = 256
DRIFT_IMAGES = 2
REPEATS = 3  # of the timing; the median is reported
GREYS = (0.1, 0.3, 0.5, 0.7, 0.9)
LOW, HIGH = 0.25, 0.75  # of the colours: away from 0 and 1, where clamping hides what is wrong
COLOURS = (
    *((grey,) * 3 for grey in GREYS),
    *((HIGH if n & 4 else LOW, HIGH if n & 2 else LOW, HIGH if n & 1 else LOW) for n in range(1, 7)),
)
# Latent cells along a plain image, and along each edge that isn't measured: zero padding is felt some cells deep.
PLAIN_CELLS, PLAIN_MARGIN = 24, 8

Source = StrPath | Tensor


@dataclass(frozen=True)
class Health:
    """The measurements, the findings, and the record of the run (VAE, settings, versions, memory)."""

    measured: Measurements
    findings: tuple[Finding, ...]
    record: dict[str, Any]

    @property
    def finite(self) -> bool:
        """Whether every pass gave finite values."""
        return not self.measured.failures

    def as_dict(self) -> dict[str, Any]:
        """All of it for JSON, thresholds and their reasons included."""
        thresholds = {name: asdict(threshold) for name, threshold in THRESHOLDS.items()}
        found = [asdict(finding) for finding in self.findings]
        return {**self.record, "measured": asdict(self.measured), "findings": found, "thresholds": thresholds}


@dataclass
class _Run:
    """One VAE under examination: a pass that fails is noted, and the others continue."""

    vae: VAE
    progress: Progress
    total: int
    done: int = 0
    failures: list[str] = field(default_factory=list[str])

    def step(self, what: str) -> None:
        self.progress(self.done, self.total, what)
        self.done += 1

    def trip(self, image: Tensor, what: str) -> tuple[Encoded | None, Tensor | None]:
        """Posterior, and the reconstruction by its mode on the CPU; None for what isn't finite."""
        self.step(what)
        try:
            encoded = self.vae.encode(image)
        except CheckFailedError:
            self.failures.append(f"{what}: encoding")
            return None, None
        if not bool(torch.isfinite(encoded.posterior.std).all()):
            self.failures.append(f"{what}: encoding (the posterior's spread)")
            return None, None
        try:
            return encoded, self.vae.decode(encoded.mode(), encoded.size).cpu()
        except CheckFailedError:
            self.failures.append(f"{what}: decoding")
            return encoded, None


def examine(
    vae: VAE,
    images: Sequence[Source] | None = None,
    *,
    max_side: int = 512,
    round_trips: int = 8,
    time_at: Sequence[int] = (256,),
    progress: Progress = silent,
) -> Health:
    """Examine a VAE on the device and in the dtype that it was loaded with.

    `images` are files, folders of them, or images [1,3,h,w] in [0,1]; without any, synthetic faces and
    letters are used, the same in every run. Files larger than `max_side` are shrunk to it. One image is in memory
    at a time, except for the first two, which make `round_trips` round trips, by the posterior's mode and
    unrounded. `time_at` are the sides of square images to measure times with. `progress`
    gets (done, total, what) before each pass.

    NaN and infinity are findings. Raises UsageError for numbers below 1 or no image, BadInputError
    for an image that can't be read or a folder without any, and ResourceError when memory runs out.
    """
    start = time.perf_counter()
    if min(round_trips, max_side, *time_at) < 1:
        raise UsageError("round trips, the sides to measure times at and the largest side must each be at least 1.")
    sources = None if images is None else _listed(images, max_side)
    count = SYNTHETIC_IMAGES if sources is None else len(sources)
    trips = min(count, DRIFT_IMAGES) * (round_trips - 1)
    run = _Run(vae, progress, count + len(COLOURS) + trips + len(time_at) * (REPEATS + 1))
    with out_of_memory(
        f"out of memory on {vae.device} while {vae.name} was examined. Use smaller images (--max-side 256), or "
        "run where there is more memory."
    ):
        measured = _measure(run, sources, max_side, round_trips, time_at)
    settings = {"max_side": max_side, "round_trips": round_trips, "time_at": list(time_at), "images": count}
    record = run_record("inspect --health", settings, [vae_record(vae)], time.perf_counter() - start)
    return Health(measured, find(measured), record)


def _measure(
    run: _Run, sources: list[Path | Tensor] | None, max_side: int, round_trips: int, time_at: Sequence[int]
) -> Measurements:
    vae, factor = run.vae, run.vae.spec.factor
    latents, sums = LatentSums(), ImageSums(factor)
    first: list[tuple[Tensor, Tensor]] = []
    with recorded(vae.network, vae.spec.family.residual_blocks) as maxima:
        for number, (name, image) in enumerate(_images(sources, max_side)):
            encoded, again = run.trip(image, name)
            if encoded is not None:
                latents.add(encoded.posterior)
            if again is not None:
                sums.add(image, again)
                if number < DRIFT_IMAGES:
                    first.append((image, again))
        plain = tuple(found for colour in COLOURS if (found := _plain(run, colour)) is not None)
        drift = _drift(run, first, round_trips)
    space = registry().spaces.get(vae.spec.latent_space or "")
    raw = "scaling_factor" not in vae.spec.family.convention  # a tiny one gives latents that are scaled already
    return Measurements(
        images=_described(sources),
        failures=tuple(run.failures),
        latents=latents.result(),
        scaling_factor=vae.spec.scaling_factor,
        shift_factor=vae.spec.shift_factor,
        registered_scale=space.scaling_factor if space and raw else None,
        colour_bias=sums.colour_bias(),
        bands=sums.bands(),
        image_grid=sums.grid(),
        plain=plain,
        drift=drift,
        activations=maxima.largest(),
        timings=tuple(_timing(run, side) for side in time_at) if not run.failures else (),
    )


def _listed(images: Sequence[Source], max_side: int) -> list[Path | Tensor]:
    """The images in folders too; every header is checked before any work."""
    found: list[Path | Tensor] = []
    for source in images:
        if isinstance(source, Tensor):
            found.append(source)
            continue
        found += image_files([source])
    if not found:
        raise UsageError("no image named. Name files or folders, or none for synthetic faces and letters.")
    for source in found:
        if isinstance(source, Path):
            read_size(source, max_side)
    return found


def _described(sources: list[Path | Tensor] | None) -> str:
    if sources is None:
        last = EVALUATION_FIRST + SYNTHETIC_IMAGES // 2 - 1
        return (
            f"{SYNTHETIC_IMAGES} synthetic images (faces and letters, seeds {EVALUATION_FIRST} to {last}) of "
            f"{SYNTHETIC_SIDE}x{SYNTHETIC_SIDE}"
        )
    return counted(len(sources), "given image")


def _images(sources: list[Path | Tensor] | None, max_side: int) -> Iterator[tuple[str, Tensor]]:
    """Name and image [1,3,h,w] in [0,1], one at a time."""
    if sources is None:
        for number in range(SYNTHETIC_IMAGES):
            seed, kind = EVALUATION_FIRST + number // 2, "letters" if number % 2 else "face"
            drawing = (draw_letters if number % 2 else draw_face)(seed, SYNTHETIC_SIDE)
            yield f"synthetic {kind} {seed}", from_uint8(torch.as_tensor(drawing.pixels).permute(2, 0, 1)[None])
        return
    for number, source in enumerate(sources):
        if isinstance(source, Tensor):
            yield f"image {number + 1}", source.detach().cpu()
        else:
            yield source.name, decode_file(source, max_side=max_side).image


def _plain(run: _Run, colour: tuple[float, ...]) -> Plain | None:
    factor = run.vae.spec.factor
    side = PLAIN_CELLS * factor
    name = " ".join(f"{level * 255:.0f}" for level in colour)
    image = torch.tensor(colour).view(1, 3, 1, 1).expand(1, 3, side, side).contiguous()
    _, again = run.trip(image, f"plain colour {name}")
    return None if again is None else measure_plain(colour, again, factor, PLAIN_MARGIN * factor)


def _drift(run: _Run, first: list[tuple[Tensor, Tensor]], round_trips: int) -> tuple[Trip, ...]:
    """PSNR after 1, 2, 4, ... and the last trip; ends early where an image doesn't come back finite."""
    reported = {round_trips} | {2**n for n in range(round_trips.bit_length()) if 2**n <= round_trips}
    now = [again for _, again in first]
    before = originals = [original for original, _ in first]
    numbers: list[int] = []
    to_originals: list[list[float]] = []
    to_previous: list[list[float]] = []
    for number in range(1, round_trips + 1 if first else 1):
        if number > 1:
            after = [run.trip(image, f"round trip {number} of image {i + 1}")[1] for i, image in enumerate(now)]
            before, now = now, [image for image in after if image is not None]
            if len(now) < len(before):
                break
        if number in reported:
            numbers.append(number)
            to_originals.append(_psnrs(now, originals))
            to_previous.append(_psnrs(now, before))
    return tuple(map(Trip, numbers, _means(to_originals), _means(to_previous)))


def _psnrs(images: list[Tensor], references: list[Tensor]) -> list[float]:
    return [float(psnr(a, b)) for a, b in zip(images, references, strict=True)]


def _means(trips: list[list[float]]) -> list[float]:
    """Of each trip's values, over the same images: infinite ones, of images that came back equal, leave every mean."""
    shared = shared_images(trips) if trips else []
    return [spread(values, shared).mean for values in trips]


def _timing(run: _Run, side: int) -> Timing:
    """Encoding and decoding in turn, after one of each that isn't counted."""
    vae = run.vae
    image = torch.rand(1, 3, side, side, generator=torch.Generator().manual_seed(0)).to(vae.device)
    cuda = vae.device.type == "cuda"
    if cuda:
        torch.cuda.reset_peak_memory_stats(vae.device)
    times: list[tuple[float, float]] = []
    for number in range(REPEATS + 1):
        run.step(f"time at {side}x{side}")
        start = _clock(vae.device)
        latents = vae.encode(image).mode()
        between = _clock(vae.device)
        vae.decode(latents)
        if number:
            times.append((between - start, _clock(vae.device) - between))
    return Timing(
        side=side,
        encode=statistics.median(encode for encode, _ in times),
        decode=statistics.median(decode for _, decode in times),
        device_memory_bytes=torch.cuda.max_memory_allocated(vae.device) if cuda else None,
    )


def _clock(device: torch.device) -> float:
    """The time when the device has finished its work."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    elif device.type == "mps":
        torch.mps.synchronize()
    return time.perf_counter()
