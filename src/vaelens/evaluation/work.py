"""The work of one process: whole chunks through VAEs, from images to rows and features in the folder."""

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from vaelens.errors import ResourceError
from vaelens.evaluation.folder import ORIGINALS, RunFolder
from vaelens.evaluation.images import Chunk, read_ahead
from vaelens.evaluation.instruments import Instruments
from vaelens.evaluation.measuring import measure, reconstruct_chunk
from vaelens.evaluation.originals import OriginalsCache
from vaelens.evaluation.preparation import saved_originals
from vaelens.evaluation.presets import Preset
from vaelens.images.datasets.items import Dataset
from vaelens.resources import is_out_of_memory
from vaelens.runtime import Progress, silent
from vaelens.vae import VAE


@dataclass(frozen=True)
class Work:
    """What is measured, with what, and where it is kept."""

    dataset: Dataset
    preset: Preset
    instruments: Instruments
    vaes: Mapping[str, VAE]
    seed: int
    skip_bad: bool
    folder: RunFolder
    cache: OriginalsCache

    def measure(self, wanted: Mapping[int, Sequence[str]], progress: Progress = silent) -> dict[str, float]:
        """These chunks, each through the VAEs named; gives the images, reconstructions and measuring_seconds.

        The originals of a chunk are decoded, resized and featurised once for all VAEs. Raises what reading and
        running raise; what was finished before is in the folder.
        """
        began, done, images = time.perf_counter(), 0, 0
        total = sum(len(self.folder.ids_of(chunk)) * len(names) for chunk, names in wanted.items())
        for chunk in read_ahead(self.dataset, list(wanted), self.folder.batch, self.preset, self.skip_bad):
            names = wanted[chunk.number]
            progress(done, total, self.folder.ids_of(chunk.number)[0])
            try:
                self._measure_chunk(chunk, names)
            except (MemoryError, RuntimeError) as error:
                if not is_out_of_memory(error):
                    raise
                raise ResourceError(
                    f"out of memory with {len(chunk.items)} images at once. Take a smaller --batch in another folder."
                ) from error
            done += len(chunk.items) * len(names)
            images += len(chunk.items)
        took = round(time.perf_counter() - began, 3)
        return {"images": images, "reconstructions": done, "measuring_seconds": took}

    def _measure_chunk(self, chunk: Chunk, names: Sequence[str]) -> None:
        if not chunk.items:  # none could be read
            for name in names:
                self.folder.add(chunk.number, name, [], chunk.bad, {ORIGINALS: {}, name: {}})
            return
        originals = saved_originals(chunk.pixels, self.preset)
        reference = self.instruments.reference(originals)
        features = self.cache.find(chunk)
        if features is None:
            features = self.instruments.features(originals)
            self.cache.keep(chunk, features)
        for name in names:
            made = reconstruct_chunk(self.vaes[name], chunk, self.preset, self.seed)
            rows, again = measure(made, chunk, name, self.instruments, reference)
            self.folder.add(chunk.number, name, rows, chunk.bad, {ORIGINALS: features, name: again})
