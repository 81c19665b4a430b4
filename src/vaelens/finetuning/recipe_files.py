"""Finding and reading recipes: TOML files, of the package (recipes/) or the user's, which may extend each other."""

import difflib
import os
import tomllib
from collections.abc import Mapping, Sequence
from importlib.resources import files
from pathlib import Path
from typing import Any, cast

from pydantic import ValidationError

from vaelens.errors import BadInputError, UsageError
from vaelens.files import StrPath
from vaelens.finetuning.recipe import TABLES, Recipe, field_names

RECIPES = files("vaelens.finetuning").joinpath("recipes")
EXPLANATIONS = ("published", "chosen")


def recipe_names() -> list[str]:
    """The recipes of the package."""
    return sorted(entry.name.removesuffix(".toml") for entry in RECIPES.iterdir() if entry.name.endswith(".toml"))


def find_recipe(source: StrPath, overrides: Mapping[str, Any] | None = None) -> Recipe:
    """The recipe with this name, or in this .toml file, with `overrides` (`table.field` to a value) applied.

    Raises UsageError for an unknown name or field, with the closest known one, and for invalid or inconsistent values;
    BadInputError for a file that can't be read or isn't TOML.
    """
    values, label = _merged(source, ())
    for name, value in (overrides or {}).items():
        table, _, field = name.partition(".")
        if name not in field_names():
            raise UsageError(f"a recipe has no field {name!r}. {_closest(name, field_names())}")
        values.setdefault(table, {})[field] = value
        _forget(values, name)
        values["chosen"][name] = "changed for this run"
    return _validated(values, label)


def _merged(source: StrPath, children: tuple[str, ...]) -> tuple[dict[str, Any], str]:
    """A recipe's tables merged over those of the recipe it extends, and its label in messages."""
    text, name, label = _read(source)
    if label in children:
        raise UsageError(f"recipe {label} extends itself, through {' and '.join(children)}. Remove one `extends`.")
    own = _parsed(text, label)
    parent = own.pop("extends", None)
    values: dict[str, Any] = {kind: {} for kind in EXPLANATIONS}
    if parent is not None:
        if not isinstance(parent, str):
            raise UsageError(f"{label}: extends must be a recipe's name or file, not {parent!r}.")
        sibling = Path(label).parent / parent
        if Path(label).suffix == ".toml" and sibling.is_file():
            parent = str(sibling)
        values, _ = _merged(parent, (*children, label))
    for table in TABLES:
        values |= {table: values.get(table, {}) | own[table]} if table in own else {}
        for field in own.get(table, {}):  # the parent's explanation is of another value
            _forget(values, f"{table}.{field}")
    for kind, other in zip(EXPLANATIONS, reversed(EXPLANATIONS), strict=True):
        for field, why in own.get(kind, {}).items():
            if field not in own.get(other, {}):
                values[other].pop(field, None)
            values[kind][field] = why
    values |= {key: own[key] for key in ("title", "about") if key in own} | {"name": name}
    return values, label


def _forget(values: dict[str, Any], field: str) -> None:
    for kind in EXPLANATIONS:
        values[kind].pop(field, None)


def _parsed(text: str, label: str) -> dict[str, Any]:
    """A recipe's own tables, all of them known."""
    try:
        own = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
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
        raise UsageError(f"{label}: {_first_error(error)}") from error


def _first_error(error: ValidationError) -> str:
    first = error.errors()[0]
    name = ".".join(str(part) for part in first["loc"])
    match first["type"]:
        case "extra_forbidden":
            return f"there is no field {name!r}. {_closest(name, field_names())}"
        case "missing" if len(first["loc"]) > 2:
            return f"{'.'.join(map(str, first['loc'][:2]))} has too few values."
        case "missing":
            return f'{name} isn\'t set. Set it, or start the recipe with extends = "..." to inherit it.'
        case "value_error":
            return f"{first['msg'].removeprefix('Value error, ')}."
        case _:
            expected = first["msg"][0].lower() + first["msg"][1:]
            return f"{name} is {first['input']!r}: {expected}."


def _closest(name: str, known: Sequence[str]) -> str:
    close = difflib.get_close_matches(name, known, n=1, cutoff=0.5)
    return f"Did you mean {close[0]}?" if close else f"Known: {', '.join(known)}."
