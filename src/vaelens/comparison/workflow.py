"""One prompt, one seed, one latent, and any number of decoders side by side.

vaelens compare "the letter R in red on white" --seed 0 -o letter.html
"""

import os
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from functools import partial
from itertools import product
from pathlib import Path
from typing import Any

import torch

from vaelens import generation, sampling
from vaelens.comparison.compared_images import (
    ComparedImage,
    Decoders,
    Step,
    Stopped,
    decode_photo,
    decode_seed,
    decode_stored,
)  # fmt: skip
from vaelens.comparison.comparison_record import comparison_record, vae_records
from vaelens.comparison.labelled_boxes import LabelledBoxes
from vaelens.comparison.results import Comparison
from vaelens.comparison.selection import VAESource, select
from vaelens.decoding import check_budget, check_photo_budget
from vaelens.errors import UsageError, VaelensError
from vaelens.files import StrPath
from vaelens.images.datasets.folders import image_files
from vaelens.images.reading import read_size
from vaelens.latents import Latent, read_latents
from vaelens.loading import open_vae, vae_of
from vaelens.report.record import file_record, public_name
from vaelens.runtime import Notify, Progress, Runtime, ShouldStop
from vaelens.sampling import Sampling, Size
from vaelens.text.numbers import counted
from vaelens.text.private_paths import without_folders
from vaelens.vae import VAE
from vaelens.weights.names import distinct_names
from vaelens.weights.registry import registry


