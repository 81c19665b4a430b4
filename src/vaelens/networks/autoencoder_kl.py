"""The KL-regularised autoencoder of Stable Diffusion: SD 1.x/2.x, SDXL, SD3 and FLUX.1 by one config.

Tensor names are diffusers'. The architecture is that of Rombach et al. 2022, "High-Resolution
Image Synthesis with Latent Diffusion Models" (https://arxiv.org/abs/2112.10752), `kl-f8`.
"""

import itertools
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from vaelens.networks.memory_saving import convolve, norm_silu_conv, recomputed, upsample_conv

MAX_EXPONENT = 32  # float16 has no numbers smaller by 2^-41 than its largest one


@dataclass(frozen=True)
class AutoencoderKLConfig:
    """What fixes every tensor's shape and the network's arithmetic. The defaults are kl-f8's.

    Field names are those of diffusers' `config.json`, but for `norm_exponents`: (name, k) of each norm that reads a map
    which was scaled by 2^-k, so that its epsilon is norm_eps * 4^-k. Raises ValueError where they can't be a network.
    """

    in_channels: int = 3
    out_channels: int = 3
    latent_channels: int = 4
    block_out_channels: tuple[int, ...] = (128, 256, 512, 512)
    layers_per_block: int = 2
    norm_num_groups: int = 32
    norm_eps: float = 1e-6
    use_quant_conv: bool = True
    use_post_quant_conv: bool = True
    mid_block_add_attention: bool = True
    norm_exponents: tuple[tuple[str, int], ...] = ()

    def __post_init__(self) -> None:
        counts = (self.in_channels, self.out_channels, self.latent_channels, self.layers_per_block)
        if not self.block_out_channels or min(counts + self.block_out_channels) < 1:
            raise ValueError(f"channels and layers must be at least 1: {self}")
        if self.norm_num_groups < 1 or any(c % self.norm_num_groups for c in self.block_out_channels):
            raise ValueError(
                f"norm_num_groups {self.norm_num_groups} must divide each of "
                f"block_out_channels {self.block_out_channels}"
            )
        if not 0 < self.norm_eps < 1:
            raise ValueError(f"norm_eps must lie between 0 and 1, not {self.norm_eps}")
        if len(dict(self.norm_exponents)) != len(self.norm_exponents):
            raise ValueError("norm_exponents names a norm twice")
        if any(not 1 <= exponent <= MAX_EXPONENT for _, exponent in self.norm_exponents):
            raise ValueError(f"norm_exponents must lie between 1 and {MAX_EXPONENT}")

    @property
    def factor(self) -> int:
        """Pixels per latent cell along each side: 8 for four levels."""
        return 2 ** (len(self.block_out_channels) - 1)


class DiagonalGaussian:
    """The posterior q(z|x) over raw z: a mean and a log-variance per element.

    `mean` and `logvar` are [b,c,h/f,w/f]; logvar is clamped to [-30, 20]. A network without a
    posterior (TAESD) gives `DiagonalGaussian.deterministic(z)`, whose standard deviation is 0.
    """

    def __init__(self, mean: Tensor, logvar: Tensor | None) -> None:
        self.mean = mean
        self.logvar = None if logvar is None else logvar.clamp(-30.0, 20.0)

    @classmethod
    def from_moments(cls, moments: Tensor) -> "DiagonalGaussian":
        """Split moments [b,2c,h/f,w/f] into mean and logvar."""
        mean, logvar = moments.chunk(2, dim=1)
        return cls(mean, logvar)

    @classmethod
    def deterministic(cls, z: Tensor) -> "DiagonalGaussian":
        """All mass at z [b,c,h/f,w/f]."""
        return cls(z, None)

    @property
    def std(self) -> Tensor:
        """Standard deviation, [b,c,h/f,w/f]."""
        return torch.zeros_like(self.mean) if self.logvar is None else torch.exp(0.5 * self.logvar)

    def __getitem__(self, images: slice) -> "DiagonalGaussian":
        """That of some images of the batch."""
        return DiagonalGaussian(self.mean[images], None if self.logvar is None else self.logvar[images])

    def mode(self) -> Tensor:
        """The most likely z, [b,c,h/f,w/f]."""
        return self.mean

    def sample(self, generator: torch.Generator | list[torch.Generator]) -> Tensor:
        """A sample, mean + std * noise, [b,c,h/f,w/f].

        The noise is drawn on the generator's device, so a CPU generator gives the same noise
        everywhere. A list holds one generator per image; its length must be b (else ValueError).
        Where it is deterministic, nothing is drawn: the generator's next numbers are those of what comes next.
        """
        if isinstance(generator, list) and len(generator) != len(self.mean):
            raise ValueError(f"{len(generator)} generators for {len(self.mean)} images")
        if self.logvar is None:
            return self.mean
        if isinstance(generator, list):
            noise = torch.cat([_noise(self.mean[i : i + 1], g) for i, g in enumerate(generator)])
        else:
            noise = _noise(self.mean, generator)
        return self.mean + self.std * noise

    def kl(self) -> Tensor:
        """KL(q || N(0, 1)) in nats, summed over an image's elements, [b]; 0 if deterministic."""
        if self.logvar is None:
            return self.mean.new_zeros(len(self.mean))
        return 0.5 * (self.mean.square() + self.logvar.exp() - 1.0 - self.logvar).sum(dim=(1, 2, 3))


