"""Finding and reading recipes: TOML files, of the package (recipes/) or the user's, which may extend each other.

The schedule of a built-in recipe belongs to its own number of steps. In a shorter run its fields follow, except for
those that the user named.
"""

import dataclasses
import difflib
import os
import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from typing import Any, cast

from pydantic import ValidationError

from vaelens.errors import BadInputError, UsageError
from vaelens.files import StrPath
from vaelens.finetuning.recipe import TABLES, Recipe, field_names
from vaelens.text.wrong_fields import explain_error

RECIPES = files("vaelens.finetuning").joinpath("recipes")
EXPLANATIONS = ("published", "chosen")
DEFAULTS = ("ft-mse", "tiny-ft-mse")  # the recipe of a VAE for which none is named: the first one for its latent space

# The fields that follow run.steps in a run that is shorter than the recipe's: each keeps its share of the run, or has
# this one, whichever is larger, and never becomes larger than it is in the recipe.
SHARES = {"optimizer.warmup_steps": 0.1, "optimizer.decay_steps": 0.25, "gan.start": 0.25, "gan.warmup_steps": 0.25}
INTERVALS = {"run.evaluate_every": 0.25, "run.log_every": 0.1}  # these have at most this share of the run, at least 1

# What other trainers call a field.
OTHER_WORDS = {
    "run.steps": ("updates", "iterations", "iters", "max_steps", "max_train_steps", "num_steps", "total_steps"),
    "optimizer.lr": ("rate", "learning_rate", "base_learning_rate"),
    "optimizer.warmup_steps": ("warm_up", "warmup", "lr_warmup_steps"),
    "optimizer.decay_steps": ("cool_down", "cooldown"),
    "optimizer.max_grad_norm": ("clip", "grad_clip", "clip_grad_norm"),
    "data.batch_size": ("batch", "train_batch_size", "bs"),
    "data.size": ("resolution", "image_size", "crop_size"),
    "data.color_jitter": ("colour_jitter",),
    "data.flip": ("random_flip", "hflip"),
    "gan.start": ("disc_start",),
    "gan.weight": ("disc_weight",),
    "loss.kl_weight": ("kl",),
    "loss.perceptual_weight": ("lpips_weight", "perceptual_scale"),
    "ema.decay": ("ema", "ema_decay"),
    "model.trainable": ("freeze_encoder",),
    "run.held_out": ("validation", "val_images", "num_validation_images"),
    "run.checkpoint_every": ("checkpointing_steps", "save_every", "save_steps"),
    "run.evaluate_every": ("validation_steps", "eval_every", "eval_steps"),
}


def recipe_names() -> list[str]:
    """The recipes of the package."""
    return sorted(entry.name.removesuffix(".toml") for entry in RECIPES.iterdir() if entry.name.endswith(".toml"))


def find_recipe(source: StrPath, overrides: Mapping[str, Any] | None = None) -> Recipe:
    """The recipe with this name, or in this .toml file, with `overrides` (`table.field` to a value) applied.

    Raises UsageError for an unknown name or field, with the closest known one, and for invalid or inconsistent values;
    BadInputError for a file that can't be read or isn't TOML.
    """
    draft = _merged(source, ())
    values = draft.values
    for name, value in (overrides or {}).items():
        table, _, key = name.partition(".")
        if name not in field_names():
            raise UsageError(f"a recipe has no field {name!r}. {_closest_field(name)}")
        values.setdefault(table, {})[key] = value
        _forget(values, name)
        values["chosen"][name] = "changed for this run"
    draft.named |= {*(overrides or {})}
    _follow_steps(draft)
    return _validated(values | {"named": frozenset(draft.named), "followed": draft.followed}, draft.label)


@dataclass
class _Draft:
    """A recipe before validation: its tables, its label in messages, and which fields the user named.

    steps: the length for which the others were chosen, that of the built-in recipe; None where there is none
    followed: the values of those that follow the length of the run, before that
    """

    values: dict[str, Any]
    label: str
    named: set[str] = dataclasses.field(default_factory=set[str])
    steps: int | None = None
    followed: dict[str, int] = dataclasses.field(default_factory=dict[str, int])


