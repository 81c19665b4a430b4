"""What the page is made of: a fixed list of files, all from this package, read once when the server starts."""

from importlib import resources
from string import Template

from vaelens.report.page import package_file, viewer_script

SCRIPTS = ("words.js", "asking.js", "choosing.js", "showing.js", "app.js")
HTML, CSS, JS = "text/html; charset=utf-8", "text/css; charset=utf-8", "text/javascript; charset=utf-8"


def index() -> bytes:
    """The page itself, with the viewer's templates inside."""
    return Template(_file("index.html")).substitute(templates=package_file("templates.html")).encode()


def assets() -> dict[str, tuple[str, bytes]]:
    """Content type and bytes of each file under /static/."""
    script = '"use strict";\n(() => {\n' + "\n".join(map(_file, SCRIPTS)) + "})();\n"
    return {
        "viewer.css": (CSS, package_file("viewer.css").encode()),
        "viewer.js": (JS, viewer_script().encode()),
        "app.css": (CSS, _file("app.css").encode()),
        "app.js": (JS, script.encode()),
    }


def _file(name: str) -> str:
    return resources.files("vaelens.web").joinpath("page", name).read_text(encoding="utf-8")
