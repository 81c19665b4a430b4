"""Autoencoder or VAE: `tiny-ae` against `tiny-kl-f8`, which continue one network without and with a posterior.

    python embedded/distribution.py -o RUNS

After `trio.py train` of both. On the synthetic images of RUNS/measured: reconstruction by `vaelens evaluate`. On PROBED
of each kind: what the decoders make of latents with noise, of the middle between two images' latents, and of random
latents. Noise is given as a multiple of each channel's standard deviation over all these latents, so that it means the
same for both. Leaves RUNS/distribution.json and RUNS/distribution.png. About ten minutes on one core.
"""

import argparse
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from arms import BASE, loaded, measure, unseen
from torch import Tensor

from comparison import BETTER, Rows, mean
from vaelens.files import json_text, write_atomic
from vaelens.images.datasets.items import Dataset
from vaelens.images.reading import decode_bytes
from vaelens.images.sheet import SheetRow, draw_sheet
from vaelens.images.writing import encode_png, from_uint8, to_pixels, to_uint8
from vaelens.metrics.frechet import Moments, jackknife
from vaelens.metrics.psnr import psnr
from vaelens.metrics.small import frechet_features, load_small_frechet, load_small_perceptual, psim_small
from vaelens.metrics.statistics import paired
from vaelens.vae import VAE

AUTOENCODER = "tiny-ae"
BOTH = (AUTOENCODER, BASE)
PROBED = 100  # images of each kind
NOISE = (0.01, 0.02, 0.05, 0.1, 0.2, 0.4)  # its spread, in that of the channel
SHOWN_NOISE = (0.1, 0.2, 0.4)
GROUPS = 20  # of the jackknife


@dataclass(frozen=True)
class Probe:
    """One VAE's latents [n,c,h,w] of the probed images, and each channel's mean and spread over them, [1,c,1,1]."""

    vae: VAE
    latents: Tensor
    mean: Tensor
    std: Tensor

    @classmethod
    def of(cls, vae: VAE, images: Sequence[Tensor]) -> "Probe":
        z = torch.cat([vae.encode(image).mode() for image in images])
        return cls(vae, z, z.mean(dim=(0, 2, 3), keepdim=True), z.std(dim=(0, 2, 3), keepdim=True))

    def decoded(self, latents: Tensor) -> Tensor:
        """An image as it would be saved, [1,3,h,w] in [0,1]."""
        return from_uint8(to_uint8(self.vae.decode(latents)))

    def plain(self, number: int) -> Tensor:
        return self.latents[number : number + 1]

    def noisy(self, number: int, strength: float) -> Tensor:
        """An image's latents with noise, which belongs to its number: both VAEs get the same."""
        return self.plain(number) + strength * self.std * _normal(self.latents, number)

    def middle(self, number: int, other: int) -> Tensor:
        return (self.plain(number) + self.plain(other)) / 2

    def random(self, number: int) -> Tensor:
        """Independent normal elements with each channel's mean and spread."""
        return self.mean + self.std * _normal(self.latents, number)

    def facts(self, images: Sequence[Tensor]) -> dict[str, Any]:
        """Each channel's mean and spread, raw; the posterior's, as shares of the channel's; the furthest element."""
        raw = 1 / self.vae.spec.scaling_factor
        widths = torch.cat([_posterior_std(self.vae, image) for image in images]) / self.std
        return {
            "mean": [float(value) * raw for value in self.mean.flatten()],
            "std": [float(value) * raw for value in self.std.flatten()],
            "largest": float(((self.latents - self.mean) / self.std).abs().max()),
            "posterior": None if self.vae.name == AUTOENCODER else {
                "rms": float(widths.square().mean().sqrt()),
                "quantiles": [float(np.quantile(widths.numpy(), q)) for q in (0.1, 0.5, 0.9)],
            },
        }  # fmt: skip


