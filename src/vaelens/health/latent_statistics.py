"""Statistics of a VAE's latents, streamed image by image: spread, scale, noise, KL and dead channels."""

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from vaelens.networks.autoencoder_kl import DiagonalGaussian

# A channel whose posterior means vary less than this share of the median channel's doesn't tell images apart.
CONSTANT = 0.05
# Below this KL, in nats per element, a channel's posterior is the prior, whatever the image.
COLLAPSED = 0.05


@dataclass(frozen=True)
class Channel:
    """One latent channel of raw z. `sigma`, `noise_share` and `kl` are None for a VAE without a posterior."""

    number: int
    mean: float
    std: float  # of z: the posterior means' variance plus the posterior's own
    signal_std: float  # of the posterior means alone
    sigma: float | None  # the posterior's mean standard deviation
    noise_share: float | None  # the posterior's share of z's variance
    kl: float | None  # nats per element
    dead: str | None  # why it is, or None


@dataclass(frozen=True)
class LatentStatistics:
    """All channels together; KL in nats. None as in `Channel`."""

    mean: float
    std: float
    implied_scale: float  # 1 / std over all elements
    sigma: float | None
    noise_share: float | None
    kl_per_element: float | None
    kl_per_image: float | None  # its mean over the images; grows with their size
    channels: tuple[Channel, ...]

    @property
    def dead(self) -> tuple[Channel, ...]:
        """The channels that carry no information."""
        return tuple(channel for channel in self.channels if channel.dead)


class LatentSums:
    """Running float64 sums over posteriors [b,c,h,w] of any size."""

    def __init__(self) -> None:
        self._sums: Tensor | None = None  # [c,5]: mean, mean^2, sigma, sigma^2, KL
        self._elements = 0  # of one channel
        self._images = 0
        self._has_posterior = False

    def add(self, posterior: DiagonalGaussian) -> None:
        """Add one batch; all posteriors come from one network."""
        mean, std = posterior.mean.cpu().double(), posterior.std.cpu().double()
        kl = torch.zeros_like(mean)
        if posterior.logvar is not None:
            logvar = posterior.logvar.cpu().double()
            kl = 0.5 * (mean.square() + logvar.exp() - 1 - logvar)
        terms = torch.stack([mean, mean.square(), std, std.square(), kl], dim=-1)
        sums = terms.sum(dim=(0, 2, 3))
        self._sums = sums if self._sums is None else self._sums + sums
        self._elements += mean[:, 0].numel()
        self._images += len(mean)
        self._has_posterior = posterior.logvar is not None

    def result(self) -> LatentStatistics | None:
        """The statistics, or None before the first batch.

        The variance of z = mean + sigma * noise is exactly var(mean) + E[sigma^2], so nothing is sampled.
        The scale is 1 / std over all elements: the component-wise rule of Rombach et al. 2022, appendix G.
        """
        if self._sums is None:
            return None
        moments = self._sums / self._elements
        mean, sigma, kl = moments[:, 0], moments[:, 2], moments[:, 4]
        signal = (moments[:, 1] - mean.square()).clamp_min(0)
        noise = moments[:, 3]
        overall = moments.mean(dim=0)
        variance = float(overall[1] - overall[0].square() + overall[3])
        std = math.sqrt(max(variance, 0.0))
        median = float(signal.sqrt().median())
        has = self._has_posterior
        channels = tuple(
            Channel(
                number=i,
                mean=float(mean[i]),
                std=float((signal[i] + noise[i]).sqrt()),
                signal_std=float(signal[i].sqrt()),
                sigma=float(sigma[i]) if has else None,
                noise_share=_share(float(noise[i]), float(signal[i] + noise[i])) if has else None,
                kl=float(kl[i]) if has else None,
                dead=_why_dead(float(signal[i].sqrt()), median, float(kl[i]) if has else None),
            )
            for i in range(len(mean))
        )
        kl_per_image = float(self._sums[:, 4].sum()) / self._images
        return LatentStatistics(
            mean=float(overall[0]),
            std=std,
            implied_scale=1 / std if std > 0 else math.inf,
            sigma=float(overall[2]) if has else None,
            noise_share=_share(float(overall[3]), variance) if has else None,
            kl_per_element=float(overall[4]) if has else None,
            kl_per_image=kl_per_image if has else None,
            channels=channels,
        )


def _share(part: float, whole: float) -> float:
    return part / whole if whole > 0 else 0.0


def _why_dead(signal_std: float, median: float, kl: float | None) -> str | None:
    if kl is not None and kl < COLLAPSED:
        return "collapsed to the prior"
    return "constant" if signal_std <= CONSTANT * median else None
