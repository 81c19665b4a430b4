"""The formats of other trainers: help, messages and documentation follow from one table."""

from pathlib import Path
from typing import get_args

import pytest
from typer.testing import CliRunner

from vaelens.cli.main import app
from vaelens.errors import UsageError
from vaelens.latent_cache.formats.known import FORMATS, Format, Name, format_named
from vaelens.latent_cache.formats.writing import LAYOUTS
from vaelens.weights.registry import registry

PAGE = Path(__file__).parents[2] / "docs" / "latent-cache.md"


def test_each_has_its_files() -> None:
    assert tuple(FORMATS) == tuple(LAYOUTS) == get_args(Name)


@pytest.mark.parametrize("how", FORMATS.values(), ids=str)
def test_help_and_documentation_name_it(how: Format) -> None:
    said = CliRunner().invoke(app, ["encode", "--help"]).stdout
    assert "".join(str(how).split()) in "".join(said.split())  # whichever way it is wrapped
    project = f"[{how.repository}](https://github.com/{how.repository})"
    row = f"| `--format {how.name}` | {project} | {how.models} | {how.version} |"
    page = PAGE.read_text("utf-8")
    assert row in page
    assert all(setting.format(side=1024) in page for setting in how.settings)
    assert how.spaces.keys() <= registry().spaces.keys()


def test_an_unknown_one_is_refused_with_the_known() -> None:
    with pytest.raises(UsageError, match=r"there is no format 'onetrainer'. Known: sd-scripts, ai-toolkit."):
        format_named("onetrainer")
    with pytest.raises(UsageError, match=r"Did you mean ai-toolkit\?"):
        format_named("aitoolkit")
