"""A result file of the blind test, as the page writes it: read in bounded memory, and every field checked.

Its names are texts from elsewhere: they are shown, never used as paths.
"""

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Annotated, Literal, Self

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError, model_validator

from vaelens.errors import BadInputError
from vaelens.files import CHECKSUM, StrPath, read_checked_json
from vaelens.json_reading import parse_json, quoted
from vaelens.text.file_kinds import EMPTY, HEAD, TEXT, file_kind
from vaelens.text.paths import exists, is_folder, reason, user_path, why_unreadable
from vaelens.text.wrong_fields import explain_error

KIND = "vaelens blind test"
ABX, BETTER, CLOSER = "abx", "better", "closer"
RANDOM = "random"  # the kind of region that is taken where an image has none of those chosen
TESTS = (ABX, BETTER, CLOSER)
SIZE_LIMIT = 262_144  # bytes; 225 trials take 30,000, and each image a line with the latents of each decoder
TRIALS_LIMIT = 225  # 200, and one in eight of them that shows one decoder twice
VALUES_LIMIT = 10_000  # 225 trials have 12 values each
PERSON_LIMIT = 80  # characters

Count = Annotated[int, Field(ge=0, le=2**53)]
Length = Annotated[int, Field(ge=1, le=2**31)]
Sha256 = Annotated[str, Field(pattern=r"\A[0-9a-f]{64}\z")]
Name = Annotated[str, Field(min_length=1, max_length=4000)]
Side = Literal["a", "b"]


def _is_time(text: str) -> str:
    try:
        moment = datetime.fromisoformat(text)
    except ValueError:
        moment = None
    if moment is None or not text.endswith("Z"):
        raise ValueError("expected a time in UTC, such as 2026-11-27T00:10:00.000Z")
    return text


class _Model(BaseModel):
    model_config = ConfigDict(strict=True, extra="forbid", frozen=True)


class Decoder(_Model):
    """A VAE that decoded the page's images: the sha256 of its stored encoder and decoder."""

    name: Name
    encoder: Sha256
    decoder: Sha256


class Image(_Model):
    """An image of the page, its size in pixels, and the sha256 of the latents behind each decoder's version."""

    title: Annotated[str, Field(max_length=4000)]
    width: Length
    height: Length
    latents: list[Sha256 | None]


class Trial(_Model):
    """One question and its answer: `image`, `a` and `b` are indices, the region is in the image's pixels, whole ones.

    `zoom` is in CSS pixels per image pixel, `ms` the time from the first sight to the answer.
    """

    image: Count
    kind: Annotated[str, Field(min_length=1, max_length=4000)]
    left: Count
    top: Count
    width: Length
    height: Length
    a: Count
    b: Count
    x: Side | None
    answer: Side
    ms: Count
    zoom: Annotated[float, Field(gt=0, le=256)]

    @property
    def is_hit(self) -> bool:
        """In an ABX test: whether X was recognised."""
        return self.answer == self.x

    @property
    def is_identical(self) -> bool:
        """Whether the trial shows one decoder twice."""
        return self.a == self.b

    @property
    def pair(self) -> tuple[int, int]:
        """Both decoders, the earlier one first."""
        return min(self.a, self.b), max(self.a, self.b)

    @property
    def preferred(self) -> int:
        """In a preference test: the decoder preferred."""
        return self.a if self.answer == "a" else self.b

    @property
    def region(self) -> tuple[int, ...]:
        """What tells a region from others: its image and its place in it."""
        return self.image, self.left, self.top, self.width, self.height


