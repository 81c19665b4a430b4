"""A decoder's optimizer step as it is usually written: diffusers' AutoencoderKL, LPIPS, PatchGAN.

Both losses of the decoder's output; two `autograd.grad` calls for its last weight, which give the adaptive weight; one
backward pass of their sum through all networks; then the discriminator's step on the detached output.
"""

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
    """Trains with the weights, recipe, noise and networks of `state`."""

    def __init__(self, state: State, recipe: Recipe, vgg: nn.Module, heads: nn.Module, seed: int) -> None:
        config = FAMILY.to_config_json(VAESpec(state.network.config, None, 1.0, 0.0, FAMILY.pixel_range))
        self.vae = AutoencoderKL.from_config(config)
        self.vae.load_state_dict(state.network.state_dict())
        self.vae.encoder.requires_grad_(False)
        self.vae.quant_conv.requires_grad_(False)
        self.discriminator = copy.deepcopy(state.discriminator)
        assert self.discriminator is not None
        self.recipe, self.heads, self.seed, self.step = recipe, heads, seed, 0
        self.vgg = vgg.eval().requires_grad_(False)
        trained = [p for p in self.vae.parameters() if p.requires_grad]
        o, g = recipe.optimizer, recipe.gan
        self.optimizer = torch.optim.Adam(trained, o.lr, betas=o.betas)
        self.discriminator_optimizer = torch.optim.Adam(self.discriminator.parameters(), g.lr, betas=g.betas)
        self.trained, self.average = trained, [p.detach().clone() for p in trained]

    def step_on(self, image: Tensor) -> Callable[[], dict[str, float]]:
        """The step with these images, [b,3,h,w] in [0,1]."""
        x = image * 2 - 1

        def step() -> dict[str, float]:
            for group in self.optimizer.param_groups:
                group["lr"] = learning_rate(self.recipe.optimizer, self.step, self.recipe.run.steps)
            with torch.no_grad():
                generators = [torch.Generator().manual_seed(noise_seed(self.seed, n)) for n in range(len(x))]
                z = self.vae.encode(x).latent_dist.sample(generators)
            reconstruction = self.vae.decode(z).sample
            loss = ((x - reconstruction).abs() + self._lpips(reconstruction, x)).sum() / len(x)
            adversarial = -self.discriminator(reconstruction).mean()
            last = self.vae.decoder.conv_out.weight
            ours, theirs = (
                torch.autograd.grad(part, last, retain_graph=True)[0].norm() for part in (loss, adversarial)
            )
            weight = self.recipe.gan.weight * (ours / (theirs + 1e-4)).clamp(0, 1e4).detach()
            self.optimizer.zero_grad()
            (loss + weight * adversarial).backward()
            gradient = torch.stack([p.grad.norm() for p in self.trained]).norm()
            self.optimizer.step()
            self.discriminator_optimizer.zero_grad()
            hinge = 0.5 * (
                F.relu(1 - self.discriminator(x)).mean()
                + F.relu(1 + self.discriminator(reconstruction.detach())).mean()
            )
            hinge.backward()
            self.discriminator_optimizer.step()
            with torch.no_grad():
                for average, weights in zip(self.average, self.trained, strict=True):
                    average.lerp_(weights, 1e-4)
            self.step += 1
            return {
                "loss": float(loss),
                "grad_norm": float(gradient),
                "gan_weight": float(weight),
                "discriminator_loss": float(hinge),
            }

        return step

    def _lpips(self, reconstruction: Tensor, original: Tensor) -> Tensor:
        """[b,1,1,1], as lpips 0.1.4 computes it."""
        total = torch.zeros(len(reconstruction), 1, 1, 1)
        taps = [self.vgg(normalised((image + 1) / 2)) for image in (reconstruction, original)]
        for (a, b), head in zip(zip(*taps, strict=True), self.heads.children(), strict=True):
            x, y = (t / (t.square().sum(dim=1, keepdim=True).sqrt() + 1e-10) for t in (a, b))
            total = total + head["model"]((x - y).square()).mean(dim=(2, 3), keepdim=True)
        return total
