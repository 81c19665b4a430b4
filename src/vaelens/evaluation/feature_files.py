"""Features on disk: those of a run, beyond MAX_STORED images summed up, and the cache of originals' features.

A run's features lie in features/NAME/CHUNK.safetensors, NAME being the originals or a VAE: fp32 [b,d] by extractor.
For more than MAX_STORED images, each of GROUPS groups of chunks is replaced by float64 sums in sums/NAME/GROUP.
Each file has a checksum of itself (`tensors.writing`): a damaged one is measured again.
"""

import functools
import hashlib
import json
import operator
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from vaelens.errors import BadInputError, CheckFailedError, VaelensError
from vaelens.evaluation.chunks import Chunk
from vaelens.files import write_atomic
from vaelens.metrics.frechet import Moments
from vaelens.runtime import Notify, silent
from vaelens.tensors.writing import checked_safetensors, read_checked_safetensors
from vaelens.text.paths import explained

MAX_STORED = 50_000  # images whose features are stored
GROUPS = 20  # of images from the whole dataset each, so that a dataset sorted by class has no group of one class
BLOCK = 4096  # images whose features are summed at once
ORIGINALS = ""  # in the place of a VAE's name; no VAE is called that

Features = Mapping[str, Tensor]  # by extractor, [b,d]