def compare(
    prompt: str | None = None,
    vaes: VAESource | Path | Sequence[VAESource | Path] | None = None,
    *,
    seeds: int | Sequence[int] | None = None,
    model: StrPath | None = None,
    negative_prompt: str | None = None,
    steps: int | None = None,
    guidance_scale: float | None = None,
    size: Size | None = None,
    scheduler: str | None = None,
    safety_checker: bool = True,
    latents: StrPath | None = None,
    photos: StrPath | Sequence[StrPath] = (),
    max_side: int | None = None,
    boxes: StrPath | None = None,
    device: str = "auto",
    dtype: str = "float32",
    space: str | None = None,
    offline: bool = False,
    max_memory: int | str | None = None,
    notify: Notify | None = None,
    progress: Progress | None = None,
    should_stop: ShouldStop | None = None,
    use_model_vae: bool = False,
) -> Comparison:
    """Latents from a prompt (one per seed), a file or photos (files or folders of them), each decoded by every VAE.

    Each seed (default: 0) is denoised once, alone, whatever the number of VAEs. `model` is a known name, a diffusers
    folder, a hub id or a single-file checkpoint; default: the model of the VAEs' latent space, or the embedded one. The
    options of sampling are those of `Sampling`; None means the model's own. A photo is encoded once, by the first VAE's
    encoder, to its posterior's mode; `max_side` shrinks larger ones first. Default VAEs: those known for the latent
    space, or with `use_model_vae` the model's own. `boxes` is a file of labelled regions (`images.boxes`) that the
    page's viewer jumps to; ids are photos' file names, or `seed 0`. `max_memory` ("2GB") is by how much memory running
    a VAE may let memory grow.

    `notify` gets notices, `progress` (done, total, what); `should_stop` is called at each step. If it or an interrupt
    stops the work, or an error occurs, the result holds what was finished; it is `interrupted`, and holds the error
    as `failure`. If nothing was finished, KeyboardInterrupt or the error is raised.

    Raises UsageError for options outside their limits and for latent spaces that don't match, before any weights are
    downloaded; ResourceError when memory runs out; and what reading, downloading and running raise.
    """
    start = time.perf_counter()
    runtime = Runtime.of(
        device=device,
        dtype=dtype,
        offline=offline,
        max_memory=max_memory,
        notify=notify,
        progress=progress,
        should_stop=should_stop,
    )
    options: dict[str, Any] = {
        "negative_prompt": negative_prompt, "steps": steps, "guidance_scale": guidance_scale, "size": size,
        "scheduler": scheduler, "safety_checker": safety_checker,
    }  # fmt: skip
    if prompt is None:
        _check_unused({"model": model, "seeds": seeds} | options)
    requested = None if prompt is None else Sampling(prompt, **options)
    seeds = [seeds] if isinstance(seeds, int) else seeds
    photos = image_files([photos] if isinstance(photos, str | os.PathLike) else photos)
    vaes = [vaes] if isinstance(vaes, str | os.PathLike | VAE) else vaes
    named = None if vaes is None else [vae if isinstance(vae, VAE) else os.fspath(vae) for vae in vaes]
    model = None if model is None else os.fspath(model)

    # everything cheap is checked before anything is downloaded
    stored = [] if latents is None else read_latents(latents, space)
    if requested is None and not stored and not photos:
        raise UsageError("nothing to decode. Give a prompt, --latents FILE or --photo FILE.")
    if named is not None and not named:
        raise UsageError("no VAE named. Name at least one, or pass None for the default ones.")
    _check_photos(photos, max_side)
    _check_stored(latents, stored)
    seeds = generation.check_seeds([0] if seeds is None else list(seeds)) if requested else []
    labelled = LabelledBoxes(boxes, seeds, stored, photos, max_side)
    if runtime.device_name == "cpu" and runtime.dtype_name == "float16":
        runtime.notify("Note: float16 is very slow on a CPU. bfloat16 saves as much memory; float32 is the fastest.")
    selection = select(
        requested,
        named,
        model,
        runtime=runtime,
        use_model_vae=use_model_vae,
        latents_space=stored[0].space if stored else None,
        space=space,
    )

    loaded = [vae_of(one, runtime, space=space) for one in selection.vaes]
    own_names = [vae.name for vae in loaded]
    loaded = [vae.named(name) for vae, name in zip(loaded, distinct_names(own_names, selection.vaes), strict=True)]
    decoders = Decoders(loaded, lambda i: _in_float32(selection.vaes[i], runtime, space))
    model_files = selection.model
    generator = generation.open_generator(model_files, requested, runtime) if model_files and requested else None
    _check_budgets(loaded, generator, stored, {os.fspath(photo): read_size(photo, max_side) for photo in photos})
    notes = (generator.notes() if generator else []) + (_encoder_notes(loaded) if photos else [])
    for note in notes:
        runtime.notify(note)

    tasks: list[tuple[int, Callable[[Step], ComparedImage]]] = []  # each with its number of steps before decoding
    if generator is not None:
        tasks += [(generator.unet_calls, partial(decode_seed, decoders, generator, seed)) for seed in seeds]
    tasks += [(0, partial(decode_stored, decoders, one, number)) for number, one in enumerate(stored, 1)]
    tasks += [(1, partial(decode_photo, decoders, Path(photo), max_side)) for photo in photos]
    total = sum(count + len(loaded) for count, _ in tasks)
    images, interrupted, failure = _run([task for _, task in tasks], _step_counter(total, runtime))
    images = tuple(labelled.add_to(image) for image in images)
    for note in labelled.notes:
        runtime.notify(note)
    given = [*photos, *filter(None, [latents, model]), *(one for one in selection.vaes if not isinstance(one, VAE))]
    known = {os.fspath(one): public_name(one) for one in given}
    notes += labelled.notes
    if failure:
        notes.append(f"Not everything was finished: {without_folders(str(failure), known)}")

    settings = {
        "seeds": seeds,
        "sampling": requested and asdict(requested),
        "max_side": max_side,
        "space": space,
        "offline": offline,
        "max_memory": runtime.max_memory,
        "latents": None if latents is None else file_record(latents),
    }
    record = comparison_record(
        "generate" if use_model_vae else "compare",
        settings,
        vae_records(selection.vaes, loaded, own_names),
        generator=generator,
        images=images,
        seconds=time.perf_counter() - start,
    )
    record |= {"notes": notes, "interrupted": interrupted}
    return Comparison(images, record, tuple(notes), interrupted, failure)