def _noise(like: Tensor, generator: torch.Generator) -> Tensor:
    noise = torch.randn(like.shape, generator=generator, dtype=like.dtype, device=generator.device)
    return noise.to(like.device)


class ResnetBlock(nn.Module):
    """x + conv(silu(norm(conv(silu(norm(x)))))), with a 1x1 on the skip where the width changes."""

    def __init__(self, n_in: int, n_out: int, groups: int, eps: float) -> None:
        super().__init__()
        self.norm1 = nn.GroupNorm(groups, n_in, eps)
        self.conv1 = nn.Conv2d(n_in, n_out, 3, padding=1)
        self.norm2 = nn.GroupNorm(groups, n_out, eps)
        self.conv2 = nn.Conv2d(n_out, n_out, 3, padding=1)
        self.conv_shortcut = nn.Conv2d(n_in, n_out, 1) if n_in != n_out else None

    def forward(self, x: Tensor) -> Tensor:
        h = norm_silu_conv(x, self.norm1, self.conv1)
        skip = x if self.conv_shortcut is None else convolve(x, self.conv_shortcut)
        return norm_silu_conv(h, self.norm2, self.conv2, skip)


class Attention(nn.Module):
    """Self-attention over all positions: one head as wide as the layer."""

    def __init__(self, width: int, groups: int, eps: float) -> None:
        super().__init__()
        self.group_norm = nn.GroupNorm(groups, width, eps)
        self.to_q = nn.Linear(width, width)
        self.to_k = nn.Linear(width, width)
        self.to_v = nn.Linear(width, width)
        self.to_out = nn.ModuleList([nn.Linear(width, width)])  # a list, for diffusers' name to_out.0

    def forward(self, x: Tensor) -> Tensor:
        return x + recomputed(self._mixed, x.contiguous())

    def _mixed(self, x: Tensor) -> Tensor:
        tokens = self.group_norm(x).flatten(2).transpose(1, 2).unsqueeze(1)  # [b,1,h*w,c]
        mixed = F.scaled_dot_product_attention(self.to_q(tokens), self.to_k(tokens), self.to_v(tokens))
        return self.to_out[0](mixed).squeeze(1).transpose(1, 2).unflatten(2, x.shape[2:])


class MidBlock(nn.Module):
    """Resnet, attention (in most configs), resnet, all at the lowest resolution."""

    def __init__(self, width: int, config: AutoencoderKLConfig) -> None:
        super().__init__()
        norm = config.norm_num_groups, config.norm_eps
        self.resnets = nn.ModuleList([ResnetBlock(width, width, *norm) for _ in range(2)])
        self.attentions = nn.ModuleList([Attention(width, *norm)] if config.mid_block_add_attention else [])

    def forward(self, x: Tensor) -> Tensor:
        x = self.resnets[0](x)
        for attention in self.attentions:
            x = attention(x)
        return self.resnets[1](x)


class Downsample(nn.Module):
    """Halve the size: zero pad right and bottom by one, then 3x3 with stride 2."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(width, width, 3, stride=2)

    def forward(self, x: Tensor) -> Tensor:
        return convolve(x, self.conv, pad_after=1)


class Upsample(nn.Module):
    """Double the size: nearest, then 3x3."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(width, width, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        return upsample_conv(x, self.conv)


class DownBlock(nn.Module):
    """One level of the encoder: resnets, then halve (but for the last)."""

    def __init__(self, n_in: int, n_out: int, last: bool, config: AutoencoderKLConfig) -> None:
        super().__init__()
        norm = config.norm_num_groups, config.norm_eps
        widths = [n_in] + [n_out] * config.layers_per_block
        self.resnets = nn.ModuleList([ResnetBlock(a, b, *norm) for a, b in _pairs(widths)])
        self.downsamplers = nn.ModuleList([] if last else [Downsample(n_out)])

    def forward(self, x: Tensor) -> Tensor:
        return _through(x, self.resnets, self.downsamplers)


