"""JSON lines that survive a process killed while it writes."""

import json
from pathlib import Path

import pytest

from vaelens.errors import BadInputError, CheckFailedError
from vaelens.runs.records import JsonLines


def same(line: dict) -> dict:
    return line


@pytest.fixture
def lines(tmp_path: Path) -> JsonLines:
    return JsonLines(tmp_path / "rows.jsonl")


def test_read_new_gives_each_line_once_whoever_wrote_it(lines: JsonLines) -> None:
    assert lines.read_new(same) == []
    lines.append([{"n": 1}, {"n": 2}])
    JsonLines(lines.path).append([{"n": 3}])
    assert lines.read_new(lambda line: line["n"]) == [1, 2, 3]
    lines.append([{"n": 4}])
    assert lines.read_new(same) == [{"n": 4}]
    assert len(lines.read()) == 4


@pytest.mark.parametrize("partial", ['{"n": 2', "x" * 200_000])
def test_a_partial_line_is_ignored_and_then_removed(lines: JsonLines, partial: str) -> None:
    lines.append([{"n": 1}])
    with lines.path.open("a") as file:
        file.write(partial)
    assert lines.read_new(same) == [{"n": 1}]
    lines.append([{"n": 3}])
    assert lines.read_new(same) == [{"n": 3}]
    assert [json.loads(line) | {"checksum": ""} for line in lines.path.read_text().splitlines()] == [
        {"n": 1, "checksum": ""},
        {"n": 3, "checksum": ""},
    ]


@pytest.mark.parametrize("damaged", ["{", "[]", '{"n": 1}', "[" * 100_000])
def test_a_damaged_line_is_named(lines: JsonLines, damaged: str) -> None:
    lines.append([{"n": 1}])
    good = lines.path.read_text()
    with lines.path.open("a") as file:
        file.write(damaged + "\n")
    with pytest.raises(CheckFailedError, match=r"rows.jsonl, line 2: damaged .*\.$"):
        lines.read_new(lambda line: int(line["n"]))
    lines.path.write_text(good)
    lines.append([{"n": 2}])
    assert lines.read_new(lambda line: int(line["n"])) == [1, 2], "the good lines were lost"


@pytest.mark.parametrize("other", [{"m": 1}, {"n": []}])
def test_a_line_that_can_not_be_parsed_is_named(lines: JsonLines, other: dict) -> None:
    lines.append([{"n": 1}, other])
    with pytest.raises(CheckFailedError, match=r"rows.jsonl, line 2: "):
        lines.read_new(lambda line: int(line["n"]))


def test_each_flipped_bit_of_a_line_is_noticed(lines: JsonLines) -> None:
    lines.append([{"n": 1}, {"n": 2, "s": "a, b"}, {"n": 3}])
    content = lines.path.read_bytes()
    first, second = content.index(b"\n") + 1, content.index(b"3") - 6
    for place in range(first * 8, second * 8):
        damaged = bytearray(content)
        damaged[place // 8] ^= 1 << place % 8
        lines.path.write_bytes(bytes(damaged))
        assert lines.keep(lambda line: True) > 0
        assert lines.read()[0] == {"n": 1}
        assert {"n": 2, "s": "a, b"} not in lines.read() or place // 8 == second - 1


def test_keep_removes_what_is_not_wanted_and_what_is_damaged(lines: JsonLines) -> None:
    lines.keep(lambda line: True)
    assert not lines.path.exists()
    lines.append([{"n": n} for n in range(4)])
    with lines.path.open("a") as file:
        file.write('{"m": 1}\nbroken\n' + "[" * 100_000 + '\n{"n": 0')
    assert lines.keep(lambda line: line["n"] <= 1) == 3, "the partial line was never whole"
    assert lines.read_new(same) == [{"n": 0}, {"n": 1}]


def test_nan_is_refused_unless_allowed(lines: JsonLines) -> None:
    with pytest.raises(ValueError, match="JSON"):
        lines.append([{"n": float("nan")}])
    JsonLines(lines.path, allow_nan=True).append([{"n": float("inf")}])
    assert lines.read() == [{"n": float("inf")}]


def test_a_file_that_can_not_be_written(tmp_path: Path) -> None:
    with pytest.raises(BadInputError, match="not written"):
        JsonLines(tmp_path / "missing" / "rows.jsonl").append([])
