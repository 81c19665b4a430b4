"""Whether two VAEs are the same function: both encode the same images, and both decode the latents of the first one."""

import dataclasses
from collections.abc import Iterable
from dataclasses import dataclass

from torch import Tensor

from vaelens.vae import VAE


@dataclass(frozen=True)
class Differences:
    """The largest difference of scaled latents, and the largest and the mean one of pixels on [0,1], over `images`."""

    latents_largest: float
    pixels_largest: float
    pixels_mean: float
    images: int

    def as_dict(self) -> dict[str, float]:
        """For JSON."""
        return dataclasses.asdict(self)


def verify(before: VAE, after: VAE, images: Iterable[Tensor]) -> Differences:
    """Compare two VAEs on images [1,3,h,w] in [0,1].

    Raises CheckFailedError where one of them gives NaN or infinity, and as `VAE.encode` and `VAE.decode` do.
    """
    latents_largest = pixels_largest = pixels_sum = 0.0
    values = count = 0
    for image in images:
        encoded = before.encode(image)
        latents = encoded.mode()
        other = after.encode(image).mode()
        latents_largest = max(latents_largest, _largest(latents, other))
        pixels, again = (vae.decode(latents.to(vae.device), encoded.size) for vae in (before, after))
        pixels_largest = max(pixels_largest, _largest(pixels, again))
        pixels_sum += float((pixels.cpu().double() - again.cpu().double()).abs().sum())
        values += pixels.numel()
        count += 1
    return Differences(latents_largest, pixels_largest, pixels_sum / max(values, 1), count)


def _largest(a: Tensor, b: Tensor) -> float:
    return float((a.cpu().float() - b.cpu().float()).abs().max())
