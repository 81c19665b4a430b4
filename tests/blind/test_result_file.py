"""Reading a result file: what the page writes is read, and anything else is refused in one sentence."""

import hashlib
import json
import os
import random
from pathlib import Path
from typing import Any

import pytest

from support.blind_results import abx_trials, decoders, file_text, preference_trials, result, save, sha256, trial
from support.mutated_json import mutated
from vaelens.blind.result_file import SIZE_LIMIT, TRIALS_LIMIT, parse_result, read_result
from vaelens.errors import BadInputError


def test_a_file_is_read_with_every_trial() -> None:
    values = result(abx_trials(3, 5), person="Ada")
    test = parse_result(file_text(values))
    assert test.model_dump(by_alias=True) == values
    assert [one.is_hit for one in test.trials] == [True, True, True, False, False]
    assert {one.pair for one in test.trials} == {(0, 1)}


def test_what_a_trial_says() -> None:
    values = result([trial(1, 0, "a"), trial(1, 0, "b"), trial(1, 1, "a")], "better")
    first, second, third = parse_result(file_text(values)).trials
    assert (first.preferred, second.preferred) == (1, 0)
    assert [one.is_identical for one in (first, second, third)] == [False, False, True]
    assert first.region == (0, 0, 0, 16, 16)


def test_a_whole_test_fits_into_the_limit() -> None:
    long = {"kind": "a label of one's own, rather long", "left": 1000, "top": 1000, "ms": 123456}
    images = [{"title": "x" * 60, "width": 4096, "height": 4096, "latents": [sha256("z")] * 2} for _ in range(16)]
    values = result(abx_trials(100, TRIALS_LIMIT, **long), images=images)
    assert len(file_text(values)) < SIZE_LIMIT
    assert len(parse_result(file_text(values)).trials) == TRIALS_LIMIT


def test_text_of_any_script_is_read() -> None:
    values = result(abx_trials(1, 1), person="山田 👁", names=("é", "<b>&\u202e"))
    assert parse_result(file_text(values)).person == "山田 👁"


