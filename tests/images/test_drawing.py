"""Synthetic images: fixed by their seeds, with labels that say where things really are."""

from collections.abc import Callable

import numpy as np
import pytest

from vaelens.images.drawing import Drawing
from vaelens.images.faces import draw_face
from vaelens.images.letters import GLYPHS, draw_letters


@pytest.mark.parametrize("draw", [draw_face, draw_letters])
def test_a_seed_fixes_an_image(draw: Callable[[int, int], Drawing]) -> None:
    first, again, other = draw(0, 64), draw(0, 64), draw(1, 64)
    assert first.pixels.shape == (64, 64, 3)
    assert np.array_equal(first.pixels, again.pixels)
    assert first.boxes == again.boxes
    assert not np.array_equal(first.pixels, other.pixels)


def test_the_boxes_of_a_face_are_nested() -> None:
    for seed in range(6):
        boxes = draw_face(seed, 128).boxes
        assert sorted(b.label for b in boxes) == ["eye", "eye", "face", "iris", "iris", "mouth"]
        face = next(b for b in boxes if b.label == "face")
        eyes = [b for b in boxes if b.label == "eye"]
        for eye, iris in zip(eyes, [b for b in boxes if b.label == "iris"], strict=True):
            assert face.left < eye.left <= iris.left < iris.right <= eye.right < face.right
            assert face.top < eye.top <= iris.top < iris.bottom <= eye.bottom < face.bottom
            assert 128 / 13 < eye.right - eye.left < 128 / 4


def test_an_eye_holds_a_pupil_and_a_highlight() -> None:
    for seed in range(6):
        drawing = draw_face(seed)
        for box in (b for b in drawing.boxes if b.label == "iris"):
            eye = drawing.pixels[int(box.top) : int(box.bottom) + 1, int(box.left) : int(box.right) + 1].mean(axis=2)
            assert eye.min() < 30, "no pupil"
            assert eye.max() > 225, "no highlight"


def test_glyph_boxes_contain_ink_and_are_inside_the_image() -> None:
    drawing = draw_letters(3, 128, height=20)
    assert len(drawing.boxes) > 10
    for box in drawing.boxes:
        assert box.label in GLYPHS
        assert 0 <= box.left < box.right <= 128
        assert 0 <= box.top < box.bottom <= 128
        inside = drawing.pixels[int(box.top) : int(box.bottom) + 1, int(box.left) : int(box.right) + 1]
        assert np.ptp(inside.astype(int), axis=(0, 1)).max() > 40, f"no ink in the box of {box.label}"


def test_letters_have_the_height_that_is_given() -> None:
    small, large = (draw_letters(0, 256, height=h) for h in (10, 40))
    heights = [np.median([b.bottom - b.top for b in d.boxes if b.label.isupper()]) for d in (small, large)]
    assert 5 < heights[0] < 10
    assert 3 < heights[1] / heights[0] < 5
