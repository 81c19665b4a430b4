"""A VAE of kl-f8's size with random weights made realistic, and images and latents of photos to run it on.

Time doesn't depend on the weights, but errors and overflow do: the norms scale and shift, the branches of the residual
blocks are as large as what they are added to, latents and pixels have the spread of Stable Diffusion's.
"""

import functools
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn

from vaelens.networks.autoencoder_kl import AutoencoderKL
from vaelens.resources import seeded
from vaelens.vae import VAE
from vaelens.weights.registry import registry

SEED = 0
FACTOR = 8  # of kl-f8
LATENT_DEVIATION = 1 / 0.18215  # of raw z: Stable Diffusion scales it to 1
PIXEL_DEVIATION = 0.5  # of an ordinary photo's pixels in [-1,1]
PHOTOS = ("astronaut.png", "chelsea.png")
SIDES = (256, 512)  # at which the photos themselves are encoded; other sizes take their mirrored repetition
EXAMPLES = Path(__file__).parents[1] / "examples"
VERSION = 1  # of what is made here; the work folder keeps it from run to run

Size = tuple[int, int]


def prepare(work: Path) -> None:
    """Write the VAE, a diffusers folder, and the latents of the photos into `work`, unless they are there."""
    if (work / "latents-512.npy").exists():
        return
    network = realistic_network()
    VAE(network, registry().spec("kl-f8"), "realistic").save(work / "vae")
    for side in SIDES:
        photos = torch.cat([_pixels(number, side) for number in range(len(PHOTOS))])
        with torch.no_grad():
            moments = torch.cat([network.quant_conv(network.encoder(photo[None])) for photo in photos])
        np.save(work / f"latents-{side}.npy", moments.chunk(2, dim=1)[0].numpy())


@torch.no_grad()
def realistic_network() -> AutoencoderKL:
    """Full-width kl-f8: the same weights for each call."""
    with seeded(SEED):
        network = AutoencoderKL(registry().spec("kl-f8").config).eval()
        for module in network.modules():
            if isinstance(module, nn.GroupNorm):
                module.weight.uniform_(0.5, 1.5)
                module.bias.normal_(0, 0.3)
            elif isinstance(module, nn.Conv2d | nn.Linear):
                module.weight.normal_(0, (module.weight[0].numel()) ** -0.5)
                module.bias.normal_(0, 0.1)
    # Latents and pixels to the spread that they have in Stable Diffusion.
    images = torch.cat([_pixels(number, 128) for number in range(len(PHOTOS))])
    _standardise(network.quant_conv, network.quant_conv(network.encoder(images)), 4, LATENT_DEVIATION)
    z = network.quant_conv(network.encoder(images)).chunk(2, dim=1)[0]
    pixels = network.decoder(network.post_quant_conv(z))
    _standardise(network.decoder.conv_out, pixels, 3, PIXEL_DEVIATION)
    return network


def inputs(work: Path, task: str, size: Size, batch: int) -> Tensor:
    """Images [b,3,h,w] in [-1,1] to encode, or raw z [b,4,h/8,w/8] to decode: photos, every second pair mirrored."""
    if task == "encode":
        wanted, bases = size, [_pixels(number, _side(size))[0] for number in range(len(PHOTOS))]
    else:
        wanted = (size[0] // FACTOR, size[1] // FACTOR)
        bases = list(torch.as_tensor(np.load(work / f"latents-{_side(size)}.npy")))
    chosen = [bases[n % 2].flip(-1) if n % 4 >= 2 else bases[n % 2] for n in range(batch)]
    return torch.stack([_mirrored(base, wanted) for base in chosen]).contiguous()


def write_photo(path: Path, width: int, height: int) -> Path:
    """A photo of any size as an 8-bit PNG file."""
    pixels = (_mirrored(_pixels(0, SIDES[-1])[0], (height, width)) + 1) * 127.5
    array = pixels.round().to(torch.uint8).permute(1, 2, 0).contiguous().numpy()
    Image.fromarray(array).save(path, compress_level=1)
    return path


def _side(size: Size) -> int:
    return min((side for side in SIDES if side >= max(size)), default=SIDES[-1])


@functools.cache
def _pixels(number: int, side: int) -> Tensor:
    """The middle square of a photo, [1,3,side,side] in [-1,1]."""
    image = Image.open(EXAMPLES / PHOTOS[number]).convert("RGB")
    short = min(image.size)
    left, top = (image.width - short) // 2, (image.height - short) // 2
    square = image.crop((left, top, left + short, top + short)).resize((side, side), Image.Resampling.LANCZOS)
    return torch.as_tensor(np.array(square)).permute(2, 0, 1)[None].float() / 127.5 - 1


def _mirrored(base: Tensor, size: Sequence[int]) -> Tensor:
    """[c,h,w] continued to the size by mirrored copies of itself, without seams."""
    for axis, length in zip((1, 2), size, strict=True):
        own = base.shape[axis]
        place = torch.arange(length) % (2 * own)
        base = base.index_select(axis, torch.where(place < own, place, 2 * own - 1 - place))
    return base


def _standardise(layer: nn.Conv2d, output: Tensor, channels: int, deviation: float) -> None:
    """Change the layer so that its first `channels` output channels have the mean 0 and this deviation.

    The rest, the encoder's log-variances, become small.
    """
    spread, mean = output.std(dim=(0, 2, 3)), output.mean(dim=(0, 2, 3))
    layer.weight.mul_((deviation / spread).view(-1, 1, 1, 1))
    layer.bias.copy_((layer.bias - mean) * deviation / spread)
    layer.weight[channels:] *= 0.1
    layer.bias[channels:] -= 4
