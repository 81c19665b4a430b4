"""Boxes from files: the user's own, line by line, and COCO's eyes from a made-up archive."""

import json
import os
import zipfile
from pathlib import Path

import pytest

from vaelens.errors import BadInputError, UsageError
from vaelens.images.boxes import coco_eye_boxes, matching, read_boxes
from vaelens.images.drawing import Box

HEADER = "id,label,left,top,right,bottom\n"


def written(folder: Path, name: str, text: str) -> Path:
    path = folder / name
    path.write_text(text, encoding="utf-8")
    return path


def test_csv_and_json_lines_give_the_same_boxes(tmp_path: Path) -> None:
    expected = {
        "a/ä, 1.jpg": (Box("eye", 1, 2.5, 11, 12), Box("mouth", 0, 0, 5, 5)),
        "b.png": (Box("w", -3, 0, 5, 1e2),),
    }
    text = '\ufeffid,note,label,left,top,right,bottom\n"a/ä, 1.jpg",x,eye,1,2.5,11,12\nb.png,,w,-3,0,5,1e2\n'
    assert read_boxes(written(tmp_path, "a.csv", text + '"a/ä, 1.jpg",,mouth,0,0,5,5\n')) == expected
    lines = [
        {"id": name, "label": b.label, "left": b.left, "top": b.top, "right": b.right, "bottom": b.bottom, "more": []}
        for name, boxes in expected.items()
        for b in boxes
    ]
    text = "\n\n".join(json.dumps(line) for line in lines)
    assert read_boxes(written(tmp_path, "a.jsonl", text)) == expected


@pytest.mark.parametrize("header", [HEADER, HEADER.replace("\n", ",\n"), HEADER.replace("\n", ",note,note,\n")])
def test_cells_after_the_last_column_that_is_needed_may_be_missing_or_empty(tmp_path: Path, header: str) -> None:
    names = header.count(",") + 1
    rows = [f"a.png,eye,1,2,3,4{',' * more}\n" for more in range(10)]
    rows += [f"a.png,eye,1,2,3,4{',x' * (names - 6)}\n"]
    assert read_boxes(written(tmp_path, "a.csv", header + "".join(rows))) == {
        "a.png": (Box("eye", 1, 2, 3, 4),) * len(rows)
    }
    for cells, count in ("a.png,eye,1,2,3", 5), (f"a.png,eye,1,2,3,4{',' * (names - 6)},x", names + 1):
        with pytest.raises(BadInputError, match=rf"line 2: {count} values, but the first line names {names}: id, "):
            read_boxes(written(tmp_path, "a.csv", f"{header}{cells}\n"))


@pytest.mark.parametrize(
    ("kind", "line", "message"),
    [
        ("csv", ",eye,1,2,3,4", "id is ''"),
        ("csv", "a,,1,2,3,4", "label is ''"),
        ("csv", "a,eye,x,2,3,4", "left is 'x'"),
        ("csv", "a,eye,1,nan,3,4", "top is 'nan'"),
        ("csv", "a,eye,1,2,inf,4", "right is 'inf'"),
        ("csv", "a,eye,1,2,3", "5 values, but the first line names 6: id, label, left, top, right, bottom."),
        ("csv", "a", "1 value, but the first line names 6"),
        ("csv", "a,eye,1,2,3,4,5", "7 values, but the first line names 6"),
        ("csv", "a,eye,1,2,3,4,,x", "8 values, but the first line names 6"),
        ("csv", "a,eye,3,2,3,4", "an empty box, left 3 to right 3"),
        ("csv", "a,eye,1,5,3,4", "an empty box"),
        ("csv", 'a,"eye"x,1,2,3,4', "not CSV"),
        ("jsonl", "{", "not JSON"),
        ("jsonl", "[1]", "not a JSON object"),
        ("jsonl", '{"id": 3, "label": "a", "left": 1, "top": 2, "right": 3, "bottom": 4}', "id is 3"),
        ("jsonl", '{"id": "a", "label": "a", "left": true, "top": 2, "right": 3, "bottom": 4}', "left is True"),
        (
            "jsonl",
            '{"id": "a", "label": "a", "left": 1, "right": 3, "bottom": 4}',
            "no top. A box has id, label,",
        ),
        (
            "jsonl",
            f'{{"id": "a", "label": "a", "left": 1, "top": 2, "right": 3, "bottom": 1{"0" * 400}}}',
            "not JSON: a number has 401 digits",
        ),
        ("jsonl", '{"id": "a", "label": "\\ud800", "left": 1, "top": 2, "right": 3, "bottom": 4}', "half a surrogate"),
        ("csv", "a,eye,1,2,3,1" + "0" * 5000, f"bottom is '1{'0' * 58}..., where"),
    ],
)
def test_a_bad_line_is_named_by_its_number(tmp_path: Path, kind: str, line: str, message: str) -> None:
    before = HEADER + "a,eye,1,2,3,4\n" if kind == "csv" else "\n\n"
    with pytest.raises(BadInputError, match=rf"a\.{kind}, line 3: ") as caught:
        read_boxes(written(tmp_path, f"a.{kind}", f"{before}{line}\n"))
    assert message in str(caught.value)


