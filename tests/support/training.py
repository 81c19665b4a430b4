"""What the tests of training share: a narrow network, a recipe for it, and made-up images."""

import subprocess
import sys
from collections.abc import Generator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from vaelens.evaluation.presets import PRESETS
from vaelens.finetuning.images import Batch, Sample
from vaelens.finetuning.recipe import Recipe, find_recipe
from vaelens.finetuning.running import Tuned, finetune
from vaelens.finetuning.state import State
from vaelens.finetuning.step import Setting, update
from vaelens.images.drawing import Box
from vaelens.networks.autoencoder_kl import AutoencoderKL, AutoencoderKLConfig
from vaelens.resources import seeded

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
    """A recipe with short times and small images, from scratch a VAE's; `loss__pixel="mse"` changes a field."""
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
    """Made-up images with these numbers."""
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
    """One update on made-up images, cut into parts."""
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


def folder(path: Path, count: int, first: int = 0, side: int = 40) -> Path:
    path.mkdir()
    for n in range(first, first + count):
        pixels = np.random.default_rng(n).integers(0, 256, (side, side + 4, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(path / f"{n:02d}.png")
    return path


CHANGED: dict[str, Any] = {
    "model.space": "sd1", "gan.start": 6, "gan.warm_up": 3, "gan.width": 16, "gan.layers": 2, "optimizer.warm_up": 2,
    "optimizer.cool_down": 4, "data.size": 32, "data.batch": 4, "run.updates": 20, "run.evaluate_every": 10,
    "run.checkpoint_every": 5, "run.log_every": 1, "run.held_out": 4, "run.preset": "small",
}  # fmt: skip


SCRIPT = """
import json, os, sys
sys.path.insert(0, {tests!r})
from support.training import small_presets
from vaelens.finetuning.running import finetune
kill_at = {kill_at}
def show(done, total, numbers):
    if done == kill_at and "loss" in numbers:
        os.kill(os.getpid(), 9)
with small_presets():
    finetune({vae!r}, {photos!r}, recipe="tiny-ft-ema", changed={changed!r}, output={output!r}, device="cpu", threads=1,
             show=show)
"""


def train(vae: Path | None, photos: Path, output: Path, recipe: str = "tiny-ft-ema", **more: Any) -> Tuned:
    changed = CHANGED | more.pop("changed", {})
    return finetune(vae, photos, recipe=recipe, changed=changed, output=output, device="cpu", threads=1, **more)


SMALL = AutoencoderKLConfig(block_out_channels=(4, 4, 8, 8), layers_per_block=1, norm_num_groups=4)


EVEN: dict[str, Any] = {"optimizer.warm_up": 0, "optimizer.cool_down": 0}


ALONE = EVEN | {"gan.weight": 0.0}


def wanted(form: str) -> Recipe:
    return judged(loss__reduction=form, loss__kl_weight=0.01, gan__norm="group", data__batch=4, optimizer__clip=0.5)


def begin(recipe: Recipe) -> State:
    return state(recipe, torch.float64)


def found(trained: State, log: dict[str, float]) -> dict[str, torch.Tensor]:
    """Gradients of both sides, the new weights, and the adaptive weight."""
    assert trained.discriminator is not None
    judge = {f"judge.{n}": p.grad for n, p in trained.discriminator.named_parameters() if p.grad is not None}
    weights = {f"after.{n}": t.detach() for n, t in trained.network.state_dict().items()}
    return gradients(trained) | judge | weights | {"share": torch.tensor(log["gan_weight"], dtype=torch.float64)}


def torchrun(script: Path) -> None:
    command = [sys.executable, "-m", "torch.distributed.run", "--nproc_per_node", "2", "--standalone", str(script)]
    ran = subprocess.run(command, capture_output=True, text=True, check=False, timeout=300)
    assert ran.returncode == 0, ran.stderr
