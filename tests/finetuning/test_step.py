"""One step: whose gradients go where, against plain code with separate losses."""

import copy
from collections.abc import Generator
from contextlib import contextmanager, nullcontext

import numpy as np
import pytest
import torch
from torch import Tensor

from support.training import DECODER, adversarial, batch, changed_by, config, gradients, short_recipe, state, step
from vaelens.errors import CheckFailedError
from vaelens.finetuning.data.batches import Batch
from vaelens.finetuning.losses import discriminator_loss, generator_loss, reconstruction_loss
from vaelens.finetuning.state import Ema, State
from vaelens.finetuning.step import learning_rate, noise_seed, train_step
from vaelens.kernels.paths import VARIABLE, available_paths
from vaelens.networks import memory_saving
from vaelens.networks.autoencoder_kl import AutoencoderKL

F64 = torch.float64
CONVOLUTIONS = (".conv", ".conv1", ".conv2", ".conv_shortcut", ".conv_in", ".conv_out")


def reconstructed(network: AutoencoderKL, made: Batch) -> tuple[Tensor, Tensor]:
    """The images and what the decoder makes of the posterior's samples, by plain code."""
    x = made.image.double() * 2 - 1
    with torch.no_grad():
        generators = [torch.Generator().manual_seed(noise_seed(0, number)) for number in made.numbers]
        z = network.posterior(x).sample(generators)
    return x, network.decode(z)


@contextmanager
def refused(trained: State, message: str) -> Generator[None]:
    """A step is refused, and changes nothing."""
    before, steps = {name: tensor.clone() for name, tensor in trained.tensors().items()}, trained.step
    with pytest.raises(CheckFailedError, match=message):
        yield
    assert trained.step == steps
    assert all(torch.equal(tensor, before[name]) for name, tensor in trained.tensors().items())


@pytest.mark.parametrize("form", ["sum", "mean"])
def test_the_gradient_is_that_of_two_backward_passes(form: str) -> None:
    """The usual way: both losses on the decoder's output, two autograd.grad calls at its last weight, one total."""
    recipe = adversarial(loss__reduction=form, **DECODER, model__posterior="sample", optimizer__max_grad_norm=0.0)
    trained, plain = state(recipe, F64), state(recipe, F64)
    log = step(trained, recipe)

    x, again = reconstructed(plain.network, batch(4))
    loss, _ = reconstruction_loss(recipe.loss, again, x, None)
    adversarial_loss = generator_loss(plain.discriminator(again))
    last = plain.network.decoder.conv_out.weight
    ours, theirs = (torch.autograd.grad(part, last, retain_graph=True)[0].norm() for part in (loss, adversarial_loss))
    largest = 1e4 if form == "sum" else 1e4 / x[0].numel()
    weight = (ours / (theirs + 1e-4)).clamp(0, largest).detach()
    (loss + 0.5 * weight * adversarial_loss).backward()
    assert log["gan_weight"] == pytest.approx(0.5 * float(weight), rel=1e-9)
    compared = 0
    for name, gradient in gradients(trained).items():
        torch.testing.assert_close(gradient, dict(plain.network.named_parameters())[name].grad, rtol=1e-9, atol=1e-13)
        compared += float(gradient.norm()) > 0
    assert compared > 20


