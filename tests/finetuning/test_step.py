"""One step: whose gradients go where, against plain code with separate losses."""

import copy

import numpy as np
import pytest
import torch
from torch import Tensor

from support.training import DECODER, adversarial, batch, config, gradients, network, recipe, state, step
from vaelens.errors import CheckFailedError
from vaelens.finetuning.losses import discriminator_loss, generator_loss, reconstruction_loss
from vaelens.finetuning.state import Ema
from vaelens.finetuning.step import learning_rate, noise_seed, train_step

F64 = torch.float64


@pytest.mark.parametrize("form", ["sum", "mean"])
def test_the_gradient_is_that_of_two_backward_passes(form: str) -> None:
    """The usual way: both losses on the decoder's output, two autograd.grad calls at its last weight, one total."""
    wanted = adversarial(loss__reduction=form, **DECODER, model__posterior="sample", optimizer__max_grad_norm=0.0)
    trained, plain = state(wanted, F64), state(wanted, F64)
    log = step(trained, wanted)

    net, discriminator, made = plain.network, plain.discriminator, batch(4)
    assert discriminator is not None
    x = made.image.double() * 2 - 1
    with torch.no_grad():
        generators = [torch.Generator().manual_seed(noise_seed(0, n)) for n in made.numbers]
        z = net.posterior(x).sample(generators)
    again = net.decode(z)
    loss, _ = reconstruction_loss(wanted.loss, again, x, None)
    adversarial_loss = generator_loss(discriminator(again))
    last = net.decoder.conv_out.weight
    ours, theirs = (torch.autograd.grad(part, last, retain_graph=True)[0].norm() for part in (loss, adversarial_loss))
    largest = 1e4 if form == "sum" else 1e4 / x[0].numel()
    weight = (ours / (theirs + 1e-4)).clamp(0, largest).detach()
    (loss + 0.5 * weight * adversarial_loss).backward()
    assert log["gan_weight"] == pytest.approx(0.5 * float(weight), rel=1e-9)
    compared = 0
    for name, gradient in gradients(trained).items():
        torch.testing.assert_close(gradient, dict(net.named_parameters())[name].grad, rtol=1e-9, atol=1e-13)
        compared += float(gradient.norm()) > 0
    assert compared > 20


def test_the_discriminator_gets_its_own_gradient_and_the_generator_none_of_it() -> None:
    wanted = adversarial(**DECODER)
    trained, plain = state(wanted, F64), state(wanted, F64)
    before = copy.deepcopy(trained.network.state_dict())
    step(trained, wanted)
    assert trained.discriminator is not None
    assert plain.discriminator is not None
    made = batch(4)
    x = made.image.double() * 2 - 1
    net = network(F64)
    net.load_state_dict(before)
    with torch.no_grad():
        generators = [torch.Generator().manual_seed(noise_seed(0, n)) for n in made.numbers]
        again = net.decode(net.posterior(x).sample(generators))
    discriminator_loss(plain.discriminator(x), plain.discriminator(again)).backward()
    assert next(trained.discriminator.parameters()).grad.norm() > 0  # type: ignore[union-attr]
    for ours, theirs in zip(trained.discriminator.parameters(), plain.discriminator.parameters(), strict=True):
        torch.testing.assert_close(ours.grad, theirs.grad, rtol=1e-9, atol=1e-14)


def test_a_discriminator_before_its_start_does_not_change_the_generator() -> None:
    quiet = adversarial(**DECODER, gan__start=5, gan__warmup_steps=5)
    alone = recipe(**DECODER)
    with_discriminator, without = state(quiet, F64), state(alone, F64)
    log = step(with_discriminator, quiet)
    step(without, alone)
    assert "discriminator_loss" in log
    assert "generator_loss" not in log
    for name, gradient in gradients(with_discriminator).items():
        assert torch.equal(gradient, gradients(without)[name]), name


def test_the_discriminator_starts_at_a_generator_step() -> None:
    wanted = adversarial(gan__start=3, gan__warmup_steps=2)
    trained = state(wanted)
    assert trained.discriminator is not None
    said = []
    for _ in range(5):
        before = copy.deepcopy(trained.discriminator.state_dict())
        log = step(trained, wanted)
        moved = any(
            not torch.equal(a, b)
            for a, b in zip(before.values(), trained.discriminator.state_dict().values(), strict=True)
        )
        said.append((moved, "generator_loss" in log))
    assert said == [(False, False), (True, False), (True, False), (True, True), (True, True)]


