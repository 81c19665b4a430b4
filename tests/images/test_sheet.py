"""The sheet: every cell's pixels untouched, whatever the images' sizes and the names are."""

from itertools import pairwise

import numpy as np
import pytest

from vaelens.images.sheet import PAPER, RULE, SheetRow, draw_sheet


def noise(height: int, width: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)


def find(sheet: np.ndarray, cell: np.ndarray) -> tuple[int, int] | None:
    """(top, left) of the only place where the cell stands in the sheet, pixel for pixel."""
    h, w = cell.shape[:2]
    corner = (sheet[: sheet.shape[0] - h + 1, : sheet.shape[1] - w + 1] == cell[0, 0]).all(axis=-1)
    places = [(y, x) for y, x in np.argwhere(corner) if (sheet[y : y + h, x : x + w] == cell).all()]
    assert len(places) <= 1, f"a cell stands at {places}"
    return (int(places[0][0]), int(places[0][1])) if places else None


def ink(sheet: np.ndarray) -> np.ndarray:
    """Where the sheet is darker than its rules and frames: text, when cells are white."""
    return (sheet < 180).all(axis=-1)


def text_sheet(title: str = "a.png", heading: str = "kl-f8", caption: str = "") -> np.ndarray:
    white = np.full((128, 200, 3), 255, dtype=np.uint8)
    return draw_sheet([SheetRow(title, (white,), (caption,))], [heading])


@pytest.mark.parametrize(("height", "width"), [(128, 128), (771, 513), (1, 4096), (4096, 1), (127, 100)])
def test_every_cell_is_in_the_sheet_unchanged(height: int, width: int) -> None:
    cells = tuple(noise(height, width, seed) for seed in range(3))
    sheet = draw_sheet([SheetRow("a.png", cells, ("", "24.31 dB", "25.00 dB"))], ["original", "A", "B"])
    assert sheet.dtype == np.uint8
    places = [find(sheet, cell) for cell in cells]
    assert None not in places
    tops, lefts = zip(*places, strict=True)
    assert len(set(tops)) == 1, "the cells of a row stand on one level"
    assert lefts[0] >= 24, "a margin on the left"
    assert all(b - a >= width + 8 for a, b in pairwise(lefts)), f"cells at {lefts} touch"


def test_rows_of_different_sizes_share_their_columns() -> None:
    first, second = (noise(150, 200, 1), noise(150, 200, 2)), (noise(300, 140, 3), noise(300, 140, 4))
    sheet = draw_sheet([SheetRow("a", first), SheetRow("b", second)], ["original", "A"])
    places = [[find(sheet, cell) for cell in row] for row in (first, second)]
    assert [place[1] for place in places[0]] == [place[1] for place in places[1]]
    assert places[1][0][0] > places[0][0][0] + 150


@pytest.mark.parametrize(("height", "width", "factor"), [(1, 1, 128), (9, 7, 14), (64, 20, 2)])
def test_a_tiny_image_is_enlarged_by_whole_pixels(height: int, width: int, factor: int) -> None:
    cell = noise(height, width)
    sheet = draw_sheet([SheetRow("a.png", (cell,))], ["original"])
    assert find(sheet, np.kron(cell, np.ones((factor, factor, 1), dtype=np.uint8))) is not None


def test_an_enlarged_image_has_a_caption_with_the_factor() -> None:
    white = {side: draw_sheet([SheetRow("", (np.full((side, side, 3), 255, np.uint8),))], ["A"]) for side in (64, 128)}
    below = {side: ink(sheet)[-45:].sum() for side, sheet in white.items()}
    assert below[64] > 50, "an enlarged image has a caption"
    assert below[128] == 0, "an image in its own size has none"


def test_twenty_columns() -> None:
    cells = tuple(noise(130, 130, seed) for seed in range(20))
    sheet = draw_sheet([SheetRow("a.png", cells)], [f"vae {number}" for number in range(20)])
    places = [find(sheet, cell) for cell in cells]
    assert None not in places
    assert sheet.shape[1] - (places[-1][1] + 130) >= 24, "a margin on the right"


def test_the_sheet_is_light_with_dark_text_and_a_margin_all_round() -> None:
    sheet = text_sheet(caption="24.31 dB  SSIM 0.812")
    assert sheet[0, 0].min() > 230
    assert sheet.min() < 60
    ys, xs = np.nonzero((sheet != sheet[0, 0]).any(axis=-1))
    assert ys.min() >= 16, "a margin above"
    assert xs.min() >= 16, "a margin on the left"
    assert sheet.shape[0] - ys.max() >= 16, "a margin below"
    assert sheet.shape[1] - xs.max() >= 16, "a margin on the right"


