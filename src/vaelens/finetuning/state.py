"""The state of a training between two steps: networks, EMA weights, optimizers, and the number of steps done.

Everything else (which images come next, their noise, the learning rate) is a function of that number and the seed.
"""

from collections.abc import Iterator, Mapping
from typing import Any, cast

import torch
from torch import Tensor, nn

from vaelens.errors import CheckFailedError
from vaelens.families.discovery import family_of
from vaelens.families.family import Family
from vaelens.finetuning.recipe import Gan, Optimizer, Recipe
from vaelens.networks.autoencoder_kl import AutoencoderKL
from vaelens.networks.patchgan import PatchGAN
from vaelens.resources import seeded

Tensors = dict[str, Tensor]

OPTIMIZERS = ("optimizer", "discriminator_optimizer")  # prefixes of their tensors in a checkpoint


class Ema:
    """The exponential moving average of named weights, in their dtype (float32).

    average <- d average + (1 - d) weights, with d = min(decay, (1 + n) / (10 + n)) in step n (from 0), so that a short
    training isn't averaged with its beginning.
    """

    def __init__(self, weights: Mapping[str, Tensor], decay: float) -> None:
        self.decay = decay
        self.average = {name: weight.detach().clone() for name, weight in weights.items()}

    @torch.no_grad()
    def update(self, weights: Mapping[str, Tensor], step: int) -> None:
        """After this step, counted from 0."""
        decay = min(self.decay, (1 + step) / (10 + step))
        for name, average in self.average.items():
            average.lerp_(weights[name].detach(), 1 - decay)


class State:
    """The training of `network` (float32 master weights) by a recipe, after `step` steps of the generator."""

    def __init__(self, network: AutoencoderKL, recipe: Recipe, seed: int) -> None:
        self.network = network
        self.step = 0
        family = family_of(network.config)
        for name, parameter in network.named_parameters():
            parameter.requires_grad_(is_trainable(name, recipe, family))
        weight = next(network.parameters())
        self.ema = Ema(self.trainable(), recipe.ema.decay) if recipe.ema.decay > 0 else None
        self.optimizer = _adamw(self.trainable(), recipe.optimizer, recipe.optimizer.weight_decay)
        self.discriminator: PatchGAN | None = None
        self.discriminator_optimizer: torch.optim.AdamW | None = None
        if recipe.gan.weight > 0:
            with seeded(seed + 1):
                gan = recipe.gan
                self.discriminator = PatchGAN(gan.width, gan.layers, gan.norm).to(weight.device, weight.dtype)
            self.discriminator_optimizer = _adamw(dict(self.discriminator.named_parameters()), recipe.gan, 0.0)

    def trainable(self) -> dict[str, nn.Parameter]:
        """The generator's trainable parameters by name."""
        return {name: p for name, p in self.network.named_parameters() if p.requires_grad}

    def averaged(self) -> Tensors:
        """The whole network's tensors, with the EMA weights in place of the trained ones."""
        tensors = {name: t.detach() for name, t in self.network.state_dict().items()}
        return tensors | (self.ema.average if self.ema is not None else {})

    def tensors(self) -> Tensors:
        """Everything but the step number, by name."""
        found = self._weights()
        for title, optimizer, names in self._optimizers():
            found |= {f"{title}.{name}.{key}": value for name, key, value in _moments(optimizer, names)}
        return {name: t.detach() for name, t in found.items()}

    @torch.no_grad()
    def restore(self, tensors: Mapping[str, Tensor], step: int) -> None:
        """The inverse of `tensors`. Raises CheckFailedError where they are of another training."""
        weights = self._weights()
        missing = [name for name in weights if name not in tensors or tensors[name].shape != weights[name].shape]
        if missing:
            raise CheckFailedError(
                f"the checkpoint is of another training: {missing[0]} is missing or has another shape."
            )
        for name, tensor in weights.items():
            tensor.copy_(tensors[name])
        for title, optimizer, names in self._optimizers():
            _load_moments(title, optimizer, names, tensors)
        self.step = step

    def _weights(self) -> Tensors:
        found = {f"network.{name}": t for name, t in self.network.state_dict().items()}
        if self.ema is not None:
            found |= {f"ema.{name}": t for name, t in self.ema.average.items()}
        if self.discriminator is not None:
            found |= {f"discriminator.{name}": t for name, t in self.discriminator.state_dict().items()}
        return found

    def _optimizers(self) -> Iterator[tuple[str, torch.optim.Optimizer, list[str]]]:
        """Each with its prefix and the names of its parameters."""
        yield OPTIMIZERS[0], self.optimizer, list(self.trainable())
        if self.discriminator is not None and self.discriminator_optimizer is not None:
            names = [name for name, _ in self.discriminator.named_parameters()]
            yield OPTIMIZERS[1], self.discriminator_optimizer, names


def is_trainable(name: str, recipe: Recipe, family: Family) -> bool:
    """Whether a recipe trains the parameter with this name of a network of this family."""
    module = name.partition(".")[0]
    if recipe.model.trainable == "decoder" and module in family.encoder_parts:
        return False
    return module != "post_quant_conv" or recipe.model.post_quant_conv == "trained"


def _adamw(parameters: Mapping[str, nn.Parameter], settings: Optimizer | Gan, weight_decay: float) -> torch.optim.AdamW:
    return torch.optim.AdamW(
        parameters.values(), settings.lr, betas=settings.betas, weight_decay=weight_decay, foreach=False
    )


def _moments(optimizer: torch.optim.Optimizer, names: list[str]) -> Iterator[tuple[str, str, Tensor]]:
    """Adam's moments and step counts, by parameter; none before its first step."""
    parameters = cast(list[Tensor], optimizer.param_groups[0]["params"])
    for name, parameter in zip(names, parameters, strict=True):
        for key, value in cast(dict[str, Tensor], optimizer.state[parameter]).items():
            yield name, key, value


def _load_moments(
    title: str, optimizer: torch.optim.Optimizer, names: list[str], tensors: Mapping[str, Tensor]
) -> None:
    parameters = cast(list[Tensor], optimizer.param_groups[0]["params"])
    state: dict[int, dict[str, Any]] = {}
    for number, (name, parameter) in enumerate(zip(names, parameters, strict=True)):
        held = {
            key: tensors[f"{title}.{name}.{key}"]
            for key in ("step", "exp_avg", "exp_avg_sq")
            if f"{title}.{name}.{key}" in tensors
        }
        if held:
            state[number] = {k: t.clone() if k == "step" else t.to(parameter).clone() for k, t in held.items()}
    optimizer.load_state_dict({"state": state, "param_groups": optimizer.state_dict()["param_groups"]})
