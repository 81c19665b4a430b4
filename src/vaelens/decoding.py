"""One latent through one decoder: the image, its time and memory, and whether it was decoded twice or flagged."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from vaelens.errors import CheckFailedError, UsageError
from vaelens.images.writing import to_pixels
from vaelens.resources import measured, out_of_memory
from vaelens.runtime import dtype_name
from vaelens.vae import VAE

SafetyChecker = Callable[[Tensor], tuple[Tensor, bool]]  # an image -> the image, black where flagged; and whether it is


@dataclass(frozen=True)
class Decoded:
    """A decoded image, uint8 [h,w,3]; `dtype` is the precision it was decoded in.

    `retried_in_float32` means that half precision overflowed first, `flagged` that the model's safety checker replaced
    the image with black. `memory` is the peak of decoding in bytes, None where the system doesn't report it.
    """

    pixels: np.ndarray
    seconds: float
    memory: int | None
    dtype: str
    retried_in_float32: bool = False
    flagged: bool = False


def check_budget(vae: VAE, size: tuple[int, int]) -> None:
    """Raises UsageError where latents of this height and width can't be decoded within the VAE's budget of memory.

    For those who have to make the latents first.
    """
    vae.engine.plan("decode", size)


def check_photo_budget(vae: VAE, name: str, size: tuple[int, int], *, encodes: bool = True) -> None:
    """As `check_budget`, for a photo of this height and width, which is encoded first unless another VAE does that.

    Checked for all photos before the first one runs, so that no work is lost. The message begins with the photo's name.
    """
    factor = vae.spec.factor
    h, w = (-(-side // factor) for side in size)
    try:
        if encodes:
            vae.engine.plan("encode", (h * factor, w * factor))
        check_budget(vae, (h, w))
    except UsageError as error:
        raise UsageError(f"{name}: {error}") from None


def decode(
    vae: VAE,
    latents: Tensor,
    size: tuple[int, int] | None = None,
    *,
    safety_checker: SafetyChecker | None = None,
    load_float32: Callable[[], VAE] | None = None,
) -> Decoded:
    """Scaled latents [1,c,h/f,w/f] to an image, cropped to `size` (height, width) where it is given.

    Where fp16 overflows, the VAE of `load_float32`, or else the same weights in fp32, decode again; time and memory are
    then those of the second decode. The safety checker's time isn't counted. Raises CheckFailedError where fp32 gives
    NaN or infinity, ResourceError where memory runs out, UsageError for latents of another shape.
    """
    h, w = (side * vae.spec.decoded_factor for side in latents.shape[-2:])
    message = (
        f"out of memory on {vae.device} decoding {w}x{h} pixels with {vae.name}. Close other programs, make a smaller "
        "image, or run where there is more memory."
    )
    retried = False
    with out_of_memory(message):
        try:
            with measured(vae.device) as usage:
                image = vae.decode(latents, size)
        except CheckFailedError:
            if vae.dtype != torch.float16:
                raise
            retried = True
            vae = load_float32() if load_float32 else vae.to(torch.float32)
            with measured(vae.device) as usage:
                image = vae.decode(latents, size)
    image, flagged = safety_checker(image) if safety_checker else (image, False)
    pixels = to_pixels(image)  # of a GPU's image: rounded there, so that a quarter of the bytes is copied
    return Decoded(pixels, usage.seconds, usage.memory, dtype_name(vae.dtype), retried, flagged)
