"""Each field of a recipe has an observable effect: on a loss, a gradient, a schedule's value, a file.

One case a field; the last test demands that no field is left out.
"""

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from support.training import (
    DECODER,
    SIZE,
    SMALL_CONFIG,
    adversarial,
    batch,
    changed_by,
    folder,
    gradients,
    json_lines,
    short_recipe,
    state,
    step,
)
from support.vaes import random_vae
from vaelens.errors import UsageError
from vaelens.finetuning.initialization import check_vae, initialize
from vaelens.finetuning.losses import box_weights, load_perceptual
from vaelens.finetuning.recipe import Recipe, field_names
from vaelens.finetuning.step import StepConfig, learning_rate, train_step
from vaelens.finetuning.training import finetune
from vaelens.images.crops import Crops, random_square
from vaelens.images.drawing import Box
from vaelens.runtime import Runtime

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("plain_report")]

Seen = Callable[[Recipe], Any]
WEIGHTED = {"loss__box_weight": 2.0}
CONTINUES = {key: value for key, value in DECODER.items() if key != "model__space"}
FREE = {key: value for key, value in DECODER.items() if key != "model__trainable"}
RUN = {f"run__{field}": 4 for field in ("steps", "evaluate_every", "checkpoint_every", "log_every", "held_out")}
RUN |= {"run__preset": "small"} | DECODER


@dataclass(frozen=True)
class Case:
    """Two values of a field, what they change, and the recipe that shows it."""

    field: str
    values: tuple[Any, Any]
    observable: str
    see: Seen
    build: Callable[..., Recipe] = short_recipe
    given: dict[str, Any] | None = None

    def recipes(self) -> list[Recipe]:
        return [self.build(**((self.given or {}) | {self.field.replace(".", "__"): value})) for value in self.values]


def logged(name: str) -> Seen:
    """A value of the first step's log."""
    return lambda r: step(state(r), r)[name]


def perceptual_loss(r: Recipe) -> float:
    distance, _ = load_perceptual(r.loss.perceptual)
    return float(train_step(state(r), [(batch(), None)], 1, StepConfig(r, distance, seed=0))["loss"])


def with_or_without(**changes: Any) -> Recipe:
    """Without a network there can be no weight."""
    weight = 0.0 if changes["loss__perceptual"] == "none" else 0.1
    return short_recipe(loss__perceptual_weight=weight, **changes)


def gradient(r: Recipe) -> float:
    trained = state(r)
    step(trained, r)
    return float(torch.cat([g.flatten() for g in gradients(trained).values()]).norm())


def changed(r: Recipe) -> list[str]:
    return sorted({name.split(".")[0] for name in changed_by(state(r), r)})


def weights_after(steps: int, network: str = "network") -> Seen:
    def see(r: Recipe) -> float:
        trained = state(r)
        for _ in range(steps):
            step(trained, r)
        return float(sum(p.detach().double().abs().sum() for p in getattr(trained, network).parameters()))

    return see


def steps_with(loss: str) -> Seen:
    def see(r: Recipe) -> list[bool]:
        trained = state(r)
        return [loss in step(trained, r) for _ in range(3)]

    return see


def discriminator(r: Recipe) -> dict[str, tuple[int, ...]]:
    built = state(r).discriminator
    return {} if built is None else {name: tuple(t.shape) for name, t in built.state_dict().items()}


def rates(r: Recipe) -> list[float]:
    return [learning_rate(r.optimizer, n, r.run.steps) for n in range(r.run.steps)]


def averages(r: Recipe) -> float | None:
    trained = state(r)
    step(trained, r)
    step(trained, r)
    return trained.ema and float(sum(t.double().sum() for t in trained.ema.average.values()))


def square(r: Recipe) -> bytes:
    pixels = np.random.default_rng(0).integers(0, 256, (64, 80, 3), dtype=np.uint8)
    how = Crops(r.data.size, r.data.crop, r.data.flip, r.data.color_jitter)
    return random_square(pixels, [], how, np.random.default_rng(1))[0].tobytes()


def weights_of_pixels(r: Recipe) -> list[float] | None:
    found = box_weights(r.loss, ((Box("eye", 2, 2, 9, 9), Box("R", 10, 10, 20, 20)),), SIZE)
    return None if found is None else found.flatten().tolist()


def start_network(r: Recipe) -> int:
    with torch.device("meta"):
        start = initialize(None, r, 0, None, Runtime("meta", offline=True))
    return sum(p.numel() for p in start.network.parameters())


def first_weights(r: Recipe) -> float:
    network = initialize(None, r, 0, None, Runtime(offline=True)).network
    return float(sum(p.detach().double().abs().sum() for p in network.parameters()))


def takes_sd1(r: Recipe) -> bool:
    try:
        check_vae("kl-f8", r)
    except UsageError:
        return False
    return True


def files_of_a_run(name: str) -> Seen:
    """What a short run leaves in its files."""

    def see(r: Recipe) -> Any:
        run = Path(PLACE[0]) / r.sha256()[:16]
        if not (run / "run.json").exists():
            finetune(PLACE[2], PLACE[1], recipe=r, output=run, device="cpu", threads=1)
        lines, evaluations = json_lines(run / "log.jsonl"), json_lines(run / "evaluations.jsonl")
        plan = json.loads((run / "report" / "plan.json").read_text())
        return {
            "steps": json.loads((run / "run.json").read_text())["steps"],
            "log": [line["step"] for line in lines],
            "losses": [line["loss"] for line in lines],
            "evaluations": sorted({line["step"] for line in evaluations}),
            "checkpoints": sorted(int(p.name) for p in (run / "checkpoints").iterdir()),
            "held_out": plan["images"],
            "preset": plan["preset"]["name"],
        }[name]

    return see