def probe(runs: Path, dataset: Dataset) -> tuple[dict[str, Any], np.ndarray]:
    """The record of all comparisons, and a sheet of what the decoders made, uint8 [h,w,3]."""
    vaes = {name: loaded(runs, name, 0) for name in BOTH}
    measure(list(vaes.values()), dataset, runs / "measured")
    kinds: dict[str, list[Tensor]] = {}
    for item in dataset.items:
        of_kind = kinds.setdefault(item.id.partition("-")[0], [])
        if len(of_kind) < PROBED:
            of_kind.append(decode_bytes(dataset.read(item), item.id).image)
    images = [image for of_kind in kinds.values() for image in of_kind]
    couples = _couples([len(of_kind) for of_kind in kinds.values()])
    probes = {name: Probe.of(vae, images) for name, vae in vaes.items()}
    record = {
        "probed": len(images),
        "weights": {name: vae.fingerprint.short for name, vae in vaes.items()},
        "latents": {name: one.facts(images[:: max(1, len(images) // 20)]) for name, one in probes.items()},
        "reconstruction": reconstruction(runs, dataset),
        "noise": with_noise(probes, images),
        "unseen_latents": invented(probes, images, couples),
    }
    return record, sheet(probes, couples, [0, len(images) - 1])


def reconstruction(runs: Path, dataset: Dataset) -> dict[str, Any]:
    """Each metric of both on all images, and VAE - autoencoder with its interval."""
    rows = Rows.of(runs, dataset, BOTH)
    found: dict[str, Any] = {}
    for key in BETTER:
        each = {name: rows.value(name, key) for name in BOTH}
        found[key] = each | {"difference": list(rows.difference([(BASE, AUTOENCODER)], key))}
    return found


def with_noise(probes: dict[str, Probe], images: Sequence[Tensor]) -> list[dict[str, Any]]:
    """What noise costs: each image against itself without noise, VAE - autoencoder with its interval."""
    before = {name: _scores(one, images, one.plain) for name, one in probes.items()}
    found: list[dict[str, Any]] = []
    for strength in NOISE:
        line: dict[str, Any] = {"noise": strength}
        after = {name: _scores(one, images, partial(one.noisy, strength=strength)) for name, one in probes.items()}
        for key in ("psnr", "psim_small"):
            change = {name: after[name][key] - before[name][key] for name in probes}
            pair = paired(change[BASE].tolist(), change[AUTOENCODER].tolist(), BETTER[key])
            line[key] = {name: mean(after[name][key]) for name in probes}
            line[key] |= {"change": {name: mean(change[name]) for name in probes}}
            line[key] |= {"difference": [pair.difference, pair.low, pair.high]}
        found.append(line)
    return found


def invented(probes: dict[str, Probe], images: Sequence[Tensor], couples: Sequence[tuple[int, int]]) -> dict[str, Any]:
    """fd-small, against the images, of what is decoded from latents that no image has; VAE - autoencoder.

    middle: halfway between two images of a kind; blended: the same two blended as pixels, encoded and decoded;
    middle_beyond_blended: the difference of these, from which goes what each decoder loses on any image.
    """
    real = _moments(images)
    made: dict[str, dict[str, list[Moments]]] = {"reconstructed": {}, "middle": {}, "blended": {}, "random": {}}
    for name, one in probes.items():
        made["reconstructed"][name] = _moments([one.decoded(one.plain(n)) for n in range(len(images))])
        made["middle"][name] = _moments([one.decoded(one.middle(a, b)) for a, b in couples])
        blends = ((images[a] + images[b]) / 2 for a, b in couples)
        made["blended"][name] = _moments([from_uint8(to_uint8(one.vae.reconstruct(blend))) for blend in blends])
        made["random"][name] = _moments([one.decoded(one.random(n)) for n in range(len(images))])
    found: dict[str, Any] = {}
    every = {how: jackknife(real, sets) for how, sets in made.items()}
    every["middle_beyond_blended"] = {name: every["middle"][name].minus(every["blended"][name]) for name in probes}
    for how, distances in every.items():
        difference = distances[BASE].minus(distances[AUTOENCODER]).interval()
        found[how] = {name: one.value for name, one in distances.items()}
        found[how]["difference"] = [difference.value, difference.low, difference.high]
    return found


def sheet(probes: dict[str, Probe], couples: Sequence[tuple[int, int]], numbers: Sequence[int]) -> np.ndarray:
    """Both decoders' images of the latents that were measured, to look at."""
    headings = ["reconstructed", *(f"noise {strength}" for strength in SHOWN_NOISE), "halfway", "random"]
    rows: list[SheetRow] = []
    for name, one in probes.items():
        for number in numbers:
            each = [one.plain(number), *(one.noisy(number, strength) for strength in SHOWN_NOISE)]
            each += [one.middle(*couples[number]), one.random(number)]
            rows.append(SheetRow(name, tuple(to_pixels(one.decoded(z)) for z in each)))
    return draw_sheet(rows, headings)


def _couples(counts: Sequence[int]) -> list[tuple[int, int]]:
    """Each image with another of its kind.

    With the one GROUPS further on, so that both of PROBED images' couples are left out by the jackknife together;
    with the next where there are too few for that.
    """
    starts = np.cumsum([0, *counts])
    return [
        (start + n, start + (n + (1 if count <= GROUPS else GROUPS)) % count)
        for start, count in zip(map(int, starts), counts, strict=False)
        for n in range(count)
    ]


def _scores(one: Probe, images: Sequence[Tensor], latents: Callable[[int], Tensor]) -> dict[str, np.ndarray]:
    """PSNR and psim-small of each image decoded from such latents."""
    network = load_small_perceptual()
    values: dict[str, list[float]] = {"psnr": [], "psim_small": []}
    for number, image in enumerate(images):
        made = one.decoded(latents(number))
        values["psnr"].append(float(psnr(made, image)))
        with torch.no_grad():
            values["psim_small"].append(float(psim_small(network, made, image)))
    return {key: np.array(column) for key, column in values.items()}


def _moments(images: Sequence[Tensor]) -> list[Moments]:
    """Of fd-small's features, in groups of every GROUPS-th image."""
    network = load_small_frechet()
    with torch.no_grad():
        features = torch.cat([frechet_features(network, to_uint8(image)) for image in images])
    return [Moments.of(features[group::GROUPS]) for group in range(min(GROUPS, len(features)))]


def _normal(like: Tensor, number: int) -> Tensor:
    return torch.randn(like[:1].shape, generator=torch.Generator().manual_seed(number))


def _posterior_std(vae: VAE, image: Tensor) -> Tensor:
    """Of the posterior's elements, in the unit of the scaled latents."""
    logvar = vae.encode(image).posterior.logvar
    assert logvar is not None  # both are full VAEs
    return (0.5 * logvar).exp() * vae.spec.scaling_factor


def main() -> None:
    cli = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    cli.add_argument("-o", "--out", type=Path, required=True)
    a = cli.parse_args()
    torch.set_num_threads(1)
    record, drawing = probe(a.out, unseen())
    write_atomic(a.out / "distribution.json", json_text(record).encode())
    write_atomic(a.out / "distribution.png", encode_png(drawing))
    print("wrote", a.out / "distribution.json", "and .png")


if __name__ == "__main__":
    main()
