"""What a training is between two updates: networks, their running average, optimizers, and one counter.

Everything else (which images, their noise, the rates) is a function of the counter and the seed.
"""

from collections.abc import Iterator, Mapping
from typing import Any, cast

import torch
from torch import Tensor, nn

from vaelens.errors import CheckFailedError
from vaelens.finetuning.recipe import Recipe
from vaelens.networks.autoencoder_kl import AutoencoderKL
from vaelens.networks.patchgan import PatchGAN
from vaelens.resources import seeded

Tensors = dict[str, Tensor]
FROZEN = ("encoder", "quant_conv")


class Ema:
    """The running average of named weights, in their precision (fp32): the first update takes them as they are.

    average <- d average + (1 - d) weights, with d = min(decay, (1 + n) / (10 + n)) at the n-th update (from 0), so that
    a short training isn't averaged with its beginning.
    """

    def __init__(self, weights: Mapping[str, Tensor], decay: float) -> None:
        self.decay = decay
        self.average = {name: weight.detach().clone() for name, weight in weights.items()}

    @torch.no_grad()
    def update(self, weights: Mapping[str, Tensor], count: int) -> None:
        """After the update number `count`, from 0."""
        keep = min(self.decay, (1 + count) / (10 + count))
        for name, average in self.average.items():
            average.lerp_(weights[name].detach(), 1 - keep)


class State:
    """A training of `network` (fp32 master weights) by a recipe, at `updates` generator updates."""

    def __init__(self, network: AutoencoderKL, recipe: Recipe, seed: int) -> None:
        self.network = network
        self.updates = 0
        for name, parameter in network.named_parameters():
            parameter.requires_grad_(is_trained(name, recipe))
        device = next(network.parameters()).device
        dtype = next(network.parameters()).dtype
        self.discriminator: PatchGAN | None = None
        if recipe.gan.weight > 0:
            with seeded(seed + 1):
                gan = recipe.gan
                self.discriminator = PatchGAN(gan.width, gan.layers, gan.norm).to(device, dtype)
        self.ema = Ema(self.trained(), recipe.ema.decay) if recipe.ema.decay > 0 else None
        o = recipe.optimizer
        self.optimizer = torch.optim.AdamW(
            self.trained().values(), o.rate, betas=o.betas, weight_decay=o.weight_decay, foreach=False
        )
        self.judge: torch.optim.AdamW | None = None
        if self.discriminator is not None:
            g = recipe.gan
            self.judge = torch.optim.AdamW(
                self.discriminator.parameters(), g.rate, betas=g.betas, weight_decay=0.0, foreach=False
            )

    def trained(self) -> dict[str, nn.Parameter]:
        """The trained parameters by name."""
        return {name: p for name, p in self.network.named_parameters() if p.requires_grad}

    def averaged(self) -> Tensors:
        """The whole network's tensors with the running average in the trained ones' place."""
        tensors = {name: t.detach() for name, t in self.network.state_dict().items()}
        return tensors | (self.ema.average if self.ema is not None else {})

    def tensors(self) -> Tensors:
        """All of the state but the counter, by name."""
        found = {f"network.{name}": t for name, t in self.network.state_dict().items()}
        if self.ema is not None:
            found |= {f"ema.{name}": t for name, t in self.ema.average.items()}
        if self.discriminator is not None and self.judge is not None:
            found |= {f"discriminator.{name}": t for name, t in self.discriminator.state_dict().items()}
            found |= _of_optimizer("judge", self.judge, [name for name, _ in self.discriminator.named_parameters()])
        found |= _of_optimizer("optimizer", self.optimizer, list(self.trained()))
        return {name: t.detach() for name, t in found.items()}

    @torch.no_grad()
    def restore(self, tensors: Mapping[str, Tensor], updates: int) -> None:
        """The inverse of `tensors`. Raises CheckFailedError where they are those of another training."""
        optimizers = [("optimizer", self.optimizer, list(self.trained()))]
        if self.discriminator is not None and self.judge is not None:
            optimizers.append(("judge", self.judge, [name for name, _ in self.discriminator.named_parameters()]))
        present = {
            name: t for name, t in self.tensors().items() if name.partition(".")[0] not in {"optimizer", "judge"}
        }
        lacking = [name for name in present if name not in tensors or tensors[name].shape != present[name].shape]
        if lacking:
            raise CheckFailedError(f"the checkpoint is of another training: {lacking[0]} is missing or misshapen.")
        for name, tensor in present.items():
            tensor.copy_(tensors[name])
        for title, optimizer, names in optimizers:
            _into_optimizer(title, optimizer, names, tensors)
        self.updates = updates


def is_trained(name: str, recipe: Recipe) -> bool:
    """Whether a recipe trains the parameter of this name."""
    part = name.partition(".")[0]
    if recipe.model.trains == "decoder" and part in FROZEN:
        return False
    return part != "post_quant_conv" or recipe.model.post_quant_conv == "trained"


def _of_optimizer(title: str, optimizer: torch.optim.Optimizer, names: list[str]) -> Tensors:
    """Adam's averages and steps, by the names of the parameters; none before its first step."""
    return {f"{title}.{name}.{key}": value for name, key, value in _entries(optimizer, names)}


def _entries(optimizer: torch.optim.Optimizer, names: list[str]) -> Iterator[tuple[str, str, Tensor]]:
    parameters = cast(list[Tensor], optimizer.param_groups[0]["params"])
    for name, parameter in zip(names, parameters, strict=True):
        for key, value in cast(dict[str, Tensor], optimizer.state[parameter]).items():
            yield name, key, value


def _into_optimizer(
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