@pytest.mark.parametrize("path", ["portable", "torch"])
@pytest.mark.parametrize("part", ["decoder", "all"])
def test_the_gradient_of_float32_on_native_paths_is_the_plain_network_s(
    part: str, path: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Every convolution but the discriminator's and the quantising ones runs so that little memory is kept."""
    if path not in available_paths():
        pytest.skip("this build has no native library")
    monkeypatch.setenv(VARIABLE, path)
    calls = list[tuple[int, ...]]()
    real = memory_saving.trained_convolution
    monkeypatch.setattr(
        memory_saving, "trained_convolution", lambda x, w, *a, **k: calls.append(w.shape) or real(x, w, *a, **k)
    )
    # Noise and the sign of a difference depend on the dtype.
    smooth = {"model__posterior": "mode", "loss__pixel": "mse", "optimizer__max_grad_norm": 0.0}
    recipe = adversarial(**(DECODER if part == "decoder" else {}) | smooth)
    trained, plain = state(recipe), state(recipe, F64)
    step(trained, recipe)
    counted = sum(m.weight.ndim == 4 for n, m in trained.network.named_modules() if n.endswith(CONVOLUTIONS))
    assert len(calls) == counted > 20
    monkeypatch.setattr("vaelens.finetuning.step.memory_saving", nullcontext)
    step(plain, recipe)
    expected = gradients(plain)
    for name, gradient in gradients(trained).items():
        if "to_k.bias" not in name:  # 0 but for rounding
            assert (gradient - expected[name]).norm() < 1e-4 * expected[name].norm(), name


def test_the_discriminator_gets_its_own_gradient_and_the_generator_none_of_it() -> None:
    recipe = adversarial(**DECODER)
    trained, plain = state(recipe, F64), state(recipe, F64)
    step(trained, recipe)
    x, again = reconstructed(plain.network, batch(4))
    discriminator_loss(plain.discriminator(x), plain.discriminator(again.detach())).backward()
    assert next(trained.discriminator.parameters()).grad.norm() > 0  # type: ignore[union-attr]
    for ours, theirs in zip(trained.discriminator.parameters(), plain.discriminator.parameters(), strict=True):
        torch.testing.assert_close(ours.grad, theirs.grad, rtol=1e-9, atol=1e-14)


def test_a_discriminator_before_its_start_does_not_change_the_generator() -> None:
    quiet = adversarial(**DECODER, gan__start=5, gan__warmup_steps=5)
    alone = short_recipe(**DECODER)
    with_discriminator, without = state(quiet, F64), state(alone, F64)
    log = step(with_discriminator, quiet)
    step(without, alone)
    assert "discriminator_loss" in log
    assert "generator_loss" not in log
    for name, gradient in gradients(with_discriminator).items():
        assert torch.equal(gradient, gradients(without)[name]), name


def test_the_discriminator_starts_at_a_generator_step() -> None:
    recipe = adversarial(gan__start=3, gan__warmup_steps=2)
    trained = state(recipe)
    changes = []
    for _ in range(5):
        before = copy.deepcopy(trained.discriminator.state_dict())
        log = step(trained, recipe)
        moved = any(not torch.equal(t, before[name]) for name, t in trained.discriminator.state_dict().items())
        changes.append((moved, "generator_loss" in log))
    assert changes == [(False, False), (True, False), (True, False), (True, True), (True, True)]


@pytest.mark.parametrize("fixed", ["trained", "frozen"])
def test_a_decoder_s_training_leaves_the_encoder_bit_for_bit(fixed: str) -> None:
    recipe = adversarial(**DECODER, model__post_quant_conv=fixed)
    trained = state(recipe)
    changed = {name.split(".")[0] for name in changed_by(trained, recipe, steps=3)}
    assert changed == ({"decoder", "post_quant_conv"} if fixed == "trained" else {"decoder"})
    assert {name.split(".")[0] for name in gradients(trained)} == changed


def test_from_scratch_every_tensor_changes() -> None:
    recipe = short_recipe()
    trained = state(recipe)
    assert changed_by(trained, recipe) == {*trained.network.state_dict()}


def test_the_average_is_the_closed_form() -> None:
    recipe = short_recipe(ema__decay=0.5)
    trained = state(recipe, F64)
    weights = [copy.deepcopy(dict(trained.trainable()))]
    for _ in range(4):
        step(trained, recipe)
        weights.append({name: p.detach().clone() for name, p in trained.trainable().items()})
    decays = [min(0.5, (1 + n) / (10 + n)) for n in range(4)]
    assert decays[0] == 0.1
    for name, average in trained.ema.average.items():
        by_hand = weights[0][name].detach()
        for decay, weight in zip(decays, weights[1:], strict=True):
            by_hand = decay * by_hand + (1 - decay) * weight[name]
        torch.testing.assert_close(average, by_hand, rtol=1e-12, atol=1e-14)
    assert any(not torch.equal(average, weights[-1][name]) for name, average in trained.ema.average.items())
    long = Ema({"w": torch.zeros(1, dtype=F64)}, 0.99)
    for n in range(2000):
        long.update({"w": torch.tensor([1.0], dtype=F64)}, n)
    product = np.prod([min(0.99, (1 + n) / (10 + n)) for n in range(2000)])
    assert float(long.average["w"]) == pytest.approx(1 - product, rel=1e-12)


def test_micro_batches_add_up_to_the_batch() -> None:
    """Without a discriminator, exactly; with an adaptive weight each part has its own, as documented."""
    recipe = short_recipe(data__batch_size=6, loss__kl_weight=0.01)
    whole, parts = state(recipe, F64), state(recipe, F64)
    a, b = step(whole, recipe), step(parts, recipe, parts=3)
    assert a["loss"] == pytest.approx(b["loss"], rel=1e-12)
    for name, gradient in gradients(whole).items():
        torch.testing.assert_close(gradient, gradients(parts)[name], rtol=1e-9, atol=1e-13)


def test_a_gradient_that_is_not_finite_changes_nothing() -> None:
    recipe = short_recipe(loss__box_weight=1.0)
    trained = state(recipe)
    step(trained, recipe)
    broken = batch(4)
    broken.image[0, 0, 0, 0] = torch.nan
    with refused(trained, r"step 2: the generator's gradient is NaN or infinite"):
        train_step(trained, [(broken, None)], 1, config(recipe))
    # A discriminator's gradient counts also before the generator uses it: the generator's gradient is finite then.
    recipe = adversarial(gan__start=5, gan__warmup_steps=5)
    trained = state(recipe)
    step(trained, recipe)
    with torch.no_grad():
        next(trained.discriminator.parameters()).view(-1)[0] = torch.inf
    with refused(trained, "the discriminator's"):
        step(trained, recipe)


def test_the_learning_rate_rises_and_falls_and_the_optimizer_gets_it() -> None:
    o = short_recipe(optimizer__lr=1.0, optimizer__warmup_steps=4, optimizer__decay_steps=5, run__steps=20).optimizer
    rates = [learning_rate(o, n, 20) for n in range(20)]
    assert rates[:5] == [0.25, 0.5, 0.75, 1, 1]
    assert rates[14:] == pytest.approx([1, 1, 0.8, 0.6, 0.4, 0.2])
    recipe = short_recipe(optimizer__lr=0.012, optimizer__warmup_steps=2, optimizer__decay_steps=3, run__steps=6)
    trained, rates = state(recipe), []
    for _ in range(6):
        step(trained, recipe)
        rates.append(trained.optimizer.param_groups[0]["lr"])
    assert rates == pytest.approx([0.006, 0.012, 0.012, 0.012, 0.008, 0.004])


def test_flat_images_and_a_batch_of_one() -> None:
    recipe = adversarial(data__batch_size=1, gan__norm="batch")
    trained = state(recipe)
    flat = batch(1)
    flat.image.fill_(0.5)
    for _ in range(3):
        log = step(trained, recipe, flat)
        assert all(np.isfinite(value) for value in log.values())


def test_a_restored_state_continues_identically() -> None:
    recipe = adversarial(gan__norm="batch")
    one = state(recipe)
    for _ in range(3):
        step(one, recipe)
    saved: dict[str, Tensor] = {name: t.clone() for name, t in one.tensors().items()}
    two = state(recipe)
    two.restore(saved, 3)
    for trained in (one, two):
        for _ in range(2):
            step(trained, recipe)
    assert set(one.tensors()) == set(two.tensors())
    assert all(torch.equal(t, two.tensors()[name]) for name, t in one.tensors().items())
    assert any(name.startswith("discriminator_optimizer.") and name.endswith("exp_avg_sq") for name in saved)
    with pytest.raises(CheckFailedError, match="another training"):
        state(short_recipe()).restore({}, 1)
