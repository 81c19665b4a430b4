"""The options of sampling: their limits, and that everything is derived from their one declaration."""

import inspect
from typing import Any

import pytest
from typer.testing import CliRunner

from vaelens.cli.main import app
from vaelens.comparison.workflow import compare
from vaelens.errors import UsageError
from vaelens.sampling import Sampling, defaults, options, parse_seeds, parse_size


@pytest.mark.parametrize("command", ["compare", "generate"])
def test_every_option_is_a_flag_with_its_help(command: str) -> None:
    text = " ".join(CliRunner().invoke(app, [command, "--help"]).output.split())
    for option in options().values():
        assert ", ".join(option.flags) in text
        assert option.help in text


def test_compare_takes_every_option_with_its_default() -> None:
    keywords = inspect.signature(compare).parameters
    assert {name: keywords[name].default for name in options()} == defaults()


@pytest.mark.parametrize(("text", "size"), [("512", (512, 512)), ("768x512", (512, 768)), (" 64 X 72 ", (72, 64))])
def test_sizes_are_parsed(text: str, size: tuple[int, int]) -> None:
    assert parse_size(text) == size


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"prompt": "  "}, "the prompt is empty"),
        ({"steps": 0}, "from 1 to 1000, not 0"),
        ({"steps": 100000}, "from 1 to 1000, not 100000"),
        ({"guidance_scale": -1.0}, "from 0 to 1000, not -1"),
        ({"guidance_scale": float("nan")}, "not nan"),
        ({"guidance_scale": float("inf")}, "not inf"),
        ({"size": (500, 512)}, "512x500 has a side of 500 pixels; sides are multiples of 8 from 8 to 4096"),
        ({"size": (500, 512)}, "Nearest: 496"),
        ({"size": (0, 512)}, "Nearest: 8"),
        ({"scheduler": "eulr"}, "no scheduler is called 'eulr'. Known: ddim"),
    ],
)
def test_sampling_outside_its_limits_is_refused(given: dict[str, Any], words: str) -> None:
    with pytest.raises(UsageError) as error:
        Sampling(**{"prompt": "a"} | given)
    assert words in str(error.value)


@pytest.mark.parametrize(
    ("text", "seeds"), [("0", [0]), ("0,1 , 5", [0, 1, 5]), ("3 4", [3, 4]), ("0-2", [0, 1, 2]), ("-3", [-3])]
)
def test_seeds_are_parsed(text: str, seeds: list[int]) -> None:
    assert parse_seeds(text) == seeds


@pytest.mark.parametrize("text", ["", "a", "1.5", "2-1", "0-", "0-99999", "1,,b"])
def test_what_isnt_a_list_of_seeds_is_refused(text: str) -> None:
    with pytest.raises(UsageError, match="seeds"):
        parse_seeds(text)
