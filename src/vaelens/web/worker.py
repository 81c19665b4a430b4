"""Runs one job: `compare` with what the request says, and the files of its result. VAEs stay in memory between jobs."""

from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np

from vaelens.adapters.libraries import diffusers
from vaelens.comparison import workflow
from vaelens.comparison.results import Comparison
from vaelens.errors import BadInputError, ResourceError
from vaelens.images.writing import encode_png
from vaelens.loading import open_vae
from vaelens.report.panels import blind_data, panels_data
from vaelens.resources import out_of_memory
from vaelens.runtime import DEFAULT, Runtime
from vaelens.text.private_paths import without_folders
from vaelens.vae import VAE
from vaelens.web.choices import Choices, Decoder, find
from vaelens.web.request import JobRequest
from vaelens.web.store import PAGE, SHEET, THUMBNAIL, Store

Report = Callable[[BaseException], None]
CACHED_VAES = 4
THUMBNAIL_SIDE = 264  # pixels: twice the side that the history shows, for high-density screens


@dataclass(frozen=True)
class Outcome:
    """A job's result: panels for the viewer, whose layers name images by number; what a blind test of them records, see
    `blind_data`; notes; its size on disk in bytes.
    """

    panels: list[dict[str, Any]]
    blind: dict[str, Any] | None
    notes: list[str]
    size: int


class VAECache:
    """The last used VAEs of one device, in the runtime's precision, as loading takes seconds."""

    def __init__(self, runtime: Runtime, space: str | None, capacity: int = CACHED_VAES) -> None:
        self.runtime = runtime
        self._space, self._capacity = space, capacity
        self._vaes: dict[str, VAE] = {}  # by id, the least recently used first

    def get(self, decoders: Sequence[Decoder]) -> list[VAE]:
        """The VAEs in order, under the names shown on the page. Raises what loading raises.

        A job may use more VAEs than the capacity; `trim` restores it afterwards.
        """
        ids = [one.id for one in decoders]
        others = [key for key in self._vaes if key not in ids]
        for key in others[: max(0, len(others) + len(ids) - self._capacity)]:  # free memory before loading
            del self._vaes[key]
        for one in decoders:
            vae = self._vaes.pop(one.id, None) or open_vae(one.source, self.runtime, space=self._space)
            vae.name = one.name
            self._vaes[one.id] = vae
        return [self._vaes[key] for key in ids]

    def trim(self) -> None:
        """Keep the most recently used VAEs, up to the capacity."""
        for key in list(self._vaes)[: -self._capacity]:
            del self._vaes[key]

    def clear(self) -> None:
        """Remove all VAEs."""
        self._vaes.clear()


class JobRunner:
    """What all jobs share: storage, choices and settings. Jobs always run offline.

    Of `runtime` only the precision and the budget of memory count. `report` gets unexpected errors, of which a page
    sees only the type.
    """

    def __init__(
        self,
        store: Store,
        choices: Choices,
        *,
        runtime: Runtime = DEFAULT,
        safety_checker: bool = True,
        space: str | None = None,
        report: Report | None = None,
    ) -> None:
        self.store, self.choices, self.safety_checker, self.space = store, choices, safety_checker, space
        self.runtime = Runtime(dtype_name=runtime.dtype_name, offline=True, max_memory=runtime.max_memory)
        self.report: Report = report or (lambda error: None)

    def warm_up(self) -> None:
        """Import what takes seconds and can't be interrupted, before a job that somebody may cancel."""
        with suppress(Exception):  # the first job reports what is wrong
            diffusers()

    def cache(self, device: str) -> VAECache:
        """An empty cache for a device."""
        return VAECache(self.runtime.on(device), self.space)

    def run(
        self,
        job: str,
        request: JobRequest,
        cache: VAECache,
        *,
        progress: Callable[[int, int, str], object],
        should_stop: Callable[[], bool],
    ) -> Outcome:
        """Run the job on the cache's device. Raises KeyboardInterrupt if it was stopped before anything was finished.

        Also raises what comparing and writing raise; an incomplete result is removed.
        """
        runtime = replace(cache.runtime, progress=progress, should_stop=should_stop)
        try:
            with out_of_memory("out of memory. Ask for a smaller image, or fewer VAEs."):
                comparison = self._compare(job, request, cache, runtime)
                if isinstance(comparison.failure, ResourceError):
                    cache.clear()
                return self._save(job, comparison)
        except ResourceError:
            cache.clear()  # the VAEs in it may be why memory ran out
            raise
        finally:
            cache.trim()

    def without_paths(self, text: str) -> str:
        """The text without this machine's folders; a model or VAE given by its path appears by its name."""
        return without_folders(text, {str(self.store.folder): "~", **self.choices.sources()})

    def _compare(self, job: str, request: JobRequest, cache: VAECache, runtime: Runtime) -> Comparison:
        decoders = [find(self.choices.vaes, vae, "VAE") for vae in dict.fromkeys(request.vaes)]
        sampling = request.sampling(self.safety_checker)
        options: dict[str, Any]
        if sampling is None:
            image = self.store.upload_of(job)
            if image is None:
                raise BadInputError("the uploaded image isn't there any more. Upload it again.")
            options = {"photos": [image], "max_side": request.max_side}
        else:
            model = find(self.choices.models, request.model or "", "model")
            options = asdict(sampling) | {"model": model.source, "seeds": request.seeds}
        return workflow.compare(
            vaes=cache.get(decoders),
            space=self.space,
            device=runtime.device_name,
            dtype=runtime.dtype_name,
            offline=runtime.offline,
            progress=runtime.progress,
            should_stop=runtime.should_stop,
            **options,
        )

    def _save(self, job: str, comparison: Comparison) -> Outcome:
        gallery = comparison.gallery()
        panels = gallery.panels()
        images = [layer.png for panel in panels for layer in panel.layers]
        last = [cell for cell in gallery.rows[0].cells if not cell.blank][-1]
        files = {
            PAGE: gallery.page(),
            SHEET: gallery.sheet(),
            THUMBNAIL: encode_png(_thumbnail(last.pixels)),
        }
        size = self.store.write_result(job, comparison.record, files, images)
        notes = [self.without_paths(sentence) for sentence in (*comparison.notes, *comparison.warnings())]
        data = panels_data(panels, [str(number) for number in range(len(images))])
        for panel in data:
            panel["layers"] = [{"image": int(layer.pop("src")), **layer} for layer in panel["layers"]]
        return Outcome(data, blind_data(panels), notes, size)


def _thumbnail(pixels: np.ndarray) -> np.ndarray:
    """uint8 [h,w,3], each pixel the mean of a block; last rows and columns that don't fill a block are left out."""
    h, w = pixels.shape[:2]
    by = max(1, -(-max(h, w) // THUMBNAIL_SIDE))
    by_h, by_w = min(by, h), min(by, w)
    blocks = pixels[: h // by_h * by_h, : w // by_w * by_w].reshape(h // by_h, by_h, w // by_w, by_w, 3)
    return blocks.mean((1, 3)).round().astype(np.uint8)