@pytest.mark.parametrize("text", ["x" * 300, "a-folder/" * 40 + "last.safetensors", "word " * 100])
def test_long_texts_stay_in_their_column(text: str) -> None:
    white = np.full((128, 200, 3), 255, dtype=np.uint8)
    for headings, captions in ([text, ""], ["", ""]), (["", ""], [text, ""]):
        sheet = draw_sheet([SheetRow("", (white, white), tuple(captions))], headings)
        second = 32 + 200 + 16
        assert ink(sheet)[:, 32:second].any()
        assert not ink(sheet)[:, second - 8 :].any(), "the text runs into the next column"
    assert np.nonzero(ink(text_sheet(title=text)))[1].max() < 32 + 200, "the title leaves the sheet"


def test_a_shortened_name_keeps_both_ends() -> None:
    name = "photo-" + "x" * 200
    assert not np.array_equal(text_sheet(title=f"{name}-1.png"), text_sheet(title=f"{name}-2.png"))
    assert not np.array_equal(text_sheet(title=f"A{name}.png"), text_sheet(title=f"B{name}.png"))


def test_a_name_that_fits_is_drawn_whole() -> None:
    drawn = {tuple(np.flatnonzero(ink(text_sheet(title=f"ab{middle}de")))) for middle in "cmx"}
    assert len(drawn) == 3


def test_a_heading_takes_two_lines_at_most() -> None:
    one, two, many = (text_sheet(heading="alpha-beta " * count).shape[0] for count in (1, 3, 100))
    assert one < two == many


@pytest.mark.parametrize(
    ("given", "drawn"),
    [
        ("漢字.png", "??.png"),
        ("\N{GRINNING FACE}.png", "?.png"),
        ("Müller\N{EN DASH}é.png", "Muller-e.png"),
        ("a\u200d\ufe0f\u202eb", "ab"),
        ("3\N{MULTIPLICATION SIGN}4", "3x4"),
        ("a\tb\nc", "a b c"),
        ("bad\udcff\x00name", "bad??name"),
        ("\ufb01ne", "fine"),
    ],
)
def test_characters_without_a_glyph_are_replaced(given: str, drawn: str) -> None:
    for place in ("title", "heading", "caption"):
        assert np.array_equal(text_sheet(**{place: given}), text_sheet(**{place: drawn})), place
    assert not np.array_equal(text_sheet(title=given), text_sheet(title=""))


def test_the_title_names_the_size() -> None:
    a, b = (np.full((128, width, 3), 255, dtype=np.uint8) for width in (140, 150))  # both in the narrowest column
    sheets = [draw_sheet([SheetRow("a.png", (cell,))], ["A"]) for cell in (a, b)]
    titles = [sheet[60 : find_frame(sheet)] for sheet in sheets]
    assert titles[0].shape == titles[1].shape
    assert not np.array_equal(*titles)


def find_frame(sheet: np.ndarray) -> int:
    """The row above the first all-white line, which is a cell's."""
    return int(np.argmax((sheet[:, 40] == 255).all(axis=-1))) - 2


def test_a_white_image_has_an_edge() -> None:
    sheet = text_sheet()
    top, left = find_frame(sheet) + 2, 32
    assert (sheet[top - 1, left : left + 200] < 230).all()
    assert (sheet[top : top + 128, left : left + 200] == 255).all()


@pytest.mark.parametrize(
    ("rows", "headings", "fact"),
    [
        ([], ["A"], "needs rows"),
        ([SheetRow("a", ())], [], "needs rows"),
        ([SheetRow("a", (noise(8, 8),))], ["A", "B"], "1 cells"),
        ([SheetRow("a", (noise(8, 8),), ("x", "y"))], ["A"], "2 captions"),
        ([SheetRow("a", (noise(8, 8).astype(np.float32),))], ["A"], "not uint8"),
        ([SheetRow("a", (noise(8, 8)[..., :1],))], ["A"], "not uint8"),
        ([SheetRow("a", (noise(0, 8),))], ["A"], "not uint8"),
        ([SheetRow("a", (noise(8, 8), noise(8, 9)))], ["A", "B"], "in one row"),
    ],
)
def test_invalid_rows_are_refused(rows: list[SheetRow], headings: list[str], fact: str) -> None:
    with pytest.raises(ValueError, match=fact):
        draw_sheet(rows, headings)


def test_a_place_without_an_image_holds_its_caption_and_no_frame() -> None:
    image = np.full((200, 200, 3), 7, np.uint8)
    sheet = draw_sheet([SheetRow("t", (None, image), ("made from a prompt", "x"))], ["a", "b"])
    left = sheet[110:, 31:233]
    assert not (left == RULE).all(-1).any(), "no frame"
    assert (left[:60] != PAPER).any(), "its caption"
    assert (sheet == 7).all(-1).sum() == 200 * 200
    with pytest.raises(ValueError, match="no cell holds an image"):
        draw_sheet([SheetRow("t", (None,))], ["a"])
