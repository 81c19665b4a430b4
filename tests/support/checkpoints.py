"""Whole checkpoints, made up: a VAE beside other networks' tensors, under any prefix, in any layout and precision."""

import json
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

from support.vaes import random_vae
from vaelens.families.kl import to_ldm
from vaelens.vae import VAE
from vaelens.weights.registry import registry

# Tensors by which each latent space's checkpoints are known, and some more, of dtypes that VAEs don't have.
OTHERS = {
    "sd1": ("cond_stage_model.transformer.text_model.final_layer_norm.bias", "model.diffusion_model.out.0.weight"),
    "sdxl": (
        "conditioner.embedders.0.transformer.text_model.final_layer_norm.bias",
        "model.diffusion_model.out.2.bias",
    ),
    "sd3": ("model.diffusion_model.joint_blocks.0.x_block.attn.qkv.weight", "model.diffusion_model.pos_embed"),
    "flux1": (
        "text_encoders.clip_l.transformer.text_model.final_layer_norm.bias",
        "model.diffusion_model.double_blocks.0.img_attn.qkv.weight",
    ),
}
METADATA = {"modelspec.title": "made up", "note": "ünï ☃", "format": "pt"}


def other_tensors(space: str = "sd1", elements: int = 1001) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(7)
    first, second = OTHERS[space]
    return {
        first: torch.randn(elements, generator=generator),
        "alphas_cumprod": torch.randn(13, generator=generator).double(),
        second: torch.randn(elements // 7, 7, generator=generator).half(),
        "zz_positions": torch.arange(77)[None],
    }


def names_of_2022(name: str) -> str:
    for new, old in {".to_q.": ".query.", ".to_k.": ".key.", ".to_v.": ".value.", ".to_out.0.": ".proj_attn."}.items():
        name = name.replace(new, old)
    return name


def stored_vae(vae: VAE, layout: str, dtype: torch.dtype = torch.float32) -> dict[str, Tensor]:
    tensors = {n: t.to(dtype).contiguous() for n, t in vae.network.state_dict().items()}
    if layout == "ldm":
        return {n: t.contiguous() for n, t in to_ldm(tensors).items()}
    return {names_of_2022(n): t for n, t in tensors.items()} if layout == "2022" else tensors


def write_checkpoint(
    path: Path,
    vae: VAE | None = None,
    *,
    space: str = "sd1",
    prefix: str = "first_stage_model.",
    layout: str = "ldm",
    dtype: torch.dtype = torch.float32,
    others: dict[str, Tensor] | None = None,
) -> Path:
    tensors = other_tensors(space) if others is None else dict(others)
    if vae is not None:
        tensors |= {prefix + n: t for n, t in stored_vae(vae, layout, dtype).items()}
    save_file(tensors, path, METADATA)
    return path


@contextmanager
def narrow_networks() -> Generator[None]:
    """In this context the full VAEs of the registry's latent spaces are narrow ones, as deep as the real ones."""
    with pytest.MonkeyPatch.context() as patch:
        for name in ("sd", "sd16"):
            config = registry().configs[name] | {"block_out_channels": [4, 8, 16, 16], "norm_num_groups": 4}
            patch.setitem(registry().configs, name, config)
        yield


def space_vae(space: str = "sd1", seed: int = 0) -> VAE:
    spec = registry().space_spec(space)
    assert spec is not None
    return random_vae(spec.config, seed, space, spec.scaling_factor, spec.shift_factor)


def raw(path: Path) -> tuple[dict[str, Any], dict[str, bytes], list[str]]:
    """Metadata, each tensor's dtype, shape and bytes, and their order, by a reader that shares no code with vaelens."""
    content = path.read_bytes()
    length = int.from_bytes(content[:8], "little")
    header = json.loads(content[8 : 8 + length])
    metadata = header.pop("__metadata__", {})
    held = {}
    for name, entry in header.items():
        begin, end = entry["data_offsets"]
        what = f"{entry['dtype']} {entry['shape']} ".encode()
        held[name] = what + content[8 + length + begin : 8 + length + end]
    return metadata, held, sorted(header, key=lambda n: header[n]["data_offsets"])
