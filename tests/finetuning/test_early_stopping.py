"""Early stopping reacts to real problems, and not to noise."""

import math
from pathlib import Path

import pytest

from support.training import folder
from support.vaes import random_vae
from vaelens.evaluation import measurement
from vaelens.evaluation.chunks import Chunk
from vaelens.evaluation.loaded_preset import load_preset
from vaelens.evaluation.measurement import reconstruct_chunk
from vaelens.evaluation.presets import PRESETS, Preset
from vaelens.finetuning import validation
from vaelens.finetuning.validation import OVERFIT_EVALUATIONS, PATIENCE, EarlyStopping
from vaelens.images.datasets import open_dataset
from vaelens.runtime import Runtime
from vaelens.vae import VAE

FINE = {"loss": 0.3, "discriminator_loss": 0.7, "logits_real": 0.4, "logits_fake": -0.3, "generator_loss": 0.3}


def test_nan_and_infinity_stop_training() -> None:
    for value in (math.nan, math.inf):
        found = EarlyStopping().check_log(7, FINE | {"loss": value})
        assert found.last_good_step == 6
        assert "loss is" in found.message


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"discriminator_loss": 0.001, "logits_real": 3.0, "logits_fake": -3.0}, "perfectly"),
        ({"discriminator_loss": 1.0, "logits_real": 1e-5, "logits_fake": 1e-5}, "collapsed"),
    ],
)
def test_a_useless_discriminator_stops_training_in_time(values: dict[str, float], message: str) -> None:
    stopping = EarlyStopping()
    bad = FINE | values
    for n in range(1, PATIENCE):
        assert stopping.check_log(n, bad) is None
    assert stopping.check_log(PATIENCE, FINE) is None, "a good line resets the count"
    for n in range(1, PATIENCE):
        assert stopping.check_log(100 + n, bad) is None
    found = stopping.check_log(100 + PATIENCE, bad)
    assert message in found.message
    assert found.last_good_step == 101


def test_without_a_discriminator_nothing_is_checked() -> None:
    stopping = EarlyStopping()
    assert all(stopping.check_log(n, {"loss": 0.1}) is None for n in range(3 * PATIENCE))
    unused = {"loss": 0.1, "discriminator_loss": 0.0, "logits_real": 3.0, "logits_fake": -3.0}
    for n in range(3 * PATIENCE):
        assert stopping.check_log(n, unused) is None, "it may win while the generator doesn't use it"


def test_overfitting_stops_training() -> None:
    stopping = EarlyStopping()
    assert stopping.check_evaluation(0, 20.0, 20.0) is None
    for n in range(1, OVERFIT_EVALUATIONS):
        assert stopping.check_evaluation(n, 20 + 0.2 * n, 20 - 0.1 * n) is None
    last = OVERFIT_EVALUATIONS
    found = stopping.check_evaluation(last, 20 + 0.2 * last, 20 - 0.1 * last)
    assert "overfits" in found.message
    assert found.last_good_step == 0


@pytest.mark.parametrize(
    "course",
    [
        [(20 + n, 20 + 0.5 * n) for n in range(9)],  # the gap grows, and held-out images get better
        [(20 - n, 20 - n) for n in range(9)],  # both get worse together
        [(20 + 0.01 * n, 20 - 0.01 * n) for n in range(9)],  # hardly
        [(20 + 0.3 * n, 20 + 0.2 * (n % 2)) for n in range(9)],  # up and down
    ],
)
def test_other_courses_do_not_stop_training(course: list[tuple[float, float]]) -> None:
    stopping = EarlyStopping()
    assert all(stopping.check_evaluation(n, *values) is None for n, values in enumerate(course))


def test_means_over_other_images_are_not_compared() -> None:
    """An image that is reproduced exactly is in no mean: PSNR falls, although nothing got worse."""
    stopping = EarlyStopping()
    for n in range(2 * OVERFIT_EVALUATIONS):
        exact = {"held_out": ["flat.png"][: n % 3], "training": []}
        assert stopping.check_evaluation(n, 20 + 0.2 * n, 20 - 0.1 * n, exact) is None


def test_an_evaluation_says_which_images_are_exact(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Here every other reconstruction is its original."""

    def half(vae: VAE, chunk: Chunk, preset: Preset, seed: int) -> measurement.Reconstructions:
        made = reconstruct_chunk(vae, chunk, preset, seed)
        made.pixels[::2] = chunk.pixels[::2]
        return made

    monkeypatch.setattr(validation, "reconstruct_chunk", half)
    loaded = load_preset(PRESETS["small"], {}, Runtime(offline=True))
    dataset = open_dataset(folder(tmp_path / "photos", 4, side=64))
    found = validation.score(random_vae(), validation.readable_chunks(dataset, loaded.preset), loaded, 0)
    assert found.exact == ("00.png", "02.png")
    assert 0 < found.psnr < math.inf
