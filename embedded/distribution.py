"""Autoencoder or VAE: what two decoders make of latents with noise, of interpolated and of random latents.

A part of `proof.py record`, about ten minutes on one core. Noise is given as a multiple of each channel's standard
deviation over the latents of all probed images, so that it means the same for both networks.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import astuple, dataclass
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor

from vaelens.images.datasets.items import Dataset
from vaelens.images.reading import decode_bytes
from vaelens.images.sheet import SheetRow, draw_sheet
from vaelens.images.writing import from_uint8, to_pixels, to_uint8
from vaelens.metrics.frechet import Moments, jackknife
from vaelens.metrics.psnr import psnr
from vaelens.metrics.small import frechet_features, load_small_frechet, load_small_perceptual, psim_small
from vaelens.metrics.statistics import paired, spread
from vaelens.vae import VAE

PROBED = 100  # images of each class
NOISE = (0.01, 0.02, 0.05, 0.1, 0.2, 0.4)  # its standard deviation, in that of the channel
SHOWN_NOISE = (0.1, 0.2, 0.4)
GROUPS = 20  # of the jackknife


@dataclass(frozen=True)
class Probe:
    """One VAE's latents [n,c,h,w] of the probed images, and each channel's mean and standard deviation, [1,c,1,1]."""

    vae: VAE
    latents: Tensor
    mean: Tensor
    std: Tensor

    @classmethod
    def of(cls, vae: VAE, images: Sequence[Tensor]) -> "Probe":
        latents = torch.cat([vae.encode(image).mode() for image in images])
        return cls(vae, latents, latents.mean(dim=(0, 2, 3), keepdim=True), latents.std(dim=(0, 2, 3), keepdim=True))

    def decoded(self, latents: Tensor) -> Tensor:
        """An image as it would be saved, [1,3,h,w] in [0,1]."""
        return from_uint8(to_uint8(self.vae.decode(latents)))

    def plain(self, number: int) -> Tensor:
        return self.latents[number : number + 1]

    def noisy(self, number: int, level: float) -> Tensor:
        """An image's latents with noise, which is seeded by the image's number: the same in both VAEs."""
        return self.plain(number) + level * self.std * self._normal(number)

    def halfway(self, number: int, other: int) -> Tensor:
        return (self.plain(number) + self.plain(other)) / 2

    def random(self, number: int) -> Tensor:
        """Independent normal elements with each channel's mean and standard deviation."""
        return self.mean + self.std * self._normal(number)

    def _normal(self, seed: int) -> Tensor:
        return torch.randn(self.latents[:1].shape, generator=torch.Generator().manual_seed(seed))

    def statistics(self) -> dict[str, Any]:
        """Each channel's raw mean and standard deviation, and the largest deviation of an element."""
        raw = 1 / self.vae.spec.scaling_factor
        return {
            "mean": [float(value) * raw for value in self.mean.flatten()],
            "std": [float(value) * raw for value in self.std.flatten()],
            "largest": float(((self.latents - self.mean) / self.std).abs().max()),
        }

    def posterior(self, images: Sequence[Tensor]) -> dict[str, Any]:
        """The posterior's standard deviation as a share of the channel's: root mean square and quantiles."""
        logvars = torch.cat([self.vae.encode(image).posterior.logvar for image in images])
        shares = (0.5 * logvars).exp() * self.vae.spec.scaling_factor / self.std
        quantiles = [float(np.quantile(shares.numpy(), q)) for q in (0.1, 0.5, 0.9)]
        return {"rms": float(shares.square().mean().sqrt()), "quantiles": quantiles}


