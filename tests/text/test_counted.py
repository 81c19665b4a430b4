"""Numbers with their nouns in messages: one of something is singular."""

import re
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from vaelens.errors import VaelensError
from vaelens.images.writing import encode_png
from vaelens.latents import read_latents
from vaelens.loading import load
from vaelens.png_metadata import read_png_metadata

ONE = re.compile(r"\b1 (?!is\b|was\b|has\b)[a-z]+s\b")


def test_one_of_something_is_singular_wherever_files_are_refused(tmp_path: Path) -> None:
    save_file({"one": torch.zeros(1)}, tmp_path / "one.safetensors")
    save_file({"latent_tensor": torch.zeros(1, 1, 2, 2)}, tmp_path / "grey.latent")
    (tmp_path / "short.safetensors").write_bytes(b"\xff")
    save_file({"a": torch.zeros(1)}, tmp_path / "longer.safetensors")
    (tmp_path / "longer.safetensors").write_bytes((tmp_path / "longer.safetensors").read_bytes() + b"\0")
    sheet = tmp_path / "sheet.png"
    sheet.write_bytes(encode_png(np.zeros((8, 8, 3), np.uint8), {"vaelens": '{"sheet": [{}]}'}))
    calls = {
        "1 tensor (": lambda: load(tmp_path / "one.safetensors"),
        "only 1 byte.": lambda: load(tmp_path / "short.safetensors"),
        "1 byte after": lambda: load(tmp_path / "longer.safetensors"),
        "have 1 channel,": lambda: read_latents(tmp_path / "grey.latent", "sd1"),
        "a sheet of 1 image,": lambda: read_png_metadata(sheet),
    }
    for words, call in calls.items():
        with pytest.raises(VaelensError) as error:
            call()
        assert words in str(error.value)
        assert not ONE.search(str(error.value)), str(error.value)
