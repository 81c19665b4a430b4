"""One subject after the other: a latent is made or read, and decoded by every VAE."""

from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from vaelens.comparison.choosing import Choice
from vaelens.decoding import Decoded, decode
from vaelens.errors import CheckFailedError, VaelensError
from vaelens.files import sha256_file
from vaelens.generation import Generator
from vaelens.images.drawing import Box
from vaelens.images.reading import decode_file
from vaelens.images.writing import from_uint8, to_pixels, to_uint8
from vaelens.latents import Latent
from vaelens.metrics.psnr import psnr
from vaelens.metrics.ssim import ssim
from vaelens.vae import VAE

Step = Callable[[str], None]  # told what comes next, before it is done; it may raise to stop there


@dataclass(frozen=True)
class Scores:
    """What was measured on a reconstruction's 8-bit pixels against its photo: dB, and SSIM zero-padded."""

    psnr: float
    ssim: float


@dataclass(frozen=True)
class Subject:
    """One latent through every decoder. A photo's has the original, uint8 [h,w,3], and scores.

    `boxes` are what is labelled in it, in its pixels. `stopped` is what ended the decoding before the last VAE, if
    anything did; `decoded` then has the first ones.
    """

    title: str
    file: str
    latent: Latent
    decoded: tuple[Decoded, ...]
    original: np.ndarray | None = None
    scores: tuple[Scores, ...] = ()
    note: str = ""
    boxes: tuple[Box, ...] = ()
    stopped: BaseException | None = None


class Stopped(Exception):  # noqa: N818  (no error: somebody asked for it)
    """Raised by a step where the work shall end."""


class Decoders:
    """VAEs that stand ready; `load_in_full` gives one again in fp32, for where half precision overflows."""

    def __init__(self, vaes: Sequence[VAE], sources: Sequence[Choice], load_in_full: Callable[[Choice], VAE]) -> None:
        self.vaes = vaes
        self._sources = sources
        self._load_in_full = load_in_full
        self._full: dict[int, VAE] = {}
        self._ready: set[tuple[int, ...]] = set()

    def decode(
        self, latent: Latent, step: Step, size: tuple[int, int] | None = None, generator: Generator | None = None
    ) -> tuple[tuple[Decoded, ...], BaseException | None]:
        """The latent through each VAE; each image then goes past the model's safety checker, where it has one.

        Gives what was decoded, and what stopped it after the first VAE, if anything did: denoising took far longer.
        """
        guard = generator.guard if generator is not None and generator.guards else None
        decoded: list[Decoded] = []
        self._warm_up(latent)
        try:
            for number, vae in enumerate(self.vaes):
                step(vae.name)
                decoded.append(decode(vae, latent.tensor, size, guard=guard, in_full=lambda n=number: self._in_full(n)))
        except (KeyboardInterrupt, Stopped, VaelensError) as error:
            if not decoded:
                raise
            return tuple(decoded), error
        return tuple(decoded), None

    def _warm_up(self, latent: Latent) -> None:
        """Decode the first latent of each size once for nothing, where decoders are compared: what comes first is
        slower, and takes other memory, whatever its weights."""
        shape = tuple(latent.tensor.shape)
        if len(self.vaes) > 1 and shape not in self._ready:
            with suppress(CheckFailedError):  # half precision may overflow; the decode that counts sees to that
                decode(self.vaes[0], latent.tensor)
            self._ready.add(shape)

    def _in_full(self, number: int) -> VAE:
        if number not in self._full:
            self._full[number] = self._load_in_full(self._sources[number])
        return self._full[number]


def seed_title(seed: int) -> str:
    """What the image of a seed is called."""
    return f"seed {seed}"


def stored_title(latent: Latent, number: int) -> str:
    """What the image of a file's `number`-th latent is called."""
    seed = latent.made.get("seed")
    return f"latents {number}" + (f", seed {seed}" if seed is not None else "")


def generated(decoders: Decoders, generator: Generator, seed: int, step: Step) -> Subject:
    """The latent of one seed, denoised alone."""
    title = seed_title(seed)
    latent = generator.latents(seed, lambda number, total: step(f"{title}, step {number} of {total}"))
    decoded, stopped = decoders.decode(latent, lambda name: step(f"{title}, {name}"), None, generator)
    return Subject(title, f"seed-{seed}", latent, decoded, note=generator.prompt, stopped=stopped)


def stored(decoders: Decoders, latent: Latent, number: int, step: Step) -> Subject:
    """A latent that was read from a file, the `number`-th there, from 1."""
    title = stored_title(latent, number)
    size = latent.made.get("photo_size")  # a photo's latent covers whole cells
    decoded, stopped = decoders.decode(latent, lambda name: step(f"{title}, {name}"), tuple(size) if size else None)
    note = str(latent.made.get("prompt", ""))
    return Subject(title, f"latents-{number}", latent, decoded, note=note, stopped=stopped)


def photographed(decoders: Decoders, path: Path, max_side: int | None, step: Step) -> Subject:
    """A photo, encoded once by the first VAE to its posterior's mode, and measured against itself."""
    step(f"{path.name}, encoding")
    photo, encoder = decode_file(path, max_side=max_side), decoders.vaes[0]
    encoded = encoder.encode(photo.image)
    made = {
        "photo": path.name,
        "photo_sha256": sha256_file(path),
        "photo_size": list(encoded.size),
        "max_side": max_side,
        "encoder": encoder.name,
        "encoder_weights": encoder.fingerprint.encoder.stored,
        "posterior": "mode",
    }
    latent = Latent(encoded.mode().float().cpu(), encoder.spec.latent_space, made)
    decoded, stopped = decoders.decode(latent, lambda name: step(f"{path.name}, {name}"), encoded.size)
    reference = from_uint8(to_uint8(photo.image))
    scores: list[Scores] = []
    for one in decoded:
        image = from_uint8(torch.tensor(one.pixels).permute(2, 0, 1)[None])
        scores.append(Scores(float(psnr(image, reference)), float(ssim(image, reference))))
    original, note = to_pixels(photo.image), ", ".join(photo.notes)
    return Subject(path.name, path.stem, latent, decoded, original, tuple(scores), note, stopped=stopped)
