"""Files of tensors: what they really are, whether they are whole, what they must hold. Pickles: test_pretrained.py."""

import struct
from pathlib import Path

import pytest
import torch

from vaelens.errors import BadInputError, CheckFailedError, UnsafeFileError
from vaelens.tensors.checks import check_finite, check_shapes
from vaelens.tensors.safetensors_file import open_safetensors


@pytest.mark.parametrize(
    ("content", "named"),
    [
        (b"", "an empty file"),
        (b"abc", "only 3 bytes"),
        (b"<!DOCTYPE html><html><body>Sign in</body></html>" * 9, "an HTML page"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n", "a git-lfs pointer"),
        (b"PK\x03\x04" + b"\0" * 99, "a zip archive"),
        (b"GGUF" + b"\0" * 99, "a GGUF file"),
        (b"\x89PNG\r\n\x1a\n" + b"\0" * 99, "a PNG image"),
        (b"\x80\x02}q\x00X\x05\x00\x00\x00state" + b"\0" * 99, "a renamed pickled file"),
        (struct.pack("<Q", 2**40) + b"{}", "header of 1099511627776 bytes"),
        (struct.pack("<Q", 5) + b"{'a':", "isn't valid JSON"),
        (struct.pack("<Q", 4) + b"\xff\xfe\xfd\xfc", "isn't valid JSON"),
        (struct.pack("<Q", 2) + b"[]", "isn't a table"),
        (struct.pack("<Q", 15) + b'{"a":1, "a":2} ', "stands twice"),
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


@pytest.mark.parametrize("suffix", [".ckpt", ".pt", ".pth", ".bin", ".CKPT"])
def test_pickled_files_are_refused_by_name_and_not_opened(tmp_path: Path, suffix: str) -> None:
    with pytest.raises(UnsafeFileError, match="pickled"):
        open_safetensors(tmp_path / f"never-there{suffix}")  # opening it would raise something else


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
