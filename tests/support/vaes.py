"""Small random VAEs."""

from vaelens.networks.autoencoder_kl import AutoencoderKLConfig
from vaelens.networks.tiny import TinyAutoencoderConfig
from vaelens.resources import seeded
from vaelens.vae import VAE
from vaelens.weights.shapes import build
from vaelens.weights.spec import NetworkConfig, VAESpec

# As deep as kl-f8 (248 tensors), narrow enough to read a thousand times.
NARROW = AutoencoderKLConfig(block_out_channels=(4, 8, 16, 16), norm_num_groups=4)
TINY = TinyAutoencoderConfig(width=8)


def spec_of(config: NetworkConfig, space: str | None = "sd1", scale: float = 0.18215, shift: float = 0.0) -> VAESpec:
    if isinstance(config, TinyAutoencoderConfig):
        return VAESpec(config, space, 1.0, 0.0, (0.0, 1.0))
    return VAESpec(config, space, scale, shift, (-1.0, 1.0))


def random_vae(config: NetworkConfig = NARROW, seed: int = 0, **spec: object) -> VAE:
    with seeded(seed):
        return VAE(build(config), spec_of(config, **spec), "random")  # type: ignore[arg-type]
