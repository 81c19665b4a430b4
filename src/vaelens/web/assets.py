"""The page's files, all from this package, read once when the server starts."""

from importlib import resources
from string import Template

from vaelens.report.page import (
    bundled,
    language_buttons,
    read_strings,
    script_notes,
    viewer_script,
    viewer_style,
    viewer_templates,
)

PAGE = resources.files("vaelens.web").joinpath("page")
SCRIPTS = ("strings.js", "client.js", "form.js", "jobs.js", "app.js")
HTML, CSS, JS = "text/html; charset=utf-8", "text/css; charset=utf-8", "text/javascript; charset=utf-8"


def index() -> bytes:
    """The page itself, with the viewer's templates inside."""
    strings = read_strings(PAGE)
    return (
        Template(_file("index.html"))
        .substitute(
            languages=language_buttons(strings),
            noscript=script_notes(strings),
            templates=viewer_templates(),
        )
        .encode()
    )


def static_files() -> dict[str, tuple[str, bytes]]:
    """Content type and bytes of each file under /static/."""
    return {
        "viewer.css": (CSS, viewer_style().encode()),
        "viewer.js": (JS, viewer_script().encode()),
        "app.css": (CSS, _file("app.css").encode()),
        "app.js": (JS, bundled(map(_file, SCRIPTS), read_strings(PAGE)).encode()),
    }


def _file(name: str) -> str:
    return PAGE.joinpath(name).read_text(encoding="utf-8")
