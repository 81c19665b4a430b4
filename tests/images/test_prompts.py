"""The small language of tiny-sd, and the drawings it stands for."""

from dataclasses import fields

import numpy as np
import pytest

from vaelens.images.prompts import VALUES, Face, Letter, PromptError, Scene, caption, parse, partly, random_scene
from vaelens.images.scenes import COLOURS, HAIR, IRIS, draw_scene

FACE = Face("smiling", "blue", "red", "yellow")


@pytest.mark.parametrize(
    ("prompt", "scene"),
    [
        ("a smiling face with blue eyes", Face("smiling", "blue")),
        ("the letter R in red on white", Letter("R", "red", "white")),
        ("A happy blue-eyed face, blond-haired!", Face("smiling", "blue", "blond", "")),
        ("a sad portrait with blonde hair on a green background", Face("sad", "", "blond", "green")),
        ("a face on white with brown eyes and brown hair", Face("", "brown", "brown", "white")),
        ("a red letter a on a black background", Letter("A", "red", "black")),
        ("letter z, blue background, white", Letter("Z", "white", "blue")),
        ("the letter", Letter()),
        ("the letter R on a background of blue", Letter("R", "", "blue")),
        ("the letter R, background red", Letter("R", "", "red")),
        ("the letter R in white on a background of red", Letter("R", "white", "red")),
    ],
)
def test_prompts_are_parsed(prompt: str, scene: Scene) -> None:
    assert parse(prompt) == scene


def test_every_caption_is_parsed_to_its_scene() -> None:
    rng = np.random.default_rng(0)
    for _ in range(3000):
        scene = partly(random_scene(rng), rng)
        assert parse(caption(scene, rng)) == scene
        assert parse(caption(scene)) == scene
    assert caption(FACE) == "a smiling face with blue eyes and red hair on a yellow background"
    assert caption(Letter("R", "red", "white")) == "the letter R in red on white"


@pytest.mark.parametrize(
    ("prompt", "words"),
    [
        ("", "The prompt is empty"),
        ("an astronaut riding a horse", "doesn't know 'astronaut'"),
        ("a smilling face", "Did you mean 'smiling'?"),
        ("a blue car", "doesn't know 'car'"),
        ("blue eyes", "one face or one letter, and the prompt must say which"),
        ("a face and the letter R", "one face or one letter"),
        ("a smiling sad face", "two of one thing: mood smiling and sad"),
        ("a face on a grey background", "tiny-sd has no grey for the background: white, black, red"),
        ("a face with red eyes", "no red for the eyes: blue, green, brown or grey"),
        ("a face with blue", "can't tell what should be blue"),
        ("a blue green face", "can't tell what should be blue"),
        ("a face with eyes", "can't tell which colour the eyes should have"),
        ("the letter R in red on red", "A letter in red on red can't be seen"),
        ("the smiling letter R", "can't tell what 'smiling' should be of a letter"),
        ("a face in a letter", "one face or one letter"),
        ("the letter 7", "doesn't know '7'"),
        ("x" * 10_000, "doesn't know 'xxxxx"),
    ],
)
def test_other_prompts_are_refused_with_known_words(prompt: str, words: str) -> None:
    with pytest.raises(PromptError) as caught:
        parse(prompt)
    assert words in str(caught.value)
    assert len(str(caught.value)) < 350


def test_every_attribute_has_at_least_four_values_and_all_can_be_drawn() -> None:
    for kind, attributes in VALUES.items():
        assert [field.name for field in fields(kind)] == list(attributes)
        assert all(len(values) >= 4 for values in attributes.values())
    assert set(VALUES[Face]["ground"]) == set(VALUES[Letter]["ink"]) == set(COLOURS)
    assert set(VALUES[Face]["eyes"]) == set(IRIS)
    assert set(VALUES[Face]["hair"]) == set(HAIR)


def test_a_drawing_shows_its_attributes_where_its_boxes_say() -> None:
    drawing = draw_scene(FACE, seed=3)
    assert drawing.pixels.shape == (256, 256, 3)
    assert [box.label for box in drawing.boxes] == ["face", "eye", "iris", "eye", "iris", "mouth"]
    np.testing.assert_allclose(drawing.pixels[4, 4], COLOURS["yellow"], atol=16)
    for box in drawing.boxes:
        if box.label == "iris":
            part = drawing.pixels[int(box.top) : int(box.bottom), int(box.left) : int(box.right)].astype(int)
            assert (part[..., 2] > part[..., 0] + 40).mean() > 0.25  # blue
    letter = draw_scene(Letter("I", "black", "white"), seed=0)
    (box,) = letter.boxes
    assert (box.label, box.glyph) == ("I", True)
    dark = np.argwhere(letter.pixels.mean(-1) < 128)
    (top, left), (bottom, right) = dark.min(0), dark.max(0) + 1
    np.testing.assert_allclose((left, top, right, bottom), (box.left, box.top, box.right, box.bottom), atol=3)


def test_a_seed_fixes_a_drawing_and_each_attribute_changes_it() -> None:
    before = draw_scene(FACE, seed=5).pixels
    assert np.array_equal(before, draw_scene(FACE, seed=5).pixels)
    assert not np.array_equal(before, draw_scene(FACE, seed=6).pixels)
    for other in (Face("sad", "blue", "red", "yellow"), Face("smiling", "green", "red", "yellow")):
        assert not np.array_equal(before, draw_scene(other, seed=5).pixels)
