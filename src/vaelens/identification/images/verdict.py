"""The measured verdict: which of the named decoders, if any, reproduces an image's pixels.

The limits come from a calibration on images of ours, `calibration.json`, which `embedded/decoder_verdicts.py` measures
and writes; docs/identifying-images.md says how, and how well it transfers. Whatever isn't sure is "can't tell".
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache
from importlib.resources import files
from typing import Any

from pydantic import BaseModel, ConfigDict
from torch import Tensor
from torch.nn import functional as F

from vaelens.identification.images.decoder_fit import ROUNDING, WHITE, Fit, fit_decoder
from vaelens.identification.images.known_prints import vaes_by_decoder
from vaelens.runtime import Runtime
from vaelens.vae import VAE
from vaelens.weights.fingerprint import Digests

COARSE = 8  # pixels along each side of what one latent holds, in the VAEs of Stable Diffusion


class Calibration(BaseModel):
    """Limits of the verdict; errors and detail in levels of 255, root mean square.

    A decoder reproduces an image from which it is at most `limit` off. An image is judged with at least `least_detail`
    and `least_pixels`. `highest_own` is the largest error of a decoder on its own untouched images in the calibration,
    `lowest_other` the smallest on images that it didn't make.
    """

    model_config = ConfigDict(frozen=True, extra="ignore")

    limit: float
    least_detail: float
    least_pixels: int
    highest_own: float
    lowest_other: float


@cache
def calibration() -> Calibration:
    """The calibration that ships with vaelens."""
    return Calibration.model_validate_json(
        files("vaelens.identification.images").joinpath("calibration.json").read_bytes()
    )


@dataclass(frozen=True)
class Verdict:
    """`vae` is the one decoder that reproduces the image; None where that can't be told. `sentence` says why.

    `known_as` are the known VAEs whose decoder that is by its weights, whatever it was called.
    """

    vae: str | None
    sentence: str
    detail: float
    fits: Mapping[str, Fit]
    known_as: tuple[str, ...] = ()

    def as_dict(self) -> dict[str, Any]:
        """For JSON; errors in levels of 255."""
        return {
            "reproduced_by": self.vae,
            "known_as": list(self.known_as),
            "sentence": self.sentence,
            "limit": calibration().limit,
            "detail": self.detail,
            "errors": {name: fit.error for name, fit in self.fits.items()},
            "errors_of_one_round_trip": {name: fit.first for name, fit in self.fits.items()},
        }


def judge(image: Tensor, vaes: Sequence[VAE], runtime: Runtime) -> Verdict:
    """The verdict on an image [1,3,h,w] in [0,1] whose values are those of a losslessly saved 8-bit file.

    Each decoder is fitted, also where the image has too little detail for a verdict. `runtime.progress` hears of every
    round of a fit, and `should_stop` ends the fits. Raises as `fit_decoder` does, and ValueError for two VAEs of one
    name.
    """
    if len({vae.name for vae in vaes}) < len(vaes):
        raise ValueError("the VAEs' names must differ")
    fits: dict[str, Fit] = {}
    for done, vae in enumerate(vaes):

        def tell(what: str, done: int = done) -> None:
            runtime.progress(done, len(vaes), what)

        fits[vae.name] = fit_decoder(vae, image, progress=tell, should_stop=runtime.should_stop)
    h, w = image.shape[2:]
    decoders = {vae.name: vae.fingerprint.decoder for vae in vaes}
    found = conclude(fits, detail_of(image), h * w, decoders)
    return found if found.vae is None else replace(found, known_as=tuple(vaes_by_decoder(decoders[found.vae])))


def conclude(
    fits: Mapping[str, Fit], detail: float, pixels: int, decoders: Mapping[str, Digests] | None = None
) -> Verdict:
    """The verdict from the fits, the image's detail, its number of pixels and, if known, the decoders' fingerprints."""
    limits = calibration()
    within = sorted((fit.error, name) for name, fit in fits.items() if fit.error <= limits.limit)
    if pixels < limits.least_pixels:
        return Verdict(None, f"Can't tell: {pixels} pixels are too few.", detail, fits)
    if detail < limits.least_detail:
        why = "the image has so little detail that decoders reproduce it whether they made it or not"
        return Verdict(
            None, f"Can't tell: {why} ({detail:.1f} levels; {limits.least_detail:g} are needed).", detail, fits
        )
    if len(within) > 1:
        named = " and ".join(f"{name} ({error:.2f} levels off)" for error, name in within)
        same = _same_decoders([name for _, name in within], decoders or {})
        return Verdict(None, f"Can't tell which: {named} reproduce it.{same}", detail, fits)
    if within:
        error, name = within[0]
        off = f"{error:.2f} levels off, of which rounding alone makes {ROUNDING:.2f}; the limit is {limits.limit:.2f}"
        return Verdict(name, f"{name} reproduces it ({off}).", detail, fits)
    error, name = min((fit.error, name) for name, fit in fits.items())
    why = (
        f"Can't tell: none of the decoders named reproduces it ({name} comes within {error:.2f} levels; the limit "
        f"is {limits.limit:.2f}). It was changed since, or comes from another decoder or from none."
    )
    return Verdict(None, why, detail, fits)


def _same_decoders(names: Sequence[str], decoders: Mapping[str, Digests]) -> str:
    """A sentence on each group of these decoders whose weights are the same; none can be told from another in it."""
    groups: list[list[str]] = []
    for name in names:
        if name not in decoders:
            continue
        like = (group for group in groups if decoders[group[0]].is_same(decoders[name]))
        if (group := next(like, None)) is None:
            groups.append([name])
        else:
            group.append(name)
    sentences: list[str] = []
    for group in groups:
        if len(group) > 1:
            equal = len({decoders[name].stored for name in group}) == 1
            how = "are identical" if equal else "hold the same weights, stored in different precisions"
            sentences.append(f" The decoders of {' and '.join(group)} {how}.")
    return "".join(sentences)


def detail_of(image: Tensor) -> float:
    """What an image [1,3,h,w] in [0,1] has beyond its copy of an eighth of its size, in levels of 255 (RMS)."""
    h, w = (side - side % COARSE for side in image.shape[2:])
    if not (h and w):
        return 0.0
    image = image[..., :h, :w]
    coarse = F.interpolate(F.avg_pool2d(image, COARSE), (h, w), mode="bicubic")
    return (coarse - image).square().mean().sqrt().item() * WHITE
