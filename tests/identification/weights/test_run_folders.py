"""Folders that vaelens wrote: what lies in them beside VAEs, and files that are near each other."""

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

import vaelens as vl
from support.commands import invoke
from support.known_vaes import FILE, World, made_world, moved
from vaelens.identification.weights import tables
from vaelens.tensors.writing import checked_safetensors


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    """No known VAE is here."""
    with made_world(tmp_path) as made:
        yield made


def test_a_known_vae_is_named_where_another_unknown_file_is_nearer(world: World) -> None:
    world.put_in_cache("ft-mse", "kl-f8")
    tuned = moved(world.tensors["ft-mse"], "decoder", 0.02, 1)
    world.write("a.safetensors", tuned)
    world.write("b.safetensors", moved(tuned, "decoder", 0.0012, 2))
    for file, other in zip(vl.identify(world.folder), "ba", strict=True):
        assert file.what.startswith(
            f"unknown; nearest: {other}.safetensors, decoder weights 0.12 % apart; of known VAEs: "
        )
        assert "ft-mse, 2.0 % apart" in file.what
        assert file.latent_space.name == "sd1"


def test_files_of_vaelens_own_are_left_out_and_a_note_says_so(world: World) -> None:
    world.write("vae.safetensors", world.tensors["kl-f8"])
    step = world.write("checkpoints/000000500/state.safetensors", {"ema.decoder.a": torch.zeros(2)}).parent
    for place in (
        "report/features/originals/000000.safetensors",
        "cache/shards/000000.safetensors",
        "cache/shards/000001.safetensors",
    ):
        path = world.folder / place
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(checked_safetensors({"mean": torch.zeros(2, 4)}))
    world.write("cache/shards/another.safetensors", world.tensors["sdxl"])
    assert "checkpoints" in invoke("identify", world.folder, code=3).stdout  # it may be anybody's
    for name in ("state.json", "manifest.json"):
        (step / name).write_text("{}")
    ran = invoke("identify", world.folder)
    assert {row[0] for row in tables.summary(vl.identify(world.folder)).rows} == {
        "vae.safetensors", "cache/shards/another.safetensors",
    }  # fmt: skip
    for kind in ("2 shards of a latent cache", "1 training checkpoint", "1 file of features"):
        assert kind in ran.stderr


def test_a_folder_to_compare_with_is_called_by_its_own_name(world: World) -> None:
    world.put_in_cache("kl-f8")
    tuned = moved(world.tensors["kl-f8"], "decoder", 0.02, 1)
    folder = world.write(f"run2/{FILE}", tuned).parent
    mine = world.write("mine.safetensors", tuned, layout="ldm")
    (file,) = vl.identify(mine, against=[folder])
    assert file.what == "run2, re-saved in fp32 in LDM layout; the encoder is kl-f8's"
    near = vl.identify([folder, world.write("b.safetensors", moved(tuned, "decoder", 0.0012, 2))])
    assert any(f"nearest: run2/{FILE}," in one.what for one in near)
