"""What the extractors said of original images, kept between runs: keyed by content, never by path or date."""

import hashlib
import json
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load_file  # pyright: ignore[reportUnknownVariableType]
from safetensors.torch import save as safetensors_bytes
from torch import Tensor

from vaelens.errors import VaelensError
from vaelens.evaluation.images import Chunk
from vaelens.files import write_atomic


class OriginalsCache:
    """Features of whole chunks in `folder`, by their prepared pixels; `protocol` is what else they depend on.

    The protocol holds the extractors' input, networks' sha256, threads, device, processor and versions.
    """

    def __init__(self, folder: Path, protocol: Mapping[str, Any], extractors: Sequence[str]) -> None:
        self._folder = folder
        self._protocol = protocol
        self._extractors = set(extractors)

    def find(self, chunk: Chunk) -> dict[str, Tensor] | None:
        """The features of the chunk's originals, or None where they aren't there, or not whole."""
        with suppress(SafetensorError, OSError):
            found = load_file(self._file(chunk))
            if set(found) == self._extractors and all(len(f) == len(chunk.items) for f in found.values()):
                return found
        return None

    def keep(self, chunk: Chunk, features: Mapping[str, Tensor]) -> None:
        """Keep them for later runs. A folder that can't be written costs time later, so it isn't an error now."""
        with suppress(VaelensError, OSError):
            write_atomic(self._file(chunk), safetensors_bytes({k: v.contiguous() for k, v in features.items()}))

    def _file(self, chunk: Chunk) -> Path:
        pixels = hashlib.sha256(chunk.pixels.contiguous().numpy().tobytes()).hexdigest()
        content = json.dumps([self._protocol, list(chunk.pixels.shape), pixels], sort_keys=True)
        name = hashlib.sha256(content.encode()).hexdigest()
        return self._folder / name[:2] / f"{name[2:]}.safetensors"
