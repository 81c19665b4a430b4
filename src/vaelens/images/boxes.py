"""Labelled boxes from files: the user's own, as CSV or JSON lines, and COCO's eyes.

    id,label,left,top,right,bottom
    portraits/anna.jpg,eye,310,205.5,362,238

In JSON lines the same names: {"id": "portraits/anna.jpg", "label": "eye", "left": 310, ...}. Left and top lie
inside the box, right and bottom outside, in pixels of the image as a preset reads
it (card-2022 doesn't turn it upright, the others do), from its top left corner. Other
columns are ignored, and so are empty cells after the last one.
"""

import csv
import json
import math
import zipfile
import zlib
from collections.abc import Iterator, Mapping
from io import StringIO
from pathlib import Path
from typing import Any, cast

from vaelens.errors import BadInputError, UsageError
from vaelens.files import StrPath
from vaelens.images.drawing import Box
from vaelens.json_reading import parse_json, quoted
from vaelens.text.numbers import counted, parse_number
from vaelens.text.paths import exists, why_unreadable

SIDES = ("left", "top", "right", "bottom")
SEPARATORS = {";": "semicolons", "\t": "tabs"}  # that spreadsheets write in the place of commas
COLUMNS = ("id", "label", *SIDES)
KEYPOINTS = "person_keypoints_val2017.json"
EYE_SHARE = 0.6  # of the distance between a person's eyes
VISIBLE = 2  # COCO: 0 not marked, 1 marked but hidden, 2 visible


def read_boxes(path: StrPath) -> dict[str, tuple[Box, ...]]:
    """The boxes of a .csv or .jsonl file by image id, in the file's order.

    Raises UsageError for another kind of file; BadInputError for one that can't be read or has no boxes, and,
    with the line's number, for a line without an id, a label or four finite numbers with left < right and
    top < bottom.
    """
    file = Path(path)
    readers = {".csv": _csv_lines, ".jsonl": _json_lines, ".ndjson": _json_lines}
    if not exists(str(file)):  # before its suffix: a wrong name is the likelier mistake
        raise BadInputError(f"{file}: there is no such file. Check the path.")
    if what := why_unreadable(file):
        raise BadInputError(f"{file} is {what}, not a file of boxes. Save the boxes to a file first.")
    if (reader := readers.get(file.suffix.lower())) is None:
        raise UsageError(f"{file}: boxes come as .csv or .jsonl, with {', '.join(COLUMNS)}. Save them as one of these.")
    try:
        text = file.read_text("utf-8-sig")
    except UnicodeDecodeError as error:
        raise BadInputError(f"{file} isn't UTF-8 text. Save it as UTF-8.") from error
    except OSError as error:
        raise BadInputError(f"{file}: can't be read: {error.strerror}. Check the path.") from error
    found: dict[str, list[Box]] = {}
    for number, line in reader(text, file):
        name, box = _box(line, f"{file}, line {number}")
        found.setdefault(name, []).append(box)
    if not found:
        raise BadInputError(f"{file} holds no boxes. Write one per line: {', '.join(COLUMNS)}.")
    return {name: tuple(boxes) for name, boxes in found.items()}


def coco_eye_boxes(path: StrPath) -> dict[str, tuple[Box, ...]]:
    """Boxes on people's eyes by file name, from COCO's person_keypoints_val2017.json or the zip that holds it.

    A person counts if both eyes are marked visible (v = 2). Each eye gets a square, labelled "eye", its centre
    the middle of the marked pixel, its side 0.6 times the distance between the two: about the eye with its
    lids, without the brow. People in profile, with one eye, are left out, since nothing then tells the size.

    Raises BadInputError for a file that is damaged or isn't COCO's keypoints.
    """
    file = Path(path)
    damage = (OSError, zipfile.BadZipFile, zlib.error, EOFError, ValueError, NotImplementedError, RecursionError)
    try:
        table = json.loads(_keypoints(file))
    except damage as error:
        raise BadInputError(f"{file}: can't be read as COCO's annotations: {error}. Download it again.") from error
    try:
        names = {image["id"]: image["file_name"] for image in table["images"]}
        points = {category["id"]: category["keypoints"] for category in table["categories"]}
        found: dict[str, list[Box]] = {}
        for person in sorted(table["annotations"], key=lambda person: person["id"]):
            boxes = _eyes(person["keypoints"], points[person["category_id"]])
            if boxes:
                found.setdefault(str(names[person["image_id"]]), []).extend(boxes)
    except (LookupError, TypeError, ValueError, AttributeError, OverflowError) as error:
        raise BadInputError(
            f"{file} doesn't hold COCO's person keypoints ({quoted(error)}). Download it again."
        ) from error
    return {name: tuple(boxes) for name, boxes in sorted(found.items())}


