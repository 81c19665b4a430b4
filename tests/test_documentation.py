"""What README and docs show exists: commands with their options, recipe fields, paths and Python calls."""

import ast
import inspect
import re
import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import typer

import vaelens as vl
from connected.__main__ import parser
from vaelens.cli.main import app
from vaelens.finetuning.recipe import Recipe

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
