"""The viewer: one HTML file that holds its pictures, opens from disk and never reaches for the network."""

import base64
import hashlib
import json
import struct
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib import resources
from string import Template

from vaelens.report.tables import Table, escaped, table_html

SHOWN = "shown"  # the fact that is the line under the page's title
PNG_HEADER = b"\x89PNG\r\n\x1a\n\x00\x00\x00\rIHDR"


@dataclass(frozen=True)
class Layer:
    """One picture of a panel, the original or one reconstruction, with what was measured on it, or ""."""

    name: str
    png: bytes
    note: str


@dataclass(frozen=True)
class Panel:
    """One photograph with all its versions, the original first, all `width` x `height` pixels."""

    title: str
    width: int
    height: int
    layers: tuple[Layer, ...]


def render_page(title: str, panels: Sequence[Panel], table: Table, facts: Mapping[str, str]) -> str:
    """The whole page as text for a UTF-8 file: the panels, the table if it has rows, and the facts in order.

    The fact named "shown" is the line under the title. Any text may hold markup: none of it takes effect.
    The page's policy lets only its own script and style run and only pictures inside it load.

    Raises ValueError for a panel without layers, and for a layer that isn't a PNG of the panel's size: layers
    of different sizes would be laid over each other wrongly.
    """
    for panel in panels:
        _check(panel)
    page = Template(_viewer("viewer.html"))
    style, script = _viewer("viewer.css"), _viewer("viewer.js")
    return page.substitute(
        policy=f"default-src 'none'; img-src data:; style-src {_hash(style)}; script-src {_hash(script)}; "
        "base-uri 'none'; form-action 'none'",
        title=escaped(title),
        shown=f'<p class="shown">{escaped(facts[SHOWN])}</p>' if SHOWN in facts else "",
        results=_section("Measured", table_html(table)) if table.rows else "",
        facts=_facts({name: value for name, value in facts.items() if name != SHOWN}),
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
        }
        for panel in panels
    ]
    return json.dumps(content).replace("<", "\\u003c")


def _facts(facts: Mapping[str, str]) -> str:
    if not facts:
        return ""
    rows = "".join(
        f'<tr><th scope="row">{escaped(name)}</th><td>{escaped(value)}</td></tr>\n' for name, value in facts.items()
    )
    return _section("How it was made", f'<table class="facts">\n<tbody>\n{rows}</tbody>\n</table>')


def _section(heading: str, table: str) -> str:
    return f'<section class="results">\n<h2>{heading}</h2>\n<div class="wide">\n{table}\n</div>\n</section>'


def _hash(text: str) -> str:
    """The Content-Security-Policy source that lets exactly this inline text through."""
    return f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode('ascii')}'"


def _viewer(name: str) -> str:
    return resources.files("vaelens.report").joinpath("viewer", name).read_text(encoding="utf-8")
