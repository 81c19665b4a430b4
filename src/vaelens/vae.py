"""The one object: a network with its spec. Ranges, scaling and sizes are settled here and nowhere else."""

import hashlib
import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Literal

import torch
from safetensors.torch import save as safetensors_bytes
from torch import Tensor
from torch.nn import functional as F

from vaelens.errors import CheckFailedError, UsageError
from vaelens.files import write_atomic
from vaelens.networks.autoencoder_kl import AutoencoderKL, DiagonalGaussian
from vaelens.networks.tiny import TinyAutoencoder
from vaelens.weights import layouts
from vaelens.weights.config_json import config_json
from vaelens.weights.fingerprint import Checksum, Fingerprint, checksum, fingerprint
from vaelens.weights.safetensors_file import PICKLED
from vaelens.weights.settling import METADATA_KEY, metadata_text
from vaelens.weights.shapes import build
from vaelens.weights.spec import VAESpec

WEIGHTS_NAME = "diffusion_pytorch_model.safetensors"
RANGE_SLACK = 1e-3  # resampling may leave [0,1] by rounding; an image in [-1,1] or 0..255 leaves it by far


class Encoded:
    """What an image became: a posterior over raw z, and latents as the diffusion model sees them."""

    def __init__(self, posterior: DiagonalGaussian, size: tuple[int, int], spec: VAESpec) -> None:
        self.posterior = posterior
        self.size = size  # height and width of the image, before padding
        self._spec = spec

    def mode(self) -> Tensor:
        """The posterior's mode as scaled latents, [b,c,h/f,w/f]."""
        return scale_latents(self.posterior.mode(), self._spec)

    def sample(self, seed: int | Sequence[int] = 0) -> Tensor:
        """A draw from the posterior as scaled latents, [b,c,h/f,w/f].

        A seed means what it means in diffusers: one CPU generator an image. One seed serves each
        image of the batch alike, so an image's draw doesn't depend on its company; a list gives
        each its own and must be as long as the batch (else UsageError).
        """
        count = len(self.posterior.mean)
        seeds = [seed] * count if isinstance(seed, int) else list(seed)
        if len(seeds) != count:
            raise UsageError(f"{len(seeds)} seeds for {count} images; give one seed, or one an image.")
        for value in seeds:
            check_seed(value)
        generators = [torch.Generator("cpu").manual_seed(s) for s in seeds]
        return scale_latents(self.posterior.sample(generators), self._spec)


def check_seed(seed: int) -> None:
    """Raises UsageError for a number that torch can't be seeded with."""
    if not -(2**63) <= seed < 2**64:
        raise UsageError(f"a seed lies between -2^63 and 2^64 - 1; {seed} doesn't.")


def latents_sha256(latents: Tensor) -> str:
    """sha256 of the fp32 values, in hexadecimal: what proves that two decoders saw one latent."""
    return hashlib.sha256(latents.detach().float().cpu().contiguous().numpy().tobytes()).hexdigest()


def scale_latents(z: Tensor, spec: VAESpec) -> Tensor:
    """Raw z to what the diffusion model sees: (z - shift_factor) * scaling_factor."""
    return (z - spec.shift_factor) * spec.scaling_factor


def unscale_latents(latents: Tensor, spec: VAESpec) -> Tensor:
    """What the diffusion model sees to raw z; the inverse of `scale_latents`."""
    return latents / spec.scaling_factor + spec.shift_factor


