"""The images of a comparison: a latent is generated, read from a file or encoded, then decoded by every VAE."""

from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Protocol

import numpy as np
import torch

from vaelens.decoding import Decoded, decode
from vaelens.errors import CheckFailedError, VaelensError
from vaelens.files import sha256_file
from vaelens.generation import LatentGenerator
from vaelens.images.drawing import Box
from vaelens.images.reading import decode_file
from vaelens.images.writing import from_uint8, to_pixels, to_uint8
from vaelens.latents import Latent, PhotoProvenance, PromptProvenance
from vaelens.metrics.psnr import psnr
from vaelens.metrics.ssim import ssim
from vaelens.vae import VAE


class Step(Protocol):
    """Gets what comes next, before it is done, or, with a `part`, how far what was begun is; it may raise to stop."""

    def __call__(self, what: str, part: str | None = None) -> None: ...


@dataclass(frozen=True)
class Scores:
    """Of a reconstruction's 8-bit pixels against its photo: PSNR in dB, SSIM with zero padding."""

    psnr: float
    ssim: float


@dataclass(frozen=True)
class ComparedImage:
    """One latent through every decoder. A photo's has the original, uint8 [h,w,3], and scores.

    `file` begins the names of its files; `boxes` are labelled regions in its pixels. `stopped_by` is what ended the
    decoding before the last VAE, if anything did; `decoded` then holds the images of the first VAEs.
    """

    title: str
    file: str
    latent: Latent
    decoded: tuple[Decoded, ...]
    original: np.ndarray | None = None
    scores: tuple[Scores, ...] = ()
    note: str = ""
    boxes: tuple[Box, ...] = ()
    stopped_by: BaseException | None = None


class Stopped(Exception):  # noqa: N818  (no error: the caller requested it)
    """Raised by a step where the work is to end."""


class Decoders:
    """Loaded VAEs. `load_float32` loads the VAE of an index again in fp32, for where half precision overflows."""

    def __init__(self, vaes: Sequence[VAE], load_float32: Callable[[int], VAE]) -> None:
        self.vaes = vaes
        self._load_float32 = load_float32
        self._float32: dict[int, VAE] = {}
        self._warm_shapes: set[tuple[int, ...]] = set()

    def decode(
        self,
        title: str,
        latent: Latent,
        step: Step,
        size: tuple[int, int] | None = None,
        generator: LatentGenerator | None = None,
    ) -> tuple[tuple[Decoded, ...], BaseException | None]:
        """The latent through each VAE, and each image past the generator's safety checker, if it has one.

        Returns the images and what stopped the decoding after the first VAE, if anything did: an image that took
        minutes of denoising isn't thrown away.
        """
        checks = generator is not None and generator.sampling.safety_checker
        decoded: list[Decoded] = []
        self._warm_up(latent)
        try:
            for i, vae in enumerate(self.vaes):
                what = f"{title}, {vae.name}"
                step(what)
                with vae.engine.reporting(partial(step, what)):
                    image = decode(
                        vae,
                        latent.tensor,
                        size,
                        safety_checker=generator.check_safety if generator is not None and checks else None,
                        load_float32=lambda i=i: self._in_float32(i),
                    )
                decoded.append(image)
        except (KeyboardInterrupt, Stopped, VaelensError) as error:
            if not decoded:
                raise
            return tuple(decoded), error
        return tuple(decoded), None

    def _warm_up(self, latent: Latent) -> None:
        """Where decoders are compared, decode the first latent of each shape once without measuring.

        The first decode takes longer and another amount of memory, whichever VAE it is.
        """
        shape = tuple(latent.tensor.shape)
        if len(self.vaes) > 1 and shape not in self._warm_shapes:
            with suppress(CheckFailedError):  # half precision may overflow; the measured decode handles that
                decode(self.vaes[0], latent.tensor)
            self._warm_shapes.add(shape)

    def _in_float32(self, i: int) -> VAE:
        if i not in self._float32:
            self._float32[i] = self._load_float32(i)
        return self._float32[i]


def seed_title(seed: int) -> str:
    """The title of the image of a seed."""
    return f"seed {seed}"


def stored_title(latent: Latent, number: int) -> str:
    """The title of the image of a file's `number`-th latent."""
    seed = f", seed {latent.provenance.seed}" if isinstance(latent.provenance, PromptProvenance) else ""
    return f"latents {number}{seed}"


def decode_seed(decoders: Decoders, generator: LatentGenerator, seed: int, step: Step) -> ComparedImage:
    """The image of one seed, denoised alone."""
    title = seed_title(seed)
    latent = generator.latents(seed, lambda call, calls: step(f"{title}, step {call} of {calls}"))
    decoded, stopped_by = decoders.decode(title, latent, step, None, generator)
    note = generator.sampling.prompt
    return ComparedImage(title, f"seed-{seed}", latent, decoded, note=note, stopped_by=stopped_by)


def decode_stored(decoders: Decoders, latent: Latent, number: int, step: Step) -> ComparedImage:
    """The image of a latent read from a file, the `number`-th there, from 1."""
    title, source = stored_title(latent, number), latent.provenance
    size = source.photo_size if isinstance(source, PhotoProvenance) else None  # a photo's latent covers whole cells
    decoded, stopped_by = decoders.decode(title, latent, step, size)
    note = source.sampling.prompt if isinstance(source, PromptProvenance) else ""
    return ComparedImage(title, f"latents-{number}", latent, decoded, note=note, stopped_by=stopped_by)


def decode_photo(decoders: Decoders, path: Path, max_side: int | None, step: Step) -> ComparedImage:
    """A photo, encoded once by the first VAE to its posterior's mode, with scores against itself."""
    step(f"{path.name}, encoding")
    photo, encoder = decode_file(path, max_side=max_side), decoders.vaes[0]
    with encoder.engine.reporting(partial(step, path.name)):
        encoded = encoder.encode(photo.image)
    provenance = PhotoProvenance(
        photo=path.name,
        photo_sha256=sha256_file(path),
        photo_size=encoded.size,
        max_side=max_side,
        encoder=encoder.name,
        encoder_weights=encoder.fingerprint.encoder.stored,
    )
    latent = Latent(encoded.mode().float().cpu(), encoder.spec.latent_space, provenance)
    decoded, stopped_by = decoders.decode(path.name, latent, step, encoded.size)
    reference = from_uint8(to_uint8(photo.image))
    scores: list[Scores] = []
    for one in decoded:
        image = from_uint8(torch.tensor(one.pixels).permute(2, 0, 1)[None])
        scores.append(Scores(float(psnr(image, reference)), float(ssim(image, reference))))
    original, note = to_pixels(photo.image), ", ".join(photo.notes)
    return ComparedImage(path.name, path.stem, latent, decoded, original, tuple(scores), note, stopped_by=stopped_by)
