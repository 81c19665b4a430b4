"""The folder of a run: its plan, its rows and the features behind them; what stops goes on from here.

| file              | holds                                                                               |
|-------------------|-------------------------------------------------------------------------------------|
| plan.json         | what is measured and how; a run goes on only under the same plan                     |
| rows.jsonl        | one line an image and VAE, appended a unit at a time; their order has no meaning    |
| features/NAME/    | one file a chunk: fp32 features of the originals and of each VAE's reconstructions   |
| sums/NAME/        | beyond KEPT images: one file a group, float64 sums in place of its features        |
| report.html, ...  | OURS: what a finished run writes, and may write anew                                 |

A unit is one chunk through one VAE. It is done when its rows and its features are there. Several processes may
work on one folder: appending happens under a lock, and a unit that is there isn't added again.
"""

import functools
import hashlib
import json
import operator
import os
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from filelock import FileLock
from safetensors import SafetensorError
from safetensors.torch import load_file  # pyright: ignore[reportUnknownVariableType]
from safetensors.torch import save as safetensors_bytes
from torch import Tensor

from vaelens.errors import BadInputError, UsageError
from vaelens.evaluation.plan import check_empty, compare_plans, read_plan
from vaelens.evaluation.results import Row
from vaelens.files import explained, json_text, write_atomic
from vaelens.metrics.frechet import Moments

KEPT = 50_000  # images whose features are kept; beyond, their sums in GROUPS groups
GROUPS = 20  # of images from the whole set each, so that a set sorted by class has no group of one class
BLOCK = 4096  # images whose features are summed at once
ORIGINALS = ""  # in the place of a VAE's name; no VAE is called that

Features = Mapping[str, Mapping[str, Tensor]]  # ORIGINALS or a VAE -> extractor -> [b,d]
Bad = tuple[str, str]  # an image that couldn't be read: id and reason