def _follow_steps(draft: _Draft) -> None:
    """Let the schedule of a shorter run follow its length, as far as the user named no value."""
    values = draft.values

    def of(name: str) -> Any:
        table, _, key = name.partition(".")
        return values.get(table, {}).get(key)

    schedule = {name: of(name) for name in (*SHARES, *INTERVALS)}
    steps = of("run.steps")
    if draft.steps is None or not all(type(value) is int for value in (steps, *schedule.values())) or steps < 1:
        return  # none to follow, or invalid
    unused = {name for name in schedule if name.startswith("gan.") and of("gan.weight") == 0}
    free = schedule.keys() - draft.named - unused
    found = dict(schedule)
    for name in SHARES.keys() & free:
        found[name] = min(found[name], max(int(found[name] * steps / draft.steps), int(SHARES[name] * steps)))
    for name in INTERVALS.keys() & free:
        found[name] = min(found[name], max(1, int(INTERVALS[name] * steps)))
    # What was named comes first; the others have what it leaves.
    warmup, decay = "optimizer.warmup_steps", "optimizer.decay_steps"
    for name, other in ((decay, warmup), (warmup, decay)):
        if name in free:
            found[name] = min(found[name], max(0, steps - found[other]))
    if "gan.warmup_steps" in free:
        found["gan.warmup_steps"] = min(found["gan.warmup_steps"], found["gan.start"])
    elif "gan.start" in free:
        found["gan.start"] = max(found["gan.start"], min(found["gan.warmup_steps"], schedule["gan.start"]))
    for name in [name for name in schedule if found[name] != schedule[name]]:
        table, _, key = name.partition(".")
        values[table][key] = found[name]
        _forget(values, name)
        values["chosen"][name] = f"follows the length of the run; {schedule[name]} in the recipe"
        draft.followed[name] = schedule[name]


def default_recipe(space: str | None) -> str:
    """The recipe for a VAE of that latent space, where none is named."""
    return next((name for name in DEFAULTS if _merged(name, ()).values["model"]["space"] == space), DEFAULTS[0])


def _merged(source: StrPath, children: tuple[str, ...]) -> _Draft:
    """A recipe's tables merged over those of the recipe it extends."""
    text, name, label = _read(source)
    if label in children:
        raise UsageError(f"recipe {label} extends itself, through {' and '.join(children)}. Remove one `extends`.")
    own = _parsed(text, label)
    parent = own.pop("extends", None)
    draft = _Draft({kind: {} for kind in EXPLANATIONS}, label)
    if parent is not None:
        if not isinstance(parent, str):
            raise UsageError(f"{label}: extends must be a recipe's name or file, not {parent!r}.")
        sibling = Path(label).parent / parent
        if Path(label).suffix == ".toml" and sibling.is_file():
            parent = str(sibling)
        draft = _merged(parent, (*children, label))
    values = draft.values
    fields = [f"{table}.{key}" for table in TABLES for key in own.get(table, {})]
    for table in TABLES:
        values |= {table: values.get(table, {}) | own[table]} if table in own else {}
    for name_of_field in fields:  # the parent's explanation is of another value
        _forget(values, name_of_field)
    for kind, other in zip(EXPLANATIONS, reversed(EXPLANATIONS), strict=True):
        for key, why in own.get(kind, {}).items():
            if key not in own.get(other, {}):
                values[other].pop(key, None)
            values[kind][key] = why
    values |= {key: own[key] for key in ("title", "about") if key in own} | {"name": name}
    if name in recipe_names() and Path(source).suffix.lower() != ".toml":
        return _Draft(values, label, steps=values["run"]["steps"])
    return _Draft(values, label, draft.named | {*fields}, draft.steps)


def _forget(values: dict[str, Any], field: str) -> None:
    for kind in EXPLANATIONS:
        values[kind].pop(field, None)


