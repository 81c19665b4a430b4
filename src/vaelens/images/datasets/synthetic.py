"""Synthetic faces and letters: exact boxes, and no download."""

import threading
from collections.abc import Callable

from vaelens.errors import UsageError
from vaelens.images.datasets.items import Source
from vaelens.images.drawing import Box, Drawing
from vaelens.images.faces import draw_face
from vaelens.images.letters import draw_letters
from vaelens.images.writing import encode_png

GENERATORS: dict[str, Callable[[int], Drawing]] = {"face": draw_face, "letters": draw_letters}
SETS = {  # by the name that a user gives: the generators that alternate, and the title in reports
    "synthetic": (("face", "letters"), "synthetic faces and letters"),
    "synthetic-faces": (("face",), "synthetic faces"),
    "synthetic-letters": (("letters",), "synthetic letters"),
}
EVALUATION_FIRST = 1_000_000  # seeds below are for training
SEEDS = 100_000  # of images, for each seed of a dataset
COUNT = 200
TRAINING_FIRST = 300_000  # the small metric networks were trained on seeds below
TRAINING_COUNT = 1000
CACHE_BYTES = 2**28  # of PNG files in memory; further ones are generated again when they are read


def open_synthetic(name: str, count: int | None, seed: int, training: bool = False) -> Source:
    """`count` (200; 1,000 for training) synthetic images; ids name the image's own seed, face-1000000.

    Contents are PNG files of 256x256. Images are generated when they or their boxes are first read, about 0.2 s
    each. Those for training are never measured on.

    Raises UsageError for more images than a seed has, or a seed below 0.
    """
    generators, title = SETS[name]
    if count is None:
        count = TRAINING_COUNT if training else COUNT
    most = (EVALUATION_FIRST - TRAINING_FIRST) // SEEDS - 1 if training else seed
    if not 1 <= count <= SEEDS or not 0 <= seed <= most:
        seeds = f"from 0 to {most}" if training else "from 0 up"
        raise UsageError(f"{name} has 1 to {SEEDS:,} images for each seed {seeds}, not {count:,} for {seed}.")
    first = (TRAINING_FIRST if training else EVALUATION_FIRST) + seed * SEEDS
    ids = sorted(f"{generators[i % len(generators)]}-{first + i // len(generators)}" for i in range(count))
    cache = _Cache()
    notes = (f"generated with seed {seed}",)
    return Source(title, "synthetic", tuple(ids), lambda name: (cache.read(name),), notes, boxes=cache.boxes)


def is_for_training(name: str) -> bool:
    """Whether a synthetic image of this id is one to train on; the others are measured on."""
    return int(name.rpartition("-")[2]) < EVALUATION_FIRST


class _Cache:
    """Generates each image once and keeps its boxes, and its file while there is room."""

    def __init__(self) -> None:
        self._files: dict[str, bytes] = {}
        self._boxes: dict[str, tuple[Box, ...]] = {}
        self._room = CACHE_BYTES
        self._lock = threading.Lock()

    def read(self, name: str) -> bytes:
        return self._files.get(name) or self._generate(name)

    def boxes(self, name: str) -> tuple[Box, ...]:
        if name not in self._boxes:
            self._generate(name)
        return self._boxes[name]

    def _generate(self, name: str) -> bytes:
        generator, _, seed = name.partition("-")
        drawing = GENERATORS[generator](int(seed))
        data = encode_png(drawing.pixels)
        with self._lock:
            self._boxes[name] = drawing.boxes
            if name not in self._files and len(data) <= self._room:
                self._files[name] = data
                self._room -= len(data)
        return data
