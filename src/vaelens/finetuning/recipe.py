"""The schema of a recipe, a complete training configuration. Every field is set in a TOML file, none in the code.

    extends = "ft-mse"          # optional: the recipe whose fields apply where this one sets none
    title = "..."
    about = "..."
    [loss]
    pixel = "mse"               # one table for each of the classes below
    [published]
    "loss.pixel" = "..."        # who published this value
    [chosen]
    "ema.decay" = "..."         # why we chose this value, since none was published

A recipe of the package explains each field that it uses in either `published` or `chosen`.
"""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Any, Literal, cast

from pydantic import BaseModel, ConfigDict, Field, model_validator

from vaelens.evaluation.presets import PRESETS
from vaelens.families.discovery import families
from vaelens.networks.patchgan import GROUPS, min_size
from vaelens.weights.registry import registry

OWN = "own"  # the latent space of a VAE trained from scratch
ANY = "any"
HELD_OUT = "run.held_out"

Share = Annotated[float, Field(ge=0, le=1)]
NonNegative = Annotated[float, Field(ge=0, allow_inf_nan=False)]
Positive = Annotated[float, Field(gt=0, allow_inf_nan=False)]
Decay = Annotated[float, Field(ge=0, lt=1)]
Count = Annotated[int, Field(ge=0)]
PositiveCount = Annotated[int, Field(ge=1)]


class _Table(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)


class Model(_Table):
    """What is trained. `config` names the network to train from scratch; "" continues an existing VAE."""

    config: str
    init: Literal["default", "balanced", ""]  # initial weights, see `initialization.init_balanced`; "" without config
    space: str  # the latent space that a continued VAE must have, or "any"; "own" from scratch
    trainable: Literal["all", "decoder"]
    post_quant_conv: Literal["trained", "frozen"]
    posterior: Literal["sample", "mode"]  # which latents are decoded in training


class Loss(_Table):
    """The reconstruction loss and KL.

    "sum" adds over an image's pixels and channels (KL: over the latent's elements) and averages over images, as
    published; "mean" averages over everything.
    """

    reduction: Literal["sum", "mean"]
    pixel: Literal["l1", "mse", "charbonnier"]
    pixel_weight: NonNegative
    perceptual: Literal["lpips-vgg", "psim", "psim-small", "none"]
    perceptual_weight: NonNegative
    kl_weight: NonNegative
    box_weight: Positive  # weight of a pixel inside a labelled box; 1 outside
    box_labels: tuple[str, ...]  # which boxes; "glyph" means any character of synthetic pages; empty: all


class Gan(_Table):
    """The discriminator and its loss; weight 0 trains without one. Steps are the generator's."""

    weight: NonNegative
    weighting: Literal["adaptive", "fixed"]
    start: Count  # the step from which the generator's loss includes it
    warmup_steps: Count  # steps before `start` in which the discriminator alone is trained
    width: PositiveCount
    layers: PositiveCount
    norm: Literal["batch", "group", "none"]
    lr: Positive
    betas: tuple[Decay, Decay]

    def trains_discriminator(self, step: int) -> bool:
        """Whether the discriminator is updated in this step, counted from 0."""
        return self.weight > 0 and step >= self.start - self.warmup_steps

    def trains_generator(self, step: int) -> bool:
        """Whether the generator's loss includes the discriminator in this step, counted from 0."""
        return self.weight > 0 and step >= self.start


class Optimizer(_Table):
    """AdamW, which is Adam with weight decay 0. The learning rate is that of the whole batch, over all processes."""

    lr: Positive
    betas: tuple[Decay, Decay]
    weight_decay: NonNegative
    warmup_steps: Count  # first steps, over which the learning rate rises linearly from 0
    decay_steps: Count  # last steps, over which it falls linearly to 0
    max_grad_norm: NonNegative  # gradients are clipped to this norm; 0: no clipping


class Ema(_Table):
    """The exponential moving average of the weights; decay 0: none."""

    decay: Decay


