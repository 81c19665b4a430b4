"""A recipe for people: each field with its value, and whether that was published or is a choice."""

import json
from dataclasses import dataclass
from typing import Literal

from vaelens.finetuning.recipe import Recipe, field_names


@dataclass(frozen=True)
class FieldNote:
    """One field for people: its value, and who says so."""

    field: str
    value: str
    origin: Literal["published", "our choice", "unexplained"]
    why: str


def explain(recipe: Recipe) -> list[FieldNote]:
    """Each field with its value, and whether it was published or is a choice."""
    notes: list[FieldNote] = []
    values = recipe.as_dict()
    for name in field_names():
        table, field = name.split(".")
        value = values[table][field]
        shown = json.dumps(value) if not isinstance(value, str) else value or "-"
        if name in recipe.published:
            notes.append(FieldNote(name, shown, "published", recipe.published[name]))
        elif name in recipe.ours:
            notes.append(FieldNote(name, shown, "our choice", recipe.ours[name]))
        else:
            notes.append(FieldNote(name, shown, "unexplained", "the recipe doesn't say"))
    return notes
