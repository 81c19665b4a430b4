"""How a command names its arguments in its help, and what a wrong command line gets to read."""

from collections.abc import Callable, Sequence
from typing import Any, cast

import typer
from typer.core import TyperArgument, TyperCommand

from vaelens.text.display import shortened
from vaelens.text.numbers import parse_integer, parse_number

TyperUsageError = typer.BadParameter.__bases__[0]  # click's, or that of Typer's own copy of it

NUMBERS: dict[Any, Callable[[str], float]] = {
    int: parse_integer,
    list[int]: parse_integer,
    float: parse_number,
    list[float]: parse_number,
}
PROMPT = "PROMPT"  # the metavar of texts that may be empty
# What is wrong with a value, by pydantic's name for it.
WRONG_VALUES = {
    "int_parsing": "{input} is not a whole number.",
    "float_parsing": "{input} is not a number.",
    "greater_than_equal": "{input} is too small, the smallest is {ge}.",
    "less_than_equal": "{input} is too large, the largest is {le}.",
}


class Command(TyperCommand):
    """A command whose help names an argument by its metavar alone, where Typer adds braces and a Python type."""

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        for parameter in self.params:
            if isinstance(parameter, TyperArgument):
                vars(parameter)["display_type_rich"] = _no_type
            described: Any = parameter
            if described.metavar != PROMPT:
                vars(parameter)["process_value"] = _not_empty(described)
            if described.type_descriptor.annotation in NUMBERS:
                vars(parameter)["process_value"] = _strictly(described)

    def collect_usage_pieces(self, ctx: Any) -> list[str]:
        return [piece.replace("{", "").replace("}", "") for piece in super().collect_usage_pieces(ctx)]


def _not_empty(parameter: Any) -> Callable[[Any, Any], Any]:
    """The option's reading of a value, which refuses an empty one: as a path, it would mean the current folder."""
    read = parameter.process_value

    def process(ctx: Any, value: Any) -> Any:
        if "" in (value if isinstance(value, list | tuple) else [value]):
            raise typer.BadParameter("the value '' is empty", ctx=ctx, param=parameter)
        return read(ctx, value)

    return process


def _strictly(parameter: Any) -> Callable[[Any, Any], Any]:
    """The option's reading of a value, which refuses texts that `text.numbers` refuses."""
    read, parse = parameter.process_value, NUMBERS[parameter.type_descriptor.annotation]

    def process(ctx: Any, value: Any) -> Any:
        given = cast("Sequence[Any]", value if isinstance(value, list | tuple) else [value])
        for text in given:
            if isinstance(text, str):
                try:
                    parse(text)
                except ValueError as error:
                    message = f"{shortened(text, 60)} is {error}"
                    raise typer.BadParameter(message, ctx=ctx, param=parameter) from error
        return read(ctx, value)

    return process


def _no_type(ctx: Any) -> None:
    """In the place of an argument's Python type."""


def explanation(error: Any) -> str:
    """Typer's usage error in one line: what is wrong, and with which option or argument."""
    parameter, name = getattr(error, "param", None), getattr(error, "option_name", "")
    where = error.ctx.command_path if error.ctx else "vaelens"
    text = error.message[:1].lower() + error.message[1:].rstrip(".") + "."
    if parameter is not None:
        label = parameter.opts[-1] if parameter.param_type_name == "option" else parameter.metavar
        text = f"{label}: {_wrong_value(error) or text}" if error.message else f"{label} is missing."
    elif name and (near := getattr(error, "possibilities", None)):
        return f"no option is called {name}. Did you mean {' or '.join(near)}?"
    elif name:
        text = text.replace(f"option {name!r} ", f"{name} ")
    elif text.endswith("?."):  # another command's name
        return text[:-1]
    return f"{text} See `{where} --help`."


def _wrong_value(error: Any) -> str | None:
    """What is wrong with the value, where Typer has pydantic read it."""
    read: Any = getattr(error.__cause__, "errors", None)
    found: dict[str, Any] = read()[0] if read else {"type": ""}
    text = WRONG_VALUES.get(found["type"])
    return text and text.format(input=found["input"], **found.get("ctx", {}))
