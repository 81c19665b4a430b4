"""A decoder's optimizer step as it is usually written: diffusers' AutoencoderKL, LPIPS, PatchGAN.

Both losses of the decoder's output; two `autograd.grad` calls for its last weight, which give the adaptive weight; one
backward pass of their sum through all networks; then the discriminator's step on the detached output. A recipe without
a GAN has the first loss and its backward pass alone.
"""

import contextlib
import copy
from collections.abc import Callable

import torch
from diffusers import AutoencoderKL
from torch import Tensor, nn
from torch.nn import functional as F

from vaelens.families.kl import FAMILY
from vaelens.families.spec import VAESpec
from vaelens.finetuning.recipe import Recipe
from vaelens.finetuning.state import State
from vaelens.finetuning.step import learning_rate, noise_seed
from vaelens.metrics.psim import normalised


class PlainStep:
    """Trains with the weights, recipe, noise and networks of `state`; networks run in `autocast`, None for fp32.

    `lpips` is VGG16 and the heads.
    """

    def __init__(
        self, state: State, recipe: Recipe, lpips: tuple[nn.Module, nn.Module], seed: int, autocast: torch.dtype | None
    ) -> None:
        config = FAMILY.to_config_json(VAESpec(state.network.config, None, 1.0, 0.0, FAMILY.pixel_range))
        self.vae = AutoencoderKL.from_config(config)
        self.vae.load_state_dict(state.network.state_dict())
        self.vae.encoder.requires_grad_(False)
        self.vae.quant_conv.requires_grad_(False)
        self.discriminator = copy.deepcopy(state.discriminator)
        self.autocast = autocast
        self.recipe, self.seed, self.step = recipe, seed, 0
        self.vgg, self.heads = lpips
        self.vgg.eval().requires_grad_(False)
        trained = [p for p in self.vae.parameters() if p.requires_grad]
        o, g = recipe.optimizer, recipe.gan
        self.optimizer = torch.optim.Adam(trained, o.lr, betas=o.betas)
        if self.discriminator is not None:
            self.discriminator_optimizer = torch.optim.Adam(self.discriminator.parameters(), g.lr, betas=g.betas)
        self.trained, self.average = trained, [p.detach().clone() for p in trained]

    def step_on(self, image: Tensor) -> Callable[[], dict[str, float]]:
        """The step with these images, [b,3,h,w] in [0,1]."""
        x = image * 2 - 1

        def step() -> dict[str, float]:
            for group in self.optimizer.param_groups:
                group["lr"] = learning_rate(self.recipe.optimizer, self.step, self.recipe.run.steps)
            self.optimizer.zero_grad()
            with self._running():
                with torch.no_grad():
                    generators = [torch.Generator().manual_seed(noise_seed(self.seed, n)) for n in range(len(x))]
                    z = self.vae.encode(x).latent_dist.sample(generators)
                reconstruction = self.vae.decode(z).sample.float()
                pixel = x - reconstruction
                pixel = pixel.square() if self.recipe.loss.pixel == "mse" else pixel.abs()
                weight = self.recipe.loss.perceptual_weight
                loss = (pixel + weight * self._lpips(reconstruction, x)).sum() / len(x)
            found = {} if self.discriminator is None else self._adversarial(loss, reconstruction, x)
            if self.discriminator is None:
                loss.backward()
            gradient = torch.stack([p.grad.norm() for p in self.trained]).norm()
            self.optimizer.step()
            if self.discriminator is not None:
                found["discriminator_loss"] = self._train_discriminator(x, reconstruction.detach())
            with torch.no_grad():
                for average, weights in zip(self.average, self.trained, strict=True):
                    average.lerp_(weights, 1e-4)
            self.step += 1
            return {"loss": float(loss), "grad_norm": float(gradient), **found}

        return step

    def _adversarial(self, loss: Tensor, reconstruction: Tensor, x: Tensor) -> dict[str, float]:
        """The backward pass of both losses, and the adaptive weight between them."""
        assert self.discriminator is not None
        with self._running():
            adversarial = -self.discriminator(reconstruction).float().mean()
        last = self.vae.decoder.conv_out.weight
        ours, theirs = (torch.autograd.grad(part, last, retain_graph=True)[0].norm() for part in (loss, adversarial))
        weight = self.recipe.gan.weight * (ours / (theirs + 1e-4)).clamp(0, 1e4).detach()
        (loss + weight * adversarial).backward()
        return {"gan_weight": float(weight)}

    def _train_discriminator(self, x: Tensor, reconstruction: Tensor) -> float:
        """One step on the hinge loss, which it gives."""
        assert self.discriminator is not None
        self.discriminator_optimizer.zero_grad()
        with self._running():
            real, fake = (self.discriminator(image).float() for image in (x, reconstruction))
        hinge = 0.5 * (F.relu(1 - real).mean() + F.relu(1 + fake).mean())
        hinge.backward()
        self.discriminator_optimizer.step()
        return float(hinge)

    def _running(self) -> contextlib.AbstractContextManager[object]:
        return contextlib.nullcontext() if self.autocast is None else torch.autocast("cpu", self.autocast)

    def _lpips(self, reconstruction: Tensor, original: Tensor) -> Tensor:
        """[b,1,1,1], as lpips 0.1.4 computes it."""
        total = torch.zeros(len(reconstruction), 1, 1, 1)
        taps = [self.vgg(normalised((image + 1) / 2)) for image in (reconstruction, original)]
        for (a, b), head in zip(zip(*taps, strict=True), self.heads.children(), strict=True):
            x, y = (t / (t.square().sum(dim=1, keepdim=True).sqrt() + 1e-10) for t in (a, b))
            total = total + head["model"]((x - y).square()).mean(dim=(2, 3), keepdim=True)
        return total
