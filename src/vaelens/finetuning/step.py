"""One update: a decoder's step, and its judge's.

The losses depend on the decoder only through its image. So their gradients at the image are taken once each; the
adaptive weight needs the last convolution's gradient of each, which is cheap; then one backward pass through the
decoder carries their weighted sum. It is exact, and saves one of two backward passes.
"""

import hashlib
from collections.abc import Iterable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass

import torch
from torch import Tensor

from vaelens.errors import CheckFailedError
from vaelens.finetuning.adversary import (
    adaptive_weight,
    discriminator_loss,
    generator_loss,
    is_heard,
    is_learning,
)
from vaelens.finetuning.images import Batch
from vaelens.finetuning.objective import (
    Distance,
    kl_loss,
    pixel_weights,
    reconstruction_loss,
)
from vaelens.finetuning.recipe import Optimizer, Recipe
from vaelens.finetuning.state import State
from vaelens.networks.autoencoder_kl import DiagonalGaussian
from vaelens.runs.ranks import mean_over_ranks


class NotFiniteError(CheckFailedError):
    """A gradient is NaN or infinite, on all processes alike."""


@dataclass(frozen=True)
class Setting:
    """What an update needs beside its state and images. `autocast`: the precision of the networks on the device."""

    recipe: Recipe
    perceptual: Distance | None
    seed: int
    ranks: int = 1
    autocast: torch.dtype | None = None

    def networks(self, device: torch.device) -> AbstractContextManager[object]:
        """In this context networks run; losses and weights stay in the master precision."""
        return nullcontext() if self.autocast is None else torch.autocast(device.type, self.autocast)


def update(
    state: State, portions: Iterable[tuple[Batch, DiagonalGaussian | None]], count: int, setting: Setting
) -> dict[str, Tensor]:
    """One update of the generator, and of the discriminator where it learns; gives scalars for a log, on the device.

    portions: this process' images in `count` equal parts, each with its posterior where that is known (a cache).
    Raises NotFiniteError, with weights, averages and optimizers as they were before, where a gradient isn't finite.
    """
    recipe = setting.recipe
    rate = rate_at(recipe.optimizer, state.updates, recipe.run.updates)
    for group in state.optimizer.param_groups:
        group["lr"] = rate
    state.optimizer.zero_grad()
    if state.judge is not None:
        state.judge.zero_grad()
    parts = [_portion(state, batch, posterior, count, setting) for batch, posterior in portions]
    log = {key: torch.stack([part[key] for part in parts]).mean() for key in parts[0]}

    trained = list(state.trained().values())
    mean_over_ranks([p.grad for p in trained if p.grad is not None], setting.ranks)
    norm = _norm([p.grad for p in trained if p.grad is not None])
    log |= {"gradient": norm, "rate": torch.tensor(rate)}
    learns = state.judge is not None and is_learning(recipe.gan, state.updates)
    judges = list(state.discriminator.parameters()) if learns and state.discriminator is not None else []
    mean_over_ranks([p.grad for p in judges if p.grad is not None], setting.ranks)
    judged = _norm([p.grad for p in judges if p.grad is not None])
    if not (torch.isfinite(norm) and torch.isfinite(judged)):
        side = "generator" if not torch.isfinite(norm) else "discriminator"
        raise NotFiniteError(f"update {state.updates + 1}: the {side}'s gradient is NaN or infinite.")
    if 0 < recipe.optimizer.clip < norm:
        for parameter in trained:
            if parameter.grad is not None:
                parameter.grad.mul_(recipe.optimizer.clip / norm)
    state.optimizer.step()  # pyright: ignore[reportUnknownMemberType]
    if learns and state.judge is not None:
        state.judge.step()  # pyright: ignore[reportUnknownMemberType]
    if state.ema is not None:
        state.ema.update(state.trained(), state.updates)
    state.updates += 1
    return log


