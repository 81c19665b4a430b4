"""What a training starts from: the VAE or fresh weights, the images, and how many of them at once."""

import dataclasses
import os
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor, nn

from vaelens.errors import CheckFailedError, UsageError
from vaelens.finetuning.held_out import sample_of, split, without
from vaelens.finetuning.objective import is_named
from vaelens.finetuning.recipe import ANY, Recipe, find_recipe, recipe_names
from vaelens.finetuning.state import FROZEN, State
from vaelens.images.datasets.items import Dataset
from vaelens.images.datasets.opening import open_dataset
from vaelens.images.datasets.synthetic import SETS, is_for_training
from vaelens.loading import check_source, open_vae
from vaelens.networks.autoencoder_kl import Attention, AutoencoderKL, AutoencoderKLConfig, ResnetBlock
from vaelens.report.record import vae_record
from vaelens.resources import preserved_random_state, seeded
from vaelens.runtime import Runtime
from vaelens.vae import VAE
from vaelens.weights.registry import KL_PIXELS, registry
from vaelens.weights.spec import VAESpec

Source = str | os.PathLike[str]

AT_ONCE = {"cpu": 4 * 256 * 256}  # pixels of images in one pass of one process
AT_ONCE_ON_DEVICE = 12 * 256 * 256


@dataclass(frozen=True)
class Start:
    """What is trained: a network in fp32, its spec, the VAE it continues if any, and what a plan says of that."""

    network: AutoencoderKL
    spec: VAESpec
    vae: VAE | None
    identity: dict[str, Any] | None


@dataclass(frozen=True)
class Material:
    """The images of a training: sources with their weights, and a set that is kept back."""

    sources: tuple[Dataset, ...]
    weights: tuple[float, ...]
    held_out: Dataset


@dataclass(frozen=True)
class Wanted:
    """Which images a user asks for: what `finetune` takes, checked as far as can be told at once."""

    sources: tuple[Source | Dataset, ...]
    weights: tuple[float, ...]
    boxes: tuple[Source | None, ...]
    held_out: Source | Dataset | None
    take: int | None
    seed: int

    @classmethod
    def of(
        cls,
        data: Source | Dataset | Sequence[Source | Dataset],
        *,
        weights: Sequence[float] | None,
        boxes: Sequence[Source] | None,
        held_out: Source | Dataset | None,
        take: int | None,
        seed: int,
    ) -> "Wanted":
        """Raises UsageError for no source, other numbers of weights or boxes than sources, or boxes of an open set."""
        sources = [data] if isinstance(data, str | os.PathLike | Dataset) else list(data)
        if not sources:
            raise UsageError("no images named. Name a folder, or another source.")
        for what, given in (("weights", weights), ("files of boxes", boxes)):
            if given and len(given) != len(sources):
                raise UsageError(f"{len(given)} {what} for {len(sources)} sources; give one each, or none.")
        if boxes and any(isinstance(source, Dataset) for source in sources):
            raise UsageError("a dataset that is open already was opened with its boxes; give it without others.")
        mix = tuple(float(weight) for weight in weights or [1.0] * len(sources))
        return cls(tuple(sources), mix, tuple(boxes or [None] * len(sources)), held_out, take, seed)


def check_start(vae: Source | VAE | None, recipe: Recipe, space: str | None = None) -> None:
    """What can be told before anything is loaded. Raises UsageError where recipe and VAE don't go together."""
    if space is not None and (vae is None or isinstance(vae, VAE)):
        raise UsageError("--space is for a VAE file that doesn't say its latent space, and --from names none.")
    if vae is None and not recipe.model.config:
        raise UsageError(f"the recipe {recipe.name} continues a VAE. Name it with --from.")
    if vae is not None and recipe.model.config:
        raise UsageError(
            f"the recipe {recipe.name} starts from scratch. Leave --from out, or name a recipe that continues a VAE."
        )
    if isinstance(vae, VAE):
        _check_continued(vae, recipe)
    elif vae is not None:
        check_source(vae)
        name = os.fspath(vae).lower()
        if not Path(vae).expanduser().exists() and name in registry().vaes:  # before its download
            _check_kind(isinstance(registry().spec(name).config, AutoencoderKLConfig), name)
            _check_space(registry().vaes[name].space, name, recipe)


