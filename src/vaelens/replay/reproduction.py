"""Make an image again from the metadata of its PNG, and measure how far the new one is from it.

vaelens replay out.png
"""

import os
import time
from collections.abc import Container, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from vaelens import generation
from vaelens.adapters.models import find_model
from vaelens.decoding import SafetyChecker, check_budget, decode
from vaelens.download.hub import HUB_ID
from vaelens.engine.calls import PLAIN
from vaelens.errors import BadInputError, NetworkError, UsageError
from vaelens.files import StrPath, sha256_file
from vaelens.generation import LatentGenerator
from vaelens.images.reading import decode_file, read_text
from vaelens.images.writing import to_pixels
from vaelens.latents import Latent, PhotoProvenance, PromptProvenance, read_latents
from vaelens.loading import open_vae
from vaelens.png_metadata import EngineFacts, PngMetadata, describe_image, read_png_metadata
from vaelens.report.record import file_record, public_name, run_record, vae_record
from vaelens.resources import using_threads
from vaelens.runs.versions import versions
from vaelens.runtime import Notify, Progress, Runtime
from vaelens.sampling import Size, shortened
from vaelens.tensors.file_types import PICKLED
from vaelens.text.numbers import counted
from vaelens.text.paths import exists
from vaelens.vae import VAE
from vaelens.weights.registry import registry

FILE_SUFFIXES = {".safetensors", *PICKLED}  # of files, never of repositories
COMPARED_VERSIONS = ("torch", "diffusers", "transformers", "platform")  # versions that the last bits depend on


@dataclass(frozen=True)
class _Replacements:
    """What the caller names in place of the image's own names, and allows."""

    model: str | None
    vae: str | None
    photo: StrPath | None
    latents: StrPath | None
    download: bool
    space: str | None
    runtime: Runtime


@dataclass(frozen=True)
class Replay:
    """An image made again: uint8 [h,w,3]; its distance to the old one; whether latent and weights are the same.

    `largest` and `mean` are of |difference| of 8-bit values; `notes` name what differs here, a sentence each. `text`
    are the text chunks for the new PNG, `record` is its `run.json`.
    """

    pixels: np.ndarray
    largest: int
    mean: float
    same_latent: bool
    same_weights: bool
    notes: tuple[str, ...]
    text: Mapping[str, str]
    record: Mapping[str, Any]

    def sentence(self) -> str:
        """The result in words."""
        if self.largest == 0:
            return "largest difference 0 of 255: the same image, bit for bit"
        latent = "the same latent" if self.same_latent else "another latent"
        return f"largest difference {self.largest} of 255, mean {self.mean:.3f}, from {latent}"


def replay(
    image: StrPath,
    *,
    model: str | None = None,
    vae: str | None = None,
    photo: StrPath | None = None,
    latents: StrPath | None = None,
    download: bool = False,
    device: str | None = None,
    space: str | None = None,
    max_memory: int | str | None = None,
    notify: Notify | None = None,
    progress: Progress | None = None,
) -> Replay:
    """Make the image again, with its thread count and precision, on the CPU if it was made there.

    `model` and `vae` replace names that aren't found here; `photo` and `latents` name the image's source if that isn't
    a prompt. Names in the image's metadata are looked up on this machine only, unless `download` allows more.
    `max_memory` ("2GB") is by how much running the VAE may let memory grow; without it the image's own budget holds
    where the last bits depend on it. `notify` gets notices, among them the size and number of steps before denoising
    starts; `progress` (done, total, what).

    Raises BadInputError for an image without usable metadata, UsageError naming what is missing here, and what
    generating and decoding raise.
    """
    start = time.perf_counter()
    old, pixels = read_png_metadata(image), to_pixels(decode_file(image).image)
    if pixels.shape[:2] != old.size:
        raise BadInputError(
            f"{image}: it was {_sides(old.size)} pixels and is {_sides(pixels.shape)} now, so it was changed. Use the "
            "original image."
        )
    runtime = Runtime.of(
        device=device or ("cpu" if old.vae.device == "cpu" else "auto"),
        offline=not download,
        max_memory=max_memory,
        notify=notify,
        progress=progress,
    )
    given = _Replacements(model, vae, photo, latents, download, space, runtime)
    with using_threads(min(max(1, old.threads), os.cpu_count() or 1)) as threads:
        decoder = _vae(old, given)
        if old.vae.engine is not None and given.runtime.max_memory is None:
            decoder.engine.pinned |= old.vae.engine.budgets
        latent, size, safety_checker, notes = _latent(old, decoder, given)
        decoded = decode(
            decoder,
            latent.tensor,
            size,
            safety_checker=safety_checker,
            load_float32=lambda: _vae(old, given, "float32"),
        )
    if decoded.pixels.shape != pixels.shape:
        here, before = _sides(decoded.pixels.shape), _sides(pixels.shape)
        raise BadInputError(" ".join([f"{image}: made again it has {here} pixels, not {before}.", *notes]))
    distance = np.abs(decoded.pixels.astype(np.int16) - pixels)
    new = describe_image(latent, decoded, vae_record(decoder), versions=versions(), threads=threads)
    if latent.provenance is None:
        new = new.model_copy(update={"provenance": old.provenance})
    found: dict[str, Any] = {
        "largest": int(distance.max()),
        "mean": float(distance.mean()),
        "same_latent": new.latents_sha256 == old.latents_sha256,
        "same_weights": new.vae.weights == old.vae.weights,
        "notes": (*notes, *_differences(old, new)),
    }
    settings: dict[str, Any] = {"image": file_record(image)}
    settings |= {name: file_record(file) if file else None for name, file in (("photo", photo), ("latents", latents))}
    settings |= {name: public_name(source) if source else None for name, source in (("model", model), ("vae", vae))}
    settings |= {"device": device, "space": space, "download": download}
    record = run_record("replay", settings, [vae_record(decoder)], time.perf_counter() - start) | {"replay": found}
    return Replay(decoded.pixels, **found, text=read_text(image) | new.text(), record=record)