def _portion(
    state: State, batch: Batch, posterior: DiagonalGaussian | None, count: int, setting: Setting
) -> dict[str, Tensor]:
    """Forward and backward of some images; adds a `count`th of their gradients to what is there."""
    recipe, network = setting.recipe, state.network
    weight = next(network.parameters())
    wanted = (batch.image.to(weight.device, weight.dtype) * 2 - 1).contiguous()
    counts = pixel_weights(recipe.loss, batch.boxes, recipe.data.size)
    with setting.networks(weight.device):
        if posterior is None:
            with torch.set_grad_enabled(recipe.model.trains == "all"):
                posterior = network.posterior(wanted)
        posterior = _in_precision(posterior, weight)
        z = posterior.mode()
        if recipe.model.posterior == "sample":
            z = posterior.sample([torch.Generator().manual_seed(noise_seed(setting.seed, n)) for n in batch.numbers])
        made = network.decode(z).to(weight.dtype)

    image = made.detach().requires_grad_()
    with setting.networks(weight.device):
        loss, parts = reconstruction_loss(
            recipe.loss, image, wanted, setting.perceptual, None if counts is None else counts.to(weight)
        )
    (gradient,) = torch.autograd.grad(loss, image)
    log = {"loss": loss, **parts}
    if state.discriminator is not None and is_heard(recipe.gan, state.updates):
        with setting.networks(weight.device):
            heard = generator_loss(state.discriminator(image).to(weight.dtype))
        (adversarial,) = torch.autograd.grad(heard, image)
        share = _adversarial_share(state, made, gradient, adversarial, setting)
        gradient = gradient + share * adversarial
        log |= {"generator": heard, "gan_weight": torch.as_tensor(share)}
    roots, gradients = [made], [gradient / count]
    if recipe.model.trains == "all":
        kl = kl_loss(recipe.loss, posterior)
        log["kl"] = kl
        if recipe.loss.kl_weight > 0:
            roots.append(kl)
            gradients.append(torch.full_like(kl, recipe.loss.kl_weight / count))
    torch.autograd.backward(roots, gradients)
    if state.discriminator is not None and is_learning(recipe.gan, state.updates):
        with setting.networks(weight.device):
            real, fake = (state.discriminator(x).to(weight.dtype) for x in (wanted, made.detach()))
        judged = discriminator_loss(real, fake)
        torch.autograd.backward([judged], [torch.full_like(judged, 1 / count)])
        log |= {"discriminator": judged, "real": real.mean(), "fake": fake.mean()}
    return {key: value.detach().to(weight.dtype) for key, value in log.items()}


def _adversarial_share(
    state: State, made: Tensor, gradient: Tensor, adversarial: Tensor, setting: Setting
) -> Tensor | float:
    """By what the discriminator's gradient at the image is multiplied."""
    recipe = setting.recipe
    if recipe.gan.weighting == "fixed":
        return recipe.gan.weight
    last = state.network.decoder.conv_out.weight
    both = [torch.autograd.grad(made, last, g, retain_graph=True)[0] for g in (gradient, adversarial)]
    mean_over_ranks(both, setting.ranks)
    count = 1 if recipe.loss.reduction == "sum" else made[0].numel()
    return recipe.gan.weight * adaptive_weight(both[0], both[1], count)


def _in_precision(posterior: DiagonalGaussian, weight: Tensor) -> DiagonalGaussian:
    """On the network's device in the master precision."""
    mean, logvar = posterior.mean.to(weight), posterior.logvar
    return DiagonalGaussian(mean, None if logvar is None else logvar.to(weight))


def rate_at(optimizer: Optimizer, updates: int, total: int) -> float:
    """The learning rate of the update after so many: it rises over `warm_up`, and falls over the last `cool_down`."""
    up = min(1.0, (updates + 1) / optimizer.warm_up) if optimizer.warm_up else 1.0
    down = min(1.0, (total - updates) / optimizer.cool_down) if optimizer.cool_down else 1.0
    return optimizer.rate * min(up, down)


def noise_seed(seed: int, number: int) -> int:
    """The seed of an image's posterior noise: of the training's seed and the image's number, of nothing else."""
    return int.from_bytes(hashlib.sha256(f"{seed} {number}".encode()).digest()[:8], "big") >> 1


def _norm(gradients: Sequence[Tensor]) -> Tensor:
    """The norm of all together; 0 of none."""
    if not gradients:
        return torch.zeros(())
    return torch.stack([gradient.square().sum() for gradient in gradients]).sum().sqrt()
