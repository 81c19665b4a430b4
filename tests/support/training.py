"""What the tests of training share: a narrow network, recipes for it, made-up images, and short runs."""

import itertools
import json
import subprocess
import sys
from collections.abc import Callable, Generator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from vaelens.evaluation.presets import PRESETS
from vaelens.finetuning.data.batches import Batch, Sample
from vaelens.finetuning.recipe import Recipe
from vaelens.finetuning.recipe_files import find_recipe
from vaelens.finetuning.state import State
from vaelens.finetuning.step import StepConfig, train_step
from vaelens.finetuning.training import Tuned, finetune
from vaelens.images.drawing import Box
from vaelens.networks.autoencoder_kl import AutoencoderKL, AutoencoderKLConfig
from vaelens.resources import seeded

SIZE = 32
CONFIG = AutoencoderKLConfig(latent_channels=3, block_out_channels=(8, 16), layers_per_block=1, norm_num_groups=4)
SMALL_CONFIG = AutoencoderKLConfig(block_out_channels=(4, 4, 8, 8), layers_per_block=1, norm_num_groups=4)

OTHER_FIELDS = {"sample_size": 96, "force_upcast": False, "anyone's": ["own"]}  # of config.json

CONSTANT_LR: dict[str, Any] = {"optimizer.warmup_steps": 0, "optimizer.decay_steps": 0}
NO_GAN = CONSTANT_LR | {"gan.weight": 0.0}
QUICK: dict[str, Any] = CONSTANT_LR | {"data.size": SIZE, "data.batch_size": 4, "run.steps": 20}
FROM_SCRATCH: dict[str, Any] = {
    "model.posterior": "sample", "loss.kl_weight": 1e-4, "loss.pixel": "l1", "loss.pixel_weight": 1.0,
}  # fmt: skip
DECODER: dict[str, Any] = {
    "model__trainable": "decoder", "model__config": "", "model__init": "", "model__space": "any",
    "loss__kl_weight": 0.0,
}  # fmt: skip
ADVERSARIAL: dict[str, Any] = {
    "gan__weight": 0.5, "gan__start": 0, "gan__warmup_steps": 0, "gan__width": 16, "gan__layers": 2,
    "gan__norm": "none",
}  # fmt: skip
SHORT_RUN: dict[str, Any] = {
    "model.space": "sd1", "gan.start": 6, "gan.warmup_steps": 3, "gan.width": 16, "gan.layers": 2,
    "optimizer.warmup_steps": 2, "optimizer.decay_steps": 4, "data.size": 32, "data.batch_size": 4, "run.steps": 12,
    "run.evaluate_every": 6, "run.checkpoint_every": 3, "run.log_every": 1, "run.held_out": 4, "run.preset": "small",
}  # fmt: skip
SIX_STEPS: dict[str, Any] = {"run.steps": 6, "run.evaluate_every": 6}
TRAIN_SCRIPT = """
import os, sys
sys.path.insert(0, {tests!r})
from support.training import SHORT_RUN, small_presets
from vaelens.finetuning.training import finetune
def on_log(done, total, values):
    if done == {kill_at} and "loss" in values:
        os.kill(os.getpid(), 9)
with small_presets():
    finetune({vae!r}, {photos!r}, recipe="tiny-ft-ema", overrides=SHORT_RUN, output={output!r}, device="cpu", threads=1,
             on_log=on_log)
"""


@contextmanager
def small_presets() -> Generator[None]:
    """In this context there are presets for squares of 32 and 24 pixels: a run's evaluations take half a second."""
    added = {name: replace(PRESETS["offline"], name=name, side=side) for name, side in (("small", 32), ("smaller", 24))}
    PRESETS.update(added)
    try:
        yield
    finally:
        for name in added:
            del PRESETS[name]


def short_recipe(name: str = "tiny-scratch", **overrides: Any) -> Recipe:
    """A short recipe with small images, by default from scratch; `loss__pixel="mse"` changes a field."""
    usual = QUICK | (FROM_SCRATCH if name == "tiny-scratch" else {})
    return find_recipe(name, usual | {key.replace("__", "."): value for key, value in overrides.items()})


def adversarial(name: str = "tiny-scratch", **overrides: Any) -> Recipe:
    """The same with a discriminator, used from the first step on."""
    return short_recipe(name, **ADVERSARIAL | overrides)


def network(dtype: torch.dtype = torch.float32, seed: int = 0) -> AutoencoderKL:
    """A random narrow network."""
    with seeded(seed):
        return AutoencoderKL(CONFIG).to(dtype)


def state(recipe: Recipe, dtype: torch.dtype = torch.float32) -> State:
    """A training at step 0."""
    return State(network(dtype), recipe, seed=0)


