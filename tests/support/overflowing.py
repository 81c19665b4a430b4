"""Random full VAEs whose maps float16 can't hold."""

import torch
from torch import Tensor

from support.vaes import random_network
from vaelens.families.spec import VAESpec
from vaelens.networks.autoencoder_kl import AutoencoderKLConfig
from vaelens.vae import VAE

STREAM = ("conv_in", "conv2")
EVERY_STAGE = (*STREAM, "conv1", "to_v")


def overflowing(config: AutoencoderKLConfig, push: float = 1e6, layers: tuple[str, ...] = STREAM) -> VAE:
    """Its stream reaches several times `push`, and so does what the other layers named write."""
    torch.manual_seed(0)
    network = random_network(config)
    for name, module in network.named_modules():
        if name.endswith(layers):
            module.weight.mul_(push)
    return VAE(network, VAESpec(config, None, 0.2, 0.0, (-1.0, 1.0)), "overflowing")


def with_quiet_group(config: AutoencoderKLConfig) -> VAE:
    """As above, and one group of the decoder's last level has variances of the order of epsilon."""
    vae = overflowing(config)
    channels = config.block_out_channels[0] // config.norm_num_groups
    with torch.no_grad():
        for module in vae.network.decoder.up_blocks[-1].modules():
            if isinstance(module, torch.nn.Conv2d):
                module.weight[:channels] *= 1e-9
                module.bias[:channels] *= 1e-9
    return vae


def photo_like(side: int = 48, number: int = 1) -> list[Tensor]:
    """Images [1,3,side,side+16] in [0,1], smooth with noise."""
    generator = torch.Generator().manual_seed(0)
    images: list[Tensor] = []
    for _ in range(number):
        coarse = torch.rand(1, 3, 4, 4, generator=generator)
        smooth = torch.nn.functional.interpolate(coarse, (side, side + 16), mode="bilinear")
        images.append((smooth + 0.1 * torch.rand(smooth.shape, generator=generator)).clamp(0, 1))
    return images
