"""What a VAE is beside its tensors: the network's shape, and the conventions around it."""

from dataclasses import dataclass

from vaelens.networks.autoencoder_kl import AutoencoderKLConfig
from vaelens.networks.tiny import TinyAutoencoderConfig

NetworkConfig = AutoencoderKLConfig | TinyAutoencoderConfig


@dataclass(frozen=True)
class VAESpec:
    """Network, latent space and ranges of one VAE.

    latents = (z - shift_factor) * scaling_factor is what the diffusion model sees; the network's own
    pixels lie in pixel_range. `latent_space` is a name of the registry, or None for a space of its own,
    inside which nothing else may be swapped.
    """

    config: NetworkConfig
    latent_space: str | None
    scaling_factor: float
    shift_factor: float
    pixel_range: tuple[float, float]

    @property
    def latent_channels(self) -> int:
        """Channels of a latent."""
        return self.config.latent_channels

    @property
    def factor(self) -> int:
        """Pixels a latent cell, along each side."""
        return self.config.factor