class FeatureFiles:
    """The features of `count` images in `chunks` chunks, in the folder `path`. The caller locks it for writing."""

    def __init__(self, path: Path, count: int, chunks: int) -> None:
        self.path = path
        self._chunks = chunks
        self._summed = count > MAX_STORED

    def exists(self, chunk: int, name: str) -> bool:
        """Whether the chunk's features are there, by themselves or in a sum."""
        return self._file(chunk, name).exists() or (
            self._summed and self._sums_file(self._group_of(chunk), name).exists()
        )

    def write(self, chunk: int, name: str, features: Features) -> None:
        """Store a chunk's features as fp32."""
        cpu = {extractor: values.detach().float().cpu().contiguous() for extractor, values in features.items()}
        write_atomic(self._file(chunk, name), checked_safetensors(cpu))

    def read(self, chunk: int, name: str) -> dict[str, Tensor]:
        """A chunk's features. Raises BadInputError where they are missing or were summed up, CheckFailedError where
        they are damaged.
        """
        file = self._file(chunk, name)
        if self._summed and not file.exists() and self.exists(chunk, name):
            raise BadInputError(
                f"{file} was replaced by a sum, so its chunk can't be copied to another folder. "
                "Give all ranks one folder that they share, or empty ones of their own."
            )
        return _read(file)

    def all(self, name: str, extractor: str) -> Tensor | None:
        """[n,d] fp32 of the readable images in order; None where only sums are stored."""
        return None if self._summed else self._joined(range(self._chunks), name, extractor)

    def moments(self, name: str, extractor: str) -> list[Moments]:
        """The float64 sums of up to GROUPS groups of images; NaN where a reconstruction wasn't finite.

        A group has every GROUPS-th image; beyond MAX_STORED, whole chunks (`_group_of`). Groups without a readable
        image are left out. Raises BadInputError where stored sums are missing, CheckFailedError where they are damaged.
        """
        features = self.all(name, extractor)
        if features is not None:
            return [Moments.of(features[group::GROUPS]) for group in range(min(GROUPS, len(features)))]
        self.sum_up([name])
        files = [self._sums_file(group, name) for group in self._groups()]
        return [_moments(file, sums, extractor) for file in files if (sums := _read(file))]

    def remove_damaged(self, names: Iterable[str]) -> list[Path]:
        """Remove the files of these names whose checksum is wrong, so that they count as missing; gives their paths.

        Raises, as `explained`, what the system raises where one can't be read: it may be whole.
        """
        folders = [self.path / kind / folder_name(name) for name in names for kind in ("features", "sums")]
        files = [file for folder in folders if folder.is_dir() for file in sorted(folder.glob("*.safetensors"))]
        damaged: list[Path] = []
        for file in files:
            try:
                read_checked_safetensors(file)
            except CheckFailedError:
                file.unlink(missing_ok=True)
                damaged.append(file)
            except FileNotFoundError:  # another process has summed it up
                continue
            except OSError as error:
                raise explained(error, file, "can't be read") from error
        return damaged

    def sum_up(self, names: Iterable[str], chunk: int | None = None) -> None:
        """Replace complete groups by their sums, where features aren't stored: the chunk's group, or all."""
        if self._summed:
            for group in self._groups() if chunk is None else [self._group_of(chunk)]:
                for name in names:
                    self._sum_up_group(group, name)

    def _sum_up_group(self, group: int, name: str) -> None:
        """Float64 sums, added in the order of the chunks, in the place of a complete group's features."""
        chunks, sums = self._chunks_of(group), self._sums_file(group, name)
        if not self._file(chunks[-1], name).exists():  # a quick check, with which most calls end
            return
        if not sums.exists():
            if not all(self._file(chunk, name).exists() for chunk in chunks):
                return
            write_atomic(sums, checked_safetensors(self._sums(chunks, name)))
        for chunk in chunks:
            self._file(chunk, name).unlink(missing_ok=True)

    def _sums(self, chunks: Sequence[int], name: str) -> dict[str, Tensor]:
        extractors = next((list(part) for chunk in chunks if (part := _read(self._file(chunk, name)))), list[str]())
        tensors: dict[str, Tensor] = {}
        for extractor in extractors:
            joined = self._joined(chunks, name, extractor)
            blocks = [Moments.of(joined[i : i + BLOCK]) for i in range(0, len(joined), BLOCK)]
            total = functools.reduce(operator.add, blocks)
            tensors |= {
                f"{extractor}.{field}": torch.as_tensor(getattr(total, field)) for field in ("count", "total", "outer")
            }
        return tensors

    def _joined(self, chunks: Iterable[int], name: str, extractor: str) -> Tensor:
        parts = [_read(self._file(chunk, name)) for chunk in chunks]
        return torch.cat([part[extractor] for part in parts if part])  # a chunk without readable images has none

    def _file(self, chunk: int, name: str) -> Path:
        return self.path / "features" / folder_name(name) / f"{chunk:06d}.safetensors"

    def _sums_file(self, group: int, name: str) -> Path:
        return self.path / "sums" / folder_name(name) / f"{group:02d}.safetensors"

    def _group_of(self, chunk: int) -> int:
        """Round the groups, each turn beginning one later: a rank that has every second chunk has no whole group."""
        return (chunk + chunk // GROUPS) % GROUPS

    def _groups(self) -> range:
        return range(min(GROUPS, self._chunks))

    def _chunks_of(self, group: int) -> list[int]:
        """In order: the one of each turn."""
        starts = range(0, self._chunks, GROUPS)
        chunks = (start + (group - turn) % GROUPS for turn, start in enumerate(starts))
        return [chunk for chunk in chunks if chunk < self._chunks]


class OriginalsCache:
    """Features of whole chunks of originals, cached between runs by their pixels: neither path nor date matters.

    `protocol` is what else they depend on: the extractors' input, networks' sha256, threads, device, versions.
    """

    def __init__(
        self, folder: Path, protocol: Mapping[str, Any], extractors: Sequence[str], notify: Notify = silent
    ) -> None:
        self._folder = folder
        self._protocol = protocol
        self._extractors = set(extractors)
        self._notify = notify

    def load(self, chunk: Chunk) -> dict[str, Tensor] | None:
        """The features of the chunk's originals; None where they are missing, or damaged, with a notice."""
        with suppress(OSError):
            try:
                found = read_checked_safetensors(self._file(chunk))
            except CheckFailedError as error:
                self._notify(f"Warning: {error} It is computed again.")
                return None
            if set(found) == self._extractors and all(len(f) == len(chunk.items) for f in found.values()):
                return found
        return None

    def store(self, chunk: Chunk, features: Features) -> None:
        """Store them for later runs. A folder that can't be written only costs time later, so it isn't an error."""
        with suppress(VaelensError, OSError):
            write_atomic(self._file(chunk), checked_safetensors({k: v.contiguous() for k, v in features.items()}))

    def _file(self, chunk: Chunk) -> Path:
        pixels = hashlib.sha256(chunk.pixels.contiguous().numpy().tobytes()).hexdigest()
        content = json.dumps([self._protocol, list(chunk.pixels.shape), pixels], sort_keys=True)
        name = hashlib.sha256(content.encode()).hexdigest()
        return self._folder / name[:2] / f"{name[2:]}.safetensors"


def folder_name(name: str) -> str:
    """A VAE's name as one folder's: no separators, nothing hidden, distinct where the names are, in any case."""
    if name == ORIGINALS:
        return "originals"
    plain = "".join(c if c.isascii() and (c.isalnum() or c in "-_") else "_" for c in name)
    return f"vae-{plain[:80]}-{hashlib.sha256(name.encode('utf-8', 'surrogatepass')).hexdigest()[:8]}"


def _read(file: Path) -> dict[str, Tensor]:
    try:
        return read_checked_safetensors(file)
    except FileNotFoundError as error:
        raise BadInputError(f"{file} is missing. Run the same command again, which measures it again.") from error
    except CheckFailedError as error:
        raise CheckFailedError(f"{error} Run the same command again, which measures it again.") from error
    except OSError as error:
        raise BadInputError(f"{file} can't be read: {error.strerror}. Check the disk and its permissions.") from error


def _moments(file: Path, sums: Mapping[str, Tensor], extractor: str) -> Moments:
    try:
        count, total, outer = (sums[f"{extractor}.{field}"] for field in ("count", "total", "outer"))
    except KeyError as error:
        raise BadInputError(f"{file} has no sums of {extractor}. Remove it and run the same command again.") from error
    return Moments(int(count), total, outer)
