"""What README and docs show exists: commands with their options, recipe fields, paths and Python calls."""

import ast
import inspect
import math
import re
import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import typer

import vaelens as vl
from connected.__main__ import parser
from vaelens.blind.counting import between
from vaelens.blind.result_file import BlindTest, Trial
from vaelens.blind.sentences import p_text, percent
from vaelens.cli.main import app
from vaelens.finetuning.recipe import Recipe
from vaelens.metrics.binomial import SIGNIFICANT, Proportion, fewest_hits, power, proportion
from vaelens.metrics.bradley_terry import bradley_terry
from vaelens.report.tables import number

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md", ROOT / "README.ja.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md"))]
COMMANDS: dict[str, Any] = typer.main.get_command(app).commands  # type: ignore[attr-defined]
OPTIONS = {name for command in COMMANDS.values() for one in command.params for name in (*one.opts, *one.secondary_opts)}
OTHER_PROGRAMS = {"--version", "--help", "--nproc-per-node"}  # the root command's, torchrun's; img2dataset's have a _
OTHER_PROGRAMS |= {option for action in parser()._actions for option in action.option_strings}
FIELDS = {
    f"{table}.{name}"
    for table, field in Recipe.model_fields.items()
    for name in getattr(field.annotation, "model_fields", {})
}
TABLES = {field.partition(".")[0] for field in FIELDS}
FOLDERS = ("src", "tests", "docs", "embedded", "examples", "benchmarks", "connected", ".ci", ".github")


def fenced(page: Path, *languages: str) -> list[str]:
    text = page.read_text("utf-8")
    return [code for name, code in re.findall(r"^```(\w+)\n(.*?)^```", text, re.M | re.S) if name in languages]


def inline(page: Path) -> list[str]:
    return re.findall(r"`([^`\n]+)`", re.sub(r"^```.*?^```", "", page.read_text("utf-8"), flags=re.M | re.S))


def command_lines(page: Path) -> Iterator[list[str]]:
    """The words after `vaelens` of each command line, in blocks and in the running text."""
    lines = [line for code in fenced(page, "sh", "bash") for line in code.replace("\\\n", " ").splitlines()]
    lines += [code for code in inline(page) if code.startswith("vaelens ")]
    for line in lines:
        words = shlex.split(line, comments=True)
        programs = [Path(word).name for word in words]
        if "vaelens" in programs:
            yield words[programs.index("vaelens") + 1 :]


def problems_of(words: list[str]) -> list[str]:
    """What a command line names that isn't there."""
    name, *arguments = words or [""]
    if name not in COMMANDS:
        return [] if not words or name in OTHER_PROGRAMS | {"..."} else [f"no command {name}"]
    known = {option for one in COMMANDS[name].params for option in (*one.opts, *one.secondary_opts)} | {"--help"}
    found = [f"{name} has no {word}" for word in arguments if re.match(r"--?[a-z]", word) and word not in known]
    changed = [arguments[i + 1].partition("=")[0] for i, word in enumerate(arguments[:-1]) if word == "--set"]
    return found + [f"recipes have no field {field}" for field in changed if field not in FIELDS]