def probe(autoencoder: VAE, vae: VAE, dataset: Dataset) -> tuple[dict[str, Any], np.ndarray]:
    """Their part of the record, each difference VAE - autoencoder; and a sheet of decoded latents, uint8 [h,w,3]."""
    classes: dict[str, list[Tensor]] = {}
    for item in dataset.items:
        of_class = classes.setdefault(item.id.partition("-")[0], [])
        if len(of_class) < PROBED:
            of_class.append(decode_bytes(dataset.read(item), item.id).image)
    images = [image for of_class in classes.values() for image in of_class]
    pairs = pairs_within_classes([len(of_class) for of_class in classes.values()])
    probes = {one.name: Probe.of(one, images) for one in (autoencoder, vae)}
    latents = {name: one.statistics() | {"posterior": None} for name, one in probes.items()}
    latents[vae.name]["posterior"] = probes[vae.name].posterior(images[:: max(1, len(images) // 20)])
    record = {
        "probed": len(images),
        "weights": {name: one.vae.fingerprint.short for name, one in probes.items()},
        "latents": latents,
        "noise": noise_costs(probes, images),
        "unseen_latents": distances_of_unseen_latents(probes, images, pairs),
    }
    return record, sheet(probes, pairs, [0, len(images) - 1])


def noise_costs(probes: Mapping[str, Probe], images: Sequence[Tensor]) -> list[dict[str, Any]]:
    """What noise of each level changes: each image against its reconstruction without noise."""
    before = {name: scores(one, images, one.plain) for name, one in probes.items()}
    lines: list[dict[str, Any]] = []
    for level in NOISE:
        after = {name: scores(one, images, partial(one.noisy, level=level)) for name, one in probes.items()}
        line: dict[str, Any] = {"noise": level}
        for key in ("psnr", "psim_small"):
            changes = {name: after[name][key] - before[name][key] for name in probes}
            autoencoder, vae = (change.tolist() for change in changes.values())
            pair = paired(vae, autoencoder, "higher")
            line[key] = {name: spread(after[name][key]).mean for name in probes}
            line[key]["change"] = {name: spread(change).mean for name, change in changes.items()}
            line[key]["difference"] = (pair.difference, pair.low, pair.high)
        lines.append(line)
    return lines


def distances_of_unseen_latents(
    probes: Mapping[str, Probe], images: Sequence[Tensor], pairs: Sequence[tuple[int, int]]
) -> dict[str, Any]:
    """fd-small, against the images, of what is decoded from latents that no image has.

    middle: halfway between the latents of two images of a class; blended: the same two blended as pixels, encoded and
    decoded; middle_beyond_blended: the difference, without what each decoder loses on any image.
    """
    decoded: dict[str, dict[str, list[Moments]]] = {"reconstructed": {}, "middle": {}, "blended": {}, "random": {}}
    for name, one in probes.items():
        blends = [(images[a] + images[b]) / 2 for a, b in pairs]
        every = range(len(images))
        decoded["reconstructed"][name] = moments([one.decoded(one.plain(n)) for n in every])
        decoded["middle"][name] = moments([one.decoded(one.halfway(a, b)) for a, b in pairs])
        decoded["blended"][name] = moments([from_uint8(to_uint8(one.vae.reconstruct(blend))) for blend in blends])
        decoded["random"][name] = moments([one.decoded(one.random(n)) for n in every])
    real = moments(images)
    distances = {how: jackknife(real, sets) for how, sets in decoded.items()}
    middle, blended = distances["middle"], distances["blended"]
    distances["middle_beyond_blended"] = {name: middle[name].minus(blended[name]) for name in probes}
    found: dict[str, Any] = {}
    for how, of in distances.items():
        autoencoder, vae = of.values()
        found[how] = {name: one.value for name, one in of.items()}
        found[how]["difference"] = astuple(vae.minus(autoencoder).interval())
    return found


def sheet(probes: Mapping[str, Probe], pairs: Sequence[tuple[int, int]], numbers: Sequence[int]) -> np.ndarray:
    """Some of the images that both decoders make of such latents."""
    headings = ["reconstructed", *(f"noise {level}" for level in SHOWN_NOISE), "halfway", "random"]
    rows: list[SheetRow] = []
    for name, one in probes.items():
        for number in numbers:
            latents = [one.plain(number), *(one.noisy(number, level) for level in SHOWN_NOISE)]
            latents += [one.halfway(*pairs[number]), one.random(number)]
            rows.append(SheetRow(name, tuple(to_pixels(one.decoded(z)) for z in latents)))
    return draw_sheet(rows, headings)


def pairs_within_classes(counts: Sequence[int]) -> list[tuple[int, int]]:
    """Each image with the one GROUPS further in its class, so that the jackknife leaves out both its pairs together.

    With the next one in classes too small for that.
    """
    starts = [sum(counts[:number]) for number in range(len(counts))]
    return [
        (start + n, start + (n + (1 if count <= GROUPS else GROUPS)) % count)
        for start, count in zip(starts, counts, strict=True)
        for n in range(count)
    ]


def scores(one: Probe, images: Sequence[Tensor], latents: Callable[[int], Tensor]) -> dict[str, np.ndarray]:
    """PSNR and psim-small of each image decoded from such latents."""
    network = load_small_perceptual()
    decoded = [one.decoded(latents(number)) for number in range(len(images))]
    with torch.no_grad():
        distances = [float(psim_small(network, *pair)) for pair in zip(decoded, images, strict=True)]
    ratios = [float(psnr(*pair)) for pair in zip(decoded, images, strict=True)]
    return {"psnr": np.array(ratios), "psim_small": np.array(distances)}


def moments(images: Sequence[Tensor]) -> list[Moments]:
    """Of fd-small's features, in groups of every GROUPS-th image."""
    network = load_small_frechet()
    with torch.no_grad():
        features = torch.cat([frechet_features(network, to_uint8(image)) for image in images])
    return [Moments.of(features[group::GROUPS]) for group in range(min(GROUPS, len(features)))]
