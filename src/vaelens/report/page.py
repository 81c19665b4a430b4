"""Pages: one HTML file that holds its images, opens from disk and never reaches for the network.

`render_page` is the viewer alone, `render_report` sections with the viewer among them.
"""

import base64
import hashlib
import json
import re
import struct
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from importlib import resources
from string import Template

from vaelens.images.drawing import Box
from vaelens.report.tables import Table, escaped, table_html

IMAGES, MEASURED, HOW = "Images", "Measured", "How it was made"
SPOKEN = {IMAGES: "images", MEASURED: "measured", HOW: "made"}  # headings that the viewer can translate: strings.js
SHOWN = "shown"  # the fact that is the line under the page's title
SCRIPTS = ("strings.js", "heatmap.js", "region.js", "readout.js", "jumping.js", "panel.js", "viewer.js")
PNG_HEADER = b"\x89PNG\r\n\x1a\n\x00\x00\x00\rIHDR"


@dataclass(frozen=True)
class Layer:
    """One image of a panel, the original or one reconstruction, with what was measured on it, or ""."""

    name: str
    png: bytes
    note: str


@dataclass(frozen=True)
class Panel:
    """One photo with all its versions, the original first, all `width` x `height` pixels.

    `note` is the line under the title, or "". `boxes` are what a viewer can jump to, in the panel's pixels.
    """

    title: str
    width: int
    height: int
    layers: tuple[Layer, ...]
    note: str = ""
    boxes: tuple[Box, ...] = ()


@dataclass(frozen=True)
class Section:
    """A part of a page: a heading in words, and what is under it as HTML, where every text is escaped already."""

    heading: str
    html: str


def render_page(title: str, panels: Sequence[Panel], table: Table, facts: Mapping[str, str]) -> str:
    """The whole page as text for a UTF-8 file: the panels, the table if it has rows, and the facts in order.

    The fact named "shown" is the line under the title. Any text may hold markup: none of it takes effect.
    The page's policy lets only its own script and style run and only images inside it load.

    Raises ValueError for a panel without layers, and for a layer that isn't a PNG of the panel's size: layers
    of different sizes would be laid over each other wrongly.
    """
    below = _section(MEASURED, _wide(table_html(table))) if table.rows else ""
    below += _facts({name: value for name, value in facts.items() if name != SHOWN})
    return _page(title, facts.get(SHOWN), panels, above="", below=below, style=package_file("viewer.css"))


def render_report(
    title: str,
    shown: str,
    *,
    above: Sequence[Section],
    panels: Sequence[Panel],
    below: Sequence[Section],
    facts: Mapping[str, str],
    style: str = "",
) -> str:
    """A page of sections, those with images to look at between `above` and `below`, under the same policy.

    Whoever makes the sections escapes the texts in them; title, `shown`, panels and facts may hold any markup.
    Each section can be reached from a line of links at the top. `style` is CSS beyond that of the page.

    Raises ValueError as `render_page` does.
    """
    sections = [_section(part.heading, part.html, anchor=True) for part in above]
    if panels:
        sections.append(f'<h2 class="images" id="images"{_spoken(IMAGES)}>{IMAGES}</h2>')
    headings = [part.heading for part in above] + [IMAGES] * bool(panels) + [part.heading for part in below]
    headings += [HOW] * bool(facts)
    links = "".join(f'<a href="#{_anchor(heading)}"{_spoken(heading)}>{escaped(heading)}</a>\n' for heading in headings)
    rest = "".join(_section(part.heading, part.html, anchor=True) for part in below) + _facts(facts)
    nav = f'<nav aria-label="Sections" data-label="sections">\n{links}</nav>\n'
    style = package_file("viewer.css") + package_file("report.css") + style
    return _page(title, shown, panels, above=nav + "".join(sections), below=rest, style=style)


def wide_table(table: Table) -> str:
    """The table for a section's HTML: where it is wider than the window it scrolls by itself."""
    return _wide(table_html(table, merged=True))


def _page(title: str, shown: str | None, panels: Sequence[Panel], *, above: str, below: str, style: str) -> str:
    for panel in panels:
        _check(panel)
    script = viewer_script()
    return Template(package_file("viewer.html")).substitute(
        policy=f"default-src 'none'; img-src data:; style-src {_hash(style)}; script-src {_hash(script)}; "
        "base-uri 'none'; form-action 'none'",
        title=escaped(title),
        shown="" if shown is None else f'<p class="shown">{escaped(shown)}</p>',
        above=above,
        below=below,
        templates=package_file("templates.html"),
        data=_data(panels),
        style=style,
        script=script,
    )


def _check(panel: Panel) -> None:
    if not panel.layers:
        raise ValueError(f"{panel.title}: a panel without layers")
    for layer in panel.layers:
        size = struct.unpack(">II", layer.png[16:24]) if layer.png.startswith(PNG_HEADER) else None
        if size != (panel.width, panel.height):
            found = f"{size[0]} x {size[1]}" if size else "no PNG"
            raise ValueError(f"{panel.title}: layer {layer.name} is {found}, not {panel.width} x {panel.height}")


def _data(panels: Sequence[Panel]) -> str:
    """The panels as JSON that can stand inside <script>: without "<" nothing in it ends the element."""
    content = [
        {
            "title": panel.title,
            "note": panel.note,
            "width": panel.width,
            "height": panel.height,
            "layers": [
                {
                    "name": layer.name,
                    "note": layer.note,
                    "src": "data:image/png;base64," + base64.b64encode(layer.png).decode("ascii"),
                }
                for layer in panel.layers
            ],
            "boxes": [asdict(box) for box in panel.boxes],
        }
        for panel in panels
    ]
    return json.dumps(content).replace("<", "\\u003c")


def viewer_script() -> str:
    """The script's files as one, whose names are its own: only `vaelensViewer` is the window's."""
    return '"use strict";\n(() => {\n' + "\n".join(map(package_file, SCRIPTS)) + "})();\n"


def _facts(facts: Mapping[str, str]) -> str:
    if not facts:
        return ""
    rows = "".join(
        f'<tr><th scope="row">{escaped(name)}</th><td>{escaped(value)}</td></tr>\n' for name, value in facts.items()
    )
    return _section(HOW, _wide(f'<table class="facts">\n<tbody>\n{rows}</tbody>\n</table>'), anchor=True)


def _section(heading: str, content: str, anchor: bool = False) -> str:
    name = f' id="{_anchor(heading)}"' if anchor else ""
    return f'<section class="results"{name}>\n<h2{_spoken(heading)}>{escaped(heading)}</h2>\n{content}\n</section>\n'


def _spoken(heading: str) -> str:
    return f' data-text="{SPOKEN[heading]}"' if heading in SPOKEN else ""


def _wide(table: str) -> str:
    return f'<div class="wide">\n{table}\n</div>'


def _anchor(heading: str) -> str:
    return "-".join(re.findall("[a-z0-9]+", heading.lower()))


def _hash(text: str) -> str:
    """The Content-Security-Policy source that lets exactly this inline text through."""
    return f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode('ascii')}'"


def package_file(name: str) -> str:
    """One of the viewer's own files as text."""
    return resources.files("vaelens.report").joinpath("viewer", name).read_text(encoding="utf-8")
