"""Some of the training images, which are scored beside the held-out ones, so that overfitting shows."""

from collections.abc import Iterator, Sequence

from vaelens.errors import BadInputError
from vaelens.evaluation.chunks import Chunk, joined_chunks, read_chunk
from vaelens.evaluation.presets import Preset
from vaelens.finetuning.data.held_out import joined, share_of, shuffled
from vaelens.images.datasets.items import Dataset


class TrainingSample:
    """At most `count` of the sources' images, taken evenly from them and chosen by the seed.

    An image that can't be read is replaced by the next of its source, when the images are read for their scores and not
    before. Each reading finds the same images in the same order, also after a resume.
    """

    def __init__(self, sources: Sequence[Dataset], count: int, seed: int) -> None:
        self._sources = tuple(sources)
        self._count = count
        self._seed = seed
        self._unreadable: set[tuple[int, str]] = set()  # number of the source, id

    def read(self, preset: Preset) -> Iterator[Chunk]:
        """Chunks of one image. Raises BadInputError where none can be read."""
        found = 0
        for number, source in enumerate(self._sources):
            left = share_of(self._count, number, len(self._sources))
            for item in shuffled(source, number, self._seed):
                if left == 0:
                    break
                if (number, item.id) in self._unreadable:
                    continue
                chunk = read_chunk(joined(self._sources, [(number, item)], "training"), 0, 1, preset, skip_bad=True)
                if chunk.items:
                    yield chunk
                    found, left = found + 1, left - 1
                else:
                    self._unreadable.add((number, item.id))
        if not found:
            names = " and ".join(source.name for source in self._sources)
            raise BadInputError(f"{names}: none of the training images can be read. Give others.")

    def chunks(self, preset: Preset, size: int) -> Iterator[Chunk]:
        """The same images, `size` at once. Raises as `read` does."""
        return joined_chunks(self.read(preset), size)
