"""Make an image again from what its PNG says, and measure how far the new one is from it.

vaelens replay out.png
"""

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from pydantic import ValidationError

from vaelens import generation
from vaelens.decoding import Decoded, Guard, decode
from vaelens.download.hub import HUB_ID
from vaelens.errors import BadInputError, NetworkError, UsageError
from vaelens.files import sha256_file
from vaelens.generation import Generator, Settings
from vaelens.images.reading import decode_file
from vaelens.images.writing import to_pixels
from vaelens.latents import Latent, Prompted, read_latents
from vaelens.loading import open_vae
from vaelens.replay.said import File, Photographed, Said, Size, read_said, text_again
from vaelens.resources import using_threads
from vaelens.runs.versions import versions
from vaelens.runtime import Notify, Runtime, find_device, log
from vaelens.vae import VAE
from vaelens.weights.registry import registry
from vaelens.weights.safetensors_file import PICKLED

LOCAL = {".safetensors", *PICKLED}  # endings of files, not of repositories
DECIDES = ("torch", "diffusers", "transformers", "platform")  # versions on which the last bits depend


@dataclass(frozen=True)
class _Help:
    """What the caller names or allows, where the image's own names aren't enough here."""

    model: str | None
    vae: str | None
    photo: File | None
    latents: File | None
    yes: bool
    space: str | None
    runtime: Runtime


@dataclass(frozen=True)
class Replay:
    """An image made again: uint8 [h,w,3]; how far it is from the old one; whether latent and weights are the same.

    `largest` and `mean` are of |difference| of 8-bit values; `notes` say what is different here, a sentence each.
    `text` is for the new one's PNG: what the old one said, with what was different.
    """

    pixels: np.ndarray
    largest: int
    mean: float
    same_latent: bool
    same_weights: bool
    notes: tuple[str, ...]
    text: Mapping[str, str]

    def sentence(self) -> str:
        """The result in words."""
        if self.largest == 0:
            return "largest difference 0 of 255: the same image, bit for bit"
        latent = "the same latent" if self.same_latent else "another latent"
        return f"largest difference {self.largest} of 255, mean {self.mean:.3f}, from {latent}"


def replay(
    image: File,
    *,
    model: str | None = None,
    vae: str | None = None,
    photo: File | None = None,
    latents: File | None = None,
    yes: bool = False,
    device: str | None = None,
    space: str | None = None,
    notify: Notify | None = None,
) -> Replay:
    """Make the image again, at its threads and precision, on the CPU if it was made there.

    `model` and `vae` name what the image's own names can't find here, `photo` and `latents` what it was made from if
    not from a prompt. What its text names is looked for on this machine only; `yes` lets it be downloaded.

    Raises BadInputError for an image that doesn't say how it was made, UsageError naming what is missing here, and
    what generating and decoding raise.
    """
    said = read_said(image)
    old = to_pixels(decode_file(image).image)
    if old.shape[:2] != tuple(said.size):
        h, w = old.shape[:2]
        before = f"{said.size[1]}x{said.size[0]}"
        raise BadInputError(f"{image}: was {before}, is {w}x{h}, so it was changed since. Take the original.")
    where = find_device(device or ("cpu" if said.vae.device == "cpu" else "auto"))
    given = _Help(model, vae, photo, latents, yes, space, Runtime(str(where), offline=not yes, notify=notify or log))
    with using_threads(min(max(1, said.threads), os.cpu_count() or 1)) as threads:
        decoder = _vae(said, given)
        latent, size, guard, notes = _latent(said, decoder, given)
        made: Decoded = decode(decoder, latent.tensor, size, guard=guard, in_full=lambda: _vae(said, given, "float32"))
    if made.pixels.shape != old.shape:
        here, before = (f"{shape[1]}x{shape[0]}" for shape in (made.pixels.shape, old.shape))
        raise BadInputError(" ".join([f"{image}: made again it has {here} pixels, not {before}.", *notes]))
    gap = np.abs(made.pixels.astype(np.int16) - old)
    return Replay(
        made.pixels,
        largest=int(gap.max()),
        mean=float(gap.mean()),
        same_latent=latent.sha256 == said.latents_sha256,
        same_weights=decoder.fingerprint.short == said.vae.weights,
        notes=(*notes, *_differences(said, decoder, where, threads)),
        text=text_again(image, latent, decoder, made, threads),
    )


def _vae(said: Said, given: _Help, dtype: str | None = None) -> VAE:
    if given.vae is None:
        return _by_name(said.vae.name, dtype or said.vae.dtype, given)
    runtime = given.runtime.using(dtype or said.vae.dtype)
    return open_vae(given.vae, runtime, space=given.space)


def _by_name(name: str, dtype: str, given: _Help) -> VAE:
    """A VAE that the image names, if it is on this machine."""
    if not _may_be_fetched(name, registry().vaes):
        raise _missing("VAE", name, "--vae")
    try:
        return open_vae(name, given.runtime.using(dtype), space=given.space)
    except NetworkError as error:
        raise error if given.yes else _missing("VAE", name, "--vae") from error


