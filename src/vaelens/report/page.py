"""HTML pages in one file: they hold their images, open from disk and never use the network.

`render_page` writes the viewer with a table, `render_report` sections with the viewer among them. The viewer's texts
are in viewer/strings/<language>.json: a new language is one file there.
"""

import base64
import hashlib
import json
import re
import struct
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from importlib import resources
from importlib.resources.abc import Traversable
from string import Template

from vaelens.images.drawing import Box
from vaelens.report.tables import Table, escaped, table_html

IMAGES, MEASURED, HOW = "Images", "Measured", "How it was made"
TRANSLATED = {IMAGES: "images", MEASURED: "measured", HOW: "how"}  # headings -> the viewer's text
SHOWN = "shown"  # the fact shown as the line under the title
SCRIPTS = ("strings.js", "heatmap.js", "region.js", "readout.js", "boxes.js", "panel.js", "viewer.js")
Strings = dict[str, dict[str, str]]  # texts by language and name, English first
VIEWER = resources.files("vaelens.report").joinpath("viewer")
PNG_HEADER = b"\x89PNG\r\n\x1a\n\x00\x00\x00\rIHDR"


@dataclass(frozen=True)
class Layer:
    """One image of a panel, the original or a version of it; `note` holds its scores, or is ""."""

    name: str
    png: bytes
    note: str


@dataclass(frozen=True)
class Panel:
    """One image in all its versions, the original first, all `width` x `height` pixels.

    `note` is the line under the title, or "". `boxes` are regions to jump to, in the panel's pixels.
    """

    title: str
    width: int
    height: int
    layers: tuple[Layer, ...]
    note: str = ""
    boxes: tuple[Box, ...] = ()


@dataclass(frozen=True)
class Section:
    """A part of a page: a heading as text, and its content as HTML with every text escaped."""

    heading: str
    html: str


def render_page(title: str, panels: Sequence[Panel], table: Table, facts: Mapping[str, str]) -> str:
    """The page, to be written as UTF-8: the panels, the table if it has rows, and the facts in order.

    The fact named "shown" is the line under the title. Markup in any text is shown, not interpreted. The page's
    Content-Security-Policy allows only its own script, style and images.

    Raises ValueError for a panel without layers, and for a layer that isn't a PNG of the panel's size: layers are laid
    over each other.
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
    """A page of sections with links to them at the top and the viewer between `above` and `below`.

    Texts inside the sections must be escaped already; title, `shown`, panels and facts may hold markup. `style` is CSS
    added to the page's own. Raises ValueError as `render_page` does.
    """
    sections = [_section(part.heading, part.html, anchor=True) for part in above]
    if panels:
        sections.append(f'<h2 class="images" id="images"{_translated(IMAGES)}>{IMAGES}</h2>')
    headings = [part.heading for part in above] + [IMAGES] * bool(panels) + [part.heading for part in below]
    headings += [HOW] * bool(facts)
    links = "".join(
        f'<a href="#{_anchor(heading)}"{_translated(heading)}>{escaped(heading)}</a>\n' for heading in headings
    )
    rest = "".join(_section(part.heading, part.html, anchor=True) for part in below) + _facts(facts)
    nav = f'<nav aria-label="Sections" data-label="sections">\n{links}</nav>\n'
    style = package_file("viewer.css") + package_file("report.css") + style
    return _page(title, shown, panels, above=nav + "".join(sections), below=rest, style=style)


def wide_table(table: Table) -> str:
    """The table as HTML for a section. If it is wider than the window, it scrolls by itself."""
    return _wide(table_html(table, merged=True))


def _page(title: str, shown: str | None, panels: Sequence[Panel], *, above: str, below: str, style: str) -> str:
    for panel in panels:
        _check(panel)
    script, strings = viewer_script(), read_strings(VIEWER)
    return Template(package_file("viewer.html")).substitute(
        policy=f"default-src 'none'; img-src data:; style-src {_hash(style)}; script-src {_hash(script)}; "
        "base-uri 'none'; form-action 'none'",
        title=escaped(title),
        shown="" if shown is None else f'<p class="shown">{escaped(shown)}</p>',
        above=above,
        below=below,
        languages=language_buttons(strings),
        noscript=script_notes(strings),
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
    """The panels as JSON for a <script> element."""
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
    return _script_json(content)


def viewer_script() -> str:
    """The viewer's script with its texts. Its only global name is `vaelensViewer`."""
    return bundled(map(package_file, SCRIPTS), read_strings(VIEWER))


def bundled(scripts: Iterable[str], strings: Strings) -> str:
    """Scripts as one, in a scope of their own, with the texts as the constant STRINGS."""
    return f'"use strict";\n(() => {{\nconst STRINGS = {_script_json(strings)};\n{chr(10).join(scripts)}}})();\n'


def read_strings(folder: Traversable) -> Strings:
    """The texts in a folder's strings/<language>.json."""
    files = (file for file in folder.joinpath("strings").iterdir() if file.name.endswith(".json"))
    found = {file.name.removesuffix(".json"): json.loads(file.read_text(encoding="utf-8")) for file in files}
    return {language: found[language] for language in sorted(found, key=lambda name: (name != "en", name))}


def language_buttons(strings: Strings) -> str:
    """A button for each language, as HTML."""
    return "\n".join(
        f'<button type="button" lang="{language}">{escaped(texts["nativeName"])}</button>'
        for language, texts in strings.items()
    )


def script_notes(strings: Strings) -> str:
    """What a browser without scripts shows, in each language, as HTML."""
    return "\n".join(f'<p lang="{language}">{escaped(texts["noScript"])}</p>' for language, texts in strings.items())


def _script_json(value: object) -> str:
    """JSON that is safe inside <script>: without "<" nothing in it can end the element."""
    return json.dumps(value).replace("<", "\\u003c")


def _facts(facts: Mapping[str, str]) -> str:
    if not facts:
        return ""
    rows = "".join(
        f'<tr><th scope="row">{escaped(name)}</th><td>{escaped(value)}</td></tr>\n' for name, value in facts.items()
    )
    return _section(HOW, _wide(f'<table class="facts">\n<tbody>\n{rows}</tbody>\n</table>'), anchor=True)


def _section(heading: str, content: str, anchor: bool = False) -> str:
    name = f' id="{_anchor(heading)}"' if anchor else ""
    return (
        f'<section class="results"{name}>\n<h2{_translated(heading)}>{escaped(heading)}</h2>\n{content}\n</section>\n'
    )


def _translated(heading: str) -> str:
    return f' data-text="{TRANSLATED[heading]}"' if heading in TRANSLATED else ""


def _wide(table: str) -> str:
    return f'<div class="wide">\n{table}\n</div>'


def _anchor(heading: str) -> str:
    return "-".join(re.findall("[a-z0-9]+", heading.lower()))


def _hash(text: str) -> str:
    """The Content-Security-Policy source that allows exactly this inline text."""
    return f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode('ascii')}'"


def package_file(name: str) -> str:
    """One of the viewer's own files as text."""
    return VIEWER.joinpath(name).read_text(encoding="utf-8")