class RunFolder:
    """The folder at `path`, for `ids` in chunks of `batch`; nothing is written before `begin`."""

    def __init__(self, path: Path, ids: Sequence[str], batch: int) -> None:
        self.path = path
        self.ids = tuple(ids)
        self.batch = batch
        self.chunks = -(-len(self.ids) // batch)
        self._index = {name: number for number, name in enumerate(self.ids)}
        self._rows: dict[tuple[str, str], Row] = {}
        self._measured: set[str] = set()  # ids with a row of any VAE
        self._bad: dict[str, str] = {}
        self._read_to = 0

    def begin(self, plan: Mapping[str, Any]) -> None:
        """Start, or go on with, a run under this plan. Raises UsageError where the folder holds another run."""
        text = json_text(plan)
        with self._lock():
            found = read_plan(self.path)
            if found is None:
                check_empty(self.path)
                write_atomic(self.path / "plan.json", text.encode())
            else:
                compare_plans(self.path, found, json.loads(text))
                vaes = {**found["vaes"], **plan["vaes"]}
                if vaes != found["vaes"]:
                    write_atomic(self.path / "plan.json", json_text({**plan, "vaes": vaes}).encode())
            self._mend()
            self._take_in()
            if self._folds():  # what a killed process left unfolded
                for group in self._groups():
                    for name in (ORIGINALS, *{**(found or {}).get("vaes", {}), **plan["vaes"]}):
                        self._fold(group, name)

    def ids_of(self, chunk: int) -> tuple[str, ...]:
        """The ids of one chunk, in order."""
        return self.ids[chunk * self.batch : (chunk + 1) * self.batch]

    def refresh(self) -> None:
        """Take in the rows that were appended since, by whatever process."""
        with self._lock():
            self._take_in()

    def is_done(self, chunk: int, vae: str) -> bool:
        """Whether the unit's rows and features are there (as of the last `refresh` or `add`)."""
        complete = all((name, vae) in self._rows or name in self._bad for name in self.ids_of(chunk))
        return complete and all(self._has_features(chunk, name) for name in (ORIGINALS, vae))

    def add(
        self,
        chunk: int,
        vae: str,
        rows: Sequence[Row],
        bad: Sequence[Bad],
        features: Mapping[str, Mapping[str, Tensor]],
    ) -> None:
        """Store a unit: `features` has {extractor: [b,d]} for ORIGINALS and for the VAE, fp32.

        Raises BadInputError, storing nothing, where images that can be read aren't those of the chunk's other VAEs.
        """
        with self._lock():
            self._take_in()
            if not self.is_done(chunk, vae):
                self._check_same(rows, bad)
                begun = any(name in self._measured or name in self._bad for name in self.ids_of(chunk))
                for name in (ORIGINALS, vae):
                    if not begun or not self._has_features(chunk, name):  # those of a killed process may be of others
                        self._write_features(chunk, name, features[name])
                lines = [_line(row) for row in rows if (row.id, vae) not in self._rows]
                lines += [json.dumps({"id": name, "bad": why}) for name, why in bad if name not in self._bad]
                self._append(lines)
                self._take_in()
            for name in (ORIGINALS, vae):  # also what a killed process added, but didn't fold
                self._fold(self._group_of(chunk), name)

    def rows(self, vaes: Sequence[str]) -> list[Row]:
        """Every row of these VAEs in the manifest's order, each image through each VAE in the order given."""
        return [self._rows[name, vae] for name in self.ids for vae in vaes if (name, vae) in self._rows]

    def bad(self) -> dict[str, str]:
        """The images that couldn't be read, with the reason, in the manifest's order."""
        return {name: self._bad[name] for name in self.ids if name in self._bad}

    def features(self, name: str, extractor: str) -> Tensor | None:
        """[n,d] fp32 of the readable images in the manifest's order; None where only sums are kept."""
        if self._folds():
            return None
        return self._joined(range(self.chunks), name, extractor)

    def moments(self, name: str, extractor: str) -> list[Moments]:
        """The float64 sums of the groups, GROUPS or fewer; NaN where a reconstruction wasn't finite.

        A group has every GROUPS-th image; beyond KEPT, whole chunks (`_group_of`). Groups of which no image could
        be read are left out. Raises BadInputError where stored sums are damaged or gone.
        """
        if not self._folds():
            features = self.features(name, extractor)
            assert features is not None
            return [Moments.of(features[group::GROUPS]) for group in range(min(GROUPS, len(features)))]
        with self._lock():
            for group in self._groups():  # what a killed process left unfolded
                self._fold(group, name)
        return [
            self._moments(group, name, sums, extractor)
            for group in self._groups()
            if (sums := self._read(self._sums(group, name)))
        ]

    def unit(self, chunk: int, vae: str) -> tuple[list[Row], list[Bad], Features]:
        """A unit that is done, as `add` takes it: to hand it to another machine's folder.

        Raises BadInputError where its features were put into sums, out of which they can't be had again.
        """
        ids = self.ids_of(chunk)
        gone = next((name for name in (ORIGINALS, vae) if not self._features(chunk, name).exists()), None)
        if gone is not None:
            raise BadInputError(
                f"{self._features(chunk, gone)} was put into a sum, so its chunk can't be handed to another folder. "
                "Give all ranks one folder that they share, or empty ones of their own."
            )
        rows = [self._rows[name, vae] for name in ids if name not in self._bad]
        bad = [(name, self._bad[name]) for name in ids if name in self._bad]
        return rows, bad, {name: self._read_features(chunk, name) for name in (ORIGINALS, vae)}

    def _check_same(self, rows: Sequence[Row], bad: Sequence[Bad]) -> None:
        for name, why in bad:
            if name in self._measured:
                raise BadInputError(
                    f"{name} could be read before and can't now; check the disk and run the same command again. {why}"
                )
        for row in rows:
            if row.id in self._bad:
                raise BadInputError(
                    f"{row.id} couldn't be read before, is left out in {self.path}, and can be read now. "
                    "To measure it through every VAE, choose another folder with -o."
                )

    def _lock(self) -> FileLock:
        try:
            self.path.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise UsageError(
                f"{self.path}: no folder can be made there: {error.strerror}. Choose another -o."
            ) from error
        return FileLock(self.path / ".lock")

    def _mend(self) -> None:
        """Cut off the line that a killed process left half-written."""
        file = self.path / "rows.jsonl"
        if not file.exists():
            return
        with file.open("r+b") as rows:
            rows.seek(0, os.SEEK_END)
            end = rows.tell()
            tail = b""
            while end and b"\n" not in tail:
                start = max(0, end - 65_536)
                rows.seek(start)
                tail = rows.read(end - start)
                end = start + tail.rindex(b"\n") + 1 if b"\n" in tail else start
            rows.truncate(end)

    def _append(self, lines: Sequence[str]) -> None:
        self._mend()  # of another process that was killed meanwhile
        file = self.path / "rows.jsonl"
        try:
            with file.open("ab") as rows:
                rows.write("".join(line + "\n" for line in lines).encode())
                rows.flush()
                os.fsync(rows.fileno())
        except OSError as error:
            raise explained(error, file) from error

    def _take_in(self) -> None:
        file = self.path / "rows.jsonl"
        if not file.exists():
            return
        with file.open("rb") as rows:
            rows.seek(self._read_to)
            for line in rows:
                if not line.endswith(b"\n"):
                    break
                self._read_to += len(line)
                self._take(line)

    def _take(self, line: bytes) -> None:
        try:
            values = json.loads(line)
            name = values["id"]
            if name not in self._index:
                raise ValueError(f"{name!r} is not of this dataset")
            if "bad" in values:
                self._bad[name] = values["bad"]
            else:
                row = _row(values)
                self._measured.add(name)
                self._rows.setdefault((name, row.vae), row)  # never twice
        except (ValueError, KeyError, TypeError) as error:
            where = f"{self.path / 'rows.jsonl'}: a damaged line ({error}): {line[:60]!r}"
            raise BadInputError(f"{where}. Remove the line and run the same command again.") from error

    def _features(self, chunk: int, name: str) -> Path:
        return self.path / "features" / file_name(name) / f"{chunk:06d}.safetensors"

    def _sums(self, group: int, name: str) -> Path:
        return self.path / "sums" / file_name(name) / f"{group:02d}.safetensors"

    def _has_features(self, chunk: int, name: str) -> bool:
        return self._features(chunk, name).exists() or (
            self._folds() and self._sums(self._group_of(chunk), name).exists()
        )

    def _write_features(self, chunk: int, name: str, features: Mapping[str, Tensor]) -> None:
        cpu = {extractor: values.detach().float().cpu().contiguous() for extractor, values in features.items()}
        write_atomic(self._features(chunk, name), safetensors_bytes(cpu))

    def _read_features(self, chunk: int, name: str) -> dict[str, Tensor]:
        return self._read(self._features(chunk, name))

    def _read(self, file: Path) -> dict[str, Tensor]:
        try:
            return load_file(file)
        except FileNotFoundError as error:
            raise BadInputError(
                f"{file} is gone. Run the same command again, which measures what is missing."
            ) from error
        except (SafetensorError, OSError) as error:
            raise BadInputError(f"{file}: damaged ({error}). Remove it and run the same command again.") from error

    def _folds(self) -> bool:
        return len(self.ids) > KEPT

    def _group_of(self, chunk: int) -> int:
        """Round the groups, each turn beginning one later: a rank that has every second chunk has no whole group."""
        return (chunk + chunk // GROUPS) % GROUPS

    def _groups(self) -> range:
        """GROUPS of them, but where chunks are fewer."""
        return range(min(GROUPS, self.chunks))

    def _chunks_of(self, group: int) -> list[int]:
        """In order: the one of each turn."""
        starts = range(0, self.chunks, GROUPS)
        chunks = (start + (group - turn) % GROUPS for turn, start in enumerate(starts))
        return [chunk for chunk in chunks if chunk < self.chunks]

    def _joined(self, chunks: Iterable[int], name: str, extractor: str) -> Tensor:
        parts = [self._read_features(chunk, name) for chunk in chunks]
        return torch.cat([part[extractor] for part in parts if part])  # a chunk without readable images has none

    def _fold(self, group: int, name: str) -> None:
        """Put float64 sums, added in the order of the chunks, in the place of a complete group's features."""
        chunks = self._chunks_of(group)
        if not self._folds() or not self._features(chunks[-1], name).exists():  # quickly told; most calls end here
            return
        if not self._sums(group, name).exists():
            if not all(self._features(chunk, name).exists() for chunk in chunks):
                return
            write_atomic(self._sums(group, name), safetensors_bytes(self._summed(chunks, name)))
        for chunk in chunks:
            self._features(chunk, name).unlink(missing_ok=True)

    def _summed(self, chunks: Sequence[int], name: str) -> dict[str, Tensor]:
        extractors = next((list(part) for chunk in chunks if (part := self._read_features(chunk, name))), list[str]())
        tensors: dict[str, Tensor] = {}
        for extractor in extractors:
            joined = self._joined(chunks, name, extractor)
            blocks = [Moments.of(joined[i : i + BLOCK]) for i in range(0, len(joined), BLOCK)]
            total = functools.reduce(operator.add, blocks)
            tensors |= {
                f"{extractor}.{field}": torch.as_tensor(getattr(total, field)) for field in ("count", "total", "outer")
            }
        return tensors

    def _moments(self, group: int, name: str, tensors: Mapping[str, Tensor], extractor: str) -> Moments:
        try:
            count, total, outer = (tensors[f"{extractor}.{field}"] for field in ("count", "total", "outer"))
        except KeyError as error:
            file = self._sums(group, name)
            raise BadInputError(f"{file}: no sums of {extractor}. Remove it and run the same command again.") from error
        return Moments(int(count), total, outer)


def _line(row: Row) -> str:
    values: dict[str, Any] = {"id": row.id, "vae": row.vae, "sha256": row.sha256, "finite": row.finite, **row.scores}
    if row.regions:
        values["regions"] = [dict(region) for region in row.regions]
    if row.letters:
        values["letters"] = list(row.letters)
    return json.dumps(values, allow_nan=False)  # in ASCII: a file's name, and so a VAE's, may be no Unicode


def _row(values: dict[str, Any]) -> Row:
    fixed = {key: values.pop(key) for key in ("id", "vae", "sha256", "finite")}
    regions, letters = values.pop("regions", ()), values.pop("letters", None)
    return Row(**fixed, scores=values, regions=tuple(regions), letters=tuple(letters) if letters else None)


def file_name(name: str) -> str:
    """A VAE's name as one folder's: no separators, nothing hidden, distinct where the names are, in any case."""
    if name == ORIGINALS:
        return "originals"
    kept = "".join(c if c.isascii() and (c.isalnum() or c in "-_") else "_" for c in name)
    return f"vae-{kept[:80]}-{hashlib.sha256(name.encode('utf-8', 'surrogatepass')).hexdigest()[:8]}"


def missing_units(folder: RunFolder, vaes: Iterable[str]) -> dict[int, list[str]]:
    """The VAEs that each unfinished chunk still lacks, by chunk."""
    missing: dict[int, list[str]] = defaultdict(list)
    for chunk in range(folder.chunks):
        for vae in vaes:
            if not folder.is_done(chunk, vae):
                missing[chunk].append(vae)
    return dict(missing)