def _vae(old: PngMetadata, given: _Replacements, dtype: str | None = None) -> VAE:
    dtype = dtype or old.vae.dtype
    if given.vae is None:
        return _vae_by_name(old.vae.name, dtype, given)
    return open_vae(given.vae, given.runtime.using(dtype), space=given.space)


def _vae_by_name(name: str, dtype: str, given: _Replacements) -> VAE:
    """A VAE that the image's metadata names, if it may be opened and is here."""
    if not _is_public_name(name, registry().vaes):
        raise _missing("VAE", name, "--vae")
    try:
        return open_vae(name, given.runtime.using(dtype), space=given.space)
    except NetworkError as error:
        raise error if given.download else _missing("VAE", name, "--vae") from error


def _latent(
    old: PngMetadata, decoder: VAE, given: _Replacements
) -> tuple[Latent, Size | None, SafetyChecker | None, list[str]]:
    """The latent made again, the size to crop to, the model's safety checker, and what differs here."""
    source = old.provenance
    if given.latents is not None:
        found = [one for one in read_latents(given.latents) if one.sha256 == old.latents_sha256]
        if not found:
            raise UsageError(f"{given.latents} doesn't hold this image's latent. Name the file it was decoded from.")
        return found[0], old.size, None, []
    if given.photo is not None:
        if not isinstance(source, PhotoProvenance):
            raise BadInputError(f"the image wasn't made from a photo. Leave out --photo {given.photo}.")
        other = source.photo_sha256 != sha256_file(given.photo)
        notes = [f"{given.photo} is not the photo that was used."] if other else []
        return *_encoded(old, source, decoder, given, given.photo), None, notes
    if not isinstance(source, PromptProvenance):
        what = f"the photo {source.photo!r}. Name it with --photo" if source else "a file. Name it with --latents"
        raise UsageError(f"the image was made from {what} FILE.")
    generator = _generator(source, given)
    model, notes = generator.facts, list[str]()
    if model.commit != source.model.commit and model.source == "hub":
        notes.append(f"the model's commit is {model.commit} here; the image was made with {source.model.commit}.")
    if model.name != source.model.name:
        notes.append(f"the model is {model.name} here; the image was made with {source.model.name}.")
    safety_checker = generator.check_safety if generator.sampling.safety_checker else None
    return _denoised(generator, source.seed, old, decoder, given.runtime), None, safety_checker, notes


