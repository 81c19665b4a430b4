"""The small networks that ship with vaelens, and the two metrics they give: psim-small and fd-small.

They rank VAEs offline, on a scale of their own, and are neither PSIM nor rFID: their numbers can't be compared with
published ones (docs/small-metrics.md). All run in float32.
"""

from pathlib import Path
from typing import TypeVar

import torch
from safetensors import SafetensorError
from safetensors.torch import load
from torch import Tensor, nn

from vaelens.errors import BadInputError
from vaelens.metrics.psim import psim
from vaelens.networks.small import GlyphReader, SmallFrechet, SmallPerceptual
from vaelens.resources import full_precision, preserved_random_state

WEIGHTS = Path(__file__).parent / "weights"
Network = TypeVar("Network", bound=nn.Module)


def psim_small(net: SmallPerceptual, image: Tensor, reference: Tensor) -> Tensor:
    """PSIM's form over the small network's taps: one value per image, [b]; 0 is equal, lower is better.

    image, reference: [b,3,h,w] in [0,1], of one shape, each side at least 16 (else ValueError).
    """
    if image.shape != reference.shape:
        shapes = f"{tuple(image.shape)} and {tuple(reference.shape)}"
        raise ValueError(f"psim-small compares images of one shape, not {shapes}")
    return psim(perceptual_taps(net, image), perceptual_taps(net, reference))


def perceptual_taps(net: SmallPerceptual, image: Tensor) -> list[Tensor]:
    """The taps to compare, in full float32; image [b,3,h,w] in [0,1], each side at least 16."""
    with full_precision(image.device):
        return net(image.float())


def frechet_features(net: SmallFrechet, pixels: Tensor) -> Tensor:
    """fd-small's features of 8-bit images, uint8 [b,3,h,w] -> float32 [b,64]; meant for 256x256.

    Raises ValueError for anything but uint8: features of unrounded images are others.
    """
    if pixels.dtype != torch.uint8:
        raise ValueError(f"fd-small's features are of 8-bit images (uint8), not of {pixels.dtype}")
    with full_precision(pixels.device):
        return net(pixels.float() / 255)


@preserved_random_state()
def load_small_perceptual() -> SmallPerceptual:
    """psim-small's network, on the CPU, float32, frozen. Raises BadInputError where its file is damaged."""
    return _loaded(SmallPerceptual(), "psim-small")


@preserved_random_state()
def load_small_frechet() -> SmallFrechet:
    """fd-small's network, on the CPU, float32, frozen. Raises BadInputError where its file is damaged."""
    return _loaded(SmallFrechet(), "fd-small")


@preserved_random_state()
def load_glyph_reader(classes: int) -> GlyphReader:
    """The glyph reader, on the CPU, float32, frozen. Raises BadInputError where its file is damaged."""
    return _loaded(GlyphReader(classes), "glyph-reader")


def small_weights(name: str) -> Path:
    """The shipped file of `psim-small`, `fd-small` or `glyph-reader`, for a record to take its sha256."""
    return WEIGHTS / f"{name}.safetensors"


def _loaded(net: Network, name: str) -> Network:
    file = small_weights(name)
    try:
        net.load_state_dict({key: value.float() for key, value in load(file.read_bytes()).items()})
    except (OSError, SafetensorError, RuntimeError) as error:
        why = str(error).replace("\n", " ")
        raise BadInputError(f"{file}, part of vaelens, is missing or damaged: {why} Install vaelens again.") from error
    return net.eval().requires_grad_(False)