def test_files_without_valid_boxes_are_refused(tmp_path: Path) -> None:
    for name in ("a.xml", "a.csv", "a", "a.png"):
        with pytest.raises(BadInputError, match=f"{name}: there is no such file"):
            read_boxes(tmp_path / name)
    with pytest.raises(UsageError, match=r"come as \.csv or \.jsonl"):
        read_boxes(written(tmp_path, "a.xml", HEADER))
    os.mkfifo(tmp_path / "pipe.csv")
    with pytest.raises(BadInputError, match=r"pipe\.csv is a device, pipe or socket"):
        read_boxes(tmp_path / "pipe.csv")
    with pytest.raises(BadInputError, match=r"several columns called left\."):
        read_boxes(written(tmp_path, "twice.csv", "id,label,left,left,top,right,bottom\n"))
    with pytest.raises(BadInputError, match="no column label, bottom"):
        read_boxes(written(tmp_path, "b.csv", "id,left,top,right\n"))
    for text, reason in (("", "is empty. Its first line"), (HEADER.replace(",", ";"), "is separated by semicolons")):
        with pytest.raises(BadInputError, match=reason):
            read_boxes(written(tmp_path, "b.csv", text))
    for name, text in (("c.csv", HEADER), ("c.jsonl", "\n")):
        with pytest.raises(BadInputError, match="holds no boxes"):
            read_boxes(written(tmp_path, name, text))
    (tmp_path / "d.csv").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(BadInputError, match="isn't UTF-8"):
        read_boxes(tmp_path / "d.csv")


def test_ids_that_match_no_image_are_counted_and_none_is_refused() -> None:
    boxes = {"a": (Box("x", 0, 0, 1, 1),), "b": (), "c": ()}
    matched, note = matching(boxes, frozenset("a"), "b.csv")
    assert (matched, note) == ({"a": boxes["a"]}, "2 of the 3 ids in b.csv match no image")
    assert matching({"a": boxes["a"]}, frozenset("ab"), "b.csv")[1] is None
    with pytest.raises(UsageError, match=r"no image has one of its ids.* is 'a', the first image is 'A'"):
        matching(boxes, frozenset("AB"), "b.csv")


POINTS = ["nose", "left_eye", "right_eye", "left_ear"]


def annotations(*people: dict[str, object]) -> dict[str, object]:
    return {
        "images": [{"id": 139, "file_name": "000000000139.jpg"}, {"id": 7, "file_name": "000000000007.jpg"}],
        "categories": [{"id": 1, "name": "person", "keypoints": POINTS}],
        "annotations": [{"id": i, "image_id": 139, "category_id": 1, **person} for i, person in enumerate(people)],
    }


def test_eyes_from_coco(tmp_path: Path) -> None:
    """Eyes 50 apart (30 and 40 along the axes): squares of side 30 about the middles of the marked pixels."""
    people = [
        {"keypoints": [0, 0, 0, 130, 90, 2, 100, 50, 2, 0, 0, 0]},
        {"keypoints": [0, 0, 0, 130, 90, 2, 100, 50, 1, 0, 0, 0]},  # one eye hidden
        {"keypoints": [0, 0, 0, 130, 90, 2, 0, 0, 0, 0, 0, 0]},  # one eye not marked
        {"keypoints": [0, 0, 0, 5, 5, 2, 5, 5, 2, 0, 0, 0]},  # both on one pixel
        {"keypoints": [0] * 12, "iscrowd": 1},
        {"image_id": 7, "keypoints": [9, 9, 2, 20, 10, 2, 10, 10, 2, 0, 0, 0]},
    ]
    expected = {
        "000000000007.jpg": (Box("eye", 17.5, 7.5, 23.5, 13.5), Box("eye", 7.5, 7.5, 13.5, 13.5)),
        "000000000139.jpg": (Box("eye", 115.5, 75.5, 145.5, 105.5), Box("eye", 85.5, 35.5, 115.5, 65.5)),
    }
    text = json.dumps(annotations(*people))
    plain = written(tmp_path, "person_keypoints_val2017.json", text)
    with zipfile.ZipFile(tmp_path / "annotations.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("annotations/person_keypoints_train2017.json", "{}")
        archive.writestr("annotations/person_keypoints_val2017.json", text)
    for path in (plain, tmp_path / "annotations.zip"):
        found = coco_eye_boxes(path)
        assert list(found) == sorted(expected)
        for name, boxes in expected.items():
            assert [b.label for b in found[name]] == ["eye", "eye"]
            sides = [[b.left, b.top, b.right, b.bottom] for b in found[name]]
            assert sides == [pytest.approx([b.left, b.top, b.right, b.bottom], abs=1e-9) for b in boxes]


def test_files_without_cocos_keypoints_are_refused(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as archive:
        archive.writestr("annotations/captions_val2017.json", "{}")
    with pytest.raises(BadInputError, match="it holds 0 files person_keypoints_val2017"):
        coco_eye_boxes(tmp_path / "a.zip")
    wrong = [
        annotations({"keypoints": [1, 2]}),
        annotations({"keypoints": [0, 0, 0, 10**400, 0, 2, 0, 0, 2]}),
        annotations({"keypoints": [0] * 12, "category_id": []}),
        annotations({"id": "a", "keypoints": [0] * 12}, {"id": 1, "keypoints": [0] * 12}),
        annotations({"keypoints": [0] * 12}) | {"categories": [{"id": 1, "keypoints": {"left_eye": 1}}]},
    ]
    for text in ("{", "[]", "{}", *map(json.dumps, wrong)):
        with pytest.raises(BadInputError, match=r"a\.json"):
            coco_eye_boxes(written(tmp_path, "a.json", text))
    with pytest.raises(BadInputError, match="No such file"):
        coco_eye_boxes(tmp_path / "nowhere.json")
