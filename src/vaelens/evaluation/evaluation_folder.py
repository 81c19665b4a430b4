"""The folder of an evaluation: its plan, its rows and the features behind them. An interrupted run resumes from it.

| file                 | holds                                                                            |
|----------------------|----------------------------------------------------------------------------------|
| plan.json            | what is measured and how; a run resumes only with the same plan                  |
| rows.jsonl           | one line per image and VAE, appended a unit at a time; their order has no meaning |
| features/, sums/     | `feature_files.FeatureFiles`                                                     |
| report.html, ...     | OUTPUTS: what a finished run writes, and may replace                             |

A unit is one chunk through one VAE. It is done when its rows and its features are there. Several processes may
work on one folder: appending happens under a lock, and a unit that is there isn't added again.
"""

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from torch import Tensor

from vaelens.errors import BadInputError, CheckFailedError, UsageError
from vaelens.evaluation.feature_files import ORIGINALS, FeatureFiles, Features
from vaelens.evaluation.results import Row
from vaelens.files import remove_leftovers
from vaelens.metrics.frechet import Moments
from vaelens.runs.lock import folder_lock, removed_if_unused
from vaelens.runs.outputs import RECORD_NAME, changed_outputs, check_outputs
from vaelens.runs.plan import CHOOSE_ANOTHER, PLAN, as_stored, differences, read_plan, refuse_differences, write_plan
from vaelens.runs.ranks import Ranks
from vaelens.runs.records import JsonLines
from vaelens.runtime import Notify, silent
from vaelens.text.numbers import counted

COMMAND = "evaluate"
REPORT = ("report.html", "report.md", "results.json", "rows.csv", "regions.csv")
OUTPUTS = ("rows.jsonl", RECORD_NAME, *REPORT, "model-index")
UNITS_SENT = 256  # from rank to rank at once, so that only so many are in memory

Bad = tuple[str, str]  # an unreadable image: id and reason
Unit = tuple[list[Row], list[Bad], dict[str, Features]]  # features by ORIGINALS or the VAE


def check_folder(path: Path, requested: Mapping[str, Any]) -> dict[str, Any] | None:
    """The plan of the run in the folder, None where there is none; cheap.

    requested: the part of the plan that is known already.

    Raises UsageError where the folder holds another run, or files that a run would replace; BadInputError for a
    damaged plan.
    """
    found = read_plan(path, COMMAND, ("batch", "threads"))
    if found is None:
        for name in OUTPUTS:
            if (path / name).exists():
                raise UsageError(f"{path / name} was not written by vaelens and would be overwritten. {CHOOSE_ANOTHER}")
        return None
    record = path / RECORD_NAME
    check_outputs(record, {*REPORT, *changed_outputs(record)}, COMMAND)
    if not isinstance(found.get("vaes"), dict):
        raise BadInputError(f"{path / 'plan.json'} is damaged: it has no VAEs. {CHOOSE_ANOTHER}")
    new = as_stored(requested)
    vaes, known = new.pop("vaes", {}), found["vaes"]
    changed = differences({key: found.get(key) for key in new}, new)
    for name, vae in vaes.items():
        changed += differences(known.get(name, vae), vae, f"VAE {name}")
    refuse_differences(path, changed)
    return found


