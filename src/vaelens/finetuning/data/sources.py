"""The sources of a training: which are named, opening them, and whether caches fit the recipe."""

import dataclasses
import itertools
import os
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from vaelens.errors import UsageError
from vaelens.files import StrPath
from vaelens.finetuning.data.held_out import USUAL_SHARE, check_counts, hold_out, joined, shuffled, without
from vaelens.finetuning.losses import has_label
from vaelens.finetuning.recipe import HELD_OUT, Recipe
from vaelens.images.datasets.items import Dataset, boxes_sha256, manifest_sha256
from vaelens.images.datasets.opening import check_name, open_dataset
from vaelens.images.datasets.synthetic import SETS, TRAINING_COUNT, is_for_training
from vaelens.latent_cache.cache import LatentCache, open_cache
from vaelens.latent_cache.index import is_cache
from vaelens.runtime import Runtime
from vaelens.text.numbers import counted
from vaelens.vae import VAE

TrainingData = StrPath | Dataset | LatentCache  # what may be trained on


@dataclass(frozen=True)
class Sources:
    """The training images of each source with its weight, and the held-out set."""

    training: tuple[Dataset, ...]
    weights: tuple[float, ...]
    held_out: Dataset
    caches: tuple[LatentCache, ...] = ()  # of each training source, or none at all
    held_out_cache: LatentCache | None = None  # where the held-out images are another cache's squares

    def record(self, *, with_boxes: bool) -> list[dict[str, Any]]:
        """What the trained weights depend on of each training source."""
        found: list[dict[str, Any]] = []
        for number, (source, weight) in enumerate(zip(self.training, self.weights, strict=True)):
            one = {"name": source.name, "weight": weight, "manifest_sha256": manifest_sha256(source.items)}
            boxes = {"boxes_sha256": boxes_sha256(source.items)} if with_boxes else {}
            found.append(one | boxes | ({"latents": self.caches[number].identity} if self.caches else {}))
        return found

    @property
    def held_out_record(self) -> dict[str, Any]:
        """What the scores depend on of the held-out images."""
        found = {"name": self.held_out.name, "manifest_sha256": manifest_sha256(self.held_out.items)}
        return found if self.held_out_cache is None else found | {"latents": self.held_out_cache.identity}


@dataclass(frozen=True)
class SourceOptions:
    """Which images to use: the arguments of `finetune`, checked as far as possible without opening anything."""

    sources: tuple[StrPath | Dataset | LatentCache, ...]
    weights: tuple[float, ...]
    boxes: tuple[StrPath | None, ...]
    held_out: TrainingData | None
    take: int | None
    seed: int

    @classmethod
    def of(
        cls,
        data: TrainingData | Sequence[TrainingData],
        *,
        weights: Sequence[float] | None = None,
        boxes: Sequence[StrPath] | None = None,
        held_out: TrainingData | None = None,
        take: int | None = None,
        seed: int = 0,
    ) -> "SourceOptions":
        """Raises UsageError for no source, a wrong number of weights or box files, box files for a dataset that is open
        already, or for caches beside images; and what opening a cache raises.
        """
        named = [data] if isinstance(data, str | os.PathLike | Dataset | LatentCache) else list(data)
        sources = [open_cache(one) if is_cache(one) else one for one in named]
        if not sources:
            raise UsageError("no images given. Name a folder, or another source.")
        for what, given in ((("weight", "weights"), weights), (("box file", "box files"), boxes)):
            if given and len(given) != len(sources):
                raise UsageError(
                    f"{counted(len(given), what[0], what[1])} for {counted(len(sources), 'source')}. Give one for "
                    "each source, or none."
                )
        if boxes and any(isinstance(source, Dataset | LatentCache) for source in sources):
            raise UsageError("box files can't be added to a dataset that is already open. Open it with its boxes.")
        caches = [source for source in sources if isinstance(source, LatentCache)]
        if caches and len(caches) < len(sources):
            raise UsageError(f"{caches[0].path} is a latent cache, and can't be mixed with images. Encode those too.")
        for source in (*sources, *([held_out] if held_out is not None else [])):
            if not isinstance(source, LatentCache):
                check_name(source)
        mix = tuple(float(weight) for weight in weights or [1.0] * len(sources))
        return cls(tuple(sources), mix, tuple(boxes or [None] * len(sources)), held_out, take, seed)

    @property
    def caches(self) -> tuple[LatentCache, ...]:
        """The sources, where they are caches."""
        return tuple(source for source in self.sources if isinstance(source, LatentCache))

    def check_counts(self, held_out: int) -> None:
        """Raises UsageError where so many images can't be held out of sources whose size is known without opening.

        held_out: a number that the user named
        """
        if self.held_out is None:
            names = [_name(source) for source in self.sources]
            check_counts(names, [self._most(source) for source in self.sources], held_out)

    def _most(self, source: TrainingData) -> int | None:
        """How many images a source has at most, if that is known."""
        if isinstance(source, Dataset | LatentCache):
            return min(len(source.items), self.take or len(source.items))
        return self.take or (TRAINING_COUNT if source in SETS else None)


def _name(source: TrainingData) -> str:
    if isinstance(source, LatentCache):
        return str(source.path)
    return source.name if isinstance(source, Dataset) else str(source)