ONE = abx_trials(1, 1)[0]
WRONG: list[tuple[dict[str, Any], str]] = [
    ({"schema": 2}, "it is of the schema 2, and this vaelens reads 1"),
    ({"kind": "another"}, "it isn't of the kind 'vaelens blind test'"),
    ({"run": "A" * 32}, "field 'run': expected text of another form"),
    ({"run": "a" * 32 + "\n"}, "field 'run': expected text of another form"),
    ({"page": "0" * 63}, "field 'page': expected text of another form"),
    ({"vaelens": 1}, "field 'vaelens': expected text"),
    ({"finished": "yesterday"}, "field 'finished': expected a time in UTC"),
    ({"finished": "2026-11-27T00:10:00+02:00"}, "field 'finished': expected a time in UTC"),
    ({"person": "x" * 81}, "field 'person': expected at most 80 characters"),
    ({"person": None}, "field 'person': expected text (found null)"),
    ({"test": "ab"}, "field 'test': expected 'abx', 'better' or 'closer'"),
    ({"planned": 0}, "field 'planned': expected at least 1"),
    ({"planned": 226, "stopped_early": True}, "field 'planned': expected at most 225"),
    ({"planned": 2.0}, "field 'planned': expected a whole number"),
    ({"planned": 2, "stopped_early": False}, "it says that the test is complete, with 1 of 2 trials"),
    ({"stopped_early": True}, "it says that the test was stopped early, with 1 of 1 trials"),
    ({"stopped_early": 0}, "field 'stopped_early': expected true or false"),
    ({"trials": [ONE, ONE], "planned": 1}, "it has 2 trials, more than the 1 planned"),
    ({"kinds": []}, "field 'kinds': expected at least 1 values"),
    ({"kinds": ["eye"]}, "trial 0 is of a kind of region that wasn't chosen"),
    ({"zoom": 33}, "field 'zoom': expected at most 32"),
    ({"zoom": 1.5}, "field 'zoom': expected a whole number"),
    ({"pixel_ratio": 0}, "field 'pixel_ratio': expected more than 0"),
    ({"decoders": decoders(["one"])}, "field 'decoders': expected at least 2 values"),
    ({"decoders": decoders(["one", "one"])}, "two decoders have the same name"),
    ({"decoders": [{"name": "a", "encoder": "x", "decoder": "y"}] * 2}, "field 'decoders.0.encoder': expected text of"),
    ({"images": []}, "field 'images': expected at least 1 values"),
    ({"images": [{"title": "", "width": 16, "height": 16, "latents": [None]}]}, "image 0 has latents of 1 decoders"),
    ({"images": [{"title": "", "width": 16, "height": 15, "latents": [None, None]}]}, "trial 0 has a region that lies"),
    ({"images": [{"title": "", "width": 0, "height": 15, "latents": []}]}, "field 'images.0.width': expected at least"),
    ({"trials": {}}, "field 'trials': expected a list"),
    ({"trials": [ONE | {"image": 1}]}, "trial 0 is of image 1, and there are 1"),
    ({"trials": [ONE | {"image": -1}]}, "field 'trials.0.image': expected at least 0 (found -1)"),
    ({"trials": [ONE | {"left": 49}]}, "trial 0 has a region that lies outside its image"),
    ({"trials": [ONE | {"top": 49}]}, "trial 0 has a region that lies outside its image"),
    ({"trials": [ONE | {"left": -1}]}, "field 'trials.0.left': expected at least 0"),
    ({"trials": [ONE | {"width": 0}]}, "field 'trials.0.width': expected at least 1"),
    ({"trials": [ONE | {"top": 0.5}]}, "field 'trials.0.top': expected a whole number"),
    ({"trials": [ONE | {"a": 2}]}, "trial 0 is of decoder 2, and there are 2"),
    ({"trials": [ONE | {"a": 0, "b": 0}]}, "trial 0 shows one decoder twice, which an ABX test never does"),
    ({"trials": [ONE | {"x": None}]}, "trial 0 has no X"),
    ({"trials": [ONE], "test": "better"}, "trial 0 has an X"),
    ({"trials": [ONE | {"x": "A"}]}, "field 'trials.0.x': expected 'a' or 'b'"),
    ({"trials": [ONE | {"answer": None}]}, "field 'trials.0.answer': expected 'a' or 'b' (found null)"),
    ({"trials": [ONE | {"ms": -1}]}, "field 'trials.0.ms': expected at least 0"),
    ({"trials": [ONE | {"zoom": 0}]}, "field 'trials.0.zoom': expected more than 0"),
    ({"trials": [ONE | {"key": "a"}]}, "field 'trials.0.key': it is unknown"),
    ({"trials": [{"image": 0}]}, "field 'trials.0.kind': it is missing"),
    ({"more": 1}, "field 'more': it is unknown"),
]


@pytest.mark.parametrize(("changes", "says"), WRONG, ids=lambda one: one if isinstance(one, str) else "")
def test_each_wrong_field_is_named(changes: dict[str, Any], says: str, tmp_path: Path) -> None:
    path = save(tmp_path / "r.json", result([ONE]) | changes)
    with pytest.raises(BadInputError) as refused:
        read_result(path)
    message = str(refused.value)
    assert message.startswith(f"{path} can't be read as a result of the blind test: {says}")
    assert message.endswith(". Use the file as the page saved it.")
    assert len(message) < 400 + len(str(path))


@pytest.mark.parametrize("key", list(result([ONE])))
def test_each_field_has_to_be_there(key: str) -> None:
    values = result([ONE])
    del values[key]
    with pytest.raises(ValueError, match=f"'{key}': it is missing|isn't of the kind|of the schema None"):
        parse_result(file_text(values))


