"""Files of tensors: what they really are, whether they are whole, what they must hold. Pickles: pickles/."""

import json
import struct
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from support.properties import ROOM, Tally
from vaelens.errors import BadInputError, CheckFailedError, UnsafeFileError
from vaelens.tensors.checks import check_finite, check_shapes
from vaelens.tensors.formats import open_tensors
from vaelens.tensors.safetensors_file import open_safetensors


@pytest.mark.parametrize(
    ("content", "named"),
    [
        (b"", "is empty"),
        (b"abc", "a text file"),
        (b"<!DOCTYPE html><html><body>Sign in</body></html>" * 9, "an HTML page"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n", "a Git LFS pointer"),
        (b"GGUF" + b"\0" * 99, "a GGUF file"),
        (b"\x89PNG\r\n\x1a\n" + b"\0" * 99, "a PNG image"),
        (struct.pack("<Q", 2**40) + b"{}", "header of 1,099,511,627,776 bytes"),
        (struct.pack("<Q", 5) + b"{'a':", "isn't valid JSON"),
        (struct.pack("<Q", 4) + b"\xff\xfe\xfd\xfc", "isn't valid JSON"),
        (struct.pack("<Q", 2) + b"[]", "isn't a table"),
        (struct.pack("<Q", 15) + b'{"a":1, "a":2} ', "appears twice"),
        (struct.pack("<Q", 8) + b'{"a": 1}', "malformed"),
    ],
)
def test_a_file_that_is_something_else_is_named(tmp_path: Path, content: bytes, named: str) -> None:
    file = tmp_path / "a.safetensors"
    file.write_bytes(content)
    with pytest.raises(BadInputError, match=named):
        open_safetensors(file)


def test_a_truncated_file_says_how_much_is_missing(vae_file: Path) -> None:
    whole = vae_file.read_bytes()
    header = 8 + struct.unpack("<Q", whole[:8])[0]
    for length in (header - 3, header, header + 100, len(whole) - 1):
        vae_file.write_bytes(whole[:length])
        with pytest.raises(BadInputError, match=rf"incomplete: {length} of .*{len(whole) if length >= header else ''}"):
            open_safetensors(vae_file)


def write_header(file: Path, header: str | bytes, following: int = 8) -> Path:
    raw = header.encode() if isinstance(header, str) else header
    file.write_bytes(struct.pack("<Q", len(raw)) + raw + bytes(following))
    return file


@pytest.mark.parametrize(
    ("entry", "named"),
    [
        ("[]", r"\[\] isn't a table"),
        ('{"dtype": "F32", "shape": [2]}', "the offsets are None"),
        ('{"dtype": "F33", "shape": [2], "data_offsets": [0, 8]}', "the dtype is 'F33'"),
        ('{"dtype": ["F32"], "shape": [2], "data_offsets": [0, 8]}', "the dtype is"),
        ('{"dtype": "F32", "shape": 2, "data_offsets": [0, 8]}', "the shape is 2"),
        ('{"dtype": "F32", "shape": [-2], "data_offsets": [0, 8]}', r"the shape is \[-2\]"),
        ('{"dtype": "F32", "shape": [2.0], "data_offsets": [0, 8]}', "the shape is"),
        ('{"dtype": "F32", "shape": ["2"], "data_offsets": [0, 8]}', "the shape is"),
        ('{"dtype": "U8", "shape": [true, 8], "data_offsets": [0, 8]}', r"the shape is \[True, 8\]"),
        (f'{{"dtype": "F32", "shape": [{"9" * 20}], "data_offsets": [0, 8]}}', "the shape is"),
        (f'{{"dtype": "F32", "shape": [{"1" * 300}], "data_offsets": [0, 8]}}', "a number has 300 digits"),
        (f'{{"dtype": "F32", "shape": [{"1" * 5000}], "data_offsets": [0, 8]}}', "a number has 5,000 digits"),
        ('{"dtype": "F32", "shape": [4294967296, 4294967296], "data_offsets": [0, 0]}', "0 bytes for the shape"),
        ('{"dtype": "F32", "shape": [2], "data_offsets": [8, 0]}', r"the offsets are \[8, 0\]"),
        ('{"dtype": "F32", "shape": [2], "data_offsets": [0, 8, 9]}', "the offsets are"),
        ('{"dtype": "F32", "shape": [2], "data_offsets": [0, 1e999]}', "1e999 is too large"),
        ('{"dtype": "F32", "shape": [1], "data_offsets": [4, 8]}', "doesn't begin where the one before ends"),
        ('{"dtype": "F32", "shape": [1], "data_offsets": [0, 4]}', "4 bytes after its last tensor"),
        (
            '{"dtype": "F32", "shape": [2], "data_offsets": [0, 8]}, "b": '
            '{"dtype": "F32", "shape": [1], "data_offsets": [4, 8]}',
            "overlaps the tensor before it",
        ),
        ('{"dtype": "F32", "shape": [2], "data_offsets": [0, 8]}, "__metadata__": {"a": 1}', "'a' is 1, not text"),
        ('{"dtype": "F32", "shape": [2], "data_offsets": [0, 8]}, "__metadata__": []', "is .*, not a table"),
        ('{"dtype": "F32", "shape": [2], "data_offsets": [0, 8]}, "\\ud800": 1', "half a surrogate pair"),
    ],
)
def test_wrong_types_sizes_and_offsets_in_a_header_are_refused(tmp_path: Path, entry: str, named: str) -> None:
    file = write_header(tmp_path / "a.safetensors", f'{{"w": {entry}}}')
    with pytest.raises(BadInputError, match=rf"a\.safetensors isn't a safetensors file: .*{named}"):
        open_safetensors(file)


def test_what_the_format_allows_is_read(tmp_path: Path) -> None:
    entry = {"dtype": "F32", "shape": [1], "data_offsets": [4, 8]}
    header = {"b": entry, "a": entry | {"data_offsets": [0, 4]}, "none": entry | {"shape": [0], "data_offsets": [4, 4]}}
    text = json.dumps({"__metadata__": {"prompt": "人, 😀"}} | header)
    opened = open_safetensors(write_header(tmp_path / "a.safetensors", text + " " * 5))
    assert opened.shapes == {"b": (1,), "a": (1,), "none": (0,)}
    assert opened.metadata == {"prompt": "人, 😀"}


@pytest.mark.properties
@pytest.mark.parametrize(
    ("text", "named"),
    [
        ("[" + "[]," * 5_300_000 + "[]]", "header of 15,900,004 bytes"),
        ("[" + "[]," * 2_600_000 + "[]]", "more than 250,000 values"),
        ('["' + '","' * 2_600_000 + '"]', "more than 250,000 values"),
        ('{"__metadata__": {"a": "' + "\U0001f600" + "a" * 7_900_000 + '"}}', "4 times the memory"),
        ("[" * 3_000_000, "more than 250,000 values"),
        ("[" * 100_000, "more than 32 levels"),
        ('["' + '\\"' * 3_900_000, "it is cut off, or isn't JSON from character 2 on"),
    ],
    ids=["long", "lists", "texts", "emoji", "levels of a long one", "levels", "escapes"],
)
def test_a_headers_memory_and_time_follow_its_length(tmp_path: Path, text: str, named: str) -> None:
    file = write_header(tmp_path / "a.safetensors", text)
    del text
    errors: list[str] = []

    def check() -> None:
        try:
            open_safetensors(file)
        except BadInputError as error:
            errors.append(str(error))
            raise

    assert Tally("header").check(check, int(file.stat().st_size * 1.2) + ROOM) == "BadInputError"
    assert named in errors[0]


@pytest.mark.parametrize("suffix", [".ckpt", ".pt", ".pth", ".bin", ".CKPT", ".safetensors", ""])
@pytest.mark.parametrize("form", ["safetensors", "zip", "legacy"])
def test_a_file_opens_by_its_content_whatever_its_name(tmp_path: Path, suffix: str, form: str) -> None:
    file = tmp_path / f"weights{suffix}"
    tensors = {"a": torch.arange(6.0).reshape(2, 3)}
    if form == "safetensors":
        save_file(tensors, file)
    else:
        torch.save(tensors, file, _use_new_zipfile_serialization=form == "zip")
    opened = open_tensors(file)
    assert opened.shapes == {"a": (2, 3)}
    assert torch.equal(opened.read(["a"])["a"], tensors["a"])


def test_what_only_reads_safetensors_refuses_a_pickled_file(tmp_path: Path) -> None:
    torch.save({"a": torch.zeros(1)}, tmp_path / "a.safetensors")
    with pytest.raises(UnsafeFileError, match="only a safetensors file is read here"):
        open_safetensors(tmp_path / "a.safetensors")


def test_differences_are_listed_in_full_numbers() -> None:
    expected = {f"a{i}": (1,) for i in range(9)} | {"b": (2, 3)}
    with pytest.raises(BadInputError, match=r"x.pth: .* network: 9 missing \(a0, .*a5, \.\.\.\); 1 unexpected \(c\); "
                                            r"1 misshapen \(b \[3\] instead of \[2, 3\]\). Advice"):  # fmt: skip
        check_shapes({"b": (3,), "c": ()}, expected, "x.pth", "my network", "Advice.")
    check_shapes(expected, expected, "x.pth", "my network", "")


@pytest.mark.parametrize(
    ("values", "words"), [([1, torch.nan], "w holds 1 value that is"), ([torch.inf] * 2, "2 values")]
)
def test_values_must_be_finite(values: list[float], words: str) -> None:
    with pytest.raises(CheckFailedError, match=words):
        check_finite("w", torch.tensor(values), "x.pth")


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
@pytest.mark.parametrize("bad", [torch.nan, torch.inf, -torch.inf])
@pytest.mark.parametrize("place", [0, 70_000, 2**18, 300_000 - 1])
def test_one_value_that_isnt_finite_is_found_wherever_it_is(dtype: torch.dtype, bad: float, place: int) -> None:
    values = torch.zeros(300_000, dtype=dtype)
    values[::2] = -2
    check_finite("w", values, "x.pth")
    values[place] = bad
    with pytest.raises(CheckFailedError, match="w holds 1 value"):
        check_finite("w", values.reshape(-1, 3), "x.pth")