@pytest.mark.parametrize("fixed", ["trained", "frozen"])
def test_a_decoder_s_training_leaves_the_encoder_bit_for_bit(fixed: str) -> None:
    wanted = adversarial(**DECODER, model__post_quant_conv=fixed)
    trained = state(wanted)
    before = copy.deepcopy(trained.network.state_dict())
    for _ in range(3):
        step(trained, wanted)
    moved = {name.split(".")[0] for name, t in trained.network.state_dict().items() if not torch.equal(t, before[name])}
    assert moved == ({"decoder", "post_quant_conv"} if fixed == "trained" else {"decoder"})
    assert {name.split(".")[0] for name in gradients(trained)} == moved


def test_from_scratch_everything_moves() -> None:
    wanted = recipe()
    trained = state(wanted)
    before = copy.deepcopy(trained.network.state_dict())
    step(trained, wanted)
    still = [name for name, t in trained.network.state_dict().items() if torch.equal(t, before[name])]
    assert still == []


def test_the_average_is_the_closed_form() -> None:
    wanted = recipe(ema__decay=0.5)
    trained = state(wanted, F64)
    assert trained.ema is not None
    weights = [copy.deepcopy(dict(trained.trainable()))]
    for _ in range(4):
        step(trained, wanted)
        weights.append({name: p.detach().clone() for name, p in trained.trainable().items()})
    keeps = [min(0.5, (1 + n) / (10 + n)) for n in range(4)]
    assert keeps[0] == 0.1
    for name, average in trained.ema.average.items():
        by_hand = weights[0][name].detach()
        for keep, weight in zip(keeps, weights[1:], strict=True):
            by_hand = keep * by_hand + (1 - keep) * weight[name]
        torch.testing.assert_close(average, by_hand, rtol=1e-12, atol=1e-14)
    assert any(not torch.equal(average, weights[-1][name]) for name, average in trained.ema.average.items())
    long = Ema({"w": torch.zeros(1, dtype=F64)}, 0.99)
    for n in range(2000):
        long.update({"w": torch.tensor([1.0], dtype=F64)}, n)
    product = np.prod([min(0.99, (1 + n) / (10 + n)) for n in range(2000)])
    assert float(long.average["w"]) == pytest.approx(1 - product, rel=1e-12)


def test_micro_batches_add_up_to_the_batch() -> None:
    """Without a discriminator, exactly; with an adaptive weight each part has its own, as documented."""
    wanted = recipe(data__batch_size=6, loss__kl_weight=0.01)
    whole, parts = state(wanted, F64), state(wanted, F64)
    a, b = step(whole, wanted), step(parts, wanted, parts=3)
    assert a["loss"] == pytest.approx(b["loss"], rel=1e-12)
    for name, gradient in gradients(whole).items():
        torch.testing.assert_close(gradient, gradients(parts)[name], rtol=1e-9, atol=1e-13)


def test_a_gradient_that_is_not_finite_changes_nothing() -> None:
    wanted = recipe(loss__box_weight=1.0)
    trained = state(wanted)
    step(trained, wanted)
    before = {name: t.clone() for name, t in trained.tensors().items()}
    broken = batch(4)
    broken.image[0, 0, 0, 0] = torch.nan
    with pytest.raises(CheckFailedError, match=r"step 2: the generator's gradient is NaN or infinite"):
        train_step(trained, [(broken, None)], 1, config(wanted))
    assert trained.step == 1
    assert all(torch.equal(t, before[name]) for name, t in trained.tensors().items())


def test_the_learning_rate_rises_and_falls() -> None:
    o = recipe(optimizer__lr=1.0, optimizer__warmup_steps=4, optimizer__decay_steps=5, run__steps=20).optimizer
    rates = [learning_rate(o, n, 20) for n in range(20)]
    assert rates[:5] == [0.25, 0.5, 0.75, 1, 1]
    assert rates[14:] == pytest.approx([1, 1, 0.8, 0.6, 0.4, 0.2])


def test_flat_images_and_a_batch_of_one() -> None:
    wanted = adversarial(data__batch_size=1, gan__norm="batch")
    trained = state(wanted)
    flat = batch(1)
    flat.image.fill_(0.5)
    for _ in range(3):
        log = step(trained, wanted, flat)
        assert all(np.isfinite(value) for value in log.values())


def test_a_restored_state_continues_identically() -> None:
    wanted = adversarial(gan__norm="batch")
    one = state(wanted)
    for _ in range(3):
        step(one, wanted)
    kept: dict[str, Tensor] = {name: t.clone() for name, t in one.tensors().items()}
    two = state(wanted)
    two.restore(kept, 3)
    for trained in (one, two):
        for _ in range(2):
            step(trained, wanted)
    assert set(one.tensors()) == set(two.tensors())
    assert all(torch.equal(t, two.tensors()[name]) for name, t in one.tensors().items())
    assert any(name.startswith("discriminator_optimizer.") and name.endswith("exp_avg_sq") for name in kept)
    with pytest.raises(CheckFailedError, match="another training"):
        state(recipe()).restore({}, 1)
