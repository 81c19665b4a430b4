"""The thresholds of an examination as data, each with its reason; nowhere else is one written."""

import math
from dataclasses import dataclass
from typing import Literal

Verdict = Literal["fine", "worth a look", "bad"]


@dataclass(frozen=True)
class Threshold:
    """A value is bad from `bad` on, and worth a look from `notable` on; `reason` says why.

    Where `notable` is above `bad`, small values are the bad ones. NaN is bad.
    """

    notable: float
    bad: float
    unit: str
    reason: str

    def verdict(self, value: float) -> Verdict:
        """The verdict on one value in the threshold's unit."""
        sign = 1 if self.bad >= self.notable else -1
        if math.isnan(value) or sign * value >= sign * self.bad:
            return "bad"
        return "worth a look" if sign * value >= sign * self.notable else "fine"


THRESHOLDS = {
    "finite values": Threshold(
        1, 1, "passes with NaN or infinity", "One NaN spreads to the whole image, which comes out black."
    ),
    "KL": Threshold(0.5, 0.1, "nats per element", "With so little the latents hardly depend on the image any more."),
    "posterior noise": Threshold(
        0.1,
        0.5,
        "of the latents' variance",
        "A sampled latent differs by this much from the next one of the same image; the published VAEs have next "
        "to none.",
    ),
    "latent scale": Threshold(
        1.4,
        2.5,
        "times too large or too small",
        "A diffusion model expects latents of unit spread; another scaling_factor's VAE gives grey or glaring "
        "images. Synthetic images alone shift it by up to a third.",
    ),
    "latent centre": Threshold(
        0.75, 2, "standard deviations off 0", "A diffusion model expects latents around 0; the shift_factor is wrong."
    ),
    "dead channels": Threshold(
        1, 1, "channels", "A channel that is the same for every image is capacity lost, and a sign of a broken file."
    ),
    "colour bias": Threshold(
        1,
        5,
        "levels of 255",
        "One level is lost in rounding; the published kl-f8 darkens by two; five over a whole image are seen.",
    ),
    "coarse structure": Threshold(
        1.1,
        1.5,
        "times too much or too little power at 16 pixels and more",
        "Shapes this large pass through every sound VAE unchanged.",
    ),
    "detail retained": Threshold(
        0.5,
        0.1,
        "of the power in the band that keeps least",
        "Half the power gone looks soft, nearly all blurred.",
    ),
    "detail invented": Threshold(
        1.25,
        2,
        "times the power in the band that has most",
        "Texture that wasn't there: the decoder sharpens or rings.",
    ),
    "grid in images": Threshold(
        0.5,
        2,
        "levels of 255",
        "A pattern locked to the latent grid; half a level is lost in rounding, two are seen in skies.",
    ),
    "grid on plain": Threshold(
        0.5, 2, "levels of 255", "Nothing but the decoder can have drawn it; two levels are seen in skies."
    ),
    "plain colours": Threshold(
        3,
        10,
        "levels of 255 off in the worst colour",
        "Plain areas that change colour show where a retouched part ends.",
    ),
    "round trips": Threshold(
        3, 8, "dB lost after the last", "What is edited again and again fades; the loss after the first trip is drift."
    ),
    "float16 range": Threshold(
        0.25,
        1,
        "of 65504, the largest number in float16",
        "Beyond it float16 gives black images; other images may reach four times what these do. float32 and "
        "bfloat16 are safe.",
    ),
}