def _latent(said: Said, decoder: VAE, given: _Help) -> tuple[Latent, Size | None, Guard | None, list[str]]:
    """The latent made again, the size to crop to, the model's safety checker, and what is different here."""
    if given.latents is not None:
        found = [one for one in read_latents(given.latents) if one.sha256 == said.latents_sha256]
        if not found:
            raise UsageError(f"{given.latents} doesn't hold this image's latent. Name the file that it was made from.")
        return found[0], said.size, None, []
    if given.photo is not None:
        other = said.made.get("photo_sha256") not in {None, sha256_file(given.photo)}
        notes = [f"{given.photo} is another file than the photo that was used."] if other else []
        return *_encoded(said, decoder, given, given.photo), None, notes
    if "prompt" not in said.made:
        what = f"the photo {said.made['photo']!r}: --photo" if "photo" in said.made else "a file: --latents"
        raise UsageError(f"the image was made from {what} FILE names it.")
    generator, made = _generator(said, given)
    notes: list[str] = []
    if generator.model.commit != made.model_commit and generator.model.source == "hub":
        notes.append(f"the model's commit was {made.model_commit}, and is {generator.model.commit} here.")
    if generator.model.name != made.model:
        notes.append(f"the model was {made.model}, and is {generator.model.name} here.")
    return generator.latents(made.seed), None, generator.guard if generator.guards else None, notes


def _encoded(said: Said, decoder: VAE, given: _Help, photo: File) -> tuple[Latent, Size]:
    """The photo through the encoder that was used, and its size."""
    try:
        made = Photographed.model_validate(said.made)
    except ValidationError as error:
        raise BadInputError(f"the image wasn't made from a photo, so --photo {photo} can't make it.") from error
    encoder = decoder
    if decoder.fingerprint.encoder.stored != made.encoder_weights:
        if not _may_be_fetched(made.encoder, registry().vaes):
            raise UsageError(
                f"the photo was encoded by {made.encoder[:80]!r}, which isn't on this machine under that name. "
                "Name the latents that the comparison wrote into its folder: --latents FILE."
            )
        encoder = _by_name(made.encoder, said.vae.dtype, given)
    encoded = encoder.encode(decode_file(photo, max_side=made.max_side).image)
    return Latent(encoded.mode().float().cpu(), said.latent_space, {}), encoded.size


def _generator(said: Said, given: _Help) -> tuple[Generator, Prompted]:
    """The model with the image's settings, and what these were."""
    try:
        made = Prompted.model_validate(said.made)
    except ValidationError as error:
        raise BadInputError(f"the image's settings can't be replayed ({error.error_count()} faults).") from error
    size = made.height, made.width
    settings = Settings(
        made.prompt, made.negative_prompt, made.steps, made.guidance, size, made.scheduler_asked, said.safety_checker
    )
    name, runtime = given.model or made.model, given.runtime.using(made.model_dtype)
    by_name = made.model_source in {"embedded", "hub"} and _may_be_fetched(name, registry().models)
    if given.model is None and not by_name:
        raise _missing("model", name, "--model")
    generation.check_settings(settings, name)
    try:
        found = generation.find(name, settings, runtime)
        return generation.open_generator(found, settings, runtime), made
    except NetworkError as error:
        raise error if given.yes or given.model is not None else _missing("model", name, "--model") from error


def _may_be_fetched(name: str, known: Any) -> bool:
    """Whether a name from an image is one of ours, or a hub id; what exists as a path here is neither."""
    if Path(name).exists():
        return False
    return name in known or (HUB_ID.fullmatch(name) is not None and Path(name).suffix not in LOCAL)


def _missing(what: str, name: str, option: str) -> UsageError:
    shown = name if len(name) <= 80 else name[:77] + "..."
    return UsageError(
        f"the {what} {shown!r} isn't on this machine, and an image by itself makes nothing be downloaded. Name a "
        f"copy with {option}, or say --yes to download it if it is on the hub."
    )


def _differences(said: Said, decoder: VAE, where: torch.device, threads: int) -> list[str]:
    """What is different here, and may change the image."""
    notes: list[str] = []
    if decoder.fingerprint.short != said.vae.weights:
        notes.append(f"the VAE's weights are others: {decoder.fingerprint.short} here, {said.vae.weights} then.")
    if where.type != said.vae.device.partition(":")[0]:
        notes.append(f"it was made on {said.vae.device}, now on {where}.")
    if threads != said.threads:
        notes.append(f"it was made with {said.threads} threads, now with {threads}.")
    here = versions()
    changed = [name for name in DECIDES if said.versions.get(name) != here.get(name)]
    return notes + [f"{name}: {said.versions.get(name)} then, {here.get(name)} now." for name in changed]
