"""A recipe: a whole training description, one TOML file, validated strictly.

    extends = "ft-mse"          # optional: a recipe whose fields hold where this one says nothing
    title = "..."
    about = "..."
    [loss]
    pixel = "mse"               # a table for each of the classes below
    [published]
    "loss.pixel" = "..."        # who published this value
    [ours]
    "ema.decay" = "..."         # why we chose it, since nobody published one

A recipe without `extends` sets every field: no value is hidden in the code. In a recipe of the package, each stands in
`published` or in `ours`.
"""

import difflib
import hashlib
import json
import os
import tomllib
from collections.abc import Mapping
from importlib.resources import files
from pathlib import Path
from typing import Annotated, Any, Literal, cast

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from vaelens.errors import BadInputError, UsageError
from vaelens.evaluation.presets import PRESETS
from vaelens.families.known import families
from vaelens.networks.patchgan import GROUPS, smallest
from vaelens.weights.registry import registry

OWN = "own"  # the latent space of a VAE that was trained from scratch
ANY = "any"

Share = Annotated[float, Field(ge=0, le=1)]
Weight = Annotated[float, Field(ge=0, allow_inf_nan=False)]
Rate = Annotated[float, Field(gt=0, allow_inf_nan=False)]
Beta = Annotated[float, Field(ge=0, lt=1)]
Count = Annotated[int, Field(ge=0)]
Some = Annotated[int, Field(ge=1)]


class _Table(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)


class Model(_Table):
    """What is trained. `config` names the network of a recipe that starts from scratch, "" one that continues a VAE."""

    config: str
    begin: Literal["torch", "straight", ""]  # its first weights, see `starting.straighten`; "" where it continues a VAE
    space: str  # the latent space that a continued VAE must have, or "any"; "own" from scratch
    trains: Literal["all", "decoder"]
    post_quant_conv: Literal["trained", "frozen"]
    posterior: Literal["sample", "mode"]  # what of it is decoded in training


class Loss(_Table):
    """What a reconstruction is judged by.

    "sum": over an image's pixels and channels (and the latent's elements), mean over images, as published;
    "mean": over all. `objective.converted` turns one's weights into the other's.
    """

    reduction: Literal["sum", "mean"]
    pixel: Literal["l1", "mse", "charbonnier"]
    pixel_weight: Weight
    perceptual: Literal["lpips-vgg", "psim", "psim-small", "none"]
    perceptual_weight: Weight
    kl_weight: Weight
    box_weight: Rate  # how much a pixel inside a labelled box counts, 1 outside
    box_labels: tuple[str, ...]  # which boxes; "glyph" means any drawn character; none: all


class Gan(_Table):
    """The discriminator. Weight 0: there is none. `start` and `warm_up` count generator updates."""

    weight: Weight
    weighting: Literal["adaptive", "fixed"]
    start: Count  # after so many the generator hears of it
    warm_up: Count  # and so many before that it begins to learn
    width: Some
    layers: Some
    norm: Literal["batch", "group", "none"]
    rate: Rate
    betas: tuple[Beta, Beta]


class Optimizer(_Table):
    """AdamW; with weight decay 0 it is Adam. The rate is that of the global batch, whatever runs it."""

    rate: Rate
    betas: tuple[Beta, Beta]
    weight_decay: Weight
    warm_up: Count  # updates over which the rate rises from 0
    cool_down: Count  # last updates, over which it falls to 0
    clip: Weight  # the largest norm of the gradient; 0: any


class Ema(_Table):
    """The running average of the weights; decay 0: none."""

    decay: Beta


class Data(_Table):
    """What becomes of an image: a random square of it, resized by area, and turned over or recoloured at random."""

    size: Some
    batch: Some  # images an update, over all processes
    crop: tuple[Share, Share]  # the square's side as a share of the shorter side, from and to
    flip: Share  # how often it is mirrored
    recolour: Share  # how often its colours are changed


class Run(_Table):
    """How long, and how it is watched."""

    updates: Some
    evaluate_every: Some
    checkpoint_every: Some
    log_every: Some
    held_out: Annotated[int, Field(ge=2)]  # images to measure on, kept back or given
    preset: str  # what they are measured by


