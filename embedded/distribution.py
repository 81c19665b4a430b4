"""Autoencoder or VAE: `tiny-ae` against `tiny-kl-f8`, which differ in nothing but the VAE's distribution.

    python embedded/distribution.py -o RUNS

After `trio.py train` of both. On the drawn pictures of RUNS/measured: reconstruction, by `vaelens evaluate`; and on
PROBED of them, what the decoders make of latents with noise, of the middle between two pictures' latents, and of
latents drawn at random. Latents are in units of their own standard deviation, so that the same noise means the same.
Leaves RUNS/distribution.json and RUNS/distribution.png. About ten minutes on one core.
"""

import argparse
import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from arms import BASE, BATCH, PICTURES, loaded, measure, unseen
from comparison import BETTER, FRECHET, columns, mean
from torch import Tensor

from vaelens.evaluation.folder import ORIGINALS, RunFolder
from vaelens.files import write_atomic
from vaelens.images.datasets.items import DataSet
from vaelens.images.reading import decode_picture
from vaelens.images.sheet import SheetRow, draw_sheet
from vaelens.images.writing import encode_png, from_uint8, to_pixels, to_uint8
from vaelens.metrics.frechet import Moments, frechet_distance, jackknife
from vaelens.metrics.psnr import psnr
from vaelens.metrics.small import frechet_features, load_small_frechet, load_small_perceptual, psim_small
from vaelens.metrics.statistics import Paired, paired
from vaelens.report.record import json_text
from vaelens.vae import VAE

AUTOENCODER = "tiny-ae"
PROBED = 200
NOISE = (0.0, 0.05, 0.1, 0.2, 0.4, 0.8)  # standard deviations of the noise, in those of the latents
SHOWN = ("face-1900003", "letters-1900003")


