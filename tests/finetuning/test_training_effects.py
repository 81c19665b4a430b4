"""What the seed and some fields of a recipe change: box weights, crops, the discriminator."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from support.training import SIZE, adversarial, batch, folder, network, short_recipe, state, step
from support.vaes import random_vae
from vaelens.errors import UsageError
from vaelens.finetuning.data.batches import TrainingImages
from vaelens.finetuning.state import State
from vaelens.finetuning.training import finetune
from vaelens.images.datasets import Dataset, open_dataset
from vaelens.images.drawing import Box

STILL: dict[str, Any] = {"data__crop": [1.0, 1.0], "data__flip": 0.0, "data__color_jitter": 0.0}


@pytest.fixture
def one(tmp_path: Path) -> Dataset:
    """A single image, so that every number means it."""
    return open_dataset(folder(tmp_path / "one", 1))


def pixels(dataset: Dataset, seed: int = 0, **changes: Any) -> np.ndarray:
    """The first image of a training by a recipe that changes nothing of it, but for these fields."""
    return TrainingImages([dataset], [1.0], short_recipe(**STILL | changes).data, seed).sample(0).pixels


@pytest.mark.parametrize(("labels", "counted"), [([], ("eye", "mouth")), (["mouth"], ("mouth",)), (["nose"], ())])
def test_a_loss_counts_the_pixels_of_named_boxes_more(labels: list[str], counted: tuple[str, ...]) -> None:
    boxes = {"eye": Box("eye", 2, 4, 12, 9), "mouth": Box("mouth", 6, 20, 26, 30)}
    recipe = short_recipe(loss__pixel="l1", loss__box_weight=7.0, loss__box_labels=labels, model__posterior="mode")
    made = batch(2, boxes=((boxes["eye"],), (boxes["mouth"],)))
    trained = state(recipe, torch.float64)
    x = made.image.double() * 2 - 1
    with torch.no_grad():
        apart = (trained.network.decode(trained.network.posterior(x).mode()) - x).abs()
    weights = torch.ones(2, 1, SIZE, SIZE, dtype=torch.float64)
    if "eye" in counted:
        weights[0, :, 4:9, 2:12] = 7
    if "mouth" in counted:
        weights[1, :, 20:30, 6:26] = 7
    by_hand = [(apart[n] * weights[n]).sum() / (3 * weights[n].sum()) for n in range(2)]
    log = step(trained, recipe, made)
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
    recipe = adversarial()
    first, again, other = (State(network(), recipe, seed=seed).discriminator for seed in (0, 0, 1))
    others = other.state_dict()
    assert all(torch.equal(tensor, again.state_dict()[name]) for name, tensor in first.state_dict().items())
    assert not any(torch.equal(tensor, others[name]) for name, tensor in first.state_dict().items() if tensor.ndim > 1)


@pytest.mark.parametrize("field", ["data.flip", "data.color_jitter"])
def test_a_cache_is_refused_where_images_change_in_any_way(field: str, tmp_path: Path) -> None:
    still = {name.replace("__", "."): value for name, value in STILL.items()} | {"model.space": "sd1"}
    photos, output = folder(tmp_path / "photos", 6), tmp_path / "run"
    with pytest.raises(UsageError, match=r"--cache.*data\.crop=\[1,1\], data\.flip=0 and data\.color_jitter=0"):
        finetune(random_vae(), photos, recipe="tiny-ft-ema", overrides=still | {field: 0.5}, output=output, cache=True)
    assert not output.exists()
