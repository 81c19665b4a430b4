"""A labelled sheet: images beside their reconstructions, pixel for pixel.

One column per version, one row per image. An image's pixel is a pixel of the sheet, so what a VAE does to
an eye or a letter is seen as it is and not as a resampling made it.
"""

import re
import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from PIL import Image, ImageDraw, ImageFont

MARGIN = 32
GAP = 16
NARROWEST = 176  # a column has room for "24.31 dB  SSIM 0.812" even above an image one pixel wide
ENLARGED_BELOW = 128  # a longer side under this is enlarged: an image of one pixel can't be seen
LINE = 1.35  # line height over font size

PAPER, INK, QUIET, RULE = (246, 246, 246), (24, 24, 24), (92, 92, 92), (205, 205, 205)
HEADING, TITLE, CAPTION = 18, 15, 14  # font sizes in pixels
REPLACED = {"\N{MULTIPLICATION SIGN}": "x", "\N{MINUS SIGN}": "-"}

Colour = tuple[int, int, int]


@dataclass(frozen=True)
class SheetRow:
    """One image in its versions: `cells` are uint8 [h,w,3], all of one size, one per column.

    `title` is the file's name; the size is written beside it. `captions` has one text per cell, or none at all. Where
    there is no such version the cell is None, and its caption stands in its place.
    """

    title: str
    cells: tuple[np.ndarray | None, ...]
    captions: tuple[str, ...] = ()

    @property
    def size(self) -> tuple[int, int]:
        """Height and width of its cells."""
        h, w = next(cell.shape[:2] for cell in self.cells if cell is not None)
        return h, w


def draw_sheet(rows: Sequence[SheetRow], headings: Sequence[str]) -> np.ndarray:
    """The sheet as uint8 [h,w,3]: a heading above each column, then the rows, top to bottom.

    Cells are copied, never resampled; those whose longer side is under 128 pixels are repeated by a whole
    factor, which the caption then names. Texts too long for their place are shortened in the middle, and
    characters without a glyph in Pillow's own font become their base letter or "?".

    Raises ValueError when there is nothing to draw or a row doesn't fit the headings.
    """
    _check(rows, headings)
    column = max(NARROWEST, *(row.size[1] * _factor(row) for row in rows))
    return np.concatenate([_heading_band(headings, column), *(_row_band(row, column) for row in rows)])


def _check(rows: Sequence[SheetRow], headings: Sequence[str]) -> None:
    if not rows or not headings:
        raise ValueError(f"a sheet needs rows and headings, not {len(rows)} rows and {len(headings)} headings")
    for row in rows:
        if len(row.cells) != len(headings) or len(row.captions) not in {0, len(headings)}:
            raise ValueError(
                f"{row.title}: {len(row.cells)} cells and {len(row.captions)} captions for {len(headings)} headings"
            )
        images = [cell for cell in row.cells if cell is not None]
        if not images:
            raise ValueError(f"{row.title}: no cell holds an image")
        for cell in images:
            if cell.dtype != np.uint8 or cell.ndim != 3 or cell.shape[2] != 3 or cell.size == 0:
                raise ValueError(f"{row.title}: a cell is {cell.dtype} {list(cell.shape)}, not uint8 [h,w,3]")
            if cell.shape != images[0].shape:
                raise ValueError(f"{row.title}: cells of {list(cell.shape)} and {list(images[0].shape)} in one row")


