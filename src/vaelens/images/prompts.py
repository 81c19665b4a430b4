"""The small language of tiny-sd: prompts parsed and written.

A face: `a smiling face with blue eyes and red hair on a yellow background`. A letter: `the letter R in red on white`.
Every part but the noun may be left out. Docs: docs/tiny-sd.md.
"""

import difflib
import re
import string
from dataclasses import dataclass, fields

import numpy as np

COLOURS = ("white", "black", "red", "green", "blue", "yellow")
MOODS = ("smiling", "sad", "surprised", "serious")
EYES = ("blue", "green", "brown", "grey")
HAIR = ("black", "brown", "red", "blond", "white")
LETTERS = tuple(string.ascii_uppercase)
SAME = {"happy": "smiling", "gray": "grey", "blonde": "blond", "portrait": "face", "eyed": "eyes", "haired": "hair"}
FILLERS = ("a", "an", "the", "with", "and", "of")
NOUNS = ("face", "letter", "eyes", "hair", "background", "in", "on")
LEFT_OUT = 0.2  # the probability that a caption leaves an attribute open

KNOWS = (
    'faces ("a smiling face with blue eyes and red hair on a yellow background") '
    'and letters ("the letter R in red on white")'
)


@dataclass(frozen=True)
class Face:
    """A face's attributes; "" for what is left open."""

    mood: str = ""
    eyes: str = ""
    hair: str = ""
    ground: str = ""


@dataclass(frozen=True)
class Letter:
    """A letter's attributes; "" for what is left open."""

    letter: str = ""
    ink: str = ""
    ground: str = ""


Scene = Face | Letter
VALUES: dict[type[Scene], dict[str, tuple[str, ...]]] = {
    Face: {"mood": MOODS, "eyes": EYES, "hair": HAIR, "ground": COLOURS},
    Letter: {"letter": LETTERS, "ink": COLOURS, "ground": COLOURS},
}
WORDS = tuple(
    sorted(
        {word.lower() for values in VALUES.values() for several in values.values() for word in several}
        | {*FILLERS, *NOUNS, *SAME}
    )
)


class PromptError(ValueError):
    """A prompt that isn't of the language; its text says what is wrong with it, and what is known."""


def parse(prompt: str) -> Scene:
    """What the prompt describes. Raises PromptError for anything else, and for a contradiction."""
    words: list[str] = re.findall(r"[\w'&]+", prompt.lower())
    words = [SAME.get(word, word) for word in words]
    if not words:
        raise PromptError(f"The prompt is empty. tiny-sd draws {KNOWS}.")
    for word in words:
        if word not in WORDS:
            near = difflib.get_close_matches(word[:40], [w for w in WORDS if len(w) > 1], 1, 0.75)
            hint = f" Did you mean {near[0]!r}?" if near else ""
            shown = word if len(word) <= 40 else word[:37] + "..."
            raise PromptError(f"tiny-sd doesn't know {shown!r}.{hint} It draws {KNOWS}.")
    if ("face" in words) == ("letter" in words):
        raise PromptError(f"tiny-sd draws one face or one letter, and the prompt must say which. It draws {KNOWS}.")
    found = _face(words) if "face" in words else _letter(words)
    if isinstance(found, Letter) and found.ink and found.ink == found.ground:
        raise PromptError(f"A letter in {found.ink} on {found.ground} can't be seen. Ask for two colours.")
    return found


def _face(words: list[str]) -> Face:
    found: dict[str, str] = {}
    pending = ""  # a colour whose noun comes later
    before = ""
    for word in words:
        if word in MOODS:
            _take(found, "mood", word, MOODS)
        elif word in {"eyes", "hair", "background"}:
            name = "ground" if word == "background" else word
            if pending:
                _take(found, name, pending, VALUES[Face][name])
            elif not (name == "ground" and before == "ground"):
                raise PromptError(f"tiny-sd can't tell which colour the {word} should have. It draws {KNOWS}.")
            pending = ""
        elif word in {*EYES, *HAIR, *COLOURS}:
            if pending:
                raise PromptError(f"tiny-sd can't tell what should be {pending}. It draws {KNOWS}.")
            pending = word
        elif word not in {*FILLERS, "face", "in", "on"}:
            raise PromptError(f"tiny-sd can't tell what {word!r} should be in a face. It draws {KNOWS}.")
        if word == "on" or (before == "on" and word in FILLERS):
            before = "on"
        elif before == "on" and pending == word:
            _take(found, "ground", pending, COLOURS)
            pending, before = "", "ground"
        else:
            before = ""
    if pending:
        raise PromptError(f"tiny-sd can't tell what should be {pending}. It draws {KNOWS}.")
    return Face(**found)