class EvaluationFolder:
    """The folder at `path`, for `ids` in chunks of `batch`; nothing is written before `start`."""

    def __init__(self, path: Path, ids: Sequence[str], batch: int) -> None:
        self.path = path
        self.ids = tuple(ids)
        self.batch = batch
        self.chunks = -(-len(self.ids) // batch)
        self._files = FeatureFiles(path, len(self.ids), self.chunks)
        self._lines = JsonLines(path / "rows.jsonl")
        self._known = set(self.ids)
        self._rows: dict[tuple[str, str], Row] = {}
        self._measured: set[str] = set()  # ids with a row of any VAE
        self._bad: dict[str, str] = {}
        self._plan: dict[str, Any] = {}

    def start(self, plan: Mapping[str, Any], notify: Notify = silent) -> None:
        """Start or resume a run with this plan. Raises UsageError where the folder holds another run.

        Damaged rows and features are removed with a notice, so that they are measured again.
        """
        with removed_if_unused(self.path), folder_lock(self.path):
            remove_leftovers(self.path, below=True)
            found = check_folder(self.path, plan)
            before: dict[str, Any] = found["vaes"] if found else {}
            vaes: dict[str, Any] = {**before, **plan["vaes"]}
            self._plan = {**plan, "vaes": vaes}
            if found is None or as_stored(vaes) != before:
                write_plan(self.path, self._plan)
            self._remove_damaged(vaes, notify)
            self._read_new()
            self._files.sum_up((ORIGINALS, *vaes))  # what a killed process left

    def _remove_damaged(self, vaes: Iterable[str], notify: Notify) -> None:
        lines = self._lines.keep(lambda line: bool(self._parse(line)))
        files = self._files.remove_damaged((ORIGINALS, *vaes))
        if lines or files:
            damaged = [f"{counted(lines, 'line')} of {self._lines.path.name}"] * bool(lines)
            damaged += [file.relative_to(self.path).as_posix() for file in files]
            some = ", ".join(damaged[:4]) + f" and {len(damaged) - 4} more" * (len(damaged) > 4)
            notify(f"Warning: {self.path}: {some} had a wrong checksum and are measured again. Check the disk.")

    def vaes(self) -> list[str]:
        """All VAEs of the folder's plan."""
        return list((read_plan(self.path, COMMAND) or {}).get("vaes", {}))

    @property
    def has_rows(self) -> bool:
        """Whether any image has been measured (as of the last `refresh` or `add`)."""
        return bool(self._rows)

    def ids_of(self, chunk: int) -> tuple[str, ...]:
        """The ids of one chunk, in order."""
        return self.ids[chunk * self.batch : (chunk + 1) * self.batch]

    def refresh(self) -> None:
        """Read the rows that any process has appended since."""
        with folder_lock(self.path):
            self._read_new()

    def is_done(self, chunk: int, vae: str) -> bool:
        """Whether the unit's rows and features are there (as of the last `refresh` or `add`)."""
        complete = all((name, vae) in self._rows or name in self._bad for name in self.ids_of(chunk))
        return complete and all(self._files.exists(chunk, name) for name in (ORIGINALS, vae))

    def missing(self, vaes: Iterable[str]) -> dict[int, list[str]]:
        """The VAEs that each unfinished chunk still lacks, by chunk."""
        named = list(vaes)
        lacking = {chunk: [vae for vae in named if not self.is_done(chunk, vae)] for chunk in range(self.chunks)}
        return {chunk: names for chunk, names in lacking.items() if names}

    def missing_in(self, vaes: Iterable[str], part: tuple[int, int], ranks: Ranks) -> dict[int, list[str]]:
        """The same of one part's chunks and this rank's. `part` is its number from 0, and how many there are."""
        number, count = part
        return {
            chunk: names
            for chunk, names in self.missing(vaes).items()
            if chunk % count == number and chunk % ranks.count == ranks.number
        }

    def add(
        self, chunk: int, vae: str, rows: Sequence[Row], bad: Sequence[Bad], features: Mapping[str, Features]
    ) -> None:
        """Store a unit: `features` has {extractor: [b,d]} for ORIGINALS and for the VAE, fp32.

        Raises BadInputError, storing nothing, where other images of the chunk are readable than for its other VAEs.
        """
        with folder_lock(self.path):
            self._read_new()
            if self._plan and not (self.path / PLAN).exists():  # another process failed, and removed its empty run
                write_plan(self.path, self._plan)
            if not self.is_done(chunk, vae):
                self._check_same(rows, bad)
                started = any(name in self._measured or name in self._bad for name in self.ids_of(chunk))
                for name in (ORIGINALS, vae):
                    if not started or not self._files.exists(chunk, name):  # a killed process' may be of others
                        self._files.write(chunk, name, features[name])
                lines = [row.as_dict() for row in rows if (row.id, vae) not in self._rows]
                lines += [{"id": name, "bad": why} for name, why in bad if name not in self._bad]
                self._lines.append(lines)
                self._read_new()
            self._files.sum_up((ORIGINALS, vae), chunk)

    def rows(self, vaes: Sequence[str]) -> list[Row]:
        """Every row of these VAEs in the manifest's order, each image through each VAE in the order given."""
        return [self._rows[name, vae] for name in self.ids for vae in vaes if (name, vae) in self._rows]

    def bad(self) -> dict[str, str]:
        """The unreadable images, with the reason, in the manifest's order."""
        return {name: self._bad[name] for name in self.ids if name in self._bad}

    def features(self, name: str, extractor: str) -> Tensor | None:
        """As `FeatureFiles.all`."""
        return self._files.all(name, extractor)

    def moments(self, name: str, extractor: str) -> list[Moments]:
        """As `FeatureFiles.moments`."""
        with folder_lock(self.path):
            return self._files.moments(name, extractor)

    def unit(self, chunk: int, vae: str) -> Unit:
        """A unit that is done, as `add` takes it. Raises BadInputError as `FeatureFiles.read`."""
        ids = self.ids_of(chunk)
        features: dict[str, Features] = {name: self._files.read(chunk, name) for name in (ORIGINALS, vae)}
        rows = [self._rows[name, vae] for name in ids if name not in self._bad]
        return rows, [(name, self._bad[name]) for name in ids if name in self._bad], features

    def gather(self, ranks: Ranks, vaes: Iterable[str]) -> None:
        """Bring every unit that rank 0's folder lacks, and another rank's has, into rank 0's.

        Where all ranks share one folder, nothing has to be sent.
        """
        if ranks.count == 1:
            return
        self.refresh()
        units = [(chunk, vae) for chunk in range(self.chunks) for vae in vaes]
        lacking = ranks.broadcast([unit for unit in units if not self.is_done(*unit)])
        for start in range(0, len(lacking), UNITS_SENT):
            portion = lacking[start : start + UNITS_SENT]
            own = [] if ranks.is_first else [unit for unit in portion if self.is_done(*unit)]
            sent = ranks.gather([(unit, self.unit(*unit)) for unit in own])
            if ranks.is_first:
                for (chunk, vae), (rows, bad, features) in (one for of_rank in sent for one in of_rank):
                    self.add(chunk, vae, rows, bad, features)

    def _check_same(self, rows: Sequence[Row], bad: Sequence[Bad]) -> None:
        for name, why in bad:
            if name in self._measured:
                raise BadInputError(
                    f"{name} was readable before and isn't now. Check the disk and run the same command again. {why}"
                )
        for row in rows:
            if row.id in self._bad:
                raise BadInputError(
                    f"{row.id} was unreadable before, is left out in {self.path}, and is readable now. "
                    "To measure it through every VAE, choose another folder with -o."
                )

    def _read_new(self) -> None:
        try:
            found = self._lines.read_new(self._parse)
        except CheckFailedError as error:
            raise CheckFailedError(
                f"{error} Run the same command again, which removes the line and measures it again."
            ) from error
        for one in found:
            if isinstance(one, Row):
                self._measured.add(one.id)
                self._rows.setdefault((one.id, one.vae), one)  # never twice
            else:
                self._bad[one[0]] = one[1]

    def _parse(self, line: dict[str, Any]) -> Row | Bad:
        if line["id"] not in self._known:
            raise ValueError(f"{line['id']!r} is not in this dataset")
        return (line["id"], line["bad"]) if "bad" in line else Row.from_dict(line)