class Data(_Table):
    """Training images: a random square of each, resized by area, flipped and color-jittered at random."""

    size: PositiveCount
    batch_size: PositiveCount  # images per optimizer step, over all processes
    crop: tuple[Share, Share]  # the square's side as a share of the image's shorter side, from and to
    flip: Share  # probability
    color_jitter: Share  # probability


class Run(_Table):
    """The length of a training, its checkpoints and its evaluations."""

    steps: PositiveCount
    evaluate_every: PositiveCount
    checkpoint_every: PositiveCount
    log_every: PositiveCount
    held_out: PositiveCount  # number of held-out images
    preset: str  # the evaluation preset for them


class Recipe(_Table):
    """A whole recipe; see the classes of its tables.

    named: the fields that a user set, by a file or for a run, and that nothing else changes
    followed: the recipe's own values of the fields that follow the length of the run or the number of images instead
    """

    name: str
    title: str
    about: str
    model: Model
    loss: Loss
    gan: Gan
    optimizer: Optimizer
    ema: Ema
    data: Data
    run: Run
    published: Mapping[str, str]
    chosen: Mapping[str, str]
    named: frozenset[str] = frozenset()
    followed: Mapping[str, int] = {}

    @model_validator(mode="after")
    def _is_consistent(self) -> "Recipe":
        wrong = next((message for message, holds in self._rules() if not holds), None)
        if wrong is not None:
            raise ValueError(wrong)
        return self

    def _rules(self) -> list[tuple[str, bool]]:
        m, loss, gan, run, opt = self.model, self.loss, self.gan, self.run, self.optimizer
        known = {name for name, config in registry().configs.items() if families()[config["family"]].trainable}
        spaces = {*registry().spaces, ANY}
        explained = [*self.published, *self.chosen]
        fields = field_names()
        return [
            (f"model.config {m.config!r} is none of {', '.join(sorted(known))}", not m.config or m.config in known),
            (f"model.space {m.space!r} is none of {', '.join(sorted(spaces))}", bool(m.config) or m.space in spaces),
            ('model.init is "default" or "balanced" with a model.config, and "" without',
             bool(m.config) == bool(m.init)),
            (f'a recipe with a model.config trains from scratch: model.space must be "{OWN}"',
             not m.config or m.space == OWN),
            ('a recipe with a model.config trains from scratch: model.trainable must be "all"',
             not m.config or m.trainable == "all"),
            ("loss.pixel_weight and loss.perceptual_weight are both 0, so there is no reconstruction loss",
             loss.pixel_weight > 0 or loss.perceptual_weight > 0),
            ('loss.perceptual is "none", so loss.perceptual_weight must be 0',
             loss.perceptual != "none" or loss.perceptual_weight == 0),
            ('loss.kl_weight needs a trained encoder, but model.trainable is "decoder"',
             m.trainable == "all" or loss.kl_weight == 0),
            ("data.size must be at least 16 with a perceptual loss",
             loss.perceptual_weight == 0 or self.data.size >= 16),
            (f"data.size must be at least {min_size(gan.layers)} with {gan.layers} gan.layers",
             gan.weight == 0 or self.data.size >= min_size(gan.layers)),
            (f"gan.width must be a multiple of {GROUPS} with a group norm",
             gan.weight == 0 or gan.norm != "group" or gan.width % GROUPS == 0),
            ("gan.warmup_steps is larger than gan.start", gan.weight == 0 or gan.warmup_steps <= gan.start),
            (f"optimizer.warmup_steps ({opt.warmup_steps}) and decay_steps ({opt.decay_steps}) add up to more than "
             f"run.steps ({run.steps}); lower them too, for example to {run.steps // 10} and {run.steps // 4}",
             opt.warmup_steps + opt.decay_steps <= run.steps),
            ("data.crop must be (from, to) with 0 < from <= to", 0 < self.data.crop[0] <= self.data.crop[1]),
            (f"run.preset {run.preset!r} is none of {', '.join(PRESETS)}", run.preset in PRESETS),
            *[(f"{field} in [published] or [chosen] isn't a field", field in fields) for field in explained],
            *[(f"{field} is in both [published] and [chosen]", not (field in self.published and field in self.chosen))
              for field in explained],
        ]  # fmt: skip

    def with_held_out(self, count: int) -> "Recipe":
        """With so many held-out images, where that is fewer than its own number and the data has no more."""
        if count >= self.run.held_out:
            return self
        why = f"{self.run.held_out} in the recipe; a quarter of the images at most"
        changed = self.run.model_copy(update={"held_out": count})
        return self.model_copy(
            update={
                "run": changed,
                "published": {field: text for field, text in self.published.items() if field != HELD_OUT},
                "chosen": {**self.chosen, HELD_OUT: why},
                "followed": {**self.followed, HELD_OUT: self.run.held_out},
            }
        )

    @property
    def followed_sentence(self) -> str:
        """Which fields follow the run and the images."""
        values = self.as_dict()
        listed = ", ".join(
            f"{name}={values[table][key]} (instead of {usual})"
            for name, usual in self.followed.items()
            for table, _, key in [name.partition(".")]
        )
        return f"{self.name} follows the number of steps and images: {listed}. Use --set for other values."

    @property
    def gan_never_starts(self) -> bool:
        """Whether there is a discriminator that no step of the generator uses, since gan.start isn't reached."""
        return self.gan.weight > 0 and self.gan.start >= self.run.steps

    @property
    def to_fix_crops(self) -> list[str]:
        """The settings that are to be changed for the same image to look the same in each epoch."""
        d = self.data
        wrong = {"data.crop=[1,1]": tuple(d.crop) != (1, 1), "data.flip=0": d.flip > 0}
        return [name for name, is_wrong in (wrong | {"data.color_jitter=0": d.color_jitter > 0}).items() if is_wrong]

    @property
    def has_random_crops(self) -> bool:
        """Whether the same image looks different in each epoch."""
        return bool(self.to_fix_crops)

    @property
    def perceptual_name(self) -> str:
        """The perceptual distance in use: "none" where its weight is 0."""
        return self.loss.perceptual if self.loss.perceptual_weight > 0 else "none"

    def as_dict(self) -> dict[str, Any]:
        """The tables that determine a training, for plans and records."""
        return {table: self.model_dump(mode="json")[table] for table in TABLES}

    def sha256(self) -> str:
        """Of `as_dict`: recipes with equal hashes train identically."""
        return hashlib.sha256(json.dumps(self.as_dict(), sort_keys=True).encode()).hexdigest()


