"""The main job: one prompt, one seed, one latent, and any number of decoders side by side.

vaelens compare "the letter R in red on white" --seed 0 -o letter.html
"""

import os
import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch

from vaelens import generation
from vaelens.comparison import subjects as making
from vaelens.comparison.choosing import Choice, Chosen, choose, with_names
from vaelens.comparison.labelling import Labels
from vaelens.comparison.outcome import Comparison
from vaelens.comparison.recording import encoder_notes, results, vae_records
from vaelens.comparison.subjects import Decoders, Step, Stopped, Subject
from vaelens.errors import UsageError, VaelensError
from vaelens.generation import Generator, Settings
from vaelens.images.reading import read_size
from vaelens.latents import Latent, read_latents
from vaelens.loading import distinct_names, open_vae
from vaelens.report.record import run_record
from vaelens.runtime import Notify, Progress, Runtime, ShouldStop
from vaelens.vae import VAE
from vaelens.weights.registry import registry

File = str | os.PathLike[str]


def compare(
    prompt: str | None = None,
    vaes: Choice | Path | Sequence[Choice | Path] | None = None,
    *,
    seeds: int | Sequence[int] | None = None,
    model: File | None = None,
    negative: str | None = None,
    steps: int | None = None,
    guidance: float | None = None,
    size: tuple[int, int] | None = None,
    scheduler: str | None = None,
    safety_checker: bool = True,
    latents: File | None = None,
    photos: File | Sequence[File] = (),
    max_side: int | None = None,
    boxes: File | None = None,
    device: str = "auto",
    dtype: str = "float32",
    space: str | None = None,
    offline: bool = False,
    notify: Notify | None = None,
    progress: Progress | None = None,
    should_stop: ShouldStop | None = None,
    own_vae: bool = False,
) -> Comparison:
    """Latents from a prompt (one a seed), a file or photos, each decoded by every VAE.

    A seed (0 where none is named) is denoised once, alone, whatever the number of VAEs, by `model`: a known name, a
    diffusers folder, a hub id or a single-file checkpoint. With none named, by the model of the VAEs' latent space, or
    the embedded one. None for steps, guidance, size and scheduler: the model's own. Guidance is diffusers' (0 and 1:
    none), size is height and width. A photo is encoded once, by the first VAE's encoder, to its posterior's mode.
    With no VAE named, those known for the latent space serve, or with `own_vae` the model's own. `boxes` is a file of
    what is labelled in the images (`images.boxes`), for the page's viewer to jump to; ids are photos' file
    names, or `seed 0`.

    `notify` gets notices, `progress` (done, total, what); `should_stop` is asked at each step. An interrupt, that, or
    an error on the way leaves what was finished, if anything was (else KeyboardInterrupt, or the error): the result
    says `interrupted`, and holds the error as its `failure`.

    Raises UsageError for settings that can't be followed and for latent spaces that don't fit, before any weights are
    downloaded; ResourceError when memory runs out; and what reading, downloading and running raise.
    """
    began = time.perf_counter()
    runtime = Runtime.of(
        device=device, dtype=dtype, offline=offline, notify=notify, progress=progress, should_stop=should_stop
    )
    seeds = [seeds] if isinstance(seeds, int) else seeds
    photos = [photos] if isinstance(photos, str | os.PathLike) else list(photos)
    given = [vaes] if isinstance(vaes, str | os.PathLike | VAE) else vaes
    named = None if given is None else [vae if isinstance(vae, VAE) else os.fspath(vae) for vae in given]
    model = None if model is None else os.fspath(model)
    wanted = None
    if prompt is not None:
        wanted = Settings(prompt, negative, steps, guidance, size, scheduler, safety_checker)
    else:
        _check_unused(
            model=model, seeds=seeds, negative=negative, steps=steps, guidance=guidance, size=size, scheduler=scheduler,
            safety_checker=None if safety_checker else False,
        )  # fmt: skip
    if max_side is not None and not photos:
        raise UsageError("max_side (--max-side) shrinks photos, and there is none. Leave it out.")
    read = _check(wanted, runtime, space, vaes=named, model=model, latents=latents, photos=photos, max_side=max_side)
    seeds = generation.check_seeds([0] if seeds is None else list(seeds)) if wanted else []
    labels = Labels(boxes, seeds, read, photos)
    chosen = choose(
        wanted, named, model, own=own_vae, latents_space=read[0].space if read else None, space=space, runtime=runtime
    )
    loaded = [_loaded(source, runtime, space) for source in chosen.vaes]
    names = [vae.name for vae in loaded]
    loaded = with_names(loaded, distinct_names(names))
    decoders = Decoders(loaded, chosen.vaes, partial(_in_float32, runtime=runtime, space=space))
    generator = _generator(chosen, wanted, runtime)
    notes = (generator.notes() if generator else []) + encoder_notes(loaded, len(photos))
    for note in notes:
        runtime.notify(note)

    tasks: list[tuple[int, Callable[[Step], Subject]]] = []  # each with its number of steps
    if generator is not None:
        tasks += [(generator.calls, partial(making.generated, decoders, generator, seed)) for seed in seeds]
    tasks += [(0, partial(making.stored, decoders, one, number)) for number, one in enumerate(read, 1)]
    tasks += [(1, partial(making.photographed, decoders, Path(photo), max_side)) for photo in photos]
    total = sum(count + len(loaded) for count, _ in tasks)
    made, interrupted, failure = _carried_out([task for _, task in tasks], _stepping(total, runtime))
    made = [labels.on(subject) for subject in made]
    for note in labels.notes:
        runtime.notify(note)
    notes += labels.notes + ([f"Not all was finished: {failure}"] if failure else [])

    record = run_record(
        "generate" if own_vae else "compare", {}, vae_records(chosen, loaded, names), time.perf_counter() - began
    )
    record["settings"] = {
        "seeds": seeds,
        "asked": generation.as_dict(wanted) if wanted else None,
        "safety_checker": bool(generator and generator.guards),
        "max_side": max_side,
        "space": space,
        "offline": offline,
        "latents": None if latents is None else str(latents),
    }
    record["model"] = generator.described() if generator else None
    record |= results(made, loaded) | {"notes": notes, "interrupted": interrupted}
    return Comparison(tuple(made), record, tuple(notes), interrupted, failure)


