"""One job carried out: `compare` with what the browser asked for, and the files of what came out."""

import re
from collections.abc import Callable
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from vaelens.adapters.libraries import diffusers
from vaelens.comparison import workflow
from vaelens.comparison.results import Comparison
from vaelens.errors import BadInputError, ResourceError
from vaelens.files import json_text
from vaelens.images.writing import encode_png
from vaelens.resources import is_out_of_memory
from vaelens.web.asked import Asked
from vaelens.web.choices import Choices, find
from vaelens.web.kept import Kept
from vaelens.web.store import PAGE, RECORD, SHEET, THUMBNAIL, Store

Progress = Callable[[int, int, str], None]
THUMB = 264  # pixels: twice the side that the history shows, for screens of twice the density
Report = Callable[[BaseException], None]
FOLDERS = re.compile(r"(?<![\w.:/])(?:[A-Za-z]:\\|~?/)(?:[^\s:,;'\"()/\\]+[/\\])*(?=[^\s:,;'\"()/\\])")


@dataclass(frozen=True)
class Outcome:
    """What a job shows: panels for the viewer, whose layers name images by number; sentences; bytes on disk."""

    panels: list[dict[str, Any]]
    said: list[str]
    size: int


class Workshop:
    """What every job is done with. `report` gets faults that nobody foresaw, of which a page is told the kind only."""

    def __init__(
        self,
        store: Store,
        choices: Choices,
        *,
        dtype: str = "float32",
        guard: bool = True,
        space: str | None = None,
        report: Report | None = None,
    ) -> None:
        self.store, self.choices, self.dtype, self.guard, self.space = store, choices, dtype, guard, space
        self.report: Report = report or (lambda error: None)

    def warm_up(self) -> None:
        """Import what takes seconds and can't be stopped, before a job that somebody may want to stop."""
        with suppress(Exception):  # the first job tells what is wrong, in a sentence
            diffusers()

    def kept(self, device: str) -> Kept:
        """A device's VAEs."""
        return Kept(device, self.dtype, self.space)

    def carry_out(
        self,
        job: str,
        asked: Asked,
        *,
        device: str,
        kept: Kept,
        progress: Progress,
        should_stop: Callable[[], bool],
    ) -> Outcome:
        """Do it, offline whatever is asked. Raises KeyboardInterrupt where it was stopped before anything was finished.

        Also raises what comparing and writing raise; nothing half-written is left.
        """
        model = find(self.choices.models, asked.model, "model") if asked.model and asked.prompt is not None else None
        wanted = [find(self.choices.vaes, vae, "VAE") for vae in dict.fromkeys(asked.vaes)]
        options: dict[str, Any] = {"device": device, "dtype": self.dtype, "space": self.space, "offline": True}
        options |= {"progress": progress, "should_stop": should_stop}
        settings = asked.settings(self.guard)
        if settings is not None:
            options |= asdict(settings) | {"model": model and model.source, "seeds": asked.seeds}
        else:
            image = self.store.upload_of(job)
            if image is None:
                raise BadInputError("the uploaded image isn't there any more. Upload it again.")
            options |= {"photos": [image], "max_side": asked.max_side}
        try:
            made = workflow.compare(vaes=kept.get(wanted), **options)
            if isinstance(made.failure, ResourceError):
                kept.clear()
            return self._keep(job, made)
        except BaseException as error:
            if isinstance(error, ResourceError) or is_out_of_memory(error):
                kept.clear()  # what lies there may be why the memory ran out
            raise
        finally:
            kept.trim()

    def cleaned(self, text: str) -> str:
        """The text without this machine's folders: what was named by a path is called by its name."""
        for source, name in sorted(self.choices.sources().items(), key=lambda one: -len(one[0])):
            for path in {source, str(Path(source).expanduser()), str(Path(source).expanduser().absolute())}:
                if "/" in path or "\\" in path:
                    text = text.replace(path, name)
        return FOLDERS.sub("", text.replace(f"{self.store.folder}", "~"))

    def _keep(self, job: str, made: Comparison) -> Outcome:
        gallery = made.gallery()
        panels: list[dict[str, Any]] = []
        images: list[bytes] = []
        for row in gallery.rows:
            h, w = row.cells[0].pixels.shape[:2]
            layers: list[dict[str, Any]] = []
            for cell in row.cells:
                if cell.blank:  # a decoder that wasn't reached before the work was stopped
                    continue
                layers.append({"name": cell.name, "note": cell.note, "image": len(images)})
                images.append(encode_png(cell.pixels, cell.text))
            panels.append({"title": row.title, "note": row.note, "width": w, "height": h, "layers": layers})
        record = (json_text(made.record) + "\n").encode()
        files = {PAGE: gallery.page(), SHEET: gallery.sheet(), RECORD: record}
        shown = [cell for cell in gallery.rows[0].cells if not cell.blank]
        files[THUMBNAIL] = encode_png(_thumbnail(shown[-1].pixels))
        size = self.store.write_result(job, files, images)
        return Outcome(panels, [self.cleaned(sentence) for sentence in (*made.notes, *made.warnings())], size)


def _thumbnail(pixels: np.ndarray) -> np.ndarray:
    """uint8 [h,w,3] as means of blocks; the last rows and columns that fill no block are left out."""
    h, w = pixels.shape[:2]
    by = max(1, -(-max(h, w) // THUMB))
    by_h, by_w = min(by, h), min(by, w)
    blocks = pixels[: h // by_h * by_h, : w // by_w * by_w].reshape(h // by_h, by_h, w // by_w, by_w, 3)
    return blocks.mean((1, 3)).round().astype(np.uint8)
