"""What is labelled in the images, the user's own boxes: what a page's viewer jumps to."""

import os
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from vaelens.comparison.subjects import Subject, seed_title, stored_title
from vaelens.images.boxes import matching, read_boxes
from vaelens.images.drawing import Box
from vaelens.images.reading import read_size
from vaelens.latents import Latent

File = str | os.PathLike[str]


class Labels:
    """Boxes by subject, in pixels of the image as it is read, before `max_side` shrinks it.

    A photo's id is its file name, a generated image's its title (`seed 0`). `notes` say what fits no image.
    Raises what `read_boxes` and `matching` raise.
    """

    def __init__(
        self, path: File | None, seeds: Sequence[int], latents: Sequence[Latent], photos: Sequence[File]
    ) -> None:
        self._longer = {Path(photo).name: max(read_size(photo)) for photo in photos}
        self._boxes: Mapping[str, tuple[Box, ...]] = {}
        self.notes: list[str] = []
        if path is not None:
            titles = [seed_title(seed) for seed in seeds] + [stored_title(one, n) for n, one in enumerate(latents, 1)]
            self._boxes, unmatched = matching(read_boxes(path), frozenset([*titles, *self._longer]), f"{path}")
            self.notes += [f"{unmatched}."] if unmatched else []

    def on(self, subject: Subject) -> Subject:
        """The subject with its boxes, in its own pixels; what lies outside the image is left out."""
        h, w = subject.decoded[0].pixels.shape[:2]
        scale = max(h, w) / self._longer.get(subject.title, max(h, w))
        boxes = [_scaled(box, scale, h, w) for box in self._boxes.get(subject.title, ())]
        inside = tuple(box for box in boxes if box.left < box.right and box.top < box.bottom)
        if len(inside) < len(boxes):
            self.notes.append(f"{len(boxes) - len(inside)} boxes lie outside of {subject.title} and are left out.")
        return replace(subject, boxes=inside)


def _scaled(box: Box, scale: float, h: int, w: int) -> Box:
    left, right = (min(max(side * scale, 0.0), w) for side in (box.left, box.right))
    top, bottom = (min(max(side * scale, 0.0), h) for side in (box.top, box.bottom))
    return replace(box, left=left, top=top, right=right, bottom=bottom)
