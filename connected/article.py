"""The article's program: one prompt, one seed, and the three decoders of Stable Diffusion 1.x.

First by vaelens, which denoises once; then by `examples/swap_vae.py`, which lets diffusers' own pipeline denoise for
each VAE. On a CPU both compute in float32, and their images have to agree.
"""

import itertools
import runpy
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch

import vaelens as vl
from connected.settings import ROOT, Settings
from connected.steps import Download, Finding, Outcome, Run, Step
from connected.vae_check import round_trip_operations, vae_downloads
from vaelens.adapters.models import download, find_model
from vaelens.download.hub import cached
from vaelens.errors import CheckFailedError
from vaelens.files import sha256_file
from vaelens.images.reading import decode_plain
from vaelens.images.writing import encode_png
from vaelens.runtime import Runtime
from vaelens.weights.registry import registry

KIND = "article"
PROMPT = "a photo of an astronaut riding a horse on mars"
SEED, SIDE = 0, 512
PROGRAM = ROOT / "examples" / "swap_vae.py"
UNET_OPERATIONS = 1.61e12  # SD 1.x at 512x512, both halves of the guidance; counted by torch's FlopCounterMode
COMPARE, SWAP = "article compare", "article swap_vae.py"
ROUNDING = 1  # of 255: a value between two may be rounded either way


def article_steps(settings: Settings) -> list[Step]:
    """`vaelens.compare`, then the program."""
    space = registry().spaces["sd1"]
    assert space.model is not None
    vaes, model = space.default_vaes, space.model
    decoding = sum(round_trip_operations(vae, SIDE) for vae in vaes)
    inputs = {"prompt": PROMPT, "seed": SEED, "steps": settings.steps, "model": model, "vaes": vaes}
    unet = settings.steps * UNET_OPERATIONS

    downloads = {f"model {model}": partial(_model_files, model), **vae_downloads(vaes)}
    return [
        Step(KIND, COMPARE, f"{model}, one latent, {', '.join(vaes)}", inputs, downloads,
             {settings.device: unet + decoding}, partial(_compare, model, vaes)),
        Step(KIND, SWAP, "the same by diffusers' own loop", inputs | {"program": sha256_file(PROGRAM)}, downloads,
             {settings.device: len(vaes) * unet + decoding}, partial(_swap, model, vaes)),
    ]  # fmt: skip


def _model_files(model: str) -> list[Download]:
    return [Download(str(file), file.size) for file in find_model(model).to_download if cached(file) is None]


def _compare(model: str, known: Sequence[str], run: Run) -> Finding:
    vaes, problems = run.usable(known)
    settings = run.settings
    done = vl.compare(
        PROMPT, vaes, seeds=[SEED], model=model, steps=settings.steps, device=settings.device, notify=run.notify,
        progress=run.progress,
    )  # fmt: skip
    if done.failure is not None:
        raise done.failure
    if done.interrupted:
        raise KeyboardInterrupt
    done.save(settings.folder / "article.html")
    (image,) = done.images
    pixels = {vae: decoded.pixels for vae, decoded in zip(done.vaes, image.decoded, strict=True)}
    for vae, array in pixels.items():
        path = _image(settings.folder, "compare", vae)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(encode_png(array))
    details = {
        "prompt": PROMPT,
        "seed": SEED,
        "steps": settings.steps,
        "model": done.record["model"],
        "latents_sha256": image.latent.sha256,
        "device": settings.device,
        "notes": [*done.notes, *done.warnings()],
        "seconds_to_decode": {vae: one.seconds for vae, one in zip(done.vaes, image.decoded, strict=True)},
        **_described(pixels),
    }
    return Finding(details, (*problems, *flaws(pixels)))


def _swap(model: str, known: Sequence[str], run: Run) -> Finding:
    vaes, problems = run.usable(known)
    settings = run.settings
    found = download(find_model(model, Runtime(notify=run.notify)), Runtime(notify=run.notify))
    folder = settings.folder / "article" / "swap_vae"
    options = [option for vae in vaes for option in ("--vae", vae)]
    numbers = ["--seed", str(SEED), "--steps", str(settings.steps)]
    try:
        runpy.run_path(str(PROGRAM))["main"](
            [PROMPT, "--model", str(found.folder), *options, *numbers, "-o", str(folder)]
        )
    except SystemExit as end:  # as argparse ends a program; it has printed why
        raise CheckFailedError(f"examples/swap_vae.py ended with exit code {end.code}: see what it printed.") from None
    pixels = {vae: _read(folder / f"{vae}-seed-{SEED}.png") for vae in vaes}
    details: dict[str, Any] = {"prompt": PROMPT, "seed": SEED, "steps": settings.steps, **_described(pixels)}
    problems += flaws(pixels)
    apart, details["notes"] = from_compare(pixels, settings.folder, run.outcomes.get(COMPARE))
    details["difference_from_compare"] = apart
    if settings.device == "cpu" and not torch.cuda.is_available():  # where the program computes in float16
        problems += [
            f"{vae}: the program's image differs from compare's by up to {distance['largest']} of 255."
            for vae, distance in apart.items()
            if distance["largest"] > ROUNDING
        ]
    return Finding(details, tuple(problems))


def from_compare(
    pixels: Mapping[str, np.ndarray], folder: Path, compare: Outcome | None
) -> tuple[dict[str, dict[str, float]], list[str]]:
    """How far the images, uint8 [h,w,3] by VAE, are from compare's; and a sentence for each that there is none of."""
    made = compare.details.get("largest_values", ()) if compare else ()
    with_other = [vae for vae in pixels if vae in made and _image(folder, "compare", vae).is_file()]
    apart = {vae: _distance(pixels[vae], _read(_image(folder, "compare", vae))) for vae in with_other}
    without = [vae for vae in pixels if vae not in apart]
    return apart, [f"{vae}: not compared, because {COMPARE} has made no image of it." for vae in without]


def _image(folder: Path, by: str, vae: str) -> Path:
    return folder / "article" / by / f"{vae}.png"


def _read(path: Path) -> np.ndarray:
    return decode_plain(path.read_bytes(), path.name)


def _described(pixels: dict[str, np.ndarray]) -> dict[str, Any]:
    return {
        "largest_values": {vae: int(image.max()) for vae, image in pixels.items()},
        "difference_between": {
            f"{a} and {b}": _distance(pixels[a], pixels[b]) for a, b in itertools.combinations(pixels, 2)
        },
    }


def _distance(a: np.ndarray, b: np.ndarray) -> dict[str, float]:
    """The mean and the largest |difference| of 8-bit values; of images of two sizes, everything."""
    if a.shape != b.shape:
        return {"mean": 255.0, "largest": 255}
    apart = np.abs(a.astype(np.int16) - b)
    return {"mean": round(float(apart.mean()), 3), "largest": int(apart.max())}


def flaws(pixels: dict[str, np.ndarray]) -> list[str]:
    """A sentence for each image of one colour, and for each two decoders that gave the same."""
    flaws = [
        f"{vae}: the image has one colour, {image.max()} of 255." for vae, image in pixels.items() if np.ptp(image) == 0
    ]
    same = [(a, b) for a, b in itertools.combinations(pixels, 2) if np.array_equal(pixels[a], pixels[b])]
    return flaws + [f"{a} and {b} gave the same image, so one of them wasn't used." for a, b in same]
