"""`pool_blind_results`: the result files of one page, of one person or several, as counts, tables and a page.

vaelens blind anna.json ben.json -o blind.html
"""

import os
import time
import unicodedata
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from vaelens.blind.counting import Counts, Outcome, count_answers
from vaelens.blind.parts import Part, parts
from vaelens.blind.result_file import TESTS, BlindTest, Decoder, ResultFile, read_result
from vaelens.errors import UsageError
from vaelens.files import StrPath
from vaelens.json_reading import quoted
from vaelens.metrics.binomial import Proportion
from vaelens.report.gallery import PAGES, check_single, write_single
from vaelens.report.page import Section, render_report, wide_table
from vaelens.report.record import run_record
from vaelens.report.tables import Column, Table, escaped
from vaelens.text.numbers import counted
from vaelens.weights.names import distinct_names

COMMAND = "blind"
TITLE = "Blind test"
NBSP = "\N{NO-BREAK SPACE}"
SHORT = 12  # characters of a fingerprint on the page


@dataclass(frozen=True)
class Person:
    """Whoever answered; without a name, a file is a person of its own, called like the file."""

    name: str
    files: tuple[ResultFile, ...]

    def tests(self, kind: str) -> list[BlindTest]:
        """This person's tests of one kind."""
        return [file.test for file in self.files if file.test.test == kind]


@dataclass(frozen=True, repr=False)
class PooledResults:
    """Tests of one page together; the decoders are the page's, in its order. `record` is the content of run.json."""

    decoders: tuple[Decoder, ...]
    people: tuple[Person, ...]
    outcomes: tuple[Outcome, ...]
    record: Mapping[str, Any]
    paths: tuple[StrPath, ...]

    def __repr__(self) -> str:
        counts = ", ".join(f"{one.answered} answers to {one.test}" for one in self.outcomes)
        return f"PooledResults({' and '.join(self.names)}; {counted(len(self.people), 'person', 'people')}; {counts})"

    @property
    def names(self) -> list[str]:
        """The decoders' names."""
        return [decoder.name for decoder in self.decoders]

    @property
    def files(self) -> list[ResultFile]:
        """Every file, person by person."""
        return [file for person in self.people for file in person.files]

    def parts(self) -> list[Part]:
        """What the tests say, as headings, sentences and tables."""
        return [*parts(self.outcomes, self.names), Part("Tests", (), self._tests())]

    def as_dict(self) -> dict[str, Any]:
        """Every number, for JSON; what isn't a number, as the rate of no trials, is NaN."""
        return {
            "page": self.files[0].test.page,
            "decoders": [decoder.model_dump() for decoder in self.decoders],
            "people": [person.name for person in self.people],
            "tests": [self._outcome(outcome) for outcome in self.outcomes],
            "files": file_records(self.files),
        }

    def page(self) -> str:
        """The page; texts of the files are shown, never interpreted."""
        shown = f"{_people(len(self.people))}, {counted(len(self.files), 'test')}: {', '.join(self.names)}"
        sections = [Section(part.heading, part_html(part)) for part in self.parts()]
        return render_report(TITLE, shown, above=sections, panels=[], below=[], facts=self._facts())

    def save(self, path: StrPath) -> list[Path]:
        """Write the page, and its record beside it; gives their paths.

        Raises UsageError as `check_output`, and what writing raises.
        """
        check_output(path, self.paths)
        return write_single(Path(path), self.record, self.page().encode())

    def _facts(self) -> dict[str, str]:
        test = self.files[0].test
        facts = {
            f"decoder {one.name}": f"sha256 of the encoder {one.encoder}, of the decoder {one.decoder}"
            for one in self.decoders
        }
        facts["page"] = f"made by vaelens {test.vaelens}, id {test.page}"
        facts["intervals"] = (
            "95 %, exact (Clopper and Pearson); p is one-sided in ABX tests and two-sided in the others"
        )
        facts["counted by"] = f"vaelens {self.record['versions']['vaelens']}"
        facts["files"] = ", ".join(f"{file.name} (sha256 {file.sha256[:SHORT]}...)" for file in self.files)
        return facts

    def _tests(self) -> Table:
        columns = ("person", "test", "answered", "planned", "zoom", "finished, UTC", "file")
        rows = [
            (
                person.name,
                one.test,
                str(len(one.trials)),
                str(one.planned),
                f"{one.zoom}x",
                _minute(one.finished),
                file.name,
            )
            for person in self.people
            for file in person.files
            for one in [file.test]
        ]
        early = [file.test.stopped_early for file in self.files]
        notes = {(row, 2): ("stopped early",) for row, stopped in enumerate(early) if stopped}
        return Table(tuple(map(Column, columns)), tuple(rows), notes=notes)

    def _outcome(self, outcome: Outcome) -> dict[str, Any]:
        found: dict[str, Any] = {
            "test": outcome.test,
            "tests": outcome.tests,
            "stopped_early": outcome.stopped_early,
            "planned": outcome.planned,
            "answered": outcome.answered,
            "median_seconds": outcome.seconds,
            "pairs": [self._counts(counts) for counts in outcome.pairs],
        }
        if outcome.together:
            found["together"] = self._counts(outcome.together)
        if (extra := outcome.preference) is None:
            return found
        if extra.scores:
            names = [self.names[place] for place in extra.compared]
            scores, separated = extra.scores.scores, extra.scores.separated
            found["bradley_terry"] = {
                "decoders": names,
                "scores": scores and [asdict(score) for score in scores],
                "separated": separated and [[names[place] for place in group] for group in separated],
                "never_met": extra.scores.never_met,
            }
        rest = {"identical": extra.identical, "left": extra.left, "repeats": extra.repeats}
        return found | {"wins": extra.wins} | {name: proportion_dict(count) for name, count in rest.items()}

    def _counts(self, counts: Counts) -> dict[str, Any]:
        named = {"first": self.names[counts.pair[0]], "second": self.names[counts.pair[1]]} if counts.pair else {}
        return {
            **named,
            **proportion_dict(counts.total),
            "people": {name: proportion_dict(count) for name, count in counts.people.items()},
            "kinds": {name: proportion_dict(count) for name, count in counts.kinds.items()},
            "between_people": counts.between and asdict(counts.between),
        }