class VAE:
    """One VAE, ready to run.

    Images are [b,3,h,w] in [0,1], float32, of any size from 1x1 up; latents [b,c,h/f,w/f] are scaled.
    `network` is the plain network on raw pixels and raw z, for training and research.
    """

    def __init__(
        self,
        network: AutoencoderKL | TinyAutoencoder,
        spec: VAESpec,
        name: str,
        fingerprint: Fingerprint | None = None,
    ) -> None:
        if network.config != spec.config:
            raise UsageError(f"{name}: the network's config isn't the spec's.")
        self.network = network.eval()
        self.spec = spec
        self.name = name
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
    ) -> "VAE":
        """A VAE from tensors under their diffusers names, each of which the network must have, and no other."""
        with torch.device("meta"):
            network = build(spec.config)
        cast = {n: t.to(device=device, dtype=dtype) for n, t in tensors.items()}
        network.load_state_dict(cast, strict=True, assign=True)
        return cls(network, spec, name, fingerprint)

    def __repr__(self) -> str:
        where = f"{self.device.type}, {str(self.dtype).removeprefix('torch.')}"
        return f"VAE({self.name!r}, latent space {self.spec.latent_space}, {where}, {self.fingerprint.short})"

    @property
    def device(self) -> torch.device:
        """Where it runs."""
        return next(self.network.parameters()).device

    @property
    def dtype(self) -> torch.dtype:
        """The precision that it runs in."""
        return next(self.network.parameters()).dtype

    @property
    def fingerprint(self) -> Fingerprint:
        """Of the weights in the network: as they were stored, unless they were changed since they were loaded."""
        tensors = self.network.state_dict()
        present = checksum(tensors)
        if self._identified is None or self._identified[0] != present:
            self._identified = present, fingerprint(tensors)
        return self._identified[1]

    @torch.no_grad()
    def encode(self, image: Tensor) -> Encoded:
        """Image [b,3,h,w] in [0,1] to its posterior and latents.

        Sizes that aren't a multiple of the factor are padded at the right and bottom by repeating the
        edge. Raises UsageError for another shape or values outside [0,1]; CheckFailedError where the
        network's output isn't finite.
        """
        h, w = self._checked_image(image)
        factor = self.spec.factor
        # Contiguous: on the CPU torch's group norm loses about three digits on channels-last input.
        image = image.to(self.device, torch.float32).contiguous()
        padded = F.pad(image, (0, -w % factor, 0, -h % factor), mode="replicate")
        low, high = self.spec.pixel_range
        posterior = self.network.posterior((padded * (high - low) + low).to(self.dtype))
        self._check_finite(posterior.mean, "encoding")
        return Encoded(posterior, (h, w), self.spec)

    @torch.no_grad()
    def decode(self, latents: Tensor, size: tuple[int, int] | None = None) -> Tensor:
        """Scaled latents [b,c,h/f,w/f] to an image [b,3,h,w] in [0,1], float32.

        `size` (height, width) crops to the image that was encoded. Raises UsageError for the wrong
        number of channels or a size larger than the latents give; CheckFailedError where the output
        isn't finite.
        """
        if latents.dim() != 4 or latents.shape[1] != self.spec.latent_channels:
            raise UsageError(
                f"{self.name} decodes latents [b,{self.spec.latent_channels},h,w] of the latent space "
                f"{self.spec.latent_space}, not {list(latents.shape)}. They were made for another space's VAE."
            )
        full = latents.shape[2] * self.spec.factor, latents.shape[3] * self.spec.factor
        h, w = size or full
        if not (0 < h <= full[0] and 0 < w <= full[1]):
            raise UsageError(
                f"an image of {h}x{w} can't be cropped from {full[0]}x{full[1]}, which these latents give."
            )
        pixels = self.network.decode(unscale_latents(latents.to(self.device, self.dtype).contiguous(), self.spec))
        self._check_finite(pixels, "decoding")
        low, high = self.spec.pixel_range
        return ((pixels[..., :h, :w].float() - low) / (high - low)).clamp(0, 1)

    def to(self, dtype: torch.dtype) -> "VAE":
        """The same weights in another precision, as another VAE; what was rounded away isn't back in a wider one."""
        tensors = self.network.state_dict()
        return VAE.from_tensors(tensors, self.spec, self.name, device=self.device, dtype=dtype)

    def reconstruct(self, image: Tensor, seed: int | None = None) -> Tensor:
        """decode(encode(image)), the same size: by the posterior's mode, or by a draw where a seed is given."""
        encoded = self.encode(image)
        return self.decode(encoded.mode() if seed is None else encoded.sample(seed), encoded.size)

    def save(
        self,
        path: str | os.PathLike[str],
        layout: Literal["diffusers", "ldm"] = "diffusers",
        notes: Mapping[str, str] | None = None,
    ) -> Path:
        """Write the VAE in its present precision; gives the path written.

        A path ending in .safetensors is one file in either layout; any other is a diffusers folder with
        config.json. The complete spec goes into the file's metadata, beside `notes`. Raises UsageError
        where layout and path or network don't fit, and as `write_atomic` does.
        """
        target = Path(path)
        if layout not in {"diffusers", "ldm"}:
            raise UsageError(f"a layout is diffusers or ldm, not {layout!r}.")
        if target.suffix.lower() in PICKLED:
            raise UsageError(f"{target}: vaelens writes no pickled files. End the name in .safetensors.")
        if notes and {METADATA_KEY, "format"} & set(notes):
            raise UsageError(f"notes can't be called {METADATA_KEY!r} or 'format': the file's own metadata are.")
        tensors = {n: t.detach().cpu().contiguous() for n, t in self.network.state_dict().items()}
        if layout == "ldm":
            if isinstance(self.network, TinyAutoencoder):
                raise UsageError(f"{self.name} is a tiny autoencoder; the LDM layout is for full VAEs.")
            tensors = {n: t.contiguous() for n, t in layouts.to_ldm(tensors).items()}
        metadata = {"format": "pt", METADATA_KEY: metadata_text(self.spec), **(notes or {})}
        weights = safetensors_bytes(tensors, metadata)
        if target.suffix == ".safetensors":
            return write_atomic(target, weights)
        if layout == "ldm":
            raise UsageError(f"{target}: the LDM layout is a single file; end its name in .safetensors.")
        described = config_json(self.spec)
        write_atomic(target / WEIGHTS_NAME, weights)
        write_atomic(target / "config.json", json.dumps(described, indent=2).encode())
        return target

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
                "Run it in float32 or bfloat16."
            )
