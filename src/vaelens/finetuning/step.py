"""One optimizer step: the generator's, and the discriminator's where it is trained.

The losses depend on the decoder only through its image. So their gradients with respect to the image are computed once
each, and the adaptive weight needs only the last convolution's gradient of each, which is cheap. One backward pass
through the decoder then carries their weighted sum: exact, and one pass less than with separate losses.
"""

import hashlib
from collections.abc import Generator, Iterable, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass

import torch
from torch import Tensor

from vaelens.errors import CheckFailedError
from vaelens.finetuning.data.batches import Batch
from vaelens.finetuning.losses import (
    Distance,
    adaptive_weight,
    box_weights,
    discriminator_loss,
    generator_loss,
    kl_loss,
    reconstruction_loss,
)
from vaelens.finetuning.recipe import Optimizer, Recipe
from vaelens.finetuning.state import State
from vaelens.latent_cache.cache import LatentCache
from vaelens.networks.autoencoder_kl import AutoencoderKL, DiagonalGaussian
from vaelens.networks.memory_saving import memory_saving
from vaelens.resources import large_blocks_apart
from vaelens.runs.ranks import mean_over_ranks


class NotFiniteError(CheckFailedError):
    """A gradient is NaN or infinite, on all processes alike."""


@dataclass(frozen=True)
class StepConfig:
    """What a step needs besides its state and images. `autocast`: the dtype in which networks run, None for theirs."""

    recipe: Recipe
    perceptual: Distance | None
    seed: int
    ranks: int = 1
    autocast: torch.dtype | None = None

    @contextmanager
    def running_on(self, device: torch.device) -> Generator[None]:
        """In this context networks run; losses and weights stay in float32."""
        with memory_saving(), nullcontext() if self.autocast is None else torch.autocast(device.type, self.autocast):
            yield


def train_step(
    state: State, micro_batches: Iterable[tuple[Batch, DiagonalGaussian | None]], count: int, config: StepConfig
) -> dict[str, Tensor]:
    """One step, with gradients accumulated over `count` micro-batches of equal size; gives scalars for the log.

    micro_batches: this process' images, each batch with its posterior where that is cached.
    Raises NotFiniteError where a gradient isn't finite; weights, EMA and optimizers are then unchanged.
    """
    recipe = config.recipe
    lr = learning_rate(recipe.optimizer, state.step, recipe.run.steps)
    for group in state.optimizer.param_groups:
        group["lr"] = lr
    state.optimizer.zero_grad()
    if state.discriminator_optimizer is not None:
        state.discriminator_optimizer.zero_grad()
    with large_blocks_apart():
        logs = [_accumulate(state, batch, posterior, count, config) for batch, posterior in micro_batches]
    log = {key: torch.stack([one[key] for one in logs]).mean() for key in logs[0]}

    discriminator = state.discriminator if recipe.gan.trains_discriminator(state.step) else None
    gradients = [p.grad for p in state.trainable().values() if p.grad is not None]
    discriminator_gradients = (
        [p.grad for p in discriminator.parameters() if p.grad is not None] if discriminator else []
    )
    mean_over_ranks(gradients, config.ranks)
    mean_over_ranks(discriminator_gradients, config.ranks)
    norm, discriminator_norm = _norm(gradients), _norm(discriminator_gradients)
    log |= {"grad_norm": norm, "lr": torch.tensor(lr)}
    if not (torch.isfinite(norm) and torch.isfinite(discriminator_norm)):
        side = "generator" if not torch.isfinite(norm) else "discriminator"
        raise NotFiniteError(f"step {state.step + 1}: the {side}'s gradient is NaN or infinite.")
    if 0 < recipe.optimizer.max_grad_norm < norm:
        for gradient in gradients:
            gradient.mul_(recipe.optimizer.max_grad_norm / norm)
    state.optimizer.step()  # pyright: ignore[reportUnknownMemberType]
    if discriminator is not None and state.discriminator_optimizer is not None:
        state.discriminator_optimizer.step()  # pyright: ignore[reportUnknownMemberType]
    if state.ema is not None:
        state.ema.update(state.trainable(), state.step)
    state.step += 1
    return log