class Recipe(_Table):
    """A whole recipe; see the classes of its tables."""

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
    ours: Mapping[str, str]

    @model_validator(mode="after")
    def _fits_together(self) -> "Recipe":
        wrong = next((why for why, holds in self._demands() if not holds), None)
        if wrong is not None:
            raise ValueError(wrong)
        return self

    def _demands(self) -> list[tuple[str, bool]]:
        m, loss, gan, run, rates = self.model, self.loss, self.gan, self.run, self.optimizer
        configs = registry().configs
        known = {name for name, config in configs.items() if families()[config["family"]].trainable}
        spaces = {*registry().spaces, ANY}
        said = [*self.published, *self.ours]
        fields = field_names()
        return [
            (f"model.config {m.config!r} is none of {', '.join(sorted(known))}", not m.config or m.config in known),
            (f"model.space {m.space!r} is none of {', '.join(sorted(spaces))}", bool(m.config) or m.space in spaces),
            ('model.begin says how a network begins: "torch" or "straight" with a model.config, "" without',
             bool(m.config) == bool(m.begin)),
            (f'a recipe with a model.config starts from scratch: model.space is "{OWN}"',
             not m.config or m.space == OWN),
            ('a recipe with a model.config starts from scratch: model.trains is "all"',
             not m.config or m.trains == "all"),
            ("loss: pixel_weight and perceptual_weight are both 0, so nothing is asked of a reconstruction",
             loss.pixel_weight > 0 or loss.perceptual_weight > 0),
            ('loss: perceptual is "none", so perceptual_weight is 0',
             loss.perceptual != "none" or loss.perceptual_weight == 0),
            ("loss: kl_weight asks for a trained encoder, and model.trains is decoder",
             m.trains == "all" or loss.kl_weight == 0),
            ("data.size: a perceptual network sees images from 16 pixels up",
             loss.perceptual_weight == 0 or self.data.size >= 16),
            (f"gan: {gan.layers} layers judge images from {smallest(gan.layers)} pixels up; data.size is less",
             gan.weight == 0 or self.data.size >= smallest(gan.layers)),
            (f"gan: a group norm's width is a multiple of {GROUPS}",
             gan.weight == 0 or gan.norm != "group" or gan.width % GROUPS == 0),
            ("gan: warm_up is longer than start", gan.weight == 0 or gan.warm_up <= gan.start),
            (f"optimizer.warm_up ({rates.warm_up}) and cool_down ({rates.cool_down}) together are longer than "
             f"run.updates ({run.updates}); lower them too, to {run.updates // 10} and {run.updates // 4} for example",
             rates.warm_up + rates.cool_down <= run.updates),
            ("data: crop is (from, to), and from is above 0 and not above to",
             0 < self.data.crop[0] <= self.data.crop[1]),
            (f"run.preset {run.preset!r} is none of {', '.join(PRESETS)}", run.preset in PRESETS),
            *[(f"{field} in published or ours is no field", field in fields) for field in said],
            *[(f"{field} stands in both published and ours", not (field in self.published and field in self.ours))
              for field in said],
        ]  # fmt: skip

    @property
    def gan_is_late(self) -> bool:
        """Whether there is a discriminator that the generator never hears of: it starts after the last update."""
        return self.gan.weight > 0 and self.gan.start >= self.run.updates

    @property
    def has_random_crops(self) -> bool:
        """Whether an image is another one each time it is seen."""
        d = self.data
        return d.crop[0] != d.crop[1] or d.crop[1] != 1 or d.flip > 0 or d.recolour > 0

    def as_dict(self) -> dict[str, Any]:
        """The tables and fields that decide a training, for plans and records."""
        return {table: self.model_dump(mode="json")[table] for table in TABLES}

    def sha256(self) -> str:
        """Of `as_dict`: two recipes with one sha256 train alike."""
        return hashlib.sha256(json.dumps(self.as_dict(), sort_keys=True).encode()).hexdigest()


TABLES = ("model", "loss", "gan", "optimizer", "ema", "data", "run")


def field_names() -> tuple[str, ...]:
    """Every field as `table.field`, in order."""
    tables = {name: cast(type[BaseModel], Recipe.model_fields[name].annotation) for name in TABLES}
    return tuple(f"{name}.{field}" for name, table in tables.items() for field in table.model_fields)


def recipe_names() -> list[str]:
    """The recipes of the package."""
    found = (entry.name for entry in files("vaelens.finetuning").joinpath("recipes").iterdir())
    return sorted(name.removesuffix(".toml") for name in found if name.endswith(".toml"))


def find_recipe(source: str | os.PathLike[str], changes: Mapping[str, Any] | None = None) -> Recipe:
    """The recipe of that name, or in that .toml file, with `changes` (`table.field` to a value) applied.

    Raises UsageError for an unknown name or field, with the nearest known one, and for values that no field can have or
    that don't go together; BadInputError for a file that can't be read or is no TOML.
    """
    values, where = _resolved(source, ())
    for name, value in (changes or {}).items():
        table, _, field = name.partition(".")
        if name not in field_names():
            raise UsageError(f"a recipe has no field {name!r}. {_nearest(name, field_names())}")
        values.setdefault(table, {})[field] = value
        for kind in ("published", "ours"):
            values[kind].pop(name, None)
        values["ours"][name] = "changed for this run"
    return _checked(values, where)


