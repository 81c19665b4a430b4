"""The viewer's page as text: nothing in a name takes effect, and nothing outside it is named.

What a browser makes of it is in test_viewer.py.
"""

import base64
import json
import re
from html.parser import HTMLParser

import numpy as np
import pytest

from vaelens.images.writing import encode_png
from vaelens.report.page import Layer, Panel, render_page
from vaelens.report.tables import Column, Table, best_cells, table_html

RED, GREEN, BLUE, YELLOW = (200, 30, 30), (30, 160, 60), (40, 60, 200), (220, 200, 40)
HOSTILE = "</script></style><script>window.owned=1</script><img src=x onerror=window.owned=1>\"'&<!--"
NO_TABLE = Table((), ())


def solid(colour: tuple[int, int, int], width: int = 320, height: int = 240) -> np.ndarray:
    return np.full((height, width, 3), colour, dtype=np.uint8)


def panel_of(*pictures: np.ndarray, title: str = "photo.png", name: str = "vae") -> Panel:
    names = ["original", *(f"{name}-{number}" for number in range(1, len(pictures)))]
    layers = tuple(
        Layer(name, encode_png(p), "24.31 dB" if name != "original" else "")
        for name, p in zip(names, pictures, strict=True)
    )
    return Panel(title, pictures[0].shape[1], pictures[0].shape[0], layers)


def page_of(text: str) -> str:
    """A page in which every text that a user can choose is `text`."""
    png = encode_png(solid(RED))
    panel = Panel(text, 320, 240, (Layer(text, png, text), Layer(text, png, text)))
    table = Table((Column(text), Column(text, "higher")), ((text, "1.0"), (text, text)))
    return render_page(text, [panel], table, {"shown": text, text: text})


class Parsed(HTMLParser):
    """A page's start tags with attributes, and the text of each element that has an id."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.texts: dict[str, str] = {}
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_data(self, data: str) -> None:
        if name := self.tags and self.tags[-1][1].get("id"):
            self.texts[name] = self.texts.get(name, "") + data


def test_hostile_texts_add_no_element_and_no_attribute() -> None:
    def shape(page: str) -> list[tuple[str, list[str]]]:
        return [(tag, sorted(attributes)) for tag, attributes in Parsed(page).tags]

    assert shape(page_of(HOSTILE)) == shape(page_of("harmless"))


def test_the_data_is_json_with_the_pictures_byte_for_byte() -> None:
    page = page_of(HOSTILE)
    (panel,) = json.loads(Parsed(page).texts["data"])
    assert (panel["title"], panel["width"], panel["height"]) == (HOSTILE, 320, 240)
    assert [(layer["name"], layer["note"]) for layer in panel["layers"]] == [(HOSTILE, HOSTILE)] * 2
    prefix, png = panel["layers"][0]["src"].split(",")
    assert prefix == "data:image/png;base64"
    assert base64.b64decode(png) == encode_png(solid(RED))


def test_the_page_names_no_other_place_and_its_policy_comes_first() -> None:
    page = page_of("harmless")
    assert not re.search(r"https?:|@import|url\(", page)
    tags = Parsed(page).tags
    assert all(a.get(name, "data:").startswith("data:") for _, a in tags for name in ("src", "href"))
    policies = [a for tag, a in tags if a.get("http-equiv") == "Content-Security-Policy"]
    assert len(policies) == 1
    content = policies[0]["content"] or ""
    assert "default-src 'none'" in content
    assert "img-src data:;" in content
    assert not re.search(r"unsafe|http|\*", content)
    names = [tag for tag, _ in tags]
    assert tags.index(("meta", policies[0])) < min(names.index("style"), names.index("script"), names.index("link"))


def test_facts_stand_in_their_order_and_shown_stands_above() -> None:
    page = render_page("t", [], NO_TABLE, {"Seed": "0", "shown": "Two photographs.", "Command": "vaelens"})
    assert page.count("Two photographs.") == 1
    assert page.index("Two photographs.") < page.index("<main>") < page.index("Seed") < page.index("Command")
    assert "Measured</h2>" not in page
    assert "How it was made</h2>" not in render_page("t", [], NO_TABLE, {})


def test_a_name_that_is_no_unicode_can_be_written() -> None:
    page = page_of("bad\udcff.png").encode("utf-8")
    assert b"<h1>bad?.png</h1>" in page


@pytest.mark.parametrize(
    ("panel", "says"),
    [
        (Panel("a.png", 3, 2, ()), "without layers"),
        (Panel("a.png", 3, 2, (Layer("A", encode_png(solid(RED, 3, 3)), ""),)), "3 x 3, not 3 x 2"),
        (Panel("a.png", 3, 2, (Layer("A", b"\xff\xd8\xff", ""),)), "no PNG"),
    ],
)
def test_layers_that_cannot_lie_over_each_other_are_refused(panel: Panel, says: str) -> None:
    with pytest.raises(ValueError, match=f"a.png.*{says}"):
        render_page("t", [panel], NO_TABLE, {})


RESULTS = Table(
    (Column("picture"), Column("vae"), Column("PSNR", "higher"), Column("LPIPS", "lower"), Column("ms")),
    (
        ("a", "A", "24.5", "0.2", "9"),
        ("a", "B", "25.5", "0.3", "8"),
        ("b", "A", "9.5", "0.1", ""),
        ("b", "B", "10.5", "0.1", "7"),
        ("c", "A", "nan", "0.5", "7"),
        ("c", "B", "30", "n/a", "7"),
    ),
)


def test_the_best_of_each_picture_is_known() -> None:
    assert best_cells(RESULTS) == {(1, 2), (0, 3), (3, 2), (2, 3), (3, 3)}


def test_a_table_aligns_numbers_and_marks_the_best() -> None:
    html = table_html(RESULTS)
    assert html.count("<b>") == 5
    assert '<td class="number"><b>25.5</b></td>' in html
    assert '<td class="number">24.5</td>' in html
    assert "<td><b>0.2</b></td>" in html, "a column with n/a in it isn't one of numbers"
    assert '<td class="number">8</td>' in html
    assert "<td>A</td>" in html
    assert html.count("higher is better") == html.count("lower is better") == 1