def open_sources(options: SourceOptions, recipe: Recipe, runtime: Runtime, vae: VAE | None = None) -> Sources:
    """Open the sources and hold images out. Raises what opening and `hold_out` raise.

    vae: whose encoder the caches must be of; else UsageError is raised
    """
    if vae is not None:
        for cache in options.caches:
            cache.check_encoder(vae)
    sources = [
        _open(source, boxes, options, runtime) for source, boxes in zip(options.sources, options.boxes, strict=True)
    ]
    for source in sources:
        if source.origin == "synthetic" and not all(is_for_training(item.id) for item in source.items):
            raise UsageError(
                f"{source.name}: these synthetic images are for evaluation. Open them with training=True, or pass the "
                "dataset's name."
            )
    _check_boxes(sources, options, recipe, runtime)
    for source in sources:
        for note in source.notes:
            runtime.notify(f"{source.name}: {note}.")
    if options.held_out is None:
        sources, held_out = hold_out(
            sources, recipe.run.held_out, options.seed, at_most=None if HELD_OUT in recipe.named else USUAL_SHARE
        )
        return Sources(tuple(sources), options.weights, held_out, options.caches)
    named = open_cache(options.held_out) if is_cache(options.held_out) else options.held_out
    if isinstance(named, LatentCache):
        held_out = named.dataset(runtime=runtime)
    elif isinstance(named, Dataset):
        held_out = named
    else:
        take = recipe.run.held_out if named in SETS else None
        held_out = open_dataset(named, take=take, seed=options.seed, skip_bad=True, runtime=runtime)
    held_out = _at_most(held_out, recipe.run.held_out, options.seed)
    sources, copies = without(sources, held_out)
    if copies:
        runtime.notify(
            f"{counted(copies, 'image')} {'is' if copies == 1 else 'are'} in {held_out.name} too, and not trained on."
        )
    return Sources(
        tuple(sources), options.weights, held_out, options.caches, named if isinstance(named, LatentCache) else None
    )


def check_caches(caches: Sequence[LatentCache], recipe: Recipe, again: bool) -> None:
    """Raises UsageError where a cache's posteriors aren't those of the recipe's crops, or of no frozen encoder.

    again: whether posteriors are to be kept in memory too
    """
    how = recipe.data
    if other := next((cache for cache in caches if cache.index.rule != caches[0].index.rule), None):
        raise UsageError(
            f"{caches[0].path} was encoded by the size rule {caches[0].index.rule}, but {other.path} by "
            f"{other.index.rule}. Encode both by the same rule."
        )
    for path, rule, holds_images in ((cache.path, cache.index.rule, cache.holds_images) for cache in caches):
        if again:
            raise UsageError(f"{path} already holds what --cache would keep. Leave --cache out.")
        if recipe.model.trainable != "decoder":
            raise UsageError(f"{path} is of a frozen encoder, but this recipe trains the encoder. Name the images.")
        if recipe.to_fix_crops or rule.side != how.size:
            needed = " ".join(f"--set {one}" for one in recipe.to_fix_crops)
            size = f"--set data.size={rule.side}, or encode the images with --size {how.size}" * (rule.side != how.size)
            wrong = ["changes each image at random in each epoch"] * bool(needed) + [f"trains on {how.size}"] * bool(
                size
            )
            raise UsageError(
                f"{path} holds one square of {rule.side} pixels per image, but this recipe {' and '.join(wrong)}. "
                f"Add {' and '.join(filter(None, (needed, size)))}{'; or name the images' * bool(needed)}."
            )
        if not holds_images and rule.resize != "area":
            raise UsageError(
                f"{path} was encoded by the size rule {rule}, but finetune reads its images by the rule area. Encode "
                "them with --rule area, or keep them in the cache."
            )


def _open(source: TrainingData, boxes: StrPath | None, options: SourceOptions, runtime: Runtime) -> Dataset:
    """A source to train on, at most `take` images of it. Unreadable images are replaced later."""
    if isinstance(source, LatentCache):
        source = source.dataset(runtime=runtime)
    if not isinstance(source, Dataset):
        take = options.take if source in SETS else None
        source = open_dataset(
            source, take=take, seed=options.seed, boxes=boxes, skip_bad=True, training=True, runtime=runtime
        )
    return source if options.take is None else _at_most(source, options.take, options.seed)


def _at_most(dataset: Dataset, count: int, seed: int) -> Dataset:
    if count >= len(dataset.items):
        return dataset
    chosen = [(0, item) for item in itertools.islice(shuffled(dataset, 0, seed), count)]  # not read: they may be many
    return dataclasses.replace(joined([dataset], chosen, "training"), name=f"{count:,} of {dataset.name}")


def _check_boxes(sources: Sequence[Dataset], options: SourceOptions, recipe: Recipe, runtime: Runtime) -> None:
    """Raises UsageError where the recipe weights boxes that no image has; notifies where given boxes have no weight."""
    if recipe.loss.box_weight == 1:
        if any(options.boxes):
            runtime.notify("Note: the boxes are measured but have no weight in the loss: loss.box_weight is 1.")
        return
    boxes = [box for source in sources for item in source.items for box in item.boxes]
    if not any(has_label(box, recipe.loss.box_labels) for box in boxes):
        labels = sorted({box.label for box in boxes})[:8]
        found = f"only {', '.join(labels)}" if labels else "none"
        needed = f" labelled {' or '.join(recipe.loss.box_labels)}" if recipe.loss.box_labels else ""
        raise UsageError(f"the recipe weights boxes{needed}, but the images have {found}. Give them with --boxes.")
