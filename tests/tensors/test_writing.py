"""Safetensors files as bytes: always the same ones, and any change of a checked one is noticed."""

import json
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load

from support.vaes import random_vae
from vaelens.errors import CheckFailedError
from vaelens.latents import Latent, latents_bytes
from vaelens.tensors.writing import checked_safetensors, read_checked_safetensors, safetensors_bytes

TENSORS = {
    "b.weight": torch.arange(6, dtype=torch.float32).reshape(2, 3),
    "a": torch.arange(5, dtype=torch.uint8),
    "empty": torch.empty(0, 3, dtype=torch.float16),
    "half": torch.tensor([1.5, float("nan")], dtype=torch.bfloat16),
}
METADATA = {name: name * 3 for name in ("z", "format", "a", "日本", "m", '"quoted"')}


def test_the_library_reads_the_same_tensors_and_metadata(tmp_path: Path) -> None:
    content = safetensors_bytes(TENSORS, METADATA)
    found = load(content)
    assert set(found) == set(TENSORS)
    for name, tensor in TENSORS.items():
        assert (found[name].dtype, found[name].shape) == (tensor.dtype, tensor.shape)
        assert torch.equal(found[name].view(torch.uint8), tensor.view(torch.uint8))
    (tmp_path / "a.safetensors").write_bytes(content)
    with safe_open(tmp_path / "a.safetensors", "pt") as opened:
        assert opened.metadata() == METADATA
    length = int.from_bytes(content[:8], "little")
    assert length % 8 == 0
    assert list(json.loads(content[8 : 8 + length])["__metadata__"]) == sorted(METADATA)
    assert content == safetensors_bytes(dict(reversed(TENSORS.items())), dict(reversed(METADATA.items())))


def test_what_is_saved_twice_is_the_same_file(tmp_path: Path) -> None:
    notes = {f"note {n}": "x" for n in range(8)}
    files = [random_vae().save(tmp_path / f"{n}.safetensors", notes=notes).read_bytes() for n in range(5)]
    assert len(set(files)) == 1
    assert len({latents_bytes(Latent(torch.zeros(1, 4, 2, 2), "sd1")) for _ in range(5)}) == 1


def test_a_flipped_bit_in_each_byte_of_a_checked_file_is_noticed(tmp_path: Path) -> None:
    file = tmp_path / "a.safetensors"
    content = checked_safetensors(TENSORS)
    file.write_bytes(content)
    assert torch.equal(read_checked_safetensors(file)["b.weight"], TENSORS["b.weight"])
    assert set(load(content)) == set(TENSORS)
    for place in range(len(content)):
        damaged = bytearray(content)
        damaged[place] ^= 1 << place % 8
        file.write_bytes(damaged)
        with pytest.raises(CheckFailedError, match="its checksum is wrong"):
            read_checked_safetensors(file)
    for other in (b"", content[:50], content[:-1], content + b"\0", safetensors_bytes(TENSORS)):
        file.write_bytes(other)
        with pytest.raises(CheckFailedError, match="is damaged"):
            read_checked_safetensors(file)