def generate(prompt: str, vae: Choice | None = None, **options: Any) -> Comparison:
    """Images of a prompt, one a seed, by one VAE: the model's own where none is named. Options are `compare`'s."""
    return compare(prompt, None if vae is None else [vae], own_vae=True, **options)


def _check(
    wanted: Settings | None,
    runtime: Runtime,
    space: str | None,
    *,
    vaes: Sequence[Choice] | None,
    model: str | None,
    latents: File | None,
    photos: Sequence[File],
    max_side: int | None,
) -> list[Latent]:
    """All that is cheap to check, before anything is downloaded; gives the latents of the file."""
    if wanted is None and latents is None and not photos:
        raise UsageError("nothing to decode. Give a prompt, --latents FILE or --photo FILE.")
    if vaes is not None and not vaes:
        raise UsageError("no VAE named. Name at least one, or none at all for the known ones.")
    if max_side is not None and max_side < 1:
        raise UsageError(f"max_side is at least 1 pixel, not {max_side}.")
    if runtime.device.type == "cpu" and runtime.dtype == torch.float16:
        runtime.notify("float16 is very slow on a CPU; bfloat16 halves the memory as well, float32 is the fastest.")
    if wanted is not None:
        generation.check_settings(wanted, model)
    for photo in photos:
        read_size(photo)
    read = read_latents(latents, space) if latents is not None else []
    if read and read[0].space is None:
        raise UsageError(f"{latents} doesn't say which latent space its latents have. Name it, e.g. --space sd1.")
    for one in read[:1]:
        known = registry().spaces.get(one.space or "")
        if known is not None and known.config is not None:
            want, have = registry().space_spec(one.space or "").latent_channels, one.tensor.shape[1]
            if want != have:
                raise UsageError(f"{latents}: its latents have {have} channels, and those of {one.space} have {want}.")
    return read


def _check_unused(**given: Any) -> None:
    """Raises UsageError for an option that only a prompt gives something to do."""
    named = [name for name, value in given.items() if value is not None]
    if named:
        raise UsageError(f"{named[0].replace('_', ' ')} does something with a prompt only. Give one, or leave it out.")


def _generator(chosen: Chosen, wanted: Settings | None, runtime: Runtime) -> Generator | None:
    if chosen.model is None or wanted is None:
        return None
    return generation.open_generator(chosen.model, wanted, runtime)


def _loaded(source: Choice, runtime: Runtime, space: str | None) -> VAE:
    """The VAE; one that is loaded already stays in its own precision."""
    return source if isinstance(source, VAE) else open_vae(source, runtime, space=space)


def _in_float32(source: Choice, runtime: Runtime, space: str | None) -> VAE:
    """The VAE once more, for where half precision overflows."""
    if isinstance(source, VAE):
        return source.to(torch.float32)
    return open_vae(source, runtime.using("float32"), space=space)


def _stepping(total: int, runtime: Runtime) -> Step:
    done = 0

    def step(what: str) -> None:
        nonlocal done
        if runtime.should_stop():
            raise Stopped
        runtime.progress(done, total, what)
        done += 1

    return step


def _carried_out(
    tasks: Sequence[Callable[[Step], Subject]], step: Step
) -> tuple[list[Subject], bool, VaelensError | None]:
    """The subjects that were finished, whether some were left out, and the error that stopped the work, if one did."""
    made: list[Subject] = []
    try:
        for task in tasks:
            made.append(task(step))
            if made[-1].stopped is not None:
                raise made[-1].stopped
    except (KeyboardInterrupt, Stopped):
        if not made:
            raise KeyboardInterrupt from None
        return made, True, None
    except VaelensError as error:
        if not made:
            raise
        return made, True, error
    return made, False, None
