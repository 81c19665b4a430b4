"""The network that a training starts with: an existing VAE's, or one with random weights."""

import os
from dataclasses import dataclass
from typing import Any, cast

import torch
from torch import Tensor, nn

from vaelens.errors import CheckFailedError, UsageError
from vaelens.families.discovery import family_of
from vaelens.families.spec import VAESpec, spec_values
from vaelens.files import StrPath
from vaelens.finetuning.recipe import ANY, Recipe
from vaelens.finetuning.recipe_files import find_recipe, recipe_names
from vaelens.finetuning.state import State
from vaelens.loading import check_source, open_vae
from vaelens.networks.autoencoder_kl import Attention, AutoencoderKL, AutoencoderKLConfig, ResnetBlock
from vaelens.report.record import vae_record
from vaelens.resources import preserved_random_state, seeded
from vaelens.runtime import Runtime
from vaelens.text.paths import user_path
from vaelens.vae import VAE
from vaelens.weights.registry import registry


@dataclass(frozen=True)
class Initial:
    """A network in float32 with its spec; the VAE that it continues, if any, and how the plan identifies that."""

    network: AutoencoderKL
    spec: VAESpec
    vae: VAE | None
    identity: dict[str, Any] | None


def check_vae(vae: StrPath | VAE | None, recipe: Recipe, space: str | None = None) -> None:
    """Checks before anything is loaded. Raises UsageError where the recipe doesn't fit the VAE."""
    if space is not None and (vae is None or isinstance(vae, VAE)):
        raise UsageError("--space is for a VAE file that doesn't say its latent space, but --from names none.")
    if vae is None and not recipe.model.config:
        raise UsageError(f"the recipe {recipe.name} continues a VAE. Name it with --from.")
    if vae is not None and recipe.model.config:
        raise UsageError(
            f"the recipe {recipe.name} trains from scratch. Remove --from, or choose a recipe that continues a VAE."
        )
    if isinstance(vae, VAE):
        _check_loaded(vae, recipe)
    elif vae is not None:
        check_source(vae)
        name = os.fspath(vae).lower()
        if not user_path(vae).exists() and name in registry().vaes:  # before its download
            _check_family(registry().spec(name), name)
            _check_space(registry().vaes[name].space, name, recipe)


def initialize(vae: StrPath | VAE | None, recipe: Recipe, seed: int, space: str | None, runtime: Runtime) -> Initial:
    """The network to train, on the device, in float32. Raises what loading and `check_vae` raise."""
    if vae is None:
        config = cast(AutoencoderKLConfig, registry().network_config(recipe.model.config))
        with seeded(seed):
            network = AutoencoderKL(config)
            if recipe.model.init == "balanced":
                init_balanced(network)
        network = network.to(runtime.device)
        spec = VAESpec(config, None, 1.0, 0.0, family_of(config).pixel_range)
        _check_size(recipe, spec)
        return Initial(network, spec, None, None)
    found = vae if isinstance(vae, VAE) else open_vae(vae, runtime, space=space)
    _check_loaded(found, recipe)
    _check_size(recipe, found.spec)
    with preserved_random_state():  # its own weights replace the random ones
        network = AutoencoderKL(cast(AutoencoderKLConfig, found.spec.config)).to(runtime.device)
    network.load_state_dict({name: tensor.float() for name, tensor in found.network.state_dict().items()})
    identity = {"name": found.name, "weights": vae_record(found)["weights"], "spec": spec_values(found.spec)}
    return Initial(network, found.spec, found, identity)


def init_balanced(network: AutoencoderKL) -> None:
    """Initial weights with which all channels of the latent carry signal, in place.

    Residual branches start at zero, so that the network starts as one without them (Zhang et al. 2019, Fixup).
    quant_conv and post_quant_conv are the identity, the encoder's last convolution is orthogonal (Saxe et al. 2014).
    With torch's default weights this chain passes one direction up to a hundred times weaker than another, which then
    stays unused for thousands of steps.
    """
    for conv in (network.quant_conv, network.post_quant_conv):
        if conv is not None:
            nn.init.dirac_(conv.weight)
            nn.init.zeros_(cast(Tensor, conv.bias))
    nn.init.orthogonal_(network.encoder.conv_out.weight)
    for module in network.modules():
        last = module.conv2 if isinstance(module, ResnetBlock) else None
        last = module.to_out[0] if isinstance(module, Attention) else last
        if last is not None:
            for tensor in last.parameters():
                nn.init.zeros_(tensor)


def check_encoder_unchanged(initial: Initial, state: State) -> None:
    """Raises CheckFailedError unless the frozen encoder is bit-identical to the original: only then is it a drop-in."""
    assert initial.vae is not None
    parts, before = initial.vae.spec.family.encoder_parts, initial.vae.network.state_dict()
    for name, tensor in state.network.state_dict().items():
        if name.partition(".")[0] in parts and not torch.equal(tensor, before[name].to(tensor)):
            raise CheckFailedError(
                f"{name} of the frozen encoder has changed, so the decoder isn't a drop-in and isn't released."
            )


def _check_size(recipe: Recipe, spec: VAESpec) -> None:
    if recipe.data.size % spec.factor:
        raise UsageError(
            f"data.size is {recipe.data.size}, but this VAE needs a multiple of {spec.factor}. "
            f"Set it: --set data.size={max(1, round(recipe.data.size / spec.factor)) * spec.factor}."
        )


def _check_loaded(vae: VAE, recipe: Recipe) -> None:
    _check_family(vae.spec, vae.name)
    usual = vae.spec.family.pixel_range
    if vae.spec.pixel_range != usual:
        raise UsageError(f"{vae.name} has the pixel range {vae.spec.pixel_range}; recipes need {usual}.")
    _check_space(vae.spec.latent_space, vae.name, recipe)


def _check_family(spec: VAESpec, name: str) -> None:
    if not spec.family.trainable:
        raise UsageError(f"{name} is {spec.family.title}; recipes are for full VAEs (AutoencoderKL).")


def _check_space(space: str | None, name: str, recipe: Recipe) -> None:
    if recipe.model.space not in {ANY, space}:
        others = [other for other in recipe_names() if find_recipe(other).model.space == space]
        instead = f"For {space}, use {' or '.join(others)}. " if space and others else ""
        raise UsageError(
            f"the recipe {recipe.name} is for VAEs of the latent space {recipe.model.space}, but {name} has "
            f"{space or 'a latent space of its own'}. {instead}To use its settings for this VAE all the same: --set "
            f"model.space={space or ANY}."
        )