def pool_blind_results(paths: StrPath | Iterable[StrPath]) -> PooledResults:
    """The result files of one page, pooled; files with the same name of a person are one person's.

    Raises BadInputError for a file that can't be read, is no result or was edited; UsageError for a test that is named
    twice, and for files of different VAEs or pages, which don't pool.
    """
    named = [paths] if isinstance(paths, str | os.PathLike) else list(paths)
    if not named:
        raise UsageError("no result file named. Name at least one.")
    return pool_files([read_result(path) for path in named], named)


def pool_files(files: Sequence[ResultFile], paths: Sequence[StrPath] = ()) -> PooledResults:
    """One or more results that have been read already, pooled. `paths` are where they lie: messages name them, and
    `save` keeps them.

    Raises UsageError as `pool_blind_results`.
    """
    started, named = time.perf_counter(), list(paths) or [file.name for file in files]
    _check_together(named, files)
    people = _people_of(files)
    decoders = files[0].test.decoders
    outcomes = [
        count_answers(kind, {one.name: tests for one in people if (tests := one.tests(kind))}, len(decoders))
        for kind in TESTS
        if any(file.test.test == kind for file in files)
    ]
    vaes = [{"name": one.name, "fingerprint": _fingerprint(one)} for one in decoders]
    record = run_record(COMMAND, {}, vaes, time.perf_counter() - started) | {"results": file_records(files)}
    return PooledResults(tuple(decoders), tuple(people), tuple(outcomes), record, tuple(paths))


def check_output(path: StrPath, inputs: Sequence[StrPath]) -> None:
    """Raises UsageError where `PooledResults.save` can't write, or would replace one of the inputs; for before work."""
    if Path(path).suffix.lower() not in PAGES:
        raise UsageError(f"-o {path}: the output is a page. Name an .html file.")
    check_single(Path(path), inputs)


def file_records(files: Sequence[ResultFile]) -> list[dict[str, str]]:
    """The files for a record: by name and sha256, with the test's own id."""
    return [{"file": file.name, "sha256": file.sha256, "run": file.test.run} for file in files]


def proportion_dict(count: Proportion) -> dict[str, Any]:
    """A count for JSON, with its rate."""
    return asdict(count) | {"rate": count.rate}


def _check_together(paths: Sequence[StrPath], files: Sequence[ResultFile]) -> None:
    """Raises UsageError for files that don't pool, naming both."""
    seen: dict[str, StrPath] = {}
    for path, file in zip(paths, files, strict=True):
        first, other = files[0].test, file.test
        if other.run in seen:
            same = str(seen[other.run])
            what = "is named twice" if str(path) == same else f"holds the same test as {same}"
            raise UsageError(f"{path} {what}, and would count twice. Name each test once.")
        seen[other.run] = path
        if [_fingerprint(one) for one in other.decoders] != [_fingerprint(one) for one in first.decoders]:
            raise UsageError(
                f"{path} is a test of other VAEs ({_names(other)}) than {paths[0]} ({_names(first)}), so their answers "
                "don't pool. Name files of one page."
            )
        if other.page != first.page:
            raise UsageError(
                f"{path} is of another page than {paths[0]}, with other images of the same VAEs, so their answers "
                "don't pool. Name files of one page."
            )


def _names(test: BlindTest) -> str:
    return ", ".join(quoted(decoder.name, 30) for decoder in test.decoders[:4]) + ", ..." * (len(test.decoders) > 4)


def _fingerprint(decoder: Decoder) -> dict[str, dict[str, str]]:
    """As the record of a VAE holds it."""
    return {"encoder": {"stored": decoder.encoder}, "decoder": {"stored": decoder.decoder}}


def _people_of(files: Sequence[ResultFile]) -> list[Person]:
    found: dict[tuple[str, int], list[ResultFile]] = {}
    for number, file in enumerate(files):
        name = " ".join(unicodedata.normalize("NFC", file.test.person).split())  # systems write é in two ways
        found.setdefault((name, -1) if name else ("", number), []).append(file)
    names = distinct_names([name or of_person[0].name for (name, _), of_person in found.items()])
    return [Person(name, tuple(of_person)) for name, of_person in zip(names, found.values(), strict=True)]


def _people(count: int) -> str:
    return counted(count, "person", "people")


def _minute(moment: str) -> str:
    return moment[:16].replace("T", " ")


def part_html(part: Part) -> str:
    """The part for a section of a page, below its heading."""
    found = "".join(f'<p class="finding">{_kept_together(escaped(text))}</p>\n' for text in part.findings)
    notes = "".join(f'<p class="lead">{_kept_together(escaped(text))}</p>\n' for text in part.notes)
    return found + (wide_table(part.table) if part.table.rows else "") + notes


def _kept_together(text: str) -> str:
    """Without a line's end before a percent sign or inside "p = 0.105"."""
    return text.replace(" %", f"{NBSP}%").replace("p = ", f"p{NBSP}={NBSP}").replace("p &lt; ", f"p{NBSP}&lt;{NBSP}")
