"""Pages of the viewer with plain colours, or with hostile texts in every place; and a page taken apart."""

from html.parser import HTMLParser

import numpy as np

from vaelens.images.writing import encode_png
from vaelens.report.page import render_page
from vaelens.report.panels import Layer, Panel
from vaelens.report.tables import Column, Table

RED, GREEN, BLUE, YELLOW = (200, 30, 30), (30, 160, 60), (40, 60, 200), (220, 200, 40)


HOSTILE = "</script></style><script>window.owned=1</script><img src=x onerror=window.owned=1>\"'&<!--"


NO_TABLE = Table((), ())


def solid(colour: tuple[int, int, int], width: int = 320, height: int = 240) -> np.ndarray:
    return np.full((height, width, 3), colour, dtype=np.uint8)


def panel_of(*images: np.ndarray, title: str = "photo.png", name: str = "vae") -> Panel:
    names = ["original", *(f"{name}-{number}" for number in range(1, len(images)))]
    layers = tuple(
        Layer(name, encode_png(p), "24.31 dB" if name != "original" else "")
        for name, p in zip(names, images, strict=True)
    )
    return Panel(title, images[0].shape[1], images[0].shape[0], layers)


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


RESULTS = Table(
    (Column("image"), Column("vae"), Column("PSNR", "higher"), Column("LPIPS", "lower"), Column("ms")),
    (
        ("a", "A", "24.5", "0.2", "9"),
        ("a", "B", "25.5", "0.3", "8"),
        ("b", "A", "9.5", "0.1", ""),
        ("b", "B", "10.5", "0.1", "7"),
        ("c", "A", "nan", "0.5", "7"),
        ("c", "B", "30", "n/a", "7"),
    ),
)