def _denoised(generator: LatentGenerator, seed: int, old: PngMetadata, decoder: VAE, runtime: Runtime) -> Latent:
    """The latent of the image's seed. Raises BadInputError before the work where the image couldn't be that large."""
    assert generator.sampling.steps is not None
    height, width = (side * decoder.spec.decoded_factor for side in generator.latent_size)
    if (height, width) != old.size:
        raise BadInputError(
            f"the image has {_sides(old.size)} pixels, but by its metadata it was made with {width}x{height}, so they "
            "were changed. Use the original image."
        )
    check_budget(decoder, generator.latent_size)
    steps = counted(generator.sampling.steps, "step")
    runtime.notify(f"Making {width}x{height} pixels again, in {steps} with {generator.model.name}.")
    for note in generator.notes():
        runtime.notify(note)

    def on_step(call: int, calls: int) -> None:
        runtime.progress(call - 1, calls, f"step {call} of {calls}")

    return generator.latents(seed, on_step)


def _encoded(
    old: PngMetadata, source: PhotoProvenance, decoder: VAE, given: _Replacements, photo: StrPath
) -> tuple[Latent, Size]:
    """The photo through the encoder that was used, and its size."""
    encoder = decoder
    if decoder.fingerprint.encoder.stored != source.encoder_weights:
        if not _is_public_name(source.encoder, registry().vaes):
            raise UsageError(
                f"the photo was encoded by {shortened(source.encoder)!r}, which isn't on this machine under that name. "
                "Name the latents that the comparison wrote into its folder: --latents FILE."
            )
        encoder = _vae_by_name(source.encoder, old.vae.dtype, given)
    encoded = encoder.encode(decode_file(photo, max_side=source.max_side).image)
    return Latent(encoded.mode().float().cpu(), old.latent_space), encoded.size


def _generator(source: PromptProvenance, given: _Replacements) -> LatentGenerator:
    """The model with the image's sampling."""
    name, runtime = given.model or source.model.name, given.runtime.using(source.model.dtype)
    findable = source.model.source in {"embedded", "hub"} and _is_public_name(name, registry().models)
    if given.model is None and not findable:
        raise _missing("model", name, "--model")
    generation.check_prompts(source.sampling, name)
    try:
        model = find_model(name, runtime, safety_checker=source.sampling.safety_checker)
        return generation.open_generator(model, source.sampling, runtime)
    except NetworkError as error:
        raise error if given.download or given.model is not None else _missing("model", name, "--model") from error


def _is_public_name(name: str, known: Container[str]) -> bool:
    """Whether a name in an image's metadata is a known one or a hub id, and not a path on this machine."""
    if exists(name):
        return False
    return name in known or (HUB_ID.fullmatch(name) is not None and Path(name).suffix not in FILE_SUFFIXES)


def _missing(what: str, name: str, option: str) -> UsageError:
    return UsageError(
        f"the {what} {shortened(name)!r} isn't on this machine, and an image's metadata alone starts no download. Name "
        f"a copy with {option}, or allow the download with --download if it is on the hub."
    )


def _differences(old: PngMetadata, new: PngMetadata) -> list[str]:
    """What differs here and may change the image."""
    notes: list[str] = []
    if new.vae.weights != old.vae.weights:
        notes.append(f"the VAE's weights are {new.vae.weights} here; the image was made with {old.vae.weights}.")
    if new.vae.device.partition(":")[0] != old.vae.device.partition(":")[0]:
        notes.append(f"the device is {new.vae.device} here; the image was made on {old.vae.device}.")
    notes += _engine_differences(old.vae.engine, new.vae.engine)
    if new.threads != old.threads:
        notes.append(
            f"{counted(new.threads, 'thread')} {'is' if new.threads == 1 else 'are'} used here; the image was made "
            f"with {old.threads}."
        )
    changed = [name for name in COMPARED_VERSIONS if old.versions.get(name) != new.versions.get(name)]
    return notes + [
        f"{name} is {new.versions.get(name)} here; the image was made with {old.versions.get(name)}."
        for name in changed
    ]


def _engine_differences(old: EngineFacts | None, new: EngineFacts | None) -> list[str]:
    """How the VAE is computed here and was then; of plans, where the last bits depend on them."""
    if old is None or new is None:
        by_engine = new is not None and new.path != PLAIN
        return ["the image was made by a vaelens without the engine, which computes the VAE here."] * by_engine
    if new.path != old.path:
        return [
            f"the VAE is computed by the path {new.path} here; the image was made with {old.path} "
            f"(VAELENS_KERNELS={old.path} takes it where it is there)."
        ]
    if any(old.budgets.get(call, size) != size for call, size in new.budgets.items()):
        return ["the VAE is computed in other strips here than then, within another budget of memory."]
    return []


def _sides(size: tuple[int, ...]) -> str:
    return f"{size[1]}x{size[0]}"
