"""Faces and letters drawn by us: exact boxes, and no download."""

import threading
from collections.abc import Callable

from vaelens.errors import UsageError
from vaelens.images.datasets.items import Source
from vaelens.images.drawing import Box, Drawing
from vaelens.images.faces import draw_face
from vaelens.images.letters import draw_letters
from vaelens.images.writing import encode_png

DRAW: dict[str, Callable[[int], Drawing]] = {"face": draw_face, "letters": draw_letters}
SETS = {  # what a user writes: what is drawn in turn, and how a report calls it
    "synthetic": (("face", "letters"), "drawn faces and letters"),
    "synthetic-faces": (("face",), "drawn faces"),
    "synthetic-letters": (("letters",), "drawn letters"),
}
FIRST = 1_000_000  # training draws from seeds below
SEEDS = 100_000  # for each seed of a set
COUNT = 200
TRAINING_FIRST = 300_000  # the small measures learnt from seeds below
TRAINING_COUNT = 1000
KEPT_BYTES = 2**28  # finished images kept in memory; beyond, they are drawn again when they are read


def open_synthetic(name: str, count: int | None, seed: int, training: bool = False) -> Source:
    """`count` (200; 1,000 for training) synthetic images; ids name the image's own seed, face-1000000.

    Contents are PNG files. Images are drawn when they are read or their boxes are asked for, 256x256, about 0.2 s
    each. Those for training are never measured on.

    Raises UsageError for more images than a seed has, or a seed below 0.
    """
    kinds, title = SETS[name]
    if count is None:
        count = TRAINING_COUNT if training else COUNT
    most = (FIRST - TRAINING_FIRST) // SEEDS - 1 if training else seed
    if not 1 <= count <= SEEDS or not 0 <= seed <= most:
        seeds = f"from 0 to {most}" if training else "from 0 up"
        raise UsageError(f"{name} has 1 to {SEEDS:,} images for each seed {seeds}, not {count:,} for {seed}.")
    first = (TRAINING_FIRST if training else FIRST) + seed * SEEDS
    ids = sorted(f"{kinds[i % len(kinds)]}-{first + i // len(kinds)}" for i in range(count))
    desk = _Desk()
    return Source(title, "synthetic", tuple(ids), desk.read, (f"drawn with seed {seed}",), boxes=desk.boxes)


def is_for_training(name: str) -> bool:
    """Whether a synthetic image of this id is one to train on; the others are measured on."""
    return int(name.rpartition("-")[2]) < FIRST


class _Desk:
    """Draws an image once, and keeps its file and boxes: as long as there is room for files, all boxes."""

    def __init__(self) -> None:
        self._files: dict[str, bytes] = {}
        self._boxes: dict[str, tuple[Box, ...]] = {}
        self._room = KEPT_BYTES
        self._lock = threading.Lock()

    def read(self, name: str) -> bytes:
        return self._files.get(name) or self._draw(name)

    def boxes(self, name: str) -> tuple[Box, ...]:
        if name not in self._boxes:
            self._draw(name)
        return self._boxes[name]

    def _draw(self, name: str) -> bytes:
        kind, _, seed = name.partition("-")
        drawing = DRAW[kind](int(seed))
        data = encode_png(drawing.pixels)
        with self._lock:
            self._boxes[name] = drawing.boxes
            if name not in self._files and len(data) <= self._room:
                self._files[name] = data
                self._room -= len(data)
        return data