def generate(prompt: str, vae: VAESource | None = None, **options: Any) -> Comparison:
    """Images of a prompt, one per seed, by one VAE; default: the model's own. Options are `compare`'s."""
    return compare(prompt, None if vae is None else [vae], use_model_vae=True, **options)


def _check_budgets(
    vaes: Sequence[VAE],
    generator: generation.LatentGenerator | None,
    stored: Sequence[Latent],
    photos: Mapping[str, tuple[int, int]],
) -> None:
    sizes = {(latent.tensor.shape[2], latent.tensor.shape[3]) for latent in stored}
    for vae, size in product(vaes, sizes if generator is None else {generator.latent_size} | sizes):
        check_budget(vae, size)
    for vae, (photo, size) in product(vaes, photos.items()):
        check_photo_budget(vae, photo, size, encodes=vae is vaes[0])


def _check_unused(options: dict[str, Any]) -> None:
    """Raises UsageError for an option that has an effect with a prompt only."""
    defaults = sampling.defaults()
    for name, value in options.items():
        if value != defaults.get(name):
            raise UsageError(f"{name.replace('_', ' ')} has an effect with a prompt only. Give one, or leave it out.")


def _check_photos(photos: Sequence[StrPath], max_side: int | None) -> None:
    if max_side is not None and not photos:
        raise UsageError("max_side (--max-side) shrinks photos, but no photo is named. Leave it out.")
    if max_side is not None and max_side < 1:
        raise UsageError(f"max_side must be at least 1 pixel, not {max_side}.")
    for photo in photos:
        read_size(photo, max_side)


def _check_stored(file: StrPath | None, latents: Sequence[Latent]) -> None:
    """Raises UsageError for latents without a space, or with another number of channels than it has."""
    for latent in latents[:1]:
        if latent.space is None:
            raise UsageError(f"{file} doesn't name the latent space of its latents. Name it, e.g. --space sd1.")
        known, channels = registry().space_spec(latent.space), latent.tensor.shape[1]
        if known is not None and channels != known.latent_channels:
            expected = known.latent_channels
            raise UsageError(
                f"{file}: its latents have {counted(channels, 'channel')}, but latents of {latent.space} have "
                f"{expected}."
            )


def _in_float32(source: VAESource, runtime: Runtime, space: str | None) -> VAE:
    """The VAE in fp32, for where half precision overflows."""
    if isinstance(source, VAE):
        return source.to(torch.float32)
    return open_vae(source, runtime.using("float32"), space=space)


def _encoder_notes(vaes: Sequence[VAE]) -> list[str]:
    """Whether the VAEs have the same encoder, by its weights."""
    if len(vaes) == 1:
        return []
    first = vaes[0].fingerprint.encoder
    others = [vae.name for vae in vaes[1:] if not first.is_same(vae.fingerprint.encoder)]
    if not others:
        which = "Both VAEs" if len(vaes) == 2 else f"All {len(vaes)} VAEs"
        return [f"{which} have the same encoder, so each would make the same latents of a photo."]
    return [
        f"{', '.join(others)}: not the encoder of {vaes[0].name}, which encoded the photos, so its own latents would "
        "differ a little. `vaelens reconstruct` encodes with each VAE's own."
    ]


def _step_counter(total: int, runtime: Runtime) -> Step:
    begun = 0

    def step(what: str, part: str | None = None) -> None:
        nonlocal begun
        if runtime.should_stop():
            raise Stopped
        begun += part is None
        runtime.progress(begun - 1, total, f"{what}, {part}" if part else what)

    return step


def _run(
    tasks: Sequence[Callable[[Step], ComparedImage]], step: Step
) -> tuple[Sequence[ComparedImage], bool, VaelensError | None]:
    """The finished images, whether some are missing, and the error that stopped the work, if one did."""
    images: list[ComparedImage] = []
    try:
        for task in tasks:
            images.append(task(step))
            if images[-1].stopped_by is not None:
                raise images[-1].stopped_by
    except (KeyboardInterrupt, Stopped):
        if not images:
            raise KeyboardInterrupt from None
        return images, True, None
    except VaelensError as error:
        if not images:
            raise
        return images, True, error
    return images, False, None
