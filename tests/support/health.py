"""VAEs and images to examine, and the findings of an examination by their names."""

from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor

from support.vaes import NARROW, random_vae
from vaelens.health import Health, examine
from vaelens.vae import VAE


def lively(seed: int = 0) -> VAE:
    """A random VAE whose posterior is narrow, as a trained one's is: a KL well above 0."""
    vae = random_vae(NARROW, seed)
    with torch.no_grad():
        vae.network.quant_conv.bias[4:] -= 10
        vae.network.quant_conv.weight[:4] *= 10
        vae.network.decoder.conv_out.weight *= 0.1  # no pixel reaches 0 or 1, where clamping would hide what is added
    return vae


def noise(count: int = 2, side: int = 64) -> list[Tensor]:
    generator = torch.Generator().manual_seed(1)
    return [torch.rand(1, 3, side, side, generator=generator) for _ in range(count)]


def quick(vae: VAE, images: Sequence[Tensor | Path | str] | None = None) -> Health:
    return examine(vae, noise() if images is None else images, round_trips=1, time_at=())


def verdict(health: Health, check: str) -> str | None:
    (found,) = (finding.verdict for finding in health.findings if finding.check == check)
    return found


def result(health: Health, check: str) -> str:
    (found,) = (finding.result for finding in health.findings if finding.check == check)
    return found