def probe(runs: Path, dataset: DataSet) -> dict[str, Any]:
    """The record of all comparisons; draws RUNS/distribution.png."""
    vaes = {name: loaded(runs, name, 0) for name in (AUTOENCODER, BASE)}
    measure(list(vaes.values()), dataset, runs / "measured")
    originals = {item.id: decode_picture(dataset.read(item), item.id).image for item in dataset.items}
    probed = [*originals.values()][:: max(1, len(originals) // PROBED)]  # of both kinds
    latents = {name: torch.cat([vae.encode(image).mode() for image in probed]) for name, vae in vaes.items()}
    return {
        "probed": len(probed),
        "latents": {name: latent_facts(vaes[name], probed, latents[name]) for name in vaes},
        "reconstruction": reconstruction(runs, dataset),
        "noise": with_noise(vaes, probed, latents),
        "unseen_latents": {name: invented(vaes[name], probed, latents[name]) for name in vaes},
    }


def latent_facts(vae: VAE, images: Sequence[Tensor], latents: Tensor) -> dict[str, float]:
    """How wide the posterior is, and how far latents lie out; in their own standard deviations."""
    std = float(latents.std())
    posteriors = [vae.encode(image).posterior for image in images[:20]]
    widths = torch.cat([(0.5 * p.logvar).exp().flatten() for p in posteriors if p.logvar is not None])
    return {
        "std": std / vae.spec.scaling_factor,  # of raw z
        "posterior_std": float(widths.median()) * vae.spec.scaling_factor / std,
        "largest": float(latents.abs().max()) / std,
    }


def reconstruction(runs: Path, dataset: DataSet) -> dict[str, Any]:
    """Each measure of both on all pictures, and VAE - autoencoder with its interval."""
    folder = RunFolder(runs / "measured", [item.id for item in dataset.items], BATCH)
    folder.refresh()
    values = {name: columns(folder.rows([name])) for name in (AUTOENCODER, BASE)}
    distances = jackknife(
        folder.moments(ORIGINALS, "small"), {name: folder.moments(name, "small") for name in (AUTOENCODER, BASE)}
    )
    found: dict[str, Any] = {}
    for key, better in BETTER.items():
        if key == FRECHET:
            difference = distances[BASE].minus(distances[AUTOENCODER]).interval()
            each = {name: one.value for name, one in distances.items()}
            found[key] = each | {"difference": [difference.value, difference.low, difference.high]}
        else:
            pair = paired(values[BASE][key].tolist(), values[AUTOENCODER][key].tolist(), better)
            each = {name: mean(values[name][key]) for name in values}
            found[key] = each | {"difference": [pair.difference, pair.low, pair.high]}
    return found


def with_noise(vaes: dict[str, VAE], images: Sequence[Tensor], latents: dict[str, Tensor]) -> list[dict[str, Any]]:
    """PSNR and psim-small of decoded latents with noise, and VAE - autoencoder; both get the same noise."""
    network = load_small_perceptual()
    found: list[dict[str, Any]] = []
    for strength in NOISE:
        line: dict[str, Any] = {"noise": strength}
        values: dict[str, dict[str, list[float]]] = {name: {"psnr": [], "psim_small": []} for name in vaes}
        for name, vae in vaes.items():
            for number, image in enumerate(images):
                made = decoded(vae, noisy(latents[name], number, strength))
                values[name]["psnr"].append(float(psnr(made, image)))
                with torch.no_grad():
                    values[name]["psim_small"].append(float(psim_small(network, made, image)))
        for key in ("psnr", "psim_small"):
            pair: Paired = paired(values[BASE][key], values[AUTOENCODER][key], BETTER[key])
            line[key] = {name: mean(values[name][key]) for name in vaes}
            line[key]["difference"] = [pair.difference, pair.low, pair.high]
        found.append(line)
        print(line, flush=True)
    return found


def invented(vae: VAE, images: Sequence[Tensor], latents: Tensor) -> dict[str, float]:
    """fd-small, against the pictures, of what is decoded from latents that no picture has.

    middle: halfway between two pictures of a kind; cross_fade: the same two blended as pixels, for comparison.
    normal: each element drawn from the normal distribution that its channel has over all latents.
    """
    features = load_small_frechet()
    real = Moments.of(frechet_features(features, to_uint8(torch.cat(list(images)))))
    made = {
        "reconstructed": (decoded(vae, latents[n : n + 1]) for n in range(len(images))),
        "middle": (decoded(vae, (latents[a : a + 1] + latents[b : b + 1]) / 2) for a, b in couples(len(images))),
        "cross_fade": ((images[a] + images[b]) / 2 for a, b in couples(len(images))),
        "normal": (decoded(vae, drawn_at_random(latents, n)) for n in range(len(images))),
    }
    return {how: frechet_distance(real, Moments.of(_features(features, pictures))) for how, pictures in made.items()}


def couples(count: int) -> list[tuple[int, int]]:
    """Pictures that follow each other; in a set sorted by id these are of one kind, but for one couple."""
    return [(n, (n + 1) % count) for n in range(count)]


def noisy(latents: Tensor, number: int, strength: float) -> Tensor:
    """One picture's latents with noise, which belongs to the picture's number; [1,c,h,w]."""
    noise = torch.randn(latents[:1].shape, generator=torch.Generator().manual_seed(number))
    return latents[number : number + 1] + strength * latents.std() * noise


def drawn_at_random(latents: Tensor, number: int) -> Tensor:
    """Latents [1,c,h,w] of independent normal elements with each channel's mean and spread."""
    noise = torch.randn(latents[:1].shape, generator=torch.Generator().manual_seed(number))
    return latents.mean(dim=(0, 2, 3), keepdim=True) + latents.std(dim=(0, 2, 3), keepdim=True) * noise


def decoded(vae: VAE, latents: Tensor) -> Tensor:
    """A picture as it would be saved, [1,3,h,w] in [0,1]."""
    return from_uint8(to_uint8(vae.decode(latents)))


def _features(network: Any, pictures: Iterator[Tensor]) -> Tensor:
    with torch.no_grad():
        return torch.cat([frechet_features(network, to_uint8(picture)) for picture in pictures])


def sheet(runs: Path, dataset: DataSet) -> np.ndarray:
    """Both decoders' pictures of the same kinds of latents, to look at; uint8 [h,w,3]."""
    items = {item.id: item for item in dataset.items}
    images = [decode_picture(dataset.read(items[name]), name).image for name in SHOWN]
    headings = ["reconstructed", *(f"noise {strength}" for strength in (0.2, 0.4, 0.8)), "middle of both", "random"]
    rows: list[SheetRow] = []
    for name in (AUTOENCODER, BASE):
        vae = loaded(runs, name, 0)
        latents = torch.cat([vae.encode(image).mode() for image in images])
        for number, image in enumerate(SHOWN):
            each = [noisy(latents, number, strength) for strength in (0, 0.2, 0.4, 0.8)]
            each += [latents.mean(dim=0, keepdim=True), drawn_at_random(latents, number)]
            rows.append(SheetRow(f"{name}: {image}", tuple(to_pixels(decoded(vae, z)) for z in each)))
    return draw_sheet(rows, headings)


def main() -> None:
    cli = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    cli.add_argument("-o", "--out", type=Path, required=True)
    cli.add_argument("--pictures", type=int, default=PICTURES)
    a = cli.parse_args()
    torch.set_num_threads(1)
    dataset = unseen(a.pictures)
    write_atomic(a.out / "distribution.json", json_text(probe(a.out, dataset)).encode())
    write_atomic(a.out / "distribution.png", encode_png(sheet(a.out, dataset)))
    print(json.dumps(json.loads((a.out / "distribution.json").read_text()), indent=1))


if __name__ == "__main__":
    main()
