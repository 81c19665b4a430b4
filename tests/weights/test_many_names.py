"""Files with very many names: read or refused in time that grows with their size, not with its square."""

import itertools
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save

from support.vaes import random_vae
from vaelens.errors import BadInputError
from vaelens.families.discovery import recognise
from vaelens.families.layouts import count
from vaelens.networks.autoencoder_kl import AutoencoderKLConfig
from vaelens.weights.reading import read_vae

SMALL = AutoencoderKLConfig(block_out_channels=(4, 4), norm_num_groups=2, layers_per_block=1)
SECONDS = 20  # a hang: each takes a second or two
WORDS = ("vae.", "ema.", "ema_model.", "first_stage_model.")


def soon(call: Callable[[], Any]) -> Any:
    start = time.perf_counter()
    found = call()
    assert time.perf_counter() - start < SECONDS
    return found


@pytest.fixture
def named(tmp_path: Path) -> Callable[[list[str]], Path]:
    """A small VAE's file with these further tensors of one number each."""

    def write(names: list[str]) -> Path:
        path = random_vae(SMALL, space=None).save(tmp_path / "vae.safetensors")
        with safe_open(path, "pt") as opened:
            metadata = opened.metadata()
        path.write_bytes(save(load_file(path) | {name: torch.zeros(1) for name in names}, metadata))
        return path

    return write


def test_twenty_thousand_leftovers_of_training_are_dropped(named: Callable[[list[str]], Path]) -> None:
    path = named([f"loss.{i}" for i in range(20_000)])
    assert len(soon(lambda: read_vae(path).dropped)) == 20_000


def test_names_under_each_nesting_of_prefixes_are_gone_through_once(named: Callable[[list[str]], Path]) -> None:
    prefixes = ["".join(words) for depth in range(8) for words in itertools.product(WORDS, repeat=depth)]
    path = named([f"{prefix}x" for prefix in prefixes[:12_000]])
    assert len(soon(lambda: read_vae(path).not_weights)) == 12_000


def test_a_prefix_holds_what_lies_under_it_and_under_longer_ones() -> None:
    shapes = {"decoder.up.0.x": (1,), "ema.decoder.layers.0.x": (1,), "ema.vae.encoder.down_blocks.0.x": (1,)}
    assert [(prefix, family.name, layout.name) for prefix, family, layout in recognise(shapes)] == [
        ("ema.vae.", "kl", "diffusers"),
        ("ema.", "tiny", "diffusers"),
        ("", "kl", "ldm"),
    ]


def test_thousands_of_levels_are_counted_in_one_pass(named: Callable[[list[str]], Path]) -> None:
    names = [f"encoder.down_blocks.{i}.x" for i in range(12_000)]
    soon(lambda: count(names, "encoder.down_blocks."))
    assert count(names, "decoder.up.", "encoder.down_blocks.") == 12_000
    assert count(["a.0.x", "a.1.x", "a.3.x", "a.02.x", "a.2", "b.2.x"], "a.") == 2
    path = named([name for name in names if int(name.split(".")[2]) > 1])
    with pytest.raises(BadInputError, match="missing or misshapen"):
        soon(lambda: read_vae(path))