TABLES = ("model", "loss", "gan", "optimizer", "ema", "data", "run")


def field_names() -> tuple[str, ...]:
    """Every field as `table.field`, in order."""
    tables = {name: cast(type[BaseModel], Recipe.model_fields[name].annotation) for name in TABLES}
    return tuple(f"{name}.{field}" for name, table in tables.items() for field in table.model_fields)


@dataclass(frozen=True)
class FieldNote:
    """A field with its value, and where the value comes from."""

    field: str
    value: str
    origin: Literal["published", "our choice", "unused", "unexplained"]
    why: str


def explain(recipe: Recipe) -> list[FieldNote]:
    """All fields, in order; without a GAN the fields of `gan` are unused."""
    notes: list[FieldNote] = []
    values = recipe.as_dict()
    for name in field_names():
        table, field = name.split(".")
        value = values[table][field]
        shown = json.dumps(value) if not isinstance(value, str) else value or "-"
        if table == "gan" and field != "weight" and recipe.gan.weight == 0:
            notes.append(FieldNote(name, shown, "unused", "gan.weight is 0: there is no GAN"))
        elif name in recipe.published:
            notes.append(FieldNote(name, shown, "published", recipe.published[name]))
        elif name in recipe.chosen:
            notes.append(FieldNote(name, shown, "our choice", recipe.chosen[name]))
        else:
            notes.append(FieldNote(name, shown, "unexplained", "the recipe doesn't say"))
    return notes