def _resolved(source: str | os.PathLike[str], through: tuple[str, ...]) -> tuple[dict[str, Any], str]:
    """A recipe's tables with those of the recipe it extends below them, and what to call it."""
    text, name, where = _text(source)
    if where in through:
        raise UsageError(f"recipe {where} extends itself, through {' and '.join(through)}. Break the circle.")
    said = _said(text, where)
    parent = said.pop("extends", None)
    values: dict[str, Any] = {"published": {}, "ours": {}}
    if parent is not None:
        if not isinstance(parent, str):
            raise UsageError(f"{where}: extends is a recipe's name or file, not {parent!r}.")
        beside = Path(where).parent / parent
        if Path(where).suffix == ".toml" and beside.is_file():
            parent = str(beside)
        values, _ = _resolved(parent, (*through, where))
    for key, value in said.items():
        if key in TABLES:
            values[key] = {**values.get(key, {}), **value}
            for field in value:  # what the parent said of a value doesn't hold for another one
                for kind in ("published", "ours"):
                    values[kind].pop(f"{key}.{field}", None)
    for kind, other in (("published", "ours"), ("ours", "published")):
        for field, why in said.get(kind, {}).items():
            if field not in said.get(other, {}):
                values[other].pop(field, None)
            values[kind][field] = why
    values |= {key: said[key] for key in ("title", "about") if key in said} | {"name": name}
    return values, where


def _said(text: str, where: str) -> dict[str, Any]:
    """A recipe's own tables, each of them known."""
    try:
        said = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise BadInputError(f"{where} is no TOML: {error}. Mend the line.") from error
    known = ("extends", "title", "about", *TABLES, "published", "ours")
    for key in said:
        if key not in known:
            raise UsageError(f"{where}: a recipe has no {key!r}. {_nearest(key, known)}")
    for table in (*TABLES, "published", "ours"):
        if not isinstance(said.get(table, {}), dict):
            raise UsageError(f"{where}: {table} is a table: [{table}] on a line of its own.")
    return said


def _text(source: str | os.PathLike[str]) -> tuple[str, str, str]:
    """A recipe's text, its name, and how messages call it."""
    path = Path(source)
    if path.suffix.lower() == ".toml":
        try:
            return path.read_text("utf-8"), path.stem, str(path)
        except UnicodeDecodeError as error:
            raise BadInputError(f"{path} is no UTF-8 text. Save it as UTF-8.") from error
        except OSError as error:
            raise BadInputError(f"{path}: can't be read: {error.strerror}. Check the path.") from error
    name = os.fspath(source)
    if name not in recipe_names():
        raise UsageError(
            f"no recipe is called {name!r}. {_nearest(name, recipe_names())} A file of your own ends in .toml."
        )
    return files("vaelens.finetuning").joinpath("recipes", f"{name}.toml").read_text("utf-8"), name, f"recipe {name}"


def _checked(values: dict[str, Any], where: str) -> Recipe:
    lists = {"betas", "crop", "box_labels"}  # TOML has lists where the tables have tuples
    for table in TABLES:
        for field, value in values.get(table, {}).items():
            if field in lists and isinstance(value, list):
                values[table][field] = tuple(cast(list[Any], value))
    try:
        return Recipe(**values)
    except ValidationError as error:
        raise UsageError(f"{where}: {_explained(error)}") from error


def _explained(error: ValidationError) -> str:
    """The first thing that is wrong, in one sentence."""
    first = error.errors()[0]
    name = ".".join(str(part) for part in first["loc"])
    match first["type"]:
        case "extra_forbidden":
            return f"there is no field {name!r}. {_nearest(name, field_names())}"
        case "missing" if len(first["loc"]) > 2:
            return f"{'.'.join(map(str, first['loc'][:2]))} has too few values."
        case "missing":
            return f"{name} isn't set. Set it, or begin the recipe with extends = and the recipe to take it from."
        case "value_error":
            return f"{first['msg'].removeprefix('Value error, ')}."
        case _:
            asked = first["msg"][0].lower() + first["msg"][1:]
            return f"{name} is {first['input']!r}: {asked}."


def _nearest(name: str, known: "tuple[str, ...] | list[str]") -> str:
    near = difflib.get_close_matches(name, known, n=1, cutoff=0.5)
    return f"Did you mean {near[0]}?" if near else f"Known: {', '.join(known)}."