def start_from(vae: Source | VAE | None, recipe: Recipe, seed: int, space: str | None, runtime: Runtime) -> Start:
    """The network to train, on the device, in fp32. Raises what loading raises, and as `check_start`."""
    if vae is None:
        config = cast(AutoencoderKLConfig, registry().network_config(recipe.model.config))
        with seeded(seed):
            network = AutoencoderKL(config)
            if recipe.model.begin == "straight":
                straighten(network)
        network = network.to(runtime.device)
        spec = VAESpec(config, None, 1.0, 0.0, KL_PIXELS)
        _check_size(recipe, spec)
        return Start(network, spec, None, None)
    found = vae if isinstance(vae, VAE) else open_vae(vae, runtime, space=space)
    _check_continued(found, recipe)
    _check_size(recipe, found.spec)
    with preserved_random_state():  # its own weights replace the random ones
        network = AutoencoderKL(cast(AutoencoderKLConfig, found.spec.config)).to(runtime.device)
    network.load_state_dict({name: tensor.float() for name, tensor in found.network.state_dict().items()})
    identity = {"name": found.name, "weights": vae_record(found)["weights"], "spec": asdict(found.spec)}
    return Start(network, found.spec, found, identity)


def straighten(network: AutoencoderKL) -> None:
    """First weights with which colours go straight through all of the latent's channels, in place.

    Residual branches begin at zero, so that the way from image to latent and back begins as one without them
    (Zhang et al. 2019, Fixup); what stands around the latent keeps its channels apart: quant_conv and post_quant_conv
    are the identity, the encoder's last convolution is orthogonal (Saxe et al. 2014). In torch's own weights that
    chain lets up to a hundred times more of one direction through than of another, which then stays empty for long.
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


def check_encoder(start: Start, state: State) -> None:
    """Raises CheckFailedError where the encoder isn't, bit for bit, what it was: the decoder is no drop-in then."""
    assert start.vae is not None
    before = start.vae.network.state_dict()
    for name, tensor in state.network.state_dict().items():
        if name.partition(".")[0] in FROZEN and not torch.equal(tensor, before[name].to(tensor)):
            raise CheckFailedError(
                f"{name} of the frozen encoder has changed: the decoder isn't released as a drop-in."
            )


def gather(wanted: Wanted, recipe: Recipe, runtime: Runtime) -> Material:
    """Open the sources and keep images back. Raises what opening raises, and as `split`."""
    sources = [
        _open(source, boxes, wanted, runtime) for source, boxes in zip(wanted.sources, wanted.boxes, strict=True)
    ]
    for source in sources:
        if source.kind == "synthetic" and not all(is_for_training(item.id) for item in source.items):
            raise UsageError(f"{source.name}: these are measured on. Open them with training=True, or name them.")
    _check_boxes(sources, wanted, recipe, runtime)
    for source in sources:
        for note in source.notes:
            runtime.notify(f"{source.name}: {note}.")
    if wanted.held_out is None:
        sources, kept = split(sources, recipe.run.held_out, wanted.seed)
    else:
        kept = wanted.held_out
        if not isinstance(kept, Dataset):
            kept = open_dataset(
                kept, take=recipe.run.held_out if kept in SETS else None, seed=wanted.seed, skip_bad=True,
                runtime=runtime,
    )  # fmt: skip
        kept = _at_most(kept, recipe.run.held_out, wanted.seed)
        sources, copies = without(sources, kept)
        if copies:
            runtime.notify(f"{copies} of the images stand in {kept.name} too, and are not trained on.")
    return Material(tuple(sources), wanted.weights, kept)