def matching(
    boxes: Mapping[str, tuple[Box, ...]], ids: frozenset[str], where: str
) -> tuple[dict[str, tuple[Box, ...]], str | None]:
    """The boxes whose ids are among `ids`, and a note on the others. Raises UsageError where none is."""
    known = {name: found for name, found in boxes.items() if name in ids}
    if not known:
        raise UsageError(
            f"{where}: no image has one of its ids. The first of them is {next(iter(boxes))!r}, the first image is "
            f"{min(ids)!r}. Write them alike."
        )
    missing = len(boxes) - len(known)
    verb = "matches" if missing == 1 else "match"
    return known, f"{missing:,} of the {counted(len(boxes), 'id')} in {where} {verb} no image" if missing else None


def _csv_lines(text: str, file: Path) -> Iterator[tuple[int, dict[str, object]]]:
    rows = csv.reader(StringIO(text, newline=""), strict=True)
    try:
        names = next(rows, list[str]())
        if not names:
            raise BadInputError(f"{file} is empty. Its first line should name {', '.join(COLUMNS)}.")
        if len(names) == 1 and (found := next((one for one in SEPARATORS if one in names[0]), None)):
            raise BadInputError(f"{file} is separated by {SEPARATORS[found]}. Separate the columns by commas.")
        missing = [name for name in COLUMNS if name not in names]
        if missing:
            raise BadInputError(
                f"{file} has no column {', '.join(missing)}. Its first line should name {', '.join(COLUMNS)}."
            )
        if twice := [name for name in COLUMNS if names.count(name) > 1]:
            raise BadInputError(
                f"{file} has several columns called {', '.join(twice)}. Its first line should name each once."
            )
        needed = 1 + max(map(names.index, COLUMNS))
        for row in rows:
            if row and (len(row) < needed or any(row[len(names) :])):
                raise BadInputError(
                    f"{file}, line {rows.line_num}: {counted(len(row), 'value')}, but the first line names "
                    f"{len(names)}: {', '.join(names)}. Correct the line."
                )
            if row:
                yield rows.line_num, dict(zip(names, row, strict=False))
    except csv.Error as error:
        raise BadInputError(f"{file}, line {rows.line_num}: not CSV: {error}. Correct the line.") from error


def _json_lines(text: str, file: Path) -> Iterator[tuple[int, dict[str, object]]]:
    for number, line in enumerate(text.split("\n"), 1):
        if not line.strip():
            continue
        try:
            found = parse_json(line)
        except ValueError as error:
            raise BadInputError(f"{file}, line {number}: not JSON: {error}. Correct the line.") from error
        if not isinstance(found, dict):
            raise BadInputError(f'{file}, line {number}: not a JSON object. Write {{"id": ..., "label": ..., ...}}.')
        yield number, cast(dict[str, object], found)


def _box(line: Mapping[str, object], where: str) -> tuple[str, Box]:
    if missing := [name for name in COLUMNS if name not in line]:
        raise BadInputError(f"{where}: no {', '.join(missing)}. A box has {', '.join(COLUMNS)}. Correct the line.")
    name, label = line.get("id"), line.get("label")
    for what, value in (("id", name), ("label", label)):
        if not isinstance(value, str) or not value:
            raise BadInputError(f"{where}: {what} is {quoted(value)}, where text is expected. Correct the line.")
    left, top, right, bottom = (_number(line.get(side), side, where) for side in SIDES)
    if left >= right or top >= bottom:
        raise BadInputError(
            f"{where}: an empty box, left {left:g} to right {right:g}, top {top:g} to bottom {bottom:g}. "
            "Correct the line."
        )
    return str(name), Box(str(label), left, top, right, bottom)


def _number(value: object, side: str, where: str) -> float:
    try:
        if isinstance(value, str):
            return parse_number(value)
        if isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value):
            return float(value)
    except (ValueError, OverflowError):
        pass
    raise BadInputError(f"{where}: {side} is {quoted(value)}, where a number is expected. Correct the line.")


def _keypoints(file: Path) -> bytes:
    if not zipfile.is_zipfile(file):
        return file.read_bytes()
    with zipfile.ZipFile(file) as archive:
        inside = [name for name in archive.namelist() if name.rpartition("/")[2] == KEYPOINTS]
        if len(inside) != 1:
            raise ValueError(f"it holds {counted(len(inside), 'file')} {KEYPOINTS}")
        return archive.read(inside[0])


def _eyes(values: list[Any], names: list[str]) -> list[Box]:
    """The two boxes of one person, `values` being x, y, v of each point named in `names`; none where v isn't 2."""
    eyes: list[tuple[float, float]] = []
    for name in ("left_eye", "right_eye"):
        i = 3 * names.index(name)
        x, y, visible = values[i], values[i + 1], values[i + 2]
        if visible != VISIBLE:
            return []
        eyes.append((x + 0.5, y + 0.5))  # the middle of the pixel that was marked
    half = EYE_SHARE * math.dist(*eyes) / 2
    return [Box("eye", x - half, y - half, x + half, y + half) for x, y in eyes] if half > 0 else []
