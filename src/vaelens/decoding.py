"""One latent through one decoder: the image, what it took, and what had to be done about it."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from vaelens.errors import CheckFailedError, ResourceError
from vaelens.images.writing import to_pixels
from vaelens.resources import is_out_of_memory, measured
from vaelens.vae import VAE

Guard = Callable[[Tensor], tuple[Tensor, bool]]


@dataclass(frozen=True)
class Decoded:
    """A decoded image, uint8 [h,w,3]; `dtype` is what it was decoded in.

    `redone` tells that half precision overflowed first, `hidden` that the model's safety checker made it black.
    `memory` are the bytes that decoding took at its peak, None where the system doesn't tell.
    """

    pixels: np.ndarray
    seconds: float
    memory: int | None
    dtype: str
    redone: bool = False
    hidden: bool = False


def decode(
    vae: VAE,
    latents: Tensor,
    size: tuple[int, int] | None = None,
    *,
    guard: Guard | None = None,
    in_full: Callable[[], VAE] | None = None,
) -> Decoded:
    """Scaled latents [1,c,h/f,w/f] to an image, cropped to `size` (height, width) where it is given.

    Where fp16 overflows, it is decoded again in fp32, by what `in_full` gives or the same weights; time and memory are
    then those of the second decode. `guard` looks at the finished image, outside the time. Raises CheckFailedError
    where fp32 gives NaN or infinity, ResourceError where memory runs out, UsageError for latents of another shape.
    """
    redone = False
    try:
        try:
            with measured(vae.device) as usage:
                image = vae.decode(latents, size)
        except CheckFailedError:
            if vae.dtype != torch.float16:
                raise
            redone = True
            vae = in_full() if in_full else vae.to(torch.float32)
            with measured(vae.device) as usage:
                image = vae.decode(latents, size)
    except (MemoryError, RuntimeError) as error:
        if not is_out_of_memory(error):
            raise
        h, w = (side * vae.spec.factor for side in latents.shape[2:])
        raise ResourceError(
            f"out of memory on {vae.device} decoding {w}x{h} pixels with {vae.name}. Make it smaller, use --dtype "
            "bfloat16, or run where there is more memory."
        ) from error
    image, hidden = guard(image) if guard else (image, False)
    dtype = str(vae.dtype).removeprefix("torch.")
    return Decoded(to_pixels(image.cpu()), usage.seconds, usage.memory, dtype, redone, hidden)