def python_problems(code: str) -> list[str]:
    """Calls of the package whose name or keyword arguments don't exist; methods of a VAE named `vae` too."""
    found: list[str] = []
    for node in ast.walk(ast.parse(code)):
        if not (isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute)):
            continue
        owner, name = node.func.value, node.func.attr
        if not (isinstance(owner, ast.Name) and owner.id in {"vl", "vaelens", "vae"}):
            continue
        called = getattr(vl.VAE if owner.id == "vae" else vl, name, None)
        if called is None:
            found.append(f"{owner.id} has no {name}")
            continue
        parameters = inspect.signature(called).parameters
        if name == "generate":  # it passes on what it doesn't take itself
            parameters = {**inspect.signature(vl.compare).parameters, **parameters}
        found += [f"{name}() takes no {k.arg}" for k in node.keywords if k.arg and k.arg not in parameters]
    return found


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_commands_options_and_recipe_fields_exist(page: Path) -> None:
    problems = [problem for words in command_lines(page) for problem in problems_of(words)]
    for code in inline(page):
        options = re.findall(r"(?:^|\s)(--[a-z][a-z0-9-]+)(?!\w)", code)
        problems += [f"no option {o}" for o in options if o not in OPTIONS | OTHER_PROGRAMS]
        fields = re.findall(r"^([a-z_]+)\.(?!json|py$)([a-z_]+)(?: = .*)?$", code)
        problems += [f"recipes have no field {t}.{f}" for t, f in fields if t in TABLES and f"{t}.{f}" not in FIELDS]
    assert problems == []


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_python_calls_exist(page: Path) -> None:
    assert [problem for code in fenced(page, "python") for problem in python_problems(code)] == []


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_paths_and_links_exist(page: Path) -> None:
    links = [link.partition("#")[0] for link in re.findall(r"\]\(([^)\s]+)\)", page.read_text("utf-8"))]
    missing = [link for link in links if link and "://" not in link and not (page.parent / link).exists()]
    paths = [
        word for code in inline(page) for word in code.split() if word.partition("/")[0] in FOLDERS and "/" in word
    ]
    missing += [path for path in paths if re.fullmatch(r"[\w./-]+", path) and not (ROOT / path).exists()]
    assert missing == []


BLIND = ROOT / "docs" / "blind.md"


def tables(page: Path) -> Iterator[list[list[str]]]:
    """The cells of each table, without the line below its head."""
    for text in re.findall(r"(?:^\|.*\n)+", page.read_text("utf-8"), re.M):
        lines = text.splitlines()
        yield [[cell.strip() for cell in line.strip("|").split("|")] for line in (lines[0], *lines[2:])]


def table_with(page: Path, *head: str) -> list[list[str]]:
    """The rows of the table whose head begins so."""
    return next(rows for first, *rows in tables(page) if tuple(first[: len(head)]) == head)


def test_how_many_trials_a_blind_test_needs() -> None:
    head, *rows = next(table for table in tables(BLIND) if table[0][0] == "trials")
    rates = [float(cell.removesuffix(" %")) / 100 for cell in head[2:]]
    assert rates == [0.6, 0.75, 0.9]
    assert [int(row[0]) for row in rows] == [10, 16, 20, 40]
    for trials, fewest, *cells in rows:
        assert int(fewest) == fewest_hits(int(trials))
        assert cells == [percent(power(int(trials), rate)) for rate in rates]


def test_the_figures_of_the_blind_test_are_right() -> None:
    text = " ".join(BLIND.read_text("utf-8").split())

    def found(count: Proportion, sentence: str) -> None:
        low, high = percent(count.low), percent(count.high)
        values = {"hits": count.hits, "trials": count.trials, "low": low, "high": high, "p": p_text(count.p)}
        assert sentence.format(**values) in text

    found(proportion(12, 16, "greater"), '"{hits} of {trials} right, {p}."')
    found(proportion(12, 16, "greater"), "true hit rate lies between {low} and {high} (95 % interval)")
    found(proportion(11, 16, "greater"), '"{hits} of {trials} right, {p}."')
    found(proportion(11, 16, "greater"), "The interval of {low} to {high}")
    found(proportion(33, 48, "greater"), "{hits} of {trials} ({p}, interval {low} to {high})")
    assert f"p ({proportion(60, 100, 'greater').p:.3f}) than 12 of 16" in text
    for trials in (16, 20, 40):  # a preference's two sides
        assert f"{fewest_hits(trials, SIGNIFICANT / 2)} of {trials}" in text
    one = proportion(12, 16, "greater").p
    assert f"at least one passes with a probability of {percent(1 - (1 - one) ** 3)}." in text
    # X balanced, and so are the answers:
    alike = sum(math.comb(8, hits) ** 2 for hits in range(6, 9)) / math.comb(16, 8)
    assert f"in {100 * alike:.1f} % of all tests instead of {100 * one:.1f} %" in text
    assert f"in {100 * passing_on_the_way(10, 40):.1f} % of all tests" in text
    people = between([proportion(hits, 16, "greater") for hits in (14, 12, 7)])
    assert people is not None
    assert f"from {percent(people.lowest)} to {percent(people.highest)}" in text
    assert f"of {number(100 * people.std, 0)} percentage points" in text
    assert f"make it about {number(100 * people.by_chance, 0)}." in text