def _check_boxes(sources: Sequence[Dataset], wanted: Wanted, recipe: Recipe, runtime: Runtime) -> None:
    """Raises UsageError where the recipe weights boxes that no image has; says it where it weights none."""
    if recipe.loss.box_weight == 1:
        if any(wanted.boxes):
            runtime.notify("The boxes are measured, but not weighted: the recipe's loss.box_weight is 1.")
        return
    labels = {box.label for source in sources for item in source.items for box in item.boxes}
    every = (box for source in sources for item in source.items for box in item.boxes)
    if not any(is_named(box, recipe.loss.box_labels) for box in every):
        have = f"only {', '.join(sorted(labels)[:8])}" if labels else "none"
        asked = f" labelled {' or '.join(recipe.loss.box_labels)}" if recipe.loss.box_labels else ""
        raise UsageError(f"the recipe weights boxes{asked}, and the images have {have}. Give them with --boxes.")


def pass_size(given: int | None, begun: int | None, recipe: Recipe, kind: str, ranks: int) -> int:
    """Images in one pass over all processes: a divisor of the batch and a multiple of the processes.

    As `given`, else as the run was begun with, else the largest one that a device should bear. Raises UsageError where
    there is none.
    """
    batch = recipe.data.batch
    processes = f"{ranks} process{'es' * (ranks > 1)}"
    fitting = [n for n in range(1, batch + 1) if batch % n == 0 and n % ranks == 0]
    if given is None and begun is not None:
        if begun not in fitting:
            raise UsageError(
                f"this run was begun with {begun} images at once, which {processes} can't share. Go on with a number "
                f"of processes that divides {begun}."
            )
        return begun
    if given is not None:
        if given not in fitting:
            raise UsageError(
                f"{given} images at once don't divide the batch of {batch} evenly over {processes}. Choose another "
                "number, or another batch with --set data.batch=N."
            )
        return given
    if not fitting:
        raise UsageError(f"a batch of {batch} can't be shared by {processes}. Set another: --set data.batch=N.")
    room = max(1, AT_ONCE.get(kind, AT_ONCE_ON_DEVICE) // recipe.data.size**2) * ranks
    return max((n for n in fitting if n <= room), default=fitting[0])


def _open(source: Source | Dataset, boxes: Source | None, wanted: Wanted, runtime: Runtime) -> Dataset:
    """A source to train on; at most `take` of it. Images that can't be read are passed over later."""
    found = source if isinstance(source, Dataset) else open_dataset(
        source, take=wanted.take if source in SETS else None, seed=wanted.seed, boxes=boxes, skip_bad=True,
        training=True, runtime=runtime,
    )  # fmt: skip
    return found if wanted.take is None else _at_most(found, wanted.take, wanted.seed)


def _at_most(dataset: Dataset, count: int, seed: int) -> Dataset:
    """The set, or so many of its images, chosen by the seed, where it has more."""
    if count >= len(dataset.items):
        return dataset
    return dataclasses.replace(sample_of([dataset], count, seed), name=f"{count:,} of {dataset.name}")


def _check_size(recipe: Recipe, spec: VAESpec) -> None:
    if recipe.data.size % spec.factor:
        raise UsageError(
            f"data.size is {recipe.data.size}, and this VAE's latents need a multiple of {spec.factor}. "
            f"Set it: --set data.size={max(1, round(recipe.data.size / spec.factor)) * spec.factor}."
        )


def _check_continued(vae: VAE, recipe: Recipe) -> None:
    _check_kind(isinstance(vae.network, AutoencoderKL), vae.name)
    if vae.spec.pixel_range != KL_PIXELS:
        raise UsageError(f"{vae.name} has pixels in {vae.spec.pixel_range}; recipes are for VAEs with {KL_PIXELS}.")
    _check_space(vae.spec.latent_space, vae.name, recipe)


def _check_kind(full: bool, name: str) -> None:
    if not full:
        raise UsageError(f"{name} is a tiny autoencoder; recipes are for full VAEs (AutoencoderKL).")


def _check_space(space: str | None, name: str, recipe: Recipe) -> None:
    if recipe.model.space not in {ANY, space}:
        others = [other for other in recipe_names() if find_recipe(other).model.space == space]
        instead = f"For {space} there is {' or '.join(others)}. " if space and others else ""
        raise UsageError(
            f"the recipe {recipe.name} is for VAEs of the latent space {recipe.model.space}, and {name} is of "
            f"{space or 'one of its own'}. {instead}If its numbers suit this VAE too: --set "
            f"model.space={space or ANY}."
        )
