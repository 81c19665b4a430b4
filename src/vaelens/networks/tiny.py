"""The tiny autoencoders (TAESD, TAESDXL, TAESD3, TAEF1, TAEF2): distilled stand-ins for large VAEs.

They make the latents that the diffusion model sees (no scaling) from pixels in [0,1], without a
posterior. Tensor names are diffusers' (`encoder.layers.N`, `decoder.layers.N`). The architecture is
madebyollin/taesd's (MIT), written from scratch.
"""

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from vaelens.networks.autoencoder_kl import DiagonalGaussian

POOL_GROUPS = 4
POOL_WIDENING = 4
MOST_BLOCKS = 64  # in all; TAESD has 20


@dataclass(frozen=True)
class TinyAutoencoderConfig:
    """What fixes every tensor's shape. The defaults are TAESD's.

    `mid_block_pool` adds TAEF2's normalised side branch to the blocks at the lowest resolution.
    Raises ValueError where the numbers can't be a network.
    """

    in_channels: int = 3
    out_channels: int = 3
    latent_channels: int = 4
    width: int = 64
    num_encoder_blocks: tuple[int, ...] = (1, 3, 3, 3)
    num_decoder_blocks: tuple[int, ...] = (3, 3, 3, 1)
    mid_block_pool: bool = False

    def __post_init__(self) -> None:
        counts = (self.in_channels, self.out_channels, self.latent_channels, self.width)
        blocks = self.num_encoder_blocks + self.num_decoder_blocks
        if min(counts + blocks, default=0) < 1 or len(self.num_encoder_blocks) != len(self.num_decoder_blocks):
            raise ValueError(f"channels and blocks must be at least 1, with as many levels on both sides: {self}")
        if sum(blocks) > MOST_BLOCKS:
            raise ValueError(f"more than {MOST_BLOCKS} blocks")

    @property
    def factor(self) -> int:
        """Pixels per latent cell along each side: 8 for four levels."""
        return int(2 ** (len(self.num_encoder_blocks) - 1))


class TinyBlock(nn.Module):
    """relu(x + three 3x3 convolutions), after the side branch where there is one."""

    def __init__(self, width: int, pool: bool = False) -> None:
        super().__init__()
        wide = width * POOL_WIDENING
        self.conv = nn.Sequential(
            nn.Conv2d(width, width, 3, padding=1),
            nn.ReLU(),
            nn.Conv2d(width, width, 3, padding=1),
            nn.ReLU(),
            nn.Conv2d(width, width, 3, padding=1),
        )
        self.pool = (
            nn.Sequential(
                nn.Conv2d(width, wide, 1, bias=False),
                nn.GroupNorm(POOL_GROUPS, wide),
                nn.ReLU(),
                nn.Conv2d(wide, width, 1, bias=False),
            )
            if pool
            else None
        )

    def forward(self, x: Tensor) -> Tensor:
        if self.pool is not None:
            x = x + self.pool(x)
        return torch.relu(self.conv(x) + x)


class TinyEncoder(nn.Module):
    """Pixels [b,3,h,w] in [0,1] to latents [b,c,h/f,w/f]."""

    def __init__(self, config: TinyAutoencoderConfig) -> None:
        super().__init__()
        w, levels = config.width, config.num_encoder_blocks
        layers: list[nn.Module] = []
        for i, blocks in enumerate(levels):
            lowest = i == len(levels) - 1
            first = nn.Conv2d(config.in_channels, w, 3, padding=1)
            layers.append(nn.Conv2d(w, w, 3, stride=2, padding=1, bias=False) if i else first)
            layers += [TinyBlock(w, config.mid_block_pool and lowest) for _ in range(blocks)]
        self.layers = nn.Sequential(*layers, nn.Conv2d(w, config.latent_channels, 3, padding=1))

    def forward(self, x: Tensor) -> Tensor:
        return self.layers(x)


class TinyDecoder(nn.Module):
    """Latents [b,c,h/f,w/f], softly clamped to [-3,3], to pixels [b,3,h,w] around [0,1]."""

    def __init__(self, config: TinyAutoencoderConfig) -> None:
        super().__init__()
        w, levels = config.width, config.num_decoder_blocks
        layers: list[nn.Module] = [nn.Conv2d(config.latent_channels, w, 3, padding=1), nn.ReLU()]
        for i, blocks in enumerate(levels):
            layers += [TinyBlock(w, config.mid_block_pool and i == 0) for _ in range(blocks)]
            if i < len(levels) - 1:
                layers += [nn.Upsample(scale_factor=2.0), nn.Conv2d(w, w, 3, padding=1, bias=False)]
        self.layers = nn.Sequential(*layers, nn.Conv2d(w, config.out_channels, 3, padding=1))

    def forward(self, z: Tensor) -> Tensor:
        return self.layers(torch.tanh(z / 3) * 3)


class TinyAutoencoder(nn.Module):
    """Encoder and decoder; its posterior is deterministic."""

    def __init__(self, config: TinyAutoencoderConfig) -> None:
        super().__init__()
        self.config = config
        self.encoder = TinyEncoder(config)
        self.decoder = TinyDecoder(config)

    def posterior(self, pixels: Tensor) -> DiagonalGaussian:
        """Pixels [b,3,h,w] in [0,1] to latents; h and w are multiples of f."""
        return DiagonalGaussian.deterministic(self.encoder(pixels))

    def decode(self, z: Tensor) -> Tensor:
        """Latents [b,c,h/f,w/f] to pixels [b,3,h,w] around [0,1]."""
        return self.decoder(z)
