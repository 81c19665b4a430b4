"""Small random VAEs."""

import torch

from vaelens.families.discovery import build_network, family_of
from vaelens.families.spec import NetworkConfig, VAESpec
from vaelens.networks.autoencoder_kl import AutoencoderKLConfig
from vaelens.networks.tiny import TinyAutoencoderConfig
from vaelens.resources import seeded
from vaelens.vae import VAE

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


def same_bytes(a: dict[str, torch.Tensor], b: dict[str, torch.Tensor]) -> bool:
    """Whether names, shapes, dtypes and values are the same."""
    return a.keys() == b.keys() and all(
        a[n].shape == b[n].shape and a[n].dtype == b[n].dtype and a[n].numpy().tobytes() == b[n].numpy().tobytes()
        for n in a
    )
