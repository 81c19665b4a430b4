"""JSON from elsewhere: what no file needs is refused, in bounded memory."""

import os
from pathlib import Path

import pytest

from vaelens.errors import BadInputError
from vaelens.json_reading import JSON_DEPTH, parse_json, read_json


@pytest.mark.parametrize(
    ("text", "named"),
    [
        (b"", "it is empty"),
        (b'{"a": [1, 2', "it is cut off, or isn't JSON from character 12 on"),
        (b"\xff{}", "isn't UTF-8"),
        (b'{"a": 1, "a": 2}', "the key 'a' appears twice"),
        (b"[1e999]", "too large"),
        (b"[-1e999]", "too large"),
        (b"[NaN]", "NaN isn't valid JSON"),
        (b"[-Infinity]", "-Infinity isn't valid JSON"),
        (b"[" + b"7" * 21 + b"]", "21 digits"),
        (b"[" + b"7" * 5000 + b"]", "5,000 digits"),
        (b"[0." + b"7" * 500 + b"]", "502 digits"),
        (b'["\\ud800"]', "half a surrogate pair"),
        (b'{"\\udfff": 1}', "half a surrogate pair"),
        (b"[" * (JSON_DEPTH + 1) + b"]" * (JSON_DEPTH + 1), "levels deep"),
        (b"[" * 100_000, "levels deep"),
        (b"[" + b"1," * 250_000 + b"1]", "more than 250,000 values"),
        (b'["' + b"a" * 8_000_000 + b'"]', "more than the 8,000,000 that are read"),
    ],
)
def test_json_that_no_file_needs_is_refused_in_words(text: bytes, named: str) -> None:
    with pytest.raises(ValueError, match=named):
        parse_json(text)


def test_json_as_files_hold_it_is_read(tmp_path: Path) -> None:
    deep = b"[" * JSON_DEPTH + b"]" * JSON_DEPTH
    assert parse_json(deep) is not None
    assert parse_json(b'\xef\xbb\xbf{"a": [18446744073709551615, -0.5, "\\ud83d\\ude00", null, true]}') == {
        "a": [2**64 - 1, -0.5, "\U0001f600", None, True]
    }
    commas = '"' + ',[{\\"' * 300_000 + '"'  # values are counted outside of texts
    assert parse_json(commas) == ',[{"' * 300_000
    for content in (b"[]", b"{", b"\xff"):
        (tmp_path / "a.json").write_bytes(content)
        with pytest.raises(BadInputError, match=r"a\.json (can't be read as JSON|isn't a JSON object)"):
            read_json(tmp_path / "a.json")
    with pytest.raises(BadInputError, match="can't be read as JSON"):
        read_json(tmp_path)
    with pytest.raises(BadInputError, match=r"can't be read as JSON: it isn't an ordinary file"):
        read_json(Path("/dev/zero"))


def test_a_pipe_is_refused_without_waiting_for_a_writer(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "config.json")
    with pytest.raises(BadInputError, match="isn't an ordinary file"):
        read_json(tmp_path / "config.json")
