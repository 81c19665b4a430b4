"""What the seed and some fields of a recipe change: learning rates, box weights, crops, the discriminator."""

from collections.abc import Generator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from support.training import SIZE, adversarial, batch, folder, network, recipe, state, step
from support.vaes import random_vae
from vaelens.errors import CheckFailedError, UsageError
from vaelens.finetuning.data import TrainingImages
from vaelens.finetuning.state import State
from vaelens.finetuning.training import finetune
from vaelens.images.datasets import Dataset, open_dataset
from vaelens.images.drawing import Box
from vaelens.resources import using_threads

STILL: dict[str, Any] = {"data__crop": [1.0, 1.0], "data__flip": 0.0, "data__color_jitter": 0.0}


@pytest.fixture(scope="module", autouse=True)
def _one_thread() -> Generator[None]:
    """Networks as narrow as these are slower with more."""
    with using_threads(1):
        yield


@pytest.fixture
def one(tmp_path: Path) -> Dataset:
    """A single image, so that every number means it."""
    return open_dataset(folder(tmp_path / "one", 1))


def pixels(dataset: Dataset, seed: int = 0, **changes: Any) -> np.ndarray:
    """The first image of a training by a recipe that changes nothing of it, but for these fields."""
    return TrainingImages([dataset], [1.0], recipe(**STILL | changes).data, seed).sample(0).pixels


def test_the_optimizer_gets_the_learning_rate_of_each_step() -> None:
    wanted = recipe(optimizer__lr=0.012, optimizer__warmup_steps=2, optimizer__decay_steps=3, run__steps=6)
    trained, rates = state(wanted), []
    for _ in range(6):
        step(trained, wanted)
        rates.append(trained.optimizer.param_groups[0]["lr"])
    assert rates == pytest.approx([0.006, 0.012, 0.012, 0.012, 0.008, 0.004])


@pytest.mark.parametrize(("labels", "counted"), [([], ("eye", "mouth")), (["mouth"], ("mouth",)), (["nose"], ())])
def test_a_loss_counts_the_pixels_of_named_boxes_more(labels: list[str], counted: tuple[str, ...]) -> None:
    boxes = {"eye": Box("eye", 2, 4, 12, 9), "mouth": Box("mouth", 6, 20, 26, 30)}
    wanted = recipe(loss__pixel="l1", loss__box_weight=7.0, loss__box_labels=labels, model__posterior="mode")
    made = batch(2, boxes=((boxes["eye"],), (boxes["mouth"],)))
    trained = state(wanted, torch.float64)
    x = made.image.double() * 2 - 1
    with torch.no_grad():
        apart = (trained.network.decode(trained.network.posterior(x).mode()) - x).abs()
    weights = torch.ones(2, 1, SIZE, SIZE, dtype=torch.float64)
    if "eye" in counted:
        weights[0, :, 4:9, 2:12] = 7
    if "mouth" in counted:
        weights[1, :, 20:30, 6:26] = 7
    by_hand = [(apart[n] * weights[n]).sum() / (3 * weights[n].sum()) for n in range(2)]
    log = step(trained, wanted, made)
    assert log["loss"] == pytest.approx(float(sum(by_hand)) / 2, rel=1e-9)
    assert (log["loss"] == pytest.approx(float(apart.mean()), rel=1e-9)) is not bool(counted)


def test_an_image_is_cropped_flipped_and_jittered_as_the_recipe_says(one: Dataset) -> None:
    plain = pixels(one)
    assert np.array_equal(pixels(one, data__flip=1.0), plain[:, ::-1])
    jittered, cropped = pixels(one, data__color_jitter=1.0), pixels(one, data__crop=[0.5, 0.5])
    assert not np.array_equal(jittered, plain)
    assert not np.array_equal(cropped, plain)
    assert not np.array_equal(jittered, cropped)
    assert pixels(one, data__size=24).shape == (24, 24, 3)


def test_another_seed_shows_the_same_image_otherwise(one: Dataset) -> None:
    crops = {"data__crop": [0.3, 0.9]}
    assert np.array_equal(pixels(one, 0, **crops), pixels(one, 0, **crops))
    assert not np.array_equal(pixels(one, 0, **crops), pixels(one, 1, **crops))


def test_another_seed_starts_with_another_discriminator() -> None:
    wanted = adversarial()
    first, again, other = (State(network(), wanted, seed=seed).discriminator for seed in (0, 0, 1))
    assert first is not None
    assert again is not None
    assert other is not None
    held = other.state_dict()
    assert all(torch.equal(tensor, again.state_dict()[name]) for name, tensor in first.state_dict().items())
    assert not any(torch.equal(tensor, held[name]) for name, tensor in first.state_dict().items() if tensor.ndim > 1)


def test_a_discriminator_s_gradient_that_is_not_finite_changes_nothing() -> None:
    """Also before the generator uses it: the generator's gradient is finite then."""
    wanted = adversarial(gan__start=5, gan__warmup_steps=5)
    trained = state(wanted)
    step(trained, wanted)
    assert trained.discriminator is not None
    with torch.no_grad():
        next(trained.discriminator.parameters()).view(-1)[0] = torch.inf
    before = {name: tensor.clone() for name, tensor in trained.tensors().items()}
    with pytest.raises(CheckFailedError, match="the discriminator's"):
        step(trained, wanted)
    assert trained.step == 1
    assert all(torch.equal(tensor, before[name]) for name, tensor in trained.tensors().items())


@pytest.mark.parametrize("field", ["data.flip", "data.color_jitter"])
def test_a_cache_is_refused_where_images_change_in_any_way(field: str, tmp_path: Path) -> None:
    still = {"data.crop": [1.0, 1.0], "data.flip": 0.0, "data.color_jitter": 0.0, "model.space": "sd1"}
    photos, output = folder(tmp_path / "photos", 6), tmp_path / "run"
    with pytest.raises(UsageError, match=r"--cache.*data\.crop=\[1,1\], data\.flip=0 and data\.color_jitter=0"):
        finetune(random_vae(), photos, recipe="tiny-ft-ema", overrides=still | {field: 0.5}, output=output, cache=True)
    assert not output.exists()
