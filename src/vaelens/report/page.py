"""HTML pages in one file: they hold their images, open from disk and never use the network.

`render_page` writes the viewer with a table, `render_report` sections with the viewer among them. The viewer's texts
are in viewer/strings/<language>.json: a new language is one file there.
"""

import base64
import hashlib
import json
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from importlib import resources
from importlib.resources.abc import Traversable
from string import Template

from vaelens.report.panels import Panel, blind_data, check_panel, image_sources, panels_data
from vaelens.report.tables import Table, escaped, table_html

IMAGES, MEASURED, HOW = "Images", "Measured", "How it was made"
TRANSLATED = {IMAGES: "images", MEASURED: "measured", HOW: "how"}  # headings -> the viewer's text
BLIND_TITLE = "Blind test"
SHOWN = "shown"  # the fact shown as the line under the title
SCRIPTS = (
    "strings.js", "heatmap.js", "region.js", "readout.js", "boxes.js", "panel.js",
    *(f"blind/{name}.js" for name in (
        "random", "statistics", "bradley_terry", "sha256", "places", "plan", "result", "summary", "tables", "trial",
        "setup", "outcome", "test",
    )),
    "viewer.js",
)  # fmt: skip
STYLES, TEMPLATES = ("viewer.css", "blind/blind.css"), ("templates.html", "blind/templates.html")
Strings = dict[str, dict[str, str]]  # texts by language and name, English first
VIEWER = resources.files("vaelens.report").joinpath("viewer")


@dataclass(frozen=True)
class Section:
    """A part of a page: a heading as text, and its content as HTML with every text escaped."""

    heading: str
    html: str


def render_page(
    title: str, panels: Sequence[Panel], table: Table, facts: Mapping[str, str], *, blind: bool = False
) -> str:
    """The page, to be written as UTF-8: the panels, the table if it has rows, and the facts in order.

    The fact named "shown" is the line under the title. Markup in any text is shown, not interpreted. The page's
    Content-Security-Policy allows only its own script, style and images. A `blind` page opens as a blind test and shows
    all this after it: until then its texts, the names among them, are in the file in base64 only.

    Raises ValueError as `check_panel`, and for a blind page without a panel that shows two decoders.
    """
    below = _section(MEASURED, _wide(table_html(table))) if table.rows else ""
    below += _facts({name: value for name, value in facts.items() if name != SHOWN})
    return _page(title, facts.get(SHOWN), panels, above="", below=below, style="", blind=blind)


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
    added to the page's own. Raises ValueError as `check_panel`.
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
    style = package_file("report.css") + style
    return _page(title, shown, panels, above=nav + "".join(sections), below=rest, style=style)


def wide_table(table: Table) -> str:
    """The table as HTML for a section. If it is wider than the window, it scrolls by itself."""
    return _wide(table_html(table, merged=True))


def _page(
    title: str,
    shown: str | None,
    panels: Sequence[Panel],
    *,
    above: str,
    below: str,
    style: str,
    blind: bool = False,
) -> str:
    for panel in panels:
        check_panel(panel)
    script, strings, style = viewer_script(), read_strings(VIEWER), viewer_style() + style
    noscript = script_notes(strings)
    body = Template(package_file("body.html")).substitute(
        title=escaped(title),
        shown="" if shown is None else f'<p class="shown">{escaped(shown)}</p>',
        above=above,
        below=below,
        languages=language_buttons(strings),
        noscript=noscript,
    )
    test = blind_data(panels)
    if blind and test is None:
        raise ValueError(f"{title}: a blind test needs a panel that shows two decoders")
    sources = image_sources(panels)
    if blind:
        content = {"title": title, "body": body, "panels": panels_data(panels, list(map(str, range(len(sources)))))}
        data: object = {"sealed": _base64_json({**content, "blind": test}), "images": sources}
    else:
        data = {"panels": panels_data(panels, sources), "blind": test}
    return Template(package_file("viewer.html")).substitute(
        policy=f"default-src 'none'; img-src data:; style-src {_hash(style)}; script-src {_hash(script)}; "
        "base-uri 'none'; form-action 'none'",
        title=BLIND_TITLE if blind else escaped(title),
        body=f"<noscript>{noscript}</noscript>\n" if blind else body,
        templates=viewer_templates(),
        data=_script_json(data),
        style=style,
        script=script,
    )


def viewer_style() -> str:
    """The viewer's CSS."""
    return "".join(map(package_file, STYLES))


def viewer_templates() -> str:
    """The templates that the viewer's script fills in, as HTML."""
    return "".join(map(package_file, TEMPLATES))


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


def _base64_json(value: object) -> str:
    return base64.b64encode(json.dumps(value).encode()).decode("ascii")


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