PLACE: list[Any] = []
DISCRIMINATOR_STEPS = weights_after(2, "discriminator")
DATA = {"data__size": 24, "data__crop": (0.5, 0.9), "data__flip": 0.0, "data__color_jitter": 0.0}

CASES = [
    Case("model.config", ("tiny-kl", "sd16"), "the network that is built", start_network),
    Case("model.init", ("default", "balanced"), "the first weights", first_weights),
    Case("model.space", ("any", "sdxl"), "whether an sd1 VAE is taken", takes_sd1, given=CONTINUES),
    Case("model.trainable", ("all", "decoder"), "what a step changes", changed, given=FREE),
    Case("model.post_quant_conv", ("trained", "frozen"), "what a step changes", changed, given=DECODER),
    Case("model.posterior", ("sample", "mode"), "the loss", logged("loss")),
    Case("loss.reduction", ("sum", "mean"), "the loss", logged("loss")),
    Case("loss.pixel", ("l1", "mse"), "the loss", logged("loss")),
    Case("loss.pixel", ("l1", "charbonnier"), "the loss", logged("loss")),
    Case("loss.pixel_weight", (1.0, 2.0), "the loss", logged("loss")),
    Case("loss.perceptual", ("none", "psim-small"), "the loss", perceptual_loss, with_or_without),
    Case("loss.perceptual_weight", (0.1, 0.2), "the loss", perceptual_loss),
    Case("loss.kl_weight", (1e-4, 1.0), "the gradient", gradient, given={"optimizer__max_grad_norm": 0.0}),
    Case("loss.box_weight", (2.0, 3.0), "the pixels' weights", weights_of_pixels),
    Case("loss.box_labels", ((), ("eye",)), "the pixels' weights", weights_of_pixels, given=WEIGHTED),
    Case("gan.weight", (0.25, 0.5), "its weight", logged("gan_weight"), adversarial),
    Case("gan.weighting", ("adaptive", "fixed"), "its weight", logged("gan_weight"), adversarial),
    Case("gan.start", (1, 2), "when the generator uses it", steps_with("generator_loss"), adversarial),
    Case("gan.warmup_steps", (0, 1), "when the discriminator is trained", steps_with("discriminator_loss"), adversarial,
         {"gan__start": 2}),
    Case("gan.width", (16, 32), "the discriminator's shapes", discriminator, adversarial),
    Case("gan.layers", (1, 2), "the discriminator's shapes", discriminator, adversarial),
    Case("gan.norm", ("none", "group"), "the discriminator's tensors", discriminator, adversarial),
    Case("gan.norm", ("group", "batch"), "the discriminator's tensors", discriminator, adversarial),
    Case("gan.lr", (1e-4, 1e-3), "the discriminator", DISCRIMINATOR_STEPS, adversarial),
    Case("gan.betas", ((0.5, 0.9), (0.9, 0.99)), "the discriminator", DISCRIMINATOR_STEPS, adversarial),
    Case("optimizer.lr", (1e-4, 1e-3), "the weights after a step", weights_after(1)),
    Case("optimizer.betas", ((0.5, 0.9), (0.9, 0.99)), "the weights after two steps", weights_after(2)),
    Case("optimizer.weight_decay", (0.0, 0.1), "the weights after a step", weights_after(1)),
    Case("optimizer.warmup_steps", (0, 5), "the learning rates", rates),
    Case("optimizer.decay_steps", (0, 5), "the learning rates", rates),
    Case("optimizer.max_grad_norm", (0.0, 1e-3), "the gradient that the optimizer sees", gradient),
    Case("ema.decay", (0.0, 0.999), "the average", averages),
    Case("ema.decay", (0.05, 0.999), "the average", averages),
    Case("data.size", (24, 32), "a square", square, given=DATA),
    Case("data.batch_size", (2, 4), "log.jsonl", files_of_a_run("losses"), given=RUN),
    Case("data.crop", ((0.5, 0.9), (0.5, 1.0)), "a square", square, given=DATA),
    Case("data.flip", (0.0, 1.0), "a square", square, given=DATA),
    Case("data.color_jitter", (0.0, 1.0), "a square", square, given=DATA),
    Case("run.steps", (4, 2), "run.json", files_of_a_run("steps"), given=RUN),
    Case("run.evaluate_every", (4, 2), "evaluations.jsonl", files_of_a_run("evaluations"), given=RUN),
    Case("run.checkpoint_every", (4, 3), "checkpoints/", files_of_a_run("checkpoints"), given=RUN),
    Case("run.log_every", (4, 1), "log.jsonl", files_of_a_run("log"), given=RUN),
    Case("run.held_out", (4, 3), "report/plan.json", files_of_a_run("held_out"), given=RUN),
    Case("run.preset", ("small", "smaller"), "report/plan.json", files_of_a_run("preset"), given=RUN),
]  # fmt: skip


@pytest.fixture(scope="module", autouse=True)
def _place(tmp_path_factory: pytest.TempPathFactory) -> None:
    """A folder for runs, one of images to train on, and a narrow VAE: building one from scratch takes longer."""
    where = tmp_path_factory.mktemp("runs")
    vae = random_vae(SMALL_CONFIG).save(where / "narrow.safetensors")
    PLACE[:] = [where, folder(where / "images", 16, side=48), vae]


@pytest.mark.parametrize("case", CASES, ids=lambda case: f"{case.field}: {case.observable}")
def test_a_field_changes_what_it_says(case: Case) -> None:
    first, second = case.recipes()
    assert case.see(first) == case.see(first), "not by chance"
    assert case.see(first) != case.see(second), case.observable


def test_every_field_has_a_case() -> None:
    assert {case.field for case in CASES} == set(field_names())
