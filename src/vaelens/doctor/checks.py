"""What this machine can run, whether its devices make the same pixels, and how well the engine does with a VAE."""

import copy
import time
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from vaelens.download.hub import access
from vaelens.errors import UsageError
from vaelens.files import StrPath
from vaelens.images.datasets.synthetic import EVALUATION_FIRST
from vaelens.images.faces import draw_face
from vaelens.images.writing import from_uint8
from vaelens.kernels import library
from vaelens.kernels.paths import available_paths, choose_path
from vaelens.loading import load, open_vae
from vaelens.networks.autoencoder_kl import DiagonalGaussian
from vaelens.resources import full_precision, measured
from vaelens.runs.versions import versions
from vaelens.runtime import DTYPES, Notify, Runtime, available_devices, dtype_name, find_dtype
from vaelens.vae import VAE
from vaelens.weights.registry import registry

SIDE = 64
# The largest difference from float32 on the CPU, in [0,1], that a round trip may show. float32 on a GPU may use TF32 in
# convolutions (10 bits of mantissa); 0.1 in half precision would be seen as banding.
TOLERANCES = {"float32": 5e-3, "float16": 0.02, "bfloat16": 0.1}
CHECKED_SIDE = 256  # pixels; the reference in fp64 takes a full VAE some ten seconds and a GB
EXACT = 1e-4  # docs/exactness.md, in float32: the largest difference of a pixel in [0,1], the error of moments


@dataclass(frozen=True)
class NativeKernels:
    """The engine's kernels: the paths that there are, those chosen on the CPU by precision, and why some are missing.

    `unavailable` says why there is no native kernel at all, `left_out` why those for AMX weren't built.
    """

    paths: tuple[str, ...]
    chosen: dict[str, str]
    unavailable: str | None
    left_out: str | None


@dataclass(frozen=True)
class Half:
    """Encoding or decoding one image by the engine and by the network as it is.

    Errors are relative L2 distances to the network in fp64: of the posterior's moments, of pixels in [0,1].
    `difference` is the largest to fp64, in [0,1] for pixels. Seconds and bytes (None where the system doesn't report
    them) are those of a second run: the first one packs weights.
    """

    error: float
    plain_error: float
    difference: float
    seconds: float
    plain_seconds: float
    memory: int | None
    plain_memory: int | None


@dataclass(frozen=True)
class VAECheck:
    """A VAE on this machine, with a synthetic face of `side` pixels; `why_plain` says why its path is "plain"."""

    name: str
    device: str
    dtype: str
    path: str
    why_plain: str | None
    side: int
    max_memory: int | None
    encode: Half
    decode: Half

    @property
    def exact(self) -> bool:
        """Whether float32 keeps to the tolerances; of half precision the errors are only reported."""
        return self.dtype != "float32" or (self.decode.difference < EXACT and self.encode.error < EXACT)


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
    kernels: NativeKernels
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
    return Diagnosis(versions(), access(), torch.get_num_threads(), native_kernels(), tuple(trips))


def native_kernels() -> NativeKernels:
    """What the library of native kernels offers here. Raises UsageError where VAELENS_KERNELS names another path."""
    chosen = {dtype: choose_path(find_dtype(dtype), torch.device("cpu")) for dtype in DTYPES}
    return NativeKernels(tuple(available_paths()), chosen, library.unavailable(), library.left_out())


@torch.no_grad()
def check_vae(
    source: StrPath,
    *,
    side: int = CHECKED_SIDE,
    device: str = "auto",
    dtype: str = "float32",
    space: str | None = None,
    offline: bool = False,
    max_memory: int | str | None = None,
    notify: Notify | None = None,
) -> VAECheck:
    """Encode and decode a synthetic face by the engine, by the plain network, and in fp64 on the CPU.

    The options are `load`'s; `side` is the image's, in pixels. Raises UsageError for a side below 64, and what loading
    and running raise.
    """
    if side < SIDE:
        raise UsageError(f"the side of the image must be at least {SIDE} pixels, not {side}.")
    runtime = Runtime.of(device=device, dtype=dtype, offline=offline, max_memory=max_memory, notify=notify)
    vae = open_vae(source, runtime, space=space)
    family, spec, factor = vae.spec.family, vae.spec, vae.spec.factor
    drawing = draw_face(EVALUATION_FIRST, -(-side // factor) * factor)
    image = from_uint8(torch.as_tensor(drawing.pixels).permute(2, 0, 1)[None]).to(vae.device)
    low, high = spec.pixel_range
    pixels = (image * (high - low) + low).to(vae.weight_dtype)
    wide = nn.Module.to(copy.deepcopy(vae.network), "cpu", torch.float64)
    plain = vae.network if vae.weight_dtype == vae.dtype else nn.Module.to(copy.deepcopy(vae.network), vae.dtype)
    with full_precision(vae.device):
        latents = vae.encode(image).mode()
        z = family.to_z(latents.to(vae.weight_dtype), spec, vae.network)
        encode = _half(
            vae,
            _moments(family.encode(wide, pixels.cpu().double())),
            lambda: _moments(vae.encode(image).posterior),
            lambda: _moments(family.encode(plain, pixels.to(vae.dtype))),
        )
        decode = _half(
            vae,
            ((family.decode(wide, z.cpu().double()) - low) / (high - low)).clamp(0, 1),
            lambda: vae.decode(latents),
            lambda: ((family.decode(plain, z.to(vae.dtype)).float() - low) / (high - low)).clamp(0, 1),
        )
    return VAECheck(
        vae.name,
        str(vae.device),
        dtype_name(vae.dtype),
        vae.engine.path,
        vae.engine.why_plain,
        image.shape[-1],
        runtime.max_memory,
        encode,
        decode,
    )


def _moments(posterior: DiagonalGaussian) -> Tensor:
    """The mean, with the logarithm of the variance where the network gives one."""
    return posterior.mean if posterior.logvar is None else torch.cat([posterior.mean, posterior.logvar], dim=1)


def _half(vae: VAE, reference: Tensor, engine: Callable[[], Tensor], plain: Callable[[], Tensor]) -> Half:
    engine()  # packs weights
    with measured(vae.device) as usage:
        found = engine()
    plain()
    with measured(vae.device) as plain_usage:
        other = plain()
    found, other = found.cpu().double(), other.cpu().double()
    return Half(
        error=_relative(found, reference),
        plain_error=_relative(other, reference),
        difference=float((found - reference).abs().max()),
        seconds=round(usage.seconds, 3),
        plain_seconds=round(plain_usage.seconds, 3),
        memory=usage.memory,
        plain_memory=plain_usage.memory,
    )


def _relative(found: Tensor, reference: Tensor) -> float:
    return float(((found - reference).square().sum() / reference.square().sum()).sqrt())