def batch(count: int = 4, start: int = 0, boxes: tuple[tuple[Box, ...], ...] | None = None) -> Batch:
    """Made-up images with these numbers."""
    pixels = [
        np.random.default_rng(n).integers(0, 256, (SIZE, SIZE, 3), dtype=np.uint8) for n in range(start, start + count)
    ]
    smooth = torch.as_tensor(np.stack(pixels)).permute(0, 3, 1, 2).float() / 255
    image = torch.nn.functional.interpolate(torch.nn.functional.avg_pool2d(smooth, 8), scale_factor=8, mode="bilinear")
    samples = tuple(Sample(p, (), f"{start + n}", f"{start + n}") for n, p in enumerate(pixels))
    return Batch(image, boxes or ((),) * count, tuple(range(start, start + count)), samples)


def config(recipe: Recipe, **more: Any) -> StepConfig:
    """For steps without a perceptual network."""
    return StepConfig(recipe, None, seed=0, **more)


def step(trained: State, recipe: Recipe, made: Batch | None = None, parts: int = 1, **more: Any) -> dict[str, float]:
    """One step on made-up images, in micro-batches; gives the log."""
    whole = made or batch(recipe.data.batch_size, trained.step * recipe.data.batch_size)
    size = len(whole.numbers) // parts
    cuts = [slice(i, i + size) for i in range(0, len(whole.numbers), size)]
    micro_batches = [Batch(whole.image[c], whole.boxes[c], whole.numbers[c], whole.samples[c]) for c in cuts]
    log = train_step(trained, [(one, None) for one in micro_batches], parts, config(recipe, **more))
    return {key: float(value) for key, value in log.items()}


def changed_by(trained: State, recipe: Recipe, steps: int = 1) -> set[str]:
    """The names of the network's tensors that so many steps change."""
    before = {name: tensor.clone() for name, tensor in trained.network.state_dict().items()}
    for _ in range(steps):
        step(trained, recipe)
    return {name for name, tensor in trained.network.state_dict().items() if not torch.equal(tensor, before[name])}


def gradients(trained: State) -> dict[str, torch.Tensor]:
    """Of the last step, by parameter."""
    return {name: p.grad.clone() for name, p in trained.network.named_parameters() if p.grad is not None}


def folder(path: Path, count: int, first: int = 0, side: int = 40) -> Path:
    """A folder of random images."""
    path.mkdir()
    for n in range(first, first + count):
        pixels = np.random.default_rng(n).integers(0, 256, (side, side + 4, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(path / f"{n:02d}.png")
    return path


def train(vae: Path | None, photos: Path | list[Path], output: Path, recipe: str = "tiny-ft-ema", **more: Any) -> Tuned:
    """A short run on the CPU."""
    overrides = SHORT_RUN | more.pop("overrides", {})
    return finetune(vae, photos, recipe=recipe, overrides=overrides, output=output, device="cpu", threads=1, **more)


def train_script(vae: Path, photos: Path, output: Path, kill_at: int = 0) -> str:
    """The same run as a program, which kills itself when it logs step `kill_at`."""
    names = {"tests": str(Path(__file__).parents[1]), "vae": str(vae), "photos": str(photos), "output": str(output)}
    return TRAIN_SCRIPT.format(**names, kill_at=kill_at)


def json_lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def stop_after(steps: int) -> Callable[[], bool]:
    """A `should_stop` that is true once."""
    calls = itertools.count(1)
    return lambda: next(calls) == steps


def torchrun(script: Path) -> None:
    """Run a script in two processes."""
    command = [sys.executable, "-m", "torch.distributed.run", "--nproc_per_node", "2", "--standalone", str(script)]
    ran = subprocess.run(command, capture_output=True, text=True, check=False, timeout=300)
    assert ran.returncode == 0, ran.stderr


def two_process_recipe(reduction: str) -> Recipe:
    return adversarial(loss__reduction=reduction, loss__kl_weight=0.01, gan__norm="group", optimizer__max_grad_norm=0.5)


def first_step(recipe: Recipe, made: Batch | None = None, **more: Any) -> dict[str, torch.Tensor]:
    """The first step's gradients of both networks, the new weights, and the adaptive weight, in float64."""
    torch.set_num_threads(1)
    trained = state(recipe, torch.float64)
    log = step(trained, recipe, made, **more)
    found = {f"discriminator.{n}": p.grad for n, p in trained.discriminator.named_parameters() if p.grad is not None}
    found |= {f"after.{n}": t.detach() for n, t in trained.network.state_dict().items()}
    return gradients(trained) | found | {"gan_weight": torch.tensor(log["gan_weight"], dtype=torch.float64)}
