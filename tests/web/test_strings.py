"""The texts of the viewer and of the served page: each language has every text, and every text is used."""

import re
from importlib.resources.abc import Traversable

import pytest

from vaelens.report.page import SCRIPTS as VIEWER_SCRIPTS
from vaelens.report.page import TEMPLATES, TRANSLATED, VIEWER, package_file, read_strings
from vaelens.web.assets import PAGE, SCRIPTS
from vaelens.web.request import form_fields

MARKUP = ("body.html", *TEMPLATES)
STATES = {"queued", "running", "done", "failed", "cancelled", "interrupted"}


@pytest.mark.parametrize("folder", [VIEWER, PAGE])
def test_every_language_has_the_same_texts_with_the_same_placeholders(folder: Traversable) -> None:
    english, *others = read_strings(folder).values()
    for texts in others:
        assert texts.keys() == english.keys()
        for name, text in english.items():
            assert sorted(re.findall(r"\{\w+\}", text)) == sorted(re.findall(r"\{\w+\}", texts[name])), name


def test_the_viewer_uses_every_text_and_no_other() -> None:
    english = read_strings(VIEWER)["en"]
    scripts = [package_file(name) for name in VIEWER_SCRIPTS]
    used = {name for script in scripts for name in re.findall(r"\bsay\(\"(\w+)\"", script)}
    used |= {name for file in MARKUP for name in re.findall(r"data-(?:text|label)=\"(\w+)\"", package_file(file))}
    assert used <= english.keys()
    named = {name for script in scripts for name in re.findall(r"\"(\w+)\"", script)} | set(TRANSLATED.values())
    named |= {f"{name}About" for name in ("pOneSided", "pTwoSided")}
    of_tests = {
        f"{test}{part}" for test in ("abx", "better", "closer") for part in ("Question", "Answer", "Shown", "NotShown")
    }
    assert english.keys() <= used | named | of_tests | {"nativeName", "noScript", "sections"}


def test_the_page_uses_every_text_and_no_other() -> None:
    english = read_strings(PAGE)["en"]
    scripts = [PAGE.joinpath(name).read_text("utf-8") for name in SCRIPTS]
    used = {name for script in scripts for name in re.findall(r"\bsay\(\"(\w+)\"", script)}
    used |= set(re.findall(r"data-say=\"(\w+)\"", PAGE.joinpath("index.html").read_text("utf-8")))
    options = {field["name"] for field in form_fields()}
    assert used <= english.keys()
    named = {name for script in scripts for name in re.findall(r"\"(\w+)\"", script)}
    assert english.keys() <= used | STATES | options | named | {"nativeName", "noScript"}