WHOLE = file_text(result(abx_trials(3, 4)))
FORGED = json.dumps(result(abx_trials(3, 4))).encode()
REFORMATTED = "it was reformatted or edited after it was saved"
NOT_RESULTS = [
    (WHOLE.replace(b'"answer": "a"', b'"answer": "b"', 1), REFORMATTED),
    (WHOLE.replace(b"\n", b"\r\n"), REFORMATTED),
    (WHOLE + b"\n", REFORMATTED),
    (json.dumps(json.loads(WHOLE), indent=4).encode(), REFORMATTED + ".* Use the file as the page saved it"),
    (json.dumps(json.loads(WHOLE)).encode(), REFORMATTED),
    (WHOLE[:-100], "it is cut off, or isn't JSON"),
    (FORGED, "it has no checksum"),
    (b"", "it is empty"),
    (b"{\xff}", "it isn't UTF-8"),
    (b"[1, 2]", "it isn't of the kind"),
    (b'"text"', "it isn't of the kind"),
    (b'{"command": "compare"}', "it isn't of the kind"),
    (b'{"kind": "vaelens blind test", "kind": 1}', "appears twice"),
    (b"[" * 2_000, "nested more than"),
    (file_text({"kind": "vaelens blind test", "trials": json.loads("[" * 40 + "]" * 40)}), "nested more than"),
    (b'{"person": "\\ud800"}', "half a surrogate pair"),
    (b'{"planned": ' + b"1" * 400 + b"}", "a number has 400 digits"),
    (b'{"planned": NaN}', "NaN isn't valid JSON"),
    (b" " * (SIZE_LIMIT + 1), "it has more than the 262,144 bytes"),
    (b'{"trials": [' + b"0," * 15_000 + b"0]}", "it holds more than 10,000 values"),
]


@pytest.mark.parametrize(("content", "says"), NOT_RESULTS, ids=lambda one: one if isinstance(one, str) else "")
def test_what_is_no_whole_result_is_refused(content: bytes, says: str, tmp_path: Path) -> None:
    path = tmp_path / "r.json"
    path.write_bytes(content)
    with pytest.raises(BadInputError, match=says):
        read_result(path)


SAVE_RESULT = 'Name the .json file that "Save result" on the test\'s page wrote.'
LONG = b" " * SIZE_LIMIT


@pytest.mark.parametrize(
    ("content", "kind", "advice"),
    [
        (b"\x89PNG\r\n\x1a\n", "a PNG image", SAVE_RESULT),
        (b"\xff\xd8\xff" + LONG, "a JPEG image", SAVE_RESULT),
        (b'<!doctype html>\n<html lang="en">' + LONG, "an HTML page", SAVE_RESULT),
        (b"PK\x03\x04" + b"\0" * 99, "a zip archive", "Unpack it first."),
        (b'{"error": "this job doesn\'t exist"}', "a server's error message", SAVE_RESULT),
    ],
    ids=lambda one: one if isinstance(one, str) else "",
)
def test_another_kind_of_file_is_called_by_its_name(content: bytes, kind: str, advice: str, tmp_path: Path) -> None:
    path = tmp_path / "r.json"
    path.write_bytes(content)
    with pytest.raises(BadInputError) as refused:
        read_result(path)
    assert str(refused.value) == f"{path} is {kind}, not a result of the blind test. {advice}"


def test_a_huge_file_is_not_read_whole(tmp_path: Path) -> None:
    path = tmp_path / "r.json"
    with path.open("wb") as file:
        file.truncate(1 << 40)
    with pytest.raises(BadInputError, match="more than the 262,144 bytes"):
        read_result(path)


def test_a_path_without_a_readable_file(tmp_path: Path) -> None:
    with pytest.raises(BadInputError, match=r"no\.json: there is no such file\. Check the path\."):
        read_result(tmp_path / "no.json")
    with pytest.raises(BadInputError) as refused:
        read_result(tmp_path)
    assert str(refused.value) == (
        f"{tmp_path} is a folder, not a result of the blind test. Name the files in it: `vaelens blind` takes "
        f"{tmp_path}/*.json, `vaelens evaluate` one with each --blind-results."
    )
    if hasattr(os, "mkfifo"):
        os.mkfifo(tmp_path / "pipe")
        with pytest.raises(BadInputError, match="is a device, pipe or socket"):
            read_result(tmp_path / "pipe")


def test_changed_files_with_a_right_checksum_never_break_the_reader() -> None:
    """Whatever a field holds, the answer is a test or a refusal."""
    document = result([*preference_trials(2, 3), trial(1, 1, "b")], "closer")
    rng = random.Random(0)
    refused: list[str] = []
    for _ in range(400):
        try:
            parse_result(signed(mutated(document, rng)))
        except ValueError as error:
            refused.append(str(error))
    assert len(refused) > 300
    assert 0 < min(map(len, refused)) <= max(map(len, refused)) < 400


def signed(content: bytes) -> bytes:
    """The text with a right checksum at its end, where it ends like an object."""
    text = content.rstrip().removesuffix(b"}").rstrip()
    return text + b',\n  "checksum": "' + hashlib.sha256(text).hexdigest().encode() + b'"\n}\n'