def _factor(row: SheetRow) -> int:
    longer = max(row.size)
    return max(1, ENLARGED_BELOW // longer)


def _heading_band(headings: Sequence[str], column: int) -> np.ndarray:
    blocks = [_wrapped(heading, HEADING, column, most=2) for heading in headings]
    lines = max(len(block) for block in blocks)
    height = MARGIN + round(lines * HEADING * LINE) + 12
    band = Image.new("RGB", (_width(len(headings), column), height), PAPER)
    draw = ImageDraw.Draw(band)
    for x, block in zip(_lefts(len(headings), column), blocks, strict=True):
        # The last lines stand on one level, nearest to what they name.
        _write(draw, (x, MARGIN + (lines - len(block)) * HEADING * LINE), block, HEADING, INK)
    draw.line([(MARGIN, height - 1), (band.width - MARGIN - 1, height - 1)], RULE)
    return np.array(band)


def _row_band(row: SheetRow, column: int) -> np.ndarray:
    factor, count = _factor(row), len(row.cells)
    h, w = (side * factor for side in row.size)
    enlarged = [f"enlarged {factor}x"] if factor > 1 else []
    captions = list(zip(row.cells, row.captions or [""] * count, strict=True))
    blocks = [_wrapped(text, CAPTION, column, 3) + enlarged if cell is not None else [] for cell, text in captions]
    instead = [_wrapped(text, CAPTION, w, int(h / CAPTION / LINE)) if cell is None else [] for cell, text in captions]
    below = round(max(len(block) for block in blocks) * CAPTION * LINE)
    top = 18 + round(TITLE * LINE) + 10

    band = Image.new("RGB", (_width(count, column), top + h + 10 + below + 18), PAPER)
    draw = ImageDraw.Draw(band)
    size = f"{row.size[1]} x {row.size[0]}"
    room = band.width - 2 * MARGIN - 14 - _length(size, TITLE)
    name = _shortened(_drawable(row.title), TITLE, room)
    _write(draw, (MARGIN, 18), [name], TITLE, INK)
    _write(draw, (MARGIN + (_length(name, TITLE) + 14 if name else 0), 18), [size], TITLE, QUIET)
    for x, block, text in zip(_lefts(count, column), blocks, instead, strict=True):
        _write(draw, (x, top + h + 10), block, CAPTION, QUIET)
        _write(draw, (x, top), text, CAPTION, QUIET)
    pixels = np.array(band)
    for x, cell in zip(_lefts(count, column), row.cells, strict=True):
        if cell is None:
            continue
        pixels[top - 1 : top + h + 1, x - 1 : x + w + 1] = RULE  # a frame around, so that a white sky has an edge
        pixels[top : top + h, x : x + w] = cell.repeat(factor, axis=0).repeat(factor, axis=1)
    return pixels


def _width(count: int, column: int) -> int:
    return 2 * MARGIN + count * column + (count - 1) * GAP


def _lefts(count: int, column: int) -> range:
    return range(MARGIN, MARGIN + count * (column + GAP), column + GAP)


def _write(draw: ImageDraw.ImageDraw, at: tuple[float, float], lines: Sequence[str], size: int, colour: Colour) -> None:
    for number, line in enumerate(lines):
        draw.text((round(at[0]), round(at[1] + number * size * LINE)), line, colour, _font(size))


def _wrapped(text: str, size: int, width: float, most: int) -> list[str]:
    """At most `most` lines of `width` pixels, broken after spaces, slashes, hyphens and underscores."""
    lines = [""]
    for piece in re.findall(r"[^\s/_-]+[\s/_-]*|[\s/_-]+", _drawable(text)):
        if lines[-1] and len(lines) < most and _length(lines[-1] + piece.rstrip(), size) > width:
            lines.append("")
        lines[-1] += piece
    return [_shortened(line.strip(), size, width) for line in lines if line.strip()]


def _shortened(text: str, size: int, width: float) -> str:
    """The text, or as much of both its ends as fits: names often differ in their last characters only."""
    if _length(text, size) <= width:
        return text
    fits, over = 0, len(text)
    while over - fits > 1:
        shown = (fits + over) // 2
        if _length(_ends(text, shown), size) <= width:
            fits = shown
        else:
            over = shown
    return _ends(text, fits)


def _ends(text: str, shown: int) -> str:
    return text[: shown - shown // 2] + "…" + text[len(text) - shown // 2 :]


def _drawable(text: str) -> str:
    """The text in characters that the font has: é as e, any dash as -, what is invisible dropped, the rest as ?."""
    return "".join(_glyph(character) for character in unicodedata.normalize("NFKD", text))


@lru_cache(maxsize=4096)
def _glyph(character: str) -> str:
    kind = unicodedata.category(character)
    if kind == "Zs" or character in "\t\n\r":
        return " "
    if kind in {"Mn", "Me", "Cf"}:  # accents that stand alone here, joiners, marks of direction
        return ""
    if _bitmap(character) == _bitmap("\uffff"):  # never a character, so it shows the font's box for "missing"
        return REPLACED.get(character, "-" if kind == "Pd" else "?")
    return character


def _bitmap(character: str) -> bytes:
    canvas = Image.new("L", (32, 32))
    ImageDraw.Draw(canvas).text((4, 4), character, 255, _font(CAPTION))
    return canvas.tobytes()


def _length(text: str, size: int) -> float:
    return _font(size).getlength(text)


@lru_cache
def _font(size: int) -> ImageFont.FreeTypeFont | ImageFont.ImageFont:
    return ImageFont.load_default(size)
