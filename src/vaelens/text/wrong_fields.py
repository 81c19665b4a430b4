"""What is wrong with values from elsewhere that don't fit a schema, in our words: pydantic's are for programmers."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, cast

from vaelens.text.display import shortened

if TYPE_CHECKING:
    from pydantic import ValidationError

# What is expected, by pydantic's name for what is wrong.
EXPECTED = {
    "int_type": "a whole number",
    "int_parsing": "a whole number",
    "int_parsing_size": "a smaller whole number",
    "int_from_float": "a whole number",
    "float_type": "a number",
    "float_parsing": "a number",
    "finite_number": "a finite number",
    "bool_type": "true or false",
    "bool_parsing": "true or false",
    "string_type": "text",
    "string_unicode": "text",
    "string_too_short": "at least {min_length} characters",
    "string_too_long": "at most {max_length} characters",
    "string_pattern_mismatch": "text of another form",
    "dict_type": "an object",
    "model_type": "an object",
    "model_attributes_type": "an object",
    "dataclass_type": "an object",
    "mapping_type": "an object",
    "list_type": "a list",
    "tuple_type": "a list",
    "too_short": "at least {min_length} values",
    "too_long": "at most {max_length} values",
    "none_required": "null",
    "literal_error": "{expected}",
    "greater_than": "more than {gt}",
    "greater_than_equal": "at least {ge}",
    "less_than": "less than {lt}",
    "less_than_equal": "at most {le}",
}
LENGTHS = {"too_short", "too_long"}  # of lists, of which pydantic tells how long they are
LONGEST = 60  # characters of a value in a message
PARTS = 6  # of a field's name in a message


def explain_error(error: "ValidationError", values: object) -> str:
    """The first wrong field of `values`, as "field 'a.b': expected a whole number (found '1')".

    It ends without a full stop. Where a value may be one of several tables, those errors count that belong to the one
    which fits best.
    """
    found = error.errors(include_url=False)
    groups: dict[tuple[int | str, ...], list[Any]] = {}
    for one in found:
        if one["loc"][:1] == found[0]["loc"][:1]:
            groups.setdefault(one["loc"][:2], []).append(one)
    first = min(groups.values(), key=len)[0]
    name = field_name(first["loc"], values)
    return f"field {name!r}: {explain_value(first)}" if name else explain_value(first)


def explain_value(details: Mapping[str, Any]) -> str:
    """What is wrong with a value, by one of pydantic's `errors()`: what is expected, and what was found."""
    kind, context, value = details["type"], details.get("ctx", {}), details.get("input")
    if kind == "missing":
        return "it is missing"
    if kind == "extra_forbidden":
        return f"it is unknown (found {_shown(value)})"
    if kind == "value_error":
        return f"{str(context.get('error', 'not allowed')).rstrip('.')} (found {_shown(value)})"
    if kind not in EXPECTED:
        return f"not a valid value (found {_shown(value)})"
    found = f"{context['actual_length']}" if kind in LENGTHS and context.get("actual_length") else _shown(value)
    return f"expected {EXPECTED[kind].format(**context)} (found {found})"


def field_name(place: Sequence[int | str], values: object) -> str:
    """The name of the field at a place of pydantic's, without the names of classes that it puts between."""
    parts: list[str] = []
    for position, part in enumerate(place):
        if isinstance(values, Mapping) and (part in values or position == len(place) - 1):  # the last may be missing
            values = cast(Mapping[Any, object], values).get(part)
        elif isinstance(values, list | tuple) and isinstance(part, int):
            held = cast(Sequence[object], values)
            values = held[part] if part < len(held) else None
        else:
            continue
        parts.append(str(part))
    return ".".join(parts[:PARTS])


def _shown(value: object) -> str:
    """A value as JSON and TOML write it, where that differs from Python."""
    if isinstance(value, bool | None):
        return {None: "null", True: "true", False: "false"}[value]
    return shortened(repr(list(cast(tuple[object, ...], value)) if isinstance(value, tuple) else value), LONGEST)
