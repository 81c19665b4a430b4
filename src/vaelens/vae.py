"""The one object: a network with its spec. Pixel ranges, scaling and padding are applied here and nowhere else."""

import copy
import hashlib
import os
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from vaelens.engine.calls import EngineCalls, weight_dtype
from vaelens.engine.plan import Direction
from vaelens.errors import CheckFailedError, UsageError
from vaelens.families.discovery import build_network
from vaelens.families.family import DiffusersFamily
from vaelens.families.spec import VAESpec
from vaelens.files import write_together
from vaelens.networks.autoencoder_kl import DiagonalGaussian
from vaelens.runtime import Notify, bytes_of, log
from vaelens.text.numbers import counted
from vaelens.weights.fingerprint import Checksum, Fingerprint, checksum, fingerprint
from vaelens.weights.saving import vae_files

RANGE_SLACK = 1e-3  # resampling may leave [0,1] by rounding; an image in [-1,1] or 0..255 leaves it by far


class Encoded:
    """An encoded image: the posterior over raw z, and latents as the diffusion model sees them."""

    def __init__(
        self, posterior: DiagonalGaussian, size: tuple[int, int], to_latents: Callable[[Tensor], Tensor]
    ) -> None:
        self.posterior = posterior
        self.size = size  # height and width of the image, before padding
        self._to_latents = to_latents

    def mode(self) -> Tensor:
        """The posterior's mode as scaled latents, [b,c,h/f,w/f]."""
        return self._to_latents(self.posterior.mode())

    def sample(self, seed: int | Sequence[int] = 0) -> Tensor:
        """A sample of the posterior as scaled latents, [b,c,h/f,w/f].

        A seed means what it means in diffusers: one CPU generator per image. One seed is used for each image of the
        batch, so that an image's sample doesn't depend on the others; a list has one per image and must be as long as
        the batch (else UsageError).
        """
        count = len(self.posterior.mean)
        seeds = [seed] * count if isinstance(seed, int) else list(seed)
        if len(seeds) != count:
            raise UsageError(
                f"{counted(len(seeds), 'seed')} for {counted(count, 'image')}; give one seed, or one per image."
            )
        for value in seeds:
            check_seed(value)
        generators = [torch.Generator("cpu").manual_seed(s) for s in seeds]
        return self._to_latents(self.posterior.sample(generators))


def check_seed(seed: int) -> None:
    """Raises UsageError for a number that torch doesn't take as a seed."""
    if not -(2**63) <= seed < 2**64:
        raise UsageError(f"a seed lies between -2^63 and 2^64 - 1; {seed} doesn't.")


def check_rgb(spec: VAESpec, name: str) -> None:
    """Raises UsageError for a VAE of images with other channels than red, green and blue."""
    channels = spec.family.image_channels(spec.config)
    if channels != (3, 3):
        takes, gives = channels
        kinds = {1: "grey", 4: "RGBA"}
        which = counted(takes, "channel") + (f" ({kinds[takes]})" if takes in kinds else "")
        which += f", and gives {gives}" if gives != takes else ""
        raise UsageError(
            f"{name} is a VAE of images with {which}, and vaelens encodes and decodes RGB images only. Name a VAE with "
            "3 channels; `vaelens inspect` shows this one."
        )


def latents_sha256(latents: Tensor) -> str:
    """sha256 of the fp32 values, in hexadecimal: proves that two decoders were given the same latent."""
    return hashlib.sha256(latents.detach().float().cpu().contiguous().numpy().tobytes()).hexdigest()