class UpBlock(nn.Module):
    """One level of the decoder: one resnet more than the encoder's level, then double (but for the last)."""

    def __init__(self, n_in: int, n_out: int, last: bool, config: AutoencoderKLConfig) -> None:
        super().__init__()
        norm = config.norm_num_groups, config.norm_eps
        widths = [n_in] + [n_out] * (config.layers_per_block + 1)
        self.resnets = nn.ModuleList([ResnetBlock(a, b, *norm) for a, b in _pairs(widths)])
        self.upsamplers = nn.ModuleList([] if last else [Upsample(n_out)])

    def forward(self, x: Tensor) -> Tensor:
        return _through(x, self.resnets, self.upsamplers)


class Encoder(nn.Module):
    """Pixels [b,3,h,w] to unquantised moments [b,2c,h/f,w/f]."""

    def __init__(self, config: AutoencoderKLConfig) -> None:
        super().__init__()
        widths = config.block_out_channels
        levels = list(_pairs([widths[0], *widths]))
        self.conv_in = nn.Conv2d(config.in_channels, widths[0], 3, padding=1)
        self.down_blocks = nn.ModuleList(
            [DownBlock(a, b, i == len(levels) - 1, config) for i, (a, b) in enumerate(levels)]
        )
        self.mid_block = MidBlock(widths[-1], config)
        self.conv_norm_out = nn.GroupNorm(config.norm_num_groups, widths[-1], config.norm_eps)
        self.conv_out = nn.Conv2d(widths[-1], 2 * config.latent_channels, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        x = _through(convolve(x, self.conv_in), self.down_blocks)
        return norm_silu_conv(self.mid_block(x), self.conv_norm_out, self.conv_out)


class Decoder(nn.Module):
    """z [b,c,h/f,w/f] (after post_quant_conv) to pixels [b,3,h,w]."""

    def __init__(self, config: AutoencoderKLConfig) -> None:
        super().__init__()
        widths = config.block_out_channels[::-1]
        levels = list(_pairs([widths[0], *widths]))
        self.conv_in = nn.Conv2d(config.latent_channels, widths[0], 3, padding=1)
        self.mid_block = MidBlock(widths[0], config)
        self.up_blocks = nn.ModuleList([UpBlock(a, b, i == len(levels) - 1, config) for i, (a, b) in enumerate(levels)])
        self.conv_norm_out = nn.GroupNorm(config.norm_num_groups, widths[-1], config.norm_eps)
        self.conv_out = nn.Conv2d(widths[-1], config.out_channels, 3, padding=1)

    def forward(self, z: Tensor) -> Tensor:
        x = _through(self.mid_block(convolve(z, self.conv_in)), self.up_blocks)
        return norm_silu_conv(x, self.conv_norm_out, self.conv_out)


class AutoencoderKL(nn.Module):
    """Encoder and decoder, with the 1x1 convolutions that SD 1.x, 2.x and SDXL put between them.

    Works on raw pixels (in [-1,1] for the published weights) and raw z; `vaelens.VAE` handles ranges, scaling, and
    sizes that aren't a multiple of the factor. Raises ValueError where the config names a norm that isn't there.
    """

    def __init__(self, config: AutoencoderKLConfig) -> None:
        super().__init__()
        c = config.latent_channels
        self.config = config
        self.encoder = Encoder(config)
        self.decoder = Decoder(config)
        self.quant_conv = nn.Conv2d(2 * c, 2 * c, 1) if config.use_quant_conv else None
        self.post_quant_conv = nn.Conv2d(c, c, 1) if config.use_post_quant_conv else None
        modules = cast(Iterable[tuple[str, nn.Module]], self.named_modules())
        norms = {name: module for name, module in modules if isinstance(module, nn.GroupNorm)}
        for name, exponent in config.norm_exponents:
            if name not in norms:
                raise ValueError(f"norm_exponents names {name!r:.80}, and the network has no such norm")
            norms[name].eps = config.norm_eps * 4.0**-exponent

    def moments(self, pixels: Tensor) -> Tensor:
        """Pixels [b,3,h,w] to moments [b,2c,h/f,w/f]; h and w are multiples of f."""
        h = self.encoder(pixels)
        return h if self.quant_conv is None else self.quant_conv(h)

    def posterior(self, pixels: Tensor) -> DiagonalGaussian:
        """Pixels [b,3,h,w] to q(z|x); h and w are multiples of f."""
        return DiagonalGaussian.from_moments(self.moments(pixels))

    def decode(self, z: Tensor) -> Tensor:
        """Raw z [b,c,h/f,w/f] to pixels [b,3,h,w]."""
        return self.decoder(z if self.post_quant_conv is None else self.post_quant_conv(z))


def _pairs(widths: list[int]) -> Iterator[tuple[int, int]]:
    return itertools.pairwise(widths)


def _through(x: Tensor, *stages: nn.ModuleList) -> Tensor:
    for stage in stages:
        for layer in stage:
            x = cast(Tensor, layer(x))
    return x
