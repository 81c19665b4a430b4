"""The viewer's page as text: nothing in a name takes effect, and nothing outside it is named.

What a browser makes of it is in test_viewer.py.
"""

import base64
import json
import re

import pytest

from support.browser.pages import HOSTILE, NO_TABLE, RED, RESULTS, Parsed, page_of, solid
from vaelens.images.writing import encode_png
from vaelens.report.page import render_page
from vaelens.report.panels import Layer, Panel
from vaelens.report.tables import best_cells, table_html


def test_hostile_texts_add_no_element_and_no_attribute() -> None:
    def shape(page: str) -> list[tuple[str, list[str]]]:
        return [(tag, sorted(attributes)) for tag, attributes in Parsed(page).tags]

    assert shape(page_of(HOSTILE)) == shape(page_of("harmless"))


def test_the_data_is_json_with_the_images_byte_for_byte() -> None:
    page = page_of(HOSTILE)
    (panel,) = json.loads(Parsed(page).texts["data"])["panels"]
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
    page = render_page("t", [], NO_TABLE, {"Seed": "0", "shown": "Two photos.", "Command": "vaelens"})
    assert page.count("Two photos.") == 1
    assert page.index("Two photos.") < page.index("<main>") < page.index("Seed") < page.index("Command")
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


def test_the_best_of_each_image_is_known() -> None:
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