def _parsed(text: str, label: str) -> dict[str, Any]:
    """A recipe's own tables, all of them known."""
    try:
        own = tomllib.loads(text)
    except (ValueError, RecursionError) as error:  # also a number of thousands of digits
        raise BadInputError(f"{label} isn't valid TOML: {error}. Correct the line.") from error
    tables = (*TABLES, *EXPLANATIONS)
    known = ("extends", "title", "about", *tables)
    for key in own:
        if key not in known:
            raise UsageError(f"{label}: a recipe has no {key!r}. {_closest(key, known)}")
    for table in tables:
        if not isinstance(own.get(table, {}), dict):
            raise UsageError(f"{label}: {table} must be a table: [{table}] on its own line.")
    return own


def _read(source: StrPath) -> tuple[str, str, str]:
    """A recipe's text, its name, and its label in messages."""
    path = Path(source)
    if path.suffix.lower() == ".toml":
        try:
            return path.read_text("utf-8"), path.stem, str(path)
        except UnicodeDecodeError as error:
            raise BadInputError(f"{path} isn't UTF-8 text. Save it as UTF-8.") from error
        except OSError as error:
            raise BadInputError(f"{path} can't be read: {error.strerror}. Check the path.") from error
    name = os.fspath(source)
    if name not in recipe_names():
        raise UsageError(f"no recipe is called {name!r}. {_closest(name, recipe_names())} A recipe file ends in .toml.")
    return RECIPES.joinpath(f"{name}.toml").read_text("utf-8"), name, f"recipe {name}"


def _validated(values: dict[str, Any], label: str) -> Recipe:
    for table in TABLES:  # TOML has lists where the schema has tuples
        for field, value in values.get(table, {}).items():
            if isinstance(value, list):
                values[table][field] = tuple(cast(list[Any], value))
    try:
        return Recipe(**values)
    except ValidationError as error:
        raise UsageError(f"{label}: {_first_error(error, values)}") from error


def _first_error(error: ValidationError, values: Mapping[str, Any]) -> str:
    first = error.errors()[0]
    name = ".".join(str(part) for part in first["loc"])
    match first["type"]:
        case "extra_forbidden":
            return f"there is no field {name!r}. {_closest_field(name)}"
        case "missing" if len(first["loc"]) > 2:
            return f"{'.'.join(map(str, first['loc'][:2]))} has too few values."
        case "missing":
            return f'{name} isn\'t set. Set it, or start the recipe with extends = "..." to inherit it.'
        case "value_error":
            return f"{first['msg'].removeprefix('Value error, ')}."
        case _:
            return f"{explain_error(error, values)}. Correct it."


def _closest_field(name: str) -> str:
    """The fields that were probably meant: by what others call them, by a part of their names, or by the spelling.

    Those of the table that is named come first.
    """
    table, _, word = name.lower().rpartition(".")
    own = [key for key in field_names() if key.startswith(f"{table}.")]
    if not own:
        meant = _called(f"{table}_{word}") or _called(word)
        return _did_you_mean(meant) if meant else _closest(name, field_names())
    meant = [key for key in own if word in OTHER_WORDS.get(key, ())]
    meant = meant or [key for key in own if word in key.partition(".")[2].split("_")]
    meant = meant or [
        f"{table}.{one}" for one in difflib.get_close_matches(word, [key.partition(".")[2] for key in own], n=1)
    ]
    if meant:
        return _did_you_mean(meant)
    elsewhere = _called(word)
    return f"Known: {', '.join(own)}." + (f" In another table: {', '.join(elsewhere)}." if elsewhere else "")


def _called(word: str) -> list[str]:
    """The fields of any table with this name, here or in other trainers."""
    return [key for key in field_names() if word == key.partition(".")[2] or word in OTHER_WORDS.get(key, ())]


def _did_you_mean(fields: Sequence[str]) -> str:
    *others, last = fields
    return f"Did you mean {', '.join(others)} or {last}?" if others else f"Did you mean {last}?"


def _closest(name: str, known: Sequence[str]) -> str:
    close = difflib.get_close_matches(name, known, n=1, cutoff=0.5)
    return f"Did you mean {close[0]}?" if close else f"Known: {', '.join(known)}."
