"""The page for someone with a folder of VAE files, docs/files.md: its table is what the command prints."""

import re
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from support.commands import invoke
from support.known_vaes import World, checkpoint_parts, made_world, mixed, moved
from vaelens.families import kl

PAGE = Path(__file__).parents[3] / "docs" / "files.md"


@pytest.fixture
def world(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[World]:
    with made_world(tmp_path) as made:
        made.put_in_cache("kl-f8", "ft-ema", "ft-mse", "sdxl")
        monkeypatch.chdir(made.folder)
        yield made


def make_folder(world: World) -> None:
    """A folder of VAEs as people have them, by its files' names on the page."""
    vaes, fp16 = world.tensors, torch.float16

    def under(prefix: str, name: str) -> str:
        return prefix + name

    world.write("VAE/vae-ft-mse-840000-ema-pruned.safetensors", vaes["ft-mse"], layout="ldm")
    world.write("VAE/better-eyes.safetensors", vaes["ft-mse"], dtype=fp16, layout="ldm")
    world.write("VAE/sharp/diffusion_pytorch_model.safetensors", vaes["ft-mse"], dtype=torch.bfloat16)
    world.write("VAE/vae-ft-mse-v2.safetensors", vaes["kl-f8"], dtype=fp16, layout="ldm")
    world.write("VAE/sdxl_vae.safetensors", vaes["sdxl"], layout="ldm")
    world.write("VAE/pony-xl-v6-vae.safetensors", vaes["sdxl-fp16-fix"], layout="ldm")
    world.write("VAE/my-sd15-vae.safetensors", vaes["sdxl"], dtype=fp16)
    world.write("VAE/blend.safetensors", mixed({"ft-mse": 0.7, "kl-f8": 0.3}, vaes), dtype=fp16)
    world.write("VAE/pastel.safetensors", moved(vaes["ft-ema"], "decoder", 0.03, 7), layout="ldm")
    world.write(
        "VAE/whole-model.safetensors",
        vaes["ft-ema"],
        dtype=fp16,
        layout="ldm",
        rename=lambda name: under("first_stage_model.", name),
        beside=checkpoint_parts("sd1"),
    )
    world.write_pickled("VAE/anime-best.vae.pt", {"state_dict": kl.to_ldm(vaes["ft-mse"]), "global_step": 840_001})
    complete = world.write("VAE/download.safetensors", vaes["ft-ema"])
    complete.write_bytes(complete.read_bytes()[:100_000])


def blocks(page: Path) -> list[str]:
    return re.findall(r"^```text\n(.*?)^```", page.read_text("utf-8"), re.M | re.S)


def plain(text: str) -> str:
    """Without digests: last bits differ elsewhere."""
    return re.sub(r"\b[0-9a-f]{10,64}\b", "DIGEST", text).strip()


def test_the_table_is_what_the_command_prints(world: World) -> None:
    make_folder(world)
    ran = invoke("identify", "VAE", code=3)
    assert plain(ran.stdout) == plain(blocks(PAGE)[0])


def test_one_file_is_described_as_on_the_page(world: World) -> None:
    make_folder(world)
    ran = invoke("identify", "VAE/better-eyes.safetensors")
    assert plain(ran.stdout) == plain(blocks(PAGE)[1])
