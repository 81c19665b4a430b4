"""The user's labelled boxes in the images of a comparison: the regions that the page's viewer jumps to."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from vaelens.comparison.compared_images import ComparedImage, seed_title, stored_title
from vaelens.files import StrPath
from vaelens.images.boxes import matching, read_boxes
from vaelens.images.drawing import Box
from vaelens.images.reading import read_size
from vaelens.latents import Latent
from vaelens.text.numbers import counted


class LabelledBoxes:
    """Boxes by image, in pixels of the image as it is read, before `max_side` shrinks it.

    A photo's id is its file name, any other image's its title (`seed 0`). `notes` name the ids and boxes that fit no
    image. Raises what `read_boxes` and `matching` raise.
    """

    def __init__(
        self,
        path: StrPath | None,
        seeds: Sequence[int],
        latents: Sequence[Latent],
        photos: Sequence[StrPath],
        max_side: int | None,
    ) -> None:
        self._long_sides = {Path(photo).name: max(read_size(photo, max_side)) for photo in photos}
        self._boxes: Mapping[str, tuple[Box, ...]] = {}
        self.notes: list[str] = []
        if path is not None:
            titles = [seed_title(seed) for seed in seeds] + [stored_title(one, n) for n, one in enumerate(latents, 1)]
            self._boxes, unmatched = matching(read_boxes(path), frozenset([*titles, *self._long_sides]), f"{path}")
            self.notes += [f"{unmatched}."] if unmatched else []

    def add_to(self, image: ComparedImage) -> ComparedImage:
        """The image with its boxes in its own pixels; boxes outside the image are left out."""
        h, w = image.decoded[0].pixels.shape[:2]
        scale = max(h, w) / self._long_sides.get(image.title, max(h, w))
        boxes = [_scaled(box, scale, h, w) for box in self._boxes.get(image.title, ())]
        inside = tuple(box for box in boxes if box.left < box.right and box.top < box.bottom)
        if len(inside) < len(boxes):
            outside = len(boxes) - len(inside)
            what = f"{counted(outside, 'box', 'boxes')} {'lies' if outside == 1 else 'lie'}"
            self.notes.append(f"{what} outside of {image.title} and {'is' if outside == 1 else 'are'} left out.")
        return replace(image, boxes=inside)


def _scaled(box: Box, scale: float, h: int, w: int) -> Box:
    left, right = (min(max(side * scale, 0.0), w) for side in (box.left, box.right))
    top, bottom = (min(max(side * scale, 0.0), h) for side in (box.top, box.bottom))
    return replace(box, left=left, top=top, right=right, bottom=bottom)
