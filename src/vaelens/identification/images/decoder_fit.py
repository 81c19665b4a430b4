"""How nearly a decoder can reproduce an image: the latents are fitted to it, from its own encoding.

A decoded image lies on its decoder's range but for the rounding to 8 bits: some latents give it back with an error of
1/sqrt(12) = 0.289 levels of 255, that of rounding. One round trip doesn't find them, because an encoder inverts its
decoder only roughly: so the error is minimised over the latents by L-BFGS, which another decoder's range, being 48
times smaller than the image's space (4 numbers for 192), can't help. Measured per 8-bit value that isn't saturated
beyond: where a stored value is 0 or 255, the decoder may give anything below or above.

Programs turn [0,1] into bytes in two ways: diffusers and InvokeAI round, AUTOMATIC1111, Forge and ComfyUI cut off
(`astype(np.uint8)`), which is half a level darker. Latents follow that: both fit equally well.
"""

import math
from collections.abc import Callable, Generator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from typing import Any, cast

import torch
from torch import Tensor

from vaelens.errors import CheckFailedError, UsageError
from vaelens.networks.memory_saving import memory_saving
from vaelens.resources import out_of_memory
from vaelens.runtime import ShouldStop, never, silent
from vaelens.vae import VAE

WHITE = 255
ROUNDING = 1 / math.sqrt(12)  # levels
SETTLED = 1.03 * ROUNDING  # no fit gets much nearer
GOAL = 0.5  # levels: a fit that can't get there at its present pace ends
ITERATIONS, MOST_ROUNDS = 4, 60  # of L-BFGS in a round
LEAST_GAIN = 0.01  # of the error in one round
HISTORY = 10
SMALL = 2**16  # pixels: up to here, saving memory costs more time than it is worth


@dataclass(frozen=True)
class Fit:
    """The nearest image that a decoder was found to give.

    `error` is its distance in levels of 255, root mean square over pixels and channels; `first` that of the plain round
    trip; `passes` is how often the decoder ran.
    """

    error: float
    first: float
    passes: int


def fit_decoder(
    vae: VAE, image: Tensor, *, progress: Callable[[str], object] = silent, should_stop: ShouldStop = never
) -> Fit:
    """The fit of a decoder to an image [1,3,h,w] of 8-bit values in [0,1].

    Takes 10 to 60 passes forward and back, at most 300, in the memory of a training step on one image. Raises
    UsageError for a decoder whose images are larger than what it encodes, CheckFailedError where it gives NaN,
    ResourceError where memory runs out.
    """
    if vae.spec.decoded_factor != vae.spec.factor:
        raise UsageError(f"{vae.name} decodes to another size than it encodes, and can't be fitted to an image.")
    levels = image.to(vae.device, torch.float32) * WHITE
    latents = vae.encode(image).mode().to(vae.device, torch.float32).clone().requires_grad_()
    search = _Search(vae, levels, latents)
    optimizer = torch.optim.LBFGS(
        [latents], max_iter=ITERATIONS, history_size=HISTORY, line_search_fn="strong_wolfe",
        tolerance_grad=0.0, tolerance_change=0.0,
    )  # fmt: skip
    h, w = image.shape[2:]
    saving = memory_saving() if h * w > SMALL else nullcontext()
    message = f"out of memory fitting {vae.name} to {w}x{h} pixels. Run it where there is more memory."
    with torch.enable_grad(), _without_weight_gradients(vae.network), saving, out_of_memory(message):
        search.measure()
        if not math.isfinite(search.first):
            raise CheckFailedError(f"{vae.name} gave NaN or infinite values for its own encoding of the image.")
        for left in reversed(range(MOST_ROUNDS)):
            if should_stop():
                break
            before = search.best
            progress(f"{vae.name}: {before:.2f} levels off so far")
            cast(Any, optimizer).step(search.measure)
            if search.best <= SETTLED or not _may_reach_goal(before, search.best, left):
                break
    return Fit(search.best, search.first, search.passes)


class _Search:
    """The error at the present latents, and the smallest so far."""

    def __init__(self, vae: VAE, levels: Tensor, latents: Tensor) -> None:
        self.vae, self.levels, self.latents = vae, levels, latents
        self.best = self.first = math.inf
        self.passes = 0

    def measure(self) -> Tensor:
        """The mean squared error in levels; its gradient lies in the latents'."""
        self.latents.grad = None
        decoded = _decoded(self.vae, self.latents)[..., : self.levels.shape[2], : self.levels.shape[3]] * WHITE
        loss = _squared_error(decoded, self.levels)
        loss.backward()  # pyright: ignore[reportUnknownMemberType]
        error = math.sqrt(loss.item()) if math.isfinite(loss.item()) else math.inf
        if not self.passes:
            self.first = error
        self.passes += 1
        self.best = min(self.best, error)
        return loss


def _may_reach_goal(before: float, now: float, rounds: int) -> bool:
    """Whether so many more rounds, each as good as the one from `before` to `now`, may lead to GOAL."""
    if not now <= (1 - LEAST_GAIN) * before:
        return False
    return now <= GOAL or rounds * math.log(now / before) <= math.log(GOAL / now)


def _squared_error(decoded: Tensor, levels: Tensor) -> Tensor:
    """Mean over values; where one is stored as black or white, the decoder's may lie beyond."""
    off = decoded - levels
    beyond = ((levels <= 0) & (off < 0)) | ((levels >= WHITE) & (off > 0))
    return torch.where(beyond, torch.zeros_like(off), off).square().mean()


def _decoded(vae: VAE, latents: Tensor) -> Tensor:
    """What `VAE.decode` gives before it clamps, with gradients."""
    spec = vae.spec
    low, high = spec.pixel_range
    z = spec.family.to_z(latents.to(vae.weight_dtype), spec, vae.network)
    return (spec.family.decode(vae.network, z).float() - low) / (high - low)


@contextmanager
def _without_weight_gradients(network: Any) -> Generator[None]:
    """The network's parameters need no gradients in here."""
    wanted = [parameter for parameter in network.parameters() if parameter.requires_grad]
    for parameter in wanted:
        parameter.requires_grad_(False)
    try:
        yield
    finally:
        for parameter in wanted:
            parameter.requires_grad_(True)