def _letter(words: list[str]) -> Letter:
    found: dict[str, str] = {}
    at = words.index("letter")
    rest = words[:at] + words[at + 1 :]
    if at + 1 < len(words) and len(words[at + 1]) == 1:
        _take(found, "letter", words[at + 1].upper(), LETTERS)
        rest = words[:at] + words[at + 2 :]
    on = coloured = False  # whether a colour that comes now is the background's; whether one came just before
    for number, word in enumerate(rest):
        if word in COLOURS:
            is_ground = on or rest[number + 1 : number + 2] == ["background"]
            _take(found, "ground" if is_ground else "ink", word, COLOURS)
        elif word not in {*FILLERS, "in", "on", "background"}:
            raise PromptError(f"tiny-sd can't tell what {word!r} should be of a letter. It draws {KNOWS}.")
        begins = word == "on" or (word == "background" and not coloured)
        on, coloured = begins or (on and word in FILLERS), word in COLOURS
    return Letter(**found)


def _take(found: dict[str, str], name: str, value: str, known: tuple[str, ...]) -> None:
    what = {"ground": "background", "ink": "letter"}.get(name, name)
    if value not in known:
        choice = f"{', '.join(known[:-1])} or {known[-1]}" if len(known) < len(LETTERS) else "one of A to Z"
        raise PromptError(f"tiny-sd has no {value} for the {what}: {choice}.")
    if found.get(name, value) != value:
        raise PromptError(f"The prompt asks for two of one thing: {what} {found[name]} and {value}. Ask for one.")
    found[name] = value


def caption(scene: Scene, rng: np.random.Generator | None = None) -> str:
    """The scene in the language: in the form of the examples or, with `rng`, in any of several forms."""
    form = int(rng.integers(3)) if rng else 0
    long = bool(rng.random() < 0.5) if rng else isinstance(scene, Face)
    ground = f" on a {scene.ground} background" if long else f" on {scene.ground}"
    if isinstance(scene, Letter):
        letter = f"letter {scene.letter}" if scene.letter else "letter"
        text = f"the {letter} in {scene.ink}" if scene.ink else f"the {letter}"
        if form == 1 and scene.ink:
            text = f"a {scene.ink} {letter}"
        return text + (ground if scene.ground else "")
    parts = [f"{scene.eyes} eyes"] * bool(scene.eyes) + [f"{scene.hair} hair"] * bool(scene.hair)
    if form == 1:
        parts.reverse()
    text = f"a {scene.mood} face" if scene.mood else "a face"
    if form == 2:
        return ", ".join([text, *parts, *[f"{scene.ground} background"] * bool(scene.ground)])
    return text + (" with " + " and ".join(parts) if parts else "") + (ground if scene.ground else "")


def random_scene(rng: np.random.Generator, kind: type[Scene] | None = None) -> Scene:
    """Every attribute chosen uniformly and independently; only a letter never has its background's colour."""
    kind = kind or (Face, Letter)[int(rng.integers(2))]
    found = {name: values[int(rng.integers(len(values)))] for name, values in VALUES[kind].items()}
    if kind is Letter:
        others = [colour for colour in COLOURS if colour != found["ink"]]
        found["ground"] = others[int(rng.integers(len(others)))]
    return kind(**found)


def partly(scene: Scene, rng: np.random.Generator) -> Scene:
    """The scene with some attributes left open, as in captions to train on."""
    attributes = {f.name: "" if rng.random() < LEFT_OUT else getattr(scene, f.name) for f in fields(scene)}
    return type(scene)(**attributes)