class BlindTest(_Model):
    """One person's sitting, as its file holds it."""

    version: Annotated[Literal[1], Field(alias="schema")]
    kind: Literal["vaelens blind test"]
    run: Annotated[str, Field(pattern=r"\A[0-9a-f]{32}\z")]
    page: Sha256
    vaelens: Annotated[str, Field(max_length=100)]
    finished: Annotated[str, AfterValidator(_is_time)]
    person: Annotated[str, Field(max_length=PERSON_LIMIT)]
    test: Literal["abx", "better", "closer"]
    planned: Annotated[int, Field(ge=1, le=TRIALS_LIMIT)]
    stopped_early: bool
    kinds: Annotated[list[str], Field(min_length=1)]
    zoom: Annotated[int, Field(ge=1, le=32)]
    pixel_ratio: Annotated[float, Field(gt=0, le=64)]
    decoders: Annotated[list[Decoder], Field(min_length=2)]
    images: Annotated[list[Image], Field(min_length=1)]
    trials: list[Trial]

    @model_validator(mode="after")
    def _is_consistent(self) -> Self:
        if wrong := next(self._problems(), None):
            raise ValueError(wrong)
        return self

    def _problems(self) -> Iterator[str]:
        """What doesn't fit together, each for the end of a sentence."""
        names = [decoder.name for decoder in self.decoders]
        if len(set(names)) < len(names):
            yield "two decoders have the same name"
        for number, image in enumerate(self.images):
            if len(image.latents) != len(names):
                yield f"image {number} has latents of {len(image.latents)} decoders, not of {len(names)}"
        if len(self.trials) > self.planned:
            yield f"it has {len(self.trials)} trials, more than the {self.planned} planned"
        if self.stopped_early != (len(self.trials) < self.planned):
            ended = "was stopped early" if self.stopped_early else "is complete"
            yield f"it says that the test {ended}, with {len(self.trials)} of {self.planned} trials"
        for number, trial in enumerate(self.trials):
            yield from (f"trial {number} {wrong}" for wrong in self._problems_of(trial))

    def _problems_of(self, trial: Trial) -> Iterator[str]:
        if trial.image >= len(self.images):
            yield f"is of image {trial.image}, and there are {len(self.images)}"
        else:
            image = self.images[trial.image]
            if trial.left + trial.width > image.width or trial.top + trial.height > image.height:
                yield "has a region that lies outside its image"
        if max(trial.a, trial.b) >= len(self.decoders):
            yield f"is of decoder {max(trial.a, trial.b)}, and there are {len(self.decoders)}"
        if trial.kind not in {*self.kinds, RANDOM}:
            yield "is of a kind of region that wasn't chosen"
        if self.test == ABX and trial.is_identical:
            yield "shows one decoder twice, which an ABX test never does"
        if self.test == ABX and trial.x is None:
            yield "has no X, which each trial of an ABX test has"
        if self.test != ABX and trial.x is not None:
            yield "has an X, which only a trial of an ABX test has"


@dataclass(frozen=True)
class ResultFile:
    """A test, with its file's name for messages and tables and the file's sha256."""

    name: str
    sha256: str
    test: BlindTest


def parse_result(content: bytes) -> BlindTest:
    """The test in a result file's bytes.

    Raises ValueError, with a reason to put into a sentence, for anything else: too large, no JSON, changed since it was
    written, a wrong field, fields that contradict each other.
    """
    if len(content) > SIZE_LIMIT:
        raise ValueError(f"it has more than the {SIZE_LIMIT:,} bytes that such a file can have")
    found = parse_json(content, limit=SIZE_LIMIT, values=VALUES_LIMIT)
    if not isinstance(found, dict) or "kind" not in found or found["kind"] != KIND:
        raise ValueError(f"it isn't of the kind {quoted(KIND)}")
    try:
        values = read_checked_json(content)
    except ValueError as error:
        if CHECKSUM not in found:
            raise
        raise ValueError("it was reformatted or edited after it was saved, so its checksum is wrong") from error
    if values.get("schema") != 1:
        raise ValueError(f"it is of the schema {quoted(values.get('schema'))}, and this vaelens reads 1")
    try:
        return BlindTest.model_validate(values)
    except ValidationError as error:
        details = error.errors(include_url=False)[0]
        if details["type"] == "value_error" and not details["loc"]:  # the input would be the whole file
            raise ValueError(str(details.get("ctx", {}).get("error"))) from error
        raise ValueError(explain_error(error, values)) from error


def read_result(path: StrPath) -> ResultFile:
    """A result file. Raises BadInputError where there is none, and for what `parse_result` refuses."""
    file = user_path(path)
    if not exists(str(file)):
        raise BadInputError(f"{path}: there is no such file. Check the path.")
    if what := why_unreadable(file):
        raise BadInputError(f"{path} is {what}, not a result file of the blind test. Name a file.")
    if is_folder(file):
        raise BadInputError(
            f"{path} is a folder, not a result of the blind test. Name the files in it: `vaelens blind` takes "
            f"{Path(path) / '*.json'}, `vaelens evaluate` one with each --blind-results."
        )
    content = b""
    try:
        with file.open("rb") as opened:
            content = opened.read(SIZE_LIMIT + 1)
        test = parse_result(content)
    except (OSError, ValueError) as error:
        kind = file_kind(content[:HEAD])
        if kind and kind not in {EMPTY, TEXT}:
            raise BadInputError(kind.instead_of_result(path)) from error
        raise BadInputError(
            f"{path} can't be read as a result of the blind test: {reason(error)}. Use the file as the page saved it."
        ) from error
    return ResultFile(Path(file).name, hashlib.sha256(content).hexdigest(), test)
