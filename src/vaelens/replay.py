"""Make a picture again from what its PNG says, and measure how far the new one is from it.

vaelens replay out.png
"""

import json
import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from pydantic import BaseModel, ValidationError

from vaelens import generation
from vaelens.decoding import Decoded, Guard, decode
from vaelens.download.hub import HUB_ID
from vaelens.errors import BadInputError, NetworkError, UsageError
from vaelens.generation import Generator, Latent, Settings
from vaelens.images.reading import read_picture, read_text
from vaelens.images.writing import to_pixels
from vaelens.loading import find_device, find_dtype, load
from vaelens.report.record import versions
from vaelens.report.usage import using_threads
from vaelens.vae import VAE
from vaelens.weights.registry import registry
from vaelens.weights.safetensors_file import PICKLED

LOCAL = {".safetensors", *PICKLED}  # endings of files, not of repositories
CHUNK = "vaelens"  # the PNG text that `compare` and `generate` write
File = str | os.PathLike[str]
Say = Callable[[str], None]
Size = tuple[int, int]
DECIDES = ("torch", "diffusers", "transformers", "platform")  # versions on which the last bits depend


class _Prompted(BaseModel):
    """How a latent was made from a prompt."""

    prompt: str
    negative_prompt: str | None
    steps: int
    guidance: float
    height: int
    width: int
    seed: int
    scheduler_asked: str | None
    model: str
    model_source: Literal["embedded", "folder", "hub", "file"]
    model_dtype: str


class _Served(BaseModel):
    """The VAE that decoded it."""

    name: str
    weights: str
    dtype: str
    device: str


class _Said(BaseModel):
    """What a picture says of itself. It may come from anywhere: names in it are names, never paths."""

    made: dict[str, Any]
    vae: _Served
    latent_space: str | None
    latents_sha256: str
    size: Size
    safety_checker: bool
    threads: int
    versions: dict[str, str]


@dataclass(frozen=True)
class _Help:
    """What the caller names or allows, where the picture's own names aren't enough here."""

    model: str | None
    vae: str | None
    photo: File | None
    latents: File | None
    yes: bool
    space: str | None
    announce: Say | None


@dataclass(frozen=True)
class Replay:
    """A picture made again: uint8 [h,w,3]; how far it is from the old one; whether latent and weights are the same.

    `largest` and `mean` are of |difference| of 8-bit values; `notes` say what is different here, a sentence each.
    """

    pixels: np.ndarray
    largest: int
    mean: float
    same_latent: bool
    same_weights: bool
    notes: tuple[str, ...]

    def sentence(self) -> str:
        """The result in words."""
        if self.largest == 0:
            return "largest difference 0 of 255: the same picture, bit for bit"
        latent = "the same latent" if self.same_latent else "another latent"
        return f"largest difference {self.largest} of 255, mean {self.mean:.3f}, from {latent}"


def replay(
    picture: File,
    *,
    model: str | None = None,
    vae: str | None = None,
    photo: File | None = None,
    latents: File | None = None,
    yes: bool = False,
    device: str | None = None,
    space: str | None = None,
    announce: Say | None = None,
) -> Replay:
    """Make the picture again, at its threads and precision, on the CPU if it was made there.

    `model` and `vae` name what the picture's own names can't find here, `photo` and `latents` what it was made from if
    not from a prompt. What its text names is looked for on this machine only; `yes` lets it be downloaded.

    Raises BadInputError for a picture that doesn't say how it was made, UsageError naming what is missing here, and
    what generating and decoding raise.
    """
    said = _read(picture)
    old = to_pixels(read_picture(picture).image)
    if old.shape[:2] != tuple(said.size):
        h, w = old.shape[:2]
        before = f"{said.size[1]}x{said.size[0]}"
        raise BadInputError(f"{picture}: was {before}, is {w}x{h}, so it was changed since. Take the original.")
    where = find_device(device or ("cpu" if said.vae.device == "cpu" else "auto"))
    given = _Help(model, vae, photo, latents, yes, space, announce)
    with using_threads(min(max(1, said.threads), os.cpu_count() or 1)) as threads:
        decoder = _vae(said, where, given)
        latent, size, guard = _latent(said, decoder, where, given)
        made: Decoded = decode(decoder, latent.tensor, size, guard=guard)
    if made.pixels.shape != old.shape:
        raise BadInputError(f"{picture}: what it says makes {made.pixels.shape[1]}x{made.pixels.shape[0]} pixels.")
    gap = np.abs(made.pixels.astype(np.int16) - old)
    return Replay(
        made.pixels,
        largest=int(gap.max()),
        mean=float(gap.mean()),
        same_latent=latent.sha256 == said.latents_sha256,
        same_weights=decoder.fingerprint.short == said.vae.weights,
        notes=tuple(_differences(said, decoder, where, threads)),
    )