def _accumulate(
    state: State, batch: Batch, posterior: DiagonalGaussian | None, count: int, config: StepConfig
) -> dict[str, Tensor]:
    """Forward and backward pass of a micro-batch; adds 1 / `count` of its gradients."""
    recipe, network = config.recipe, state.network
    weight = next(network.parameters())
    original = (batch.image.to(weight.device, weight.dtype) * 2 - 1).contiguous()
    pixel_weights = box_weights(recipe.loss, batch.boxes, recipe.data.size)
    with config.running_on(weight.device):
        if posterior is None:
            with torch.set_grad_enabled(recipe.model.trainable == "all"):
                posterior = network.posterior(original)
        posterior = _cast(posterior, weight)
        z = posterior.mode()
        if recipe.model.posterior == "sample":
            z = posterior.sample([torch.Generator().manual_seed(noise_seed(config.seed, n)) for n in batch.numbers])
        reconstruction = network.decode(z).to(weight.dtype)

    image = reconstruction.detach().requires_grad_()
    with config.running_on(weight.device):
        loss, parts = reconstruction_loss(
            recipe.loss, image, original, config.perceptual, None if pixel_weights is None else pixel_weights.to(weight)
        )
    (gradient,) = torch.autograd.grad(loss, image)
    log = {"loss": loss, **parts}
    if state.discriminator is not None and recipe.gan.trains_generator(state.step):
        with config.running_on(weight.device):
            adversarial_loss = generator_loss(state.discriminator(image).to(weight.dtype))
        (adversarial,) = torch.autograd.grad(adversarial_loss, image)
        gan_weight = _gan_weight(state, reconstruction, gradient, adversarial, config)
        gradient = gradient + gan_weight * adversarial
        log |= {"generator_loss": adversarial_loss, "gan_weight": torch.as_tensor(gan_weight)}
    roots, gradients = [reconstruction], [gradient / count]
    if recipe.model.trainable == "all":
        kl = kl_loss(recipe.loss, posterior)
        log["kl"] = kl
        if recipe.loss.kl_weight > 0:
            roots.append(kl)
            gradients.append(torch.full_like(kl, recipe.loss.kl_weight / count))
    torch.autograd.backward(roots, gradients)
    if state.discriminator is not None and recipe.gan.trains_discriminator(state.step):
        with config.running_on(weight.device):
            real, fake = (state.discriminator(x).to(weight.dtype) for x in (original, reconstruction.detach()))
        hinge = discriminator_loss(real, fake)
        torch.autograd.backward([hinge], [torch.full_like(hinge, 1 / count)])
        log |= {"discriminator_loss": hinge, "logits_real": real.mean(), "logits_fake": fake.mean()}
    return {key: value.detach().to(weight.dtype) for key, value in log.items()}


def _gan_weight(
    state: State, reconstruction: Tensor, gradient: Tensor, adversarial: Tensor, config: StepConfig
) -> Tensor | float:
    """The factor of the adversarial loss, from both losses' gradients with respect to the image."""
    recipe = config.recipe
    if recipe.gan.weighting == "fixed":
        return recipe.gan.weight
    last = state.network.decoder.conv_out.weight
    both = [torch.autograd.grad(reconstruction, last, g, retain_graph=True)[0] for g in (gradient, adversarial)]
    mean_over_ranks(both, config.ranks)
    elements = 1 if recipe.loss.reduction == "sum" else reconstruction[0].numel()
    return recipe.gan.weight * adaptive_weight(both[0], both[1], elements)


def _cast(posterior: DiagonalGaussian, weight: Tensor) -> DiagonalGaussian:
    """To the network's device and dtype."""
    mean, logvar = posterior.mean.to(weight), posterior.logvar
    return DiagonalGaussian(mean, None if logvar is None else logvar.to(weight))


def learning_rate(optimizer: Optimizer, step: int, total: int) -> float:
    """In this step of `total`, counted from 0."""
    rising = min(1.0, (step + 1) / optimizer.warmup_steps) if optimizer.warmup_steps else 1.0
    falling = min(1.0, (total - step) / optimizer.decay_steps) if optimizer.decay_steps else 1.0
    return optimizer.lr * min(rising, falling)


def noise_seed(seed: int, number: int) -> int:
    """The seed of an image's posterior noise, from the training's seed and the image's number alone."""
    return int.from_bytes(hashlib.sha256(f"{seed} {number}".encode()).digest()[:8], "big") >> 1


def _norm(gradients: Sequence[Tensor]) -> Tensor:
    """The norm of all gradients together; 0 of none."""
    if not gradients:
        return torch.zeros(())
    return torch.stack([gradient.square().sum() for gradient in gradients]).sum().sqrt()


class StoredPosteriors:
    """Posteriors that were encoded before, by the frozen encoder; as `PosteriorCache` gives them."""

    def __init__(self, caches: Sequence[LatentCache]) -> None:
        self._caches = {(item.id, item.sha256): cache for cache in caches for item in cache.items}

    def posterior(self, batch: Batch) -> DiagonalGaussian:
        """Of a batch, on the CPU."""
        found = [self._caches[sample.id, sample.sha256].posterior([sample.id]) for sample in batch.samples]
        logvars = [one.logvar for one in found if one.logvar is not None]
        return DiagonalGaussian(torch.cat([one.mean for one in found]), torch.cat(logvars) if logvars else None)


class PosteriorCache:
    """Posteriors of a frozen encoder, for images whose crops don't change, in CPU memory (32 KB for 256x256, f8c4).

    Each image is encoded alone, so that its moments depend neither on its batch nor on where a run was resumed.
    """

    def __init__(self, network: AutoencoderKL, config: StepConfig) -> None:
        self._network = network
        self._config = config
        self._moments: dict[tuple[str, str], Tensor] = {}  # by id and sha256

    @torch.no_grad()
    def posterior(self, batch: Batch) -> DiagonalGaussian:
        """Of a batch, on the network's device."""
        weight = next(self._network.parameters())
        for number, sample in enumerate(batch.samples):
            key = (sample.id, sample.sha256)
            if key not in self._moments:
                pixels = batch.image[number : number + 1].to(weight) * 2 - 1
                with self._config.running_on(weight.device):
                    self._moments[key] = self._network.moments(pixels).cpu()
        found = torch.cat([self._moments[sample.id, sample.sha256] for sample in batch.samples])
        return DiagonalGaussian.from_moments(found.to(weight))
