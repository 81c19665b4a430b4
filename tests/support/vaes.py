"""Small random VAEs and networks."""

import dataclasses
from pathlib import Path

import torch
from safetensors.torch import save_file

from vaelens.families.discovery import build_network, family_of
from vaelens.families.spec import NetworkConfig, VAESpec
from vaelens.networks.autoencoder_kl import AutoencoderKL, AutoencoderKLConfig
from vaelens.networks.tiny import TinyAutoencoderConfig
from vaelens.resources import seeded
from vaelens.vae import VAE
from vaelens.weights.registry import registry

# As deep as kl-f8 (248 tensors), narrow enough to read a thousand times.
NARROW = AutoencoderKLConfig(block_out_channels=(4, 8, 16, 16), norm_num_groups=4)
TINY = TinyAutoencoderConfig(width=8)


def random_vae(
    config: NetworkConfig = NARROW, seed: int = 0, space: str | None = "sd1", scale: float = 0.18215, shift: float = 0.0
) -> VAE:
    family = family_of(config)
    values = {"scaling_factor": scale, "shift_factor": shift, "pixel_range": family.pixel_range, **family.convention}
    with seeded(seed):
        return VAE(build_network(config), VAESpec(config, space, **values), "random")


def tiny_halves(vae: VAE, folder: Path, name: str = "tae") -> tuple[Path, Path]:
    """A tiny autoencoder as its original code has it: the encoder's file and the decoder's, without metadata."""
    paths: list[Path] = []
    for half, offset in (("encoder", 0), ("decoder", 1)):
        named = {n.removeprefix(f"{half}.layers."): t for n, t in vae.tensors().items() if n.startswith(half)}
        numbered = {f"{int(n.split('.', 1)[0]) + offset}.{n.split('.', 1)[1]}": t for n, t in named.items()}
        paths.append(folder / f"{name}_{half}.safetensors")
        save_file(numbered, paths[-1])
    return paths[0], paths[1]


def same_bytes(a: dict[str, torch.Tensor], b: dict[str, torch.Tensor]) -> bool:
    """Whether names, shapes, dtypes and values are the same."""
    return a.keys() == b.keys() and all(
        a[n].shape == b[n].shape and a[n].dtype == b[n].dtype and a[n].numpy().tobytes() == b[n].numpy().tobytes()
        for n in a
    )


def narrow_config(space: str, widths: tuple[int, ...], groups: int) -> AutoencoderKLConfig:
    """The config of a latent space with fewer channels. A group of few values at 1x1 would enlarge rounding."""
    config = registry().space_spec(space).config
    assert isinstance(config, AutoencoderKLConfig)
    return dataclasses.replace(config, block_out_channels=widths, norm_num_groups=groups)


# In the shapes of each latent space: attention, quant_conv, levels; channels that aren't powers of two too.
CONFIGS = {
    "sd1": narrow_config("sd1", (16, 32, 64, 64), 8),
    "sdxl": narrow_config("sdxl", (16, 32, 32, 64), 8),
    "sd3": narrow_config("sd3", (8, 16, 24, 24), 2),
    "flux1": narrow_config("flux1", (24, 24, 24, 96), 4),
    "no attention": AutoencoderKLConfig(
        block_out_channels=(8, 24), layers_per_block=1, norm_num_groups=4, mid_block_add_attention=False
    ),
}


def random_network(config: AutoencoderKLConfig) -> AutoencoderKL:
    """With norms that scale and shift, as trained ones do."""
    network = AutoencoderKL(config).eval().requires_grad_(False)
    for module in network.modules():
        if isinstance(module, torch.nn.GroupNorm):
            module.weight.uniform_(0.5, 1.5)
            module.bias.normal_(0, 0.3)
    return network


def relative(found: torch.Tensor, wanted: torch.Tensor) -> float:
    """Relative L2."""
    return ((found - wanted).norm() / wanted.norm()).item()