class VAE:
    """One VAE, ready to run.

    Images are [b,3,h,w] in [0,1], float32, of any size from 1x1 up; latents [b,c,h/f,w/f] are scaled.
    `network` is the plain network on raw pixels and raw z, for training and research; `spec.family` knows how it is
    called. An AutoencoderKL is run by the engine, which gives its values within the tolerance of docs/exactness.md.
    `engine` holds its budget of memory and its plans. `dtype` is the precision that it runs in, by default that of the
    weights; `engine.calls.weight_dtype` says which they need. Raises UsageError for the network of another config.
    """

    def __init__(
        self,
        network: Any,
        spec: VAESpec,
        name: str,
        fingerprint: Fingerprint | None = None,
        *,
        dtype: torch.dtype | None = None,
        max_memory: int | None = None,
        notify: Notify = log,
    ) -> None:
        self.spec = spec
        self.name = name
        self.engine = EngineCalls(None, max_memory, notify, dtype, counts_input=True)
        self.network = network
        self._identified: tuple[Checksum, Fingerprint] | None = None
        if fingerprint is not None:
            self._identified = checksum(network.state_dict()), fingerprint

    @classmethod
    def from_tensors(
        cls,
        tensors: Mapping[str, Tensor],
        spec: VAESpec,
        name: str,
        *,
        device: torch.device,
        dtype: torch.dtype,
        fingerprint: Fingerprint | None = None,
        max_memory: int | None = None,
        notify: Notify = log,
        build: Callable[[Any], nn.Module] = build_network,
    ) -> "VAE":
        """A VAE from tensors under their diffusers names: exactly those of the network that `build` gives."""
        with torch.device("meta"):
            network = build(spec.config)
        kept = weight_dtype(network, dtype, device)
        cast = {n: t.to(device=device, dtype=kept) for n, t in tensors.items()}
        network.load_state_dict(cast, strict=True, assign=True)
        return cls(network, spec, name, fingerprint, dtype=dtype, max_memory=max_memory, notify=notify)

    @property
    def network(self) -> Any:
        """The one that runs; another of the same config may be set."""
        return self.engine.network

    @network.setter
    def network(self, network: Any) -> None:
        if not self.spec.family.is_network(network, self.spec.config):
            raise UsageError(f"{self.name}: the network's config isn't the spec's.")
        self.engine.use(network.eval())

    def __repr__(self) -> str:
        where = f"{self.device.type}, {str(self.dtype).removeprefix('torch.')}"
        return f"VAE({self.name!r}, latent space {self.spec.latent_space}, {where}, {self.fingerprint.short})"

    @property
    def device(self) -> torch.device:
        """The device that it runs on."""
        return next(self.network.parameters()).device

    @property
    def dtype(self) -> torch.dtype:
        """The precision that it runs in. The weights of `network` may have more digits; see docs/exactness.md."""
        return self.engine.dtype

    @property
    def weight_dtype(self) -> torch.dtype:
        """The precision of the weights of `network`, and of the z and pixels that it takes."""
        return next(self.network.parameters()).dtype

    @property
    def fingerprint(self) -> Fingerprint:
        """Of the weights as they were stored; of the present ones where they were changed since."""
        tensors = self.network.state_dict()
        present = checksum(tensors)
        if self._identified is None or self._identified[0] != present:
            self._identified = present, fingerprint(self.tensors(), self.spec.family)
        return self._identified[1]

    @torch.no_grad()
    def encode(self, image: Tensor, max_memory: int | str | None = None) -> Encoded:
        """Image [b,3,h,w] in [0,1] to its posterior and latents.

        Sizes that aren't a multiple of the factor are padded at the right and bottom by repeating the edge.
        `max_memory`: by how much memory may grow beyond the loaded VAE, in bytes or as "2GB"; the values are the same.
        Raises UsageError for another shape or values outside [0,1], for a `max_memory` that is too little (it names the
        least) or of a VAE that the engine doesn't run; CheckFailedError where the network's output isn't finite;
        ResourceError where memory runs out.
        """
        check_rgb(self.spec, self.name)
        h, w = self._checked_image(image)
        factor, (low, high) = self.spec.factor, self.spec.pixel_range
        padding = 0, -w % factor, 0, -h % factor
        # Contiguous: on the CPU torch's group norm loses about three digits on channels-last input. F.pad copies.
        pixels = F.pad(image.to(self.device, torch.float32).contiguous(), padding, mode="replicate")
        pixels = pixels.mul_(high - low).add_(low).to(self.weight_dtype)
        moments = self._run("encode", pixels, max_memory)
        if moments is None:
            with self._precision():
                posterior = self.spec.family.encode(self.network, pixels)
        else:  # in the VAE's precision, in which diffusers draws the noise of a seed
            posterior = DiagonalGaussian.from_moments(moments.to(self.dtype))
        self._check_finite(posterior.mean, "encoding")
        return self.encoded(posterior, (h, w))

    def encoded(self, posterior: DiagonalGaussian, size: tuple[int, int]) -> Encoded:
        """What `encode` gives for an image of this size (height, width), from the posterior that was kept of it."""
        return Encoded(posterior, size, lambda z: self.spec.family.to_latents(z, self.spec, self.network))

    @torch.no_grad()
    def decode(
        self, latents: Tensor, size: tuple[int, int] | None = None, max_memory: int | str | None = None
    ) -> Tensor:
        """Scaled latents [b,c,h/f,w/f] to an image [b,3,h,w] in [0,1], float32.

        `size` (height, width) of the image that was encoded crops away its padding. A decoder that enlarges gives its
        own, larger size; where `size` is given, it is averaged down to that, so that it can be compared with the
        original. `max_memory` is as in `encode`. Raises UsageError for the wrong number of channels, a size larger than
        the latents give and as `encode` does for `max_memory`; CheckFailedError where the output isn't finite;
        ResourceError where memory runs out.
        """
        check_rgb(self.spec, self.name)
        family, factor = self.spec.family, self.spec.factor
        if latents.dim() != 4 or latents.shape[1] != self.spec.latent_channels:
            raise UsageError(
                f"{self.name} decodes latents [b,{self.spec.latent_channels},h,w] of the latent space "
                f"{self.spec.latent_space}, not {list(latents.shape)}. They were made for another space's VAE."
            )
        full = latents.shape[2] * factor, latents.shape[3] * factor
        h, w = size or full
        if not (0 < h <= full[0] and 0 < w <= full[1]):
            raise UsageError(
                f"an image of {h}x{w} can't be cropped from {full[0]}x{full[1]}, which these latents give."
            )
        enlarged = self.spec.decoded_factor // factor
        z = family.to_z(latents.to(self.device, self.weight_dtype).contiguous(), self.spec, self.network)
        pixels = self._run("decode", z, max_memory)
        if pixels is None:
            with self._precision():
                pixels = family.decode(self.network, z)
        self._check_finite(pixels, "decoding")
        low, high = self.spec.pixel_range
        image = (pixels[..., : h * enlarged, : w * enlarged].float() - low).div_(high - low).clamp_(0, 1)
        return F.avg_pool2d(image, enlarged) if size and enlarged > 1 else image

    def to(self, dtype: torch.dtype) -> "VAE":
        """A copy in another precision. What the weights lost in a narrower one doesn't come back in a wider one.

        Hooks aren't copied, except with the network of a `DiffusersFamily`.
        """
        if isinstance(self.spec.family, DiffusersFamily):  # only adapters/ can build it
            network = nn.Module.to(copy.deepcopy(self.network), dtype)  # diffusers' own `to` prints a warning
            return VAE(network, self.spec, self.name, **self._budget)
        kept = weight_dtype(self.network, dtype, self.device)
        tensors = {n: t.to(kept, copy=True) for n, t in self.network.state_dict().items()}
        where: dict[str, Any] = {"device": self.device, "dtype": dtype}
        return VAE.from_tensors(tensors, self.spec, self.name, **where, **self._budget)

    def named(self, name: str) -> "VAE":
        """The same network, spec and budget under another name."""
        return self if name == self.name else self.within(None, name)

    def settle(self, size: tuple[int, int], before: Mapping[str, Any] | None, batch: int = 1) -> dict[str, Any]:
        """Pin how batches of images of a size (height, width) are encoded and decoded; see `EngineCalls.settle`."""
        factor = self.spec.factor
        h, w = (-(-side // factor) for side in size)
        return self.engine.settle([("encode", (h * factor, w * factor)), ("decode", (h, w))], before, batch)

    def within(self, max_memory: int | None, name: str | None = None) -> "VAE":
        """The same network and spec, held to a budget in bytes or to its own; `settle` changes one alone."""
        budget: dict[str, Any] = self._budget | ({} if max_memory is None else {"max_memory": max_memory})
        other = VAE(self.network, self.spec, name or self.name, dtype=self.engine.computed_in, **budget)
        other._identified = self._identified
        return other

    @property
    def _budget(self) -> dict[str, Any]:
        return {"max_memory": self.engine.max_memory, "notify": self.engine.notify}

    def reconstruct(self, image: Tensor, seed: int | None = None, max_memory: int | str | None = None) -> Tensor:
        """decode(encode(image)), of the same size: of the posterior's mode, or of a sample where a seed is given."""
        encoded = self.encode(image, max_memory)
        return self.decode(encoded.mode() if seed is None else encoded.sample(seed), encoded.size, max_memory)

    def save(
        self, path: str | os.PathLike[str], layout: str = "diffusers", notes: Mapping[str, str] | None = None
    ) -> Path:
        """Write the VAE in its present precision; returns the path written.

        A path ending in .safetensors is one file, in any layout of the VAE's family that can be written ("diffusers";
        "ldm" for full VAEs); any other path is a diffusers folder with config.json. The complete spec goes into both
        config.json and the file's metadata, beside `notes`, also the fields that vaelens itself doesn't use. Raises
        UsageError where layout and path or family don't fit, and as `write_together` does.
        """
        target = Path(path)
        written = write_together(
            vae_files(self.tensors(), self.spec, target, layout=layout, name=self.name, metadata=notes)
        )
        return target if len(written) > 1 else written[0]

    def tensors(self) -> dict[str, Tensor]:
        """The weights by their diffusers names in the VAE's precision, as `save` writes them."""
        tensors: dict[str, Tensor] = self.network.state_dict()
        return tensors if self.dtype == self.weight_dtype else {n: t.to(self.dtype) for n, t in tensors.items()}

    def _precision(self) -> AbstractContextManager[object]:
        """That of the VAE, where the network runs as it is on weights with more digits."""
        if self.dtype == self.weight_dtype:
            return nullcontext()
        return torch.autocast(self.device.type, self.dtype)

    def _run(self, direction: Direction, values: Tensor, max_memory: int | str | None) -> Tensor | None:
        """Through the engine; None where the network has to run as it is."""
        if max_memory is not None:
            self.engine.check_budget(self.name)
        return self.engine.run(direction, values, bytes_of(max_memory))

    def _checked_image(self, image: Tensor) -> tuple[int, int]:
        if image.dim() != 4 or image.shape[1] != 3 or 0 in image.shape or not image.is_floating_point():
            raise UsageError(f"an image is a float tensor [b,3,h,w] in [0,1], not {image.dtype} {list(image.shape)}.")
        low, high = float(image.min()), float(image.max())
        if not (low >= -RANGE_SLACK and high <= 1 + RANGE_SLACK):
            raise UsageError(f"an image has values in [0,1]; these go from {low:.3g} to {high:.3g}.")
        return image.shape[2], image.shape[3]

    def _check_finite(self, values: Tensor, doing: str) -> None:
        if not bool(torch.isfinite(values).all()):
            raise CheckFailedError(
                f"{self.name}: {doing} in {str(self.dtype).removeprefix('torch.')} gave NaN or infinite values. "
                "Look for such values in its input and weights, or run it in float32 or bfloat16."
            )
