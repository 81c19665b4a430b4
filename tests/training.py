"""What the tests of training share: a narrow network, a recipe for it, and made-up pictures."""

from collections.abc import Generator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import numpy as np
import torch

from vaelens.evaluation.presets import PRESETS
from vaelens.finetuning.pictures import Batch, Sample
from vaelens.finetuning.recipe import Recipe, find_recipe
from vaelens.finetuning.state import State, seeded
from vaelens.finetuning.step import Setting, update
from vaelens.images.drawing import Box
from vaelens.networks.autoencoder_kl import AutoencoderKL, AutoencoderKLConfig

SIZE = 32
CONFIG = AutoencoderKLConfig(latent_channels=3, block_out_channels=(8, 16), layers_per_block=1, norm_num_groups=4)
QUICK: dict[str, Any] = {
    "optimizer.warm_up": 0,
    "optimizer.cool_down": 0,
    "data.size": SIZE,
    "data.batch": 4,
    "run.updates": 20,
}
DISTRIBUTION: dict[str, Any] = {"model.posterior": "sample", "loss.kl_weight": 1e-4}
SIMPLE: dict[str, Any] = {"loss.pixel": "l1", "loss.pixel_weight": 1.0}
DECODER: dict[str, Any] = {
    "model__trains": "decoder",
    "model__config": "",
    "model__begin": "",
    "model__space": "any",
    "loss__kl_weight": 0.0,
}
JUDGED: dict[str, Any] = {
    "gan.weight": 0.5,
    "gan.start": 0,
    "gan.warm_up": 0,
    "gan.width": 16,
    "gan.layers": 2,
    "gan.norm": "none",
}


@contextmanager
def small_presets() -> Generator[None]:
    """In this context there are presets that measure squares of 64 and 48 pixels: a run's looks take a second."""
    added = {name: replace(PRESETS["offline"], name=name, side=side) for name, side in (("small", 64), ("smaller", 48))}
    PRESETS.update(added)
    try:
        yield
    finally:
        for name in added:
            del PRESETS[name]


def recipe(name: str = "tiny-begin", **changes: Any) -> Recipe:
    """A recipe with short times and small pictures, from scratch a VAE's; `loss__pixel="mse"` changes a field."""
    usual = QUICK | (DISTRIBUTION | SIMPLE if name == "tiny-begin" else {})
    return find_recipe(name, usual | {key.replace("__", "."): value for key, value in changes.items()})


def judged(name: str = "tiny-begin", **changes: Any) -> Recipe:
    """The same with a discriminator that is heard from the first update on."""
    return recipe(name, **{key.replace(".", "__"): value for key, value in JUDGED.items()} | changes)


def network(dtype: torch.dtype = torch.float32, seed: int = 0) -> AutoencoderKL:
    """A random narrow network, the same for a seed."""
    with seeded(seed):
        return AutoencoderKL(CONFIG).to(dtype)


def state(wanted: Recipe, dtype: torch.dtype = torch.float32) -> State:
    """A training at its beginning."""
    return State(network(dtype), wanted, seed=0)


def batch(count: int = 4, start: int = 0, boxes: tuple[tuple[Box, ...], ...] | None = None) -> Batch:
    """Made-up pictures with these numbers."""
    pixels = [
        np.random.default_rng(n).integers(0, 256, (SIZE, SIZE, 3), dtype=np.uint8) for n in range(start, start + count)
    ]
    smooth = torch.as_tensor(np.stack(pixels)).permute(0, 3, 1, 2).float() / 255
    image = torch.nn.functional.interpolate(torch.nn.functional.avg_pool2d(smooth, 8), scale_factor=8, mode="bilinear")
    samples = tuple(Sample(p, (), f"{start + n}", f"{start + n}") for n, p in enumerate(pixels))
    return Batch(image, boxes or ((),) * count, tuple(range(start, start + count)), samples)


def setting(wanted: Recipe, **more: Any) -> Setting:
    """For a step without a perceptual network."""
    return Setting(wanted, None, seed=0, **more)


def step(trained: State, wanted: Recipe, made: Batch | None = None, parts: int = 1, **more: Any) -> dict[str, float]:
    """One update on made-up pictures, cut into parts."""
    whole = made or batch(wanted.data.batch, trained.updates * wanted.data.batch)
    size = len(whole.numbers) // parts
    cut = [
        Batch(
            whole.image[i : i + size],
            whole.boxes[i : i + size],
            whole.numbers[i : i + size],
            whole.samples[i : i + size],
        )
        for i in range(0, len(whole.numbers), size)
    ]
    log = update(trained, [(portion, None) for portion in cut], parts, setting(wanted, **more))
    return {key: float(value) for key, value in log.items()}


def gradients(trained: State) -> dict[str, torch.Tensor]:
    """Of the last update, by parameter, before any clipping that the recipe doesn't ask for."""
    return {name: p.grad.clone() for name, p in trained.network.named_parameters() if p.grad is not None}