def _read(picture: File) -> _Said:
    text = read_text(picture)
    if CHUNK not in text:
        hint = " It has another tool's `parameters`: generate with those." if "parameters" in text else ""
        raise BadInputError(f"{picture} doesn't say how vaelens made it; `generate` and `compare` write that.{hint}")
    try:
        return _Said.model_validate(json.loads(text[CHUNK]))
    except (ValidationError, ValueError, RecursionError) as error:
        first = str(error).splitlines()[0][:100]
        raise BadInputError(f"{picture}: what it says of itself can't be replayed ({first}).") from error


def _vae(said: _Said, where: torch.device, given: _Help) -> VAE:
    name = given.vae or said.vae.name
    if given.vae is None and not _may_be_fetched(name, registry().vaes):
        raise _missing("VAE", name, "--vae")
    try:
        return load(
            name,
            device=str(where),
            dtype=said.vae.dtype,
            space=given.space,
            offline=not given.yes,
            announce=given.announce,
        )
    except NetworkError as error:
        raise error if given.yes else _missing("VAE", name, "--vae") from error


def _latent(said: _Said, decoder: VAE, where: torch.device, given: _Help) -> tuple[Latent, Size | None, Guard | None]:
    """The latent made again, the size to crop to, and the model's safety checker."""
    if given.latents is not None:
        found = [one for one in generation.read_latents(given.latents) if one.sha256 == said.latents_sha256]
        if not found:
            raise UsageError(
                f"{given.latents} doesn't hold this picture's latent. Name the file that it was made from."
            )
        return found[0], said.size, None
    if given.photo is not None:
        encoded = decoder.encode(read_picture(given.photo).image)
        return Latent(encoded.mode().float().cpu(), said.latent_space, {}), encoded.size, None
    if "prompt" not in said.made:
        what = f"the photograph {said.made['photo']!r}: --photo" if "photo" in said.made else "a file: --latents"
        raise UsageError(f"the picture was made from {what} FILE names it.")
    generator, seed = _generator(said, where, given)
    return generator.latents(seed), None, generator.guard if generator.guards else None


def _generator(said: _Said, where: torch.device, given: _Help) -> tuple[Generator, int]:
    """The model with the picture's settings, and its seed."""
    try:
        made = _Prompted.model_validate(said.made)
    except ValidationError as error:
        raise BadInputError(f"the picture's settings can't be replayed ({error.error_count()} faults).") from error
    size = made.height, made.width
    settings = Settings(
        made.prompt, made.negative_prompt, made.steps, made.guidance, size, made.scheduler_asked, said.safety_checker
    )
    name, dtype = given.model or made.model, find_dtype(made.model_dtype)
    by_name = made.model_source in {"embedded", "hub"} and _may_be_fetched(name, registry().models)
    if given.model is None and not by_name:
        raise _missing("model", name, "--model")
    generation.check_settings(settings, name)
    options: dict[str, Any] = {"dtype": dtype, "offline": not given.yes, "announce": given.announce}
    try:
        found = generation.find(name, settings, **options)
        return generation.open_generator(found, settings, device=where, **options), made.seed
    except NetworkError as error:
        raise error if given.yes else _missing("model", name, "--model") from error


def _may_be_fetched(name: str, known: Any) -> bool:
    """Whether a name from a picture is one of ours, or a hub id; what exists as a path here is neither."""
    return name in known or (
        HUB_ID.fullmatch(name) is not None and not Path(name).exists() and Path(name).suffix not in LOCAL
    )


def _missing(what: str, name: str, option: str) -> UsageError:
    shown = name if len(name) <= 80 else name[:77] + "..."
    return UsageError(
        f"the {what} {shown!r} isn't on this machine, and a picture by itself makes nothing be downloaded. Name a "
        f"copy with {option}, or say --yes to download it if it is on the hub."
    )


def _differences(said: _Said, decoder: VAE, where: torch.device, threads: int) -> list[str]:
    """What is different here, and may change the picture."""
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