def test_the_figures_of_the_japanese_readme_are_right() -> None:
    text = "".join((ROOT / "README.ja.md").read_text("utf-8").split())
    for hits in (11, 12):
        assert f"16回中{hits}回正解（{p_text(proportion(hits, 16, 'greater').p)}）".replace(" ", "") in text  # noqa: RUF001
    unsure = proportion(11, 16, "greater")
    assert f"95%信頼区間は{percent(unsure.low)}から{percent(unsure.high)}".replace(" ", "") in text
    chances = "、".join(f"{trials}回なら{percent(power(trials, 0.75))}" for trials in (16, 40))
    assert chances.replace(" ", "") in text


def passing_on_the_way(first: int, last: int) -> float:
    """The probability that guesses reach p <= 0.05 after one of these numbers of trials, when each is looked at."""
    still, passed = {0: 1.0}, 0.0  # hits -> the probability to have them without having passed
    for trials in range(1, last + 1):
        still = {hits: (still.get(hits, 0) + still.get(hits - 1, 0)) / 2 for hits in range(trials + 1)}
        if trials >= first and (fewest := fewest_hits(trials)) is not None:
            passed += sum(still.pop(hits) for hits in list(still) if hits >= fewest)
    return passed


def test_the_preferences_of_the_example_are_right() -> None:
    counts = {"A, B": 15, "A, C": 18, "B, C": 14}
    expected = []
    for pair, hits in counts.items():
        one = proportion(hits, 20, "two-sided")
        spread = f"{percent(one.low)} to {percent(one.high)}"
        expected.append([pair, f"{hits} of 20", spread, p_text(one.p).removeprefix("p ").removeprefix("= ")])
    assert table_with(BLIND, "pair", "first preferred") == expected
    found = bradley_terry([[0, 15, 18], [5, 0, 14], [2, 6, 0]])
    assert found.scores is not None
    rows = [[number(x, 2, True) for x in (one.value, one.low, one.high)] for one in found.scores]
    assert table_with(BLIND, "decoder", "Bradley-Terry score") == [
        [name, value, f"{low} to {high}"] for name, (value, low, high) in zip("ABC", rows, strict=True)
    ]


def test_the_fields_of_a_result_file_are_documented() -> None:
    for model, head in ((BlindTest, "field"), (Trial, "field of a trial")):
        named = [name for row in table_with(BLIND, head) for name in re.findall(r"`(\w+)`", row[0])]
        fields = [field.alias or name for name, field in model.model_fields.items()]
        assert sorted(named) == sorted(fields + ["checksum"] * (model is BlindTest))


def test_the_checks_find_what_isnt_there() -> None:
    assert problems_of(["compare", "a prompt", "--sead", "0"]) == ["compare has no --sead"]
    assert problems_of(["compair"]) == ["no command compair"]
    assert problems_of(["finetune", "photos", "--set", "loss.nothing=1"]) == ["recipes have no field loss.nothing"]
    assert python_problems("vl.compare('a', sead=1)\nvl.nothing()\nvae.decode(z)") == [
        "compare() takes no sead",
        "vl has no nothing",
    ]
    assert len(FIELDS) > 30
    assert sum(1 for page in PAGES for _ in command_lines(page)) > 40
