"""Write docs/proof.md: whether the recipes work, and what a VAE's posterior is good for.

    python embedded/proof.py record -o RUNS     docs/proof.json and the page's images, from RUNS
    python embedded/proof.py page               docs/proof.md, from docs/proof.json and proof-template.md

`record` needs every training of trio.py, the decoders with each seed. It measures each VAE on the same IMAGES synthetic
images of unseen seeds (`vaelens evaluate`, preset offline, in RUNS/measured; an interrupted run resumes there), then
runs distribution.py: about an hour on one core. All numbers and verdicts of the page come from the record.
"""

import argparse
import itertools
import json
from collections.abc import Mapping, Sequence
from dataclasses import astuple, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from check import held_out, scores
from distribution import probe
from PIL.Image import Image
from proof_page import ARMS, AUTOENCODER, BASE, PAGE_METRICS, PAIRS, page
from trio import TRAININGS, is_whole, place

import vaelens
from vaelens.errors import UsageError
from vaelens.evaluation.evaluation_folder import EvaluationFolder
from vaelens.evaluation.feature_files import ORIGINALS
from vaelens.evaluation.results import Row
from vaelens.files import json_text, write_atomic
from vaelens.images.datasets.items import Dataset
from vaelens.images.datasets.opening import open_dataset
from vaelens.images.reading import decode_bytes
from vaelens.images.sheet import SheetRow, draw_sheet
from vaelens.images.writing import encode_png, from_uint8, to_pixels
from vaelens.metrics.frechet import Jackknife, jackknife
from vaelens.metrics.statistics import Interval, paired, spread
from vaelens.resources import processor
from vaelens.vae import VAE

DOCS = Path(__file__).parent.parent / "docs"
RECORD, PAGE = DOCS / "proof.json", DOCS / "proof.md"
IMAGES = 500
PRESET = "offline"
UNSEEN = 9  # the seed of the measured images; held-out sets of trainings have the training's own seed
CHUNK = 4  # images per chunk: evaluate's default on a CPU
SHOWN_ARMS = (BASE, "control-twice", "tiny-ft-ema", "tiny-ft-mse")
SIDE = 96  # of the windows that are shown, in pixels
ENLARGEMENT = 2  # each pixel is repeated so often in both directions
PHOTO_WINDOWS = {"astronaut-512": (190, 70), "chelsea-256": (60, 50)}  # left, top
SYNTHETIC_WINDOW = (80, 80)


def row_name(name: str, seed: int) -> str:
    """What a trained VAE is called in the rows; a whole one has seed 0 only."""
    return name if is_whole(name) else f"{name} {seed}"


def load_trained(runs: Path, name: str, seed: int = 0) -> VAE:
    """A trained VAE in float32, under the name that its rows have."""
    vae = vaelens.load(place(runs, name, seed), device="cpu")
    vae.name = row_name(name, seed)
    return vae


@dataclass(frozen=True)
class Scores:
    """By VAE: each metric's values per image, NaN where an image has none, and the Frechet distance."""

    values: Mapping[str, Mapping[str, np.ndarray]]
    distances: Mapping[str, Jackknife]

    def value(self, name: str, metric: str) -> float:
        """The mean over images, or the distance."""
        return self.distances[name].value if metric == "fd_small" else spread(self.values[name][metric]).mean

    def difference(self, pairs: Sequence[tuple[str, str]], metric: str) -> Interval:
        """First - second, averaged over the pairs of VAEs image by image (or group by group, for distances).

        The interval is over images: BCa bootstrap, or jackknife for distances.
        """
        if metric == "fd_small":
            apart = [self.distances[first].minus(self.distances[second]) for first, second in pairs]
            left_out = np.mean([one.left_out for one in apart], axis=0)
            return Jackknife(float(np.mean([one.value for one in apart])), tuple(left_out.tolist())).interval()
        first, second = (np.mean([self.values[pair[side]][metric] for pair in pairs], axis=0) for side in (0, 1))
        pair = paired(first.tolist(), second.tolist(), PAGE_METRICS[metric].better or "higher")
        return Interval(pair.difference, pair.low, pair.high)


def measure(vaes: Sequence[VAE], dataset: Dataset, folder: Path) -> Scores:
    """The dataset through the VAEs; what the folder already holds isn't measured again.

    Raises UsageError where the folder holds rows of other weights, or a score isn't finite.
    """
    results = vaelens.evaluate(
        vaes, dataset, preset=PRESET, output=folder, batch=CHUNK, threads=1, device="cpu", notify=print
    )
    assert results is not None  # no other process measures a part
    if any(one.count < one.total for one in results.spreads.values()):
        raise UsageError(f"{folder}: a score isn't finite. Check the images and the weights.")
    features = EvaluationFolder(folder, [item.id for item in dataset.items], CHUNK)
    reconstructions = {name: features.moments(name, "fd-small") for name in results.vaes}
    values = {name: _columns([row for row in results.rows if row.vae == name]) for name in results.vaes}
    return Scores(values, jackknife(features.moments(ORIGINALS, "fd-small"), reconstructions))


def _columns(rows: Sequence[Row]) -> dict[str, np.ndarray]:
    """Each metric's values per image. letters: % of a page's letters that are read on the reconstruction;
    originals_read: on the original; eyes: PSNR inside their boxes."""
    found: dict[str, list[float]] = {key: [row.scores[key] for row in rows] for key in ("psnr", "ssim", "psim_small")}
    eyes = [[region["psnr"] for region in row.regions if region["label"] == "eye"] for row in rows]
    found["eyes"] = [spread(np.array(of, dtype=float)).mean for of in eyes]
    pages = [row.letters if row.letters and row.letters[2] else None for row in rows]
    for number, key in enumerate(("letters", "originals_read")):
        found[key] = [np.nan if page is None else 100 * page[number] / page[2] for page in pages]
    return {key: np.array(column, dtype=float) for key, column in found.items()}


def make_record(
    runs: Path, seeds: Sequence[int], dataset: Dataset, photos: Mapping[str, Image]
) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
    """The content of docs/proof.json, and the page's images by file name, uint8 [h,w,3].

    Raises UsageError where a training is missing, or was made in another way than the others.
    """
    conditions = training_conditions(runs, seeds)
    vaes = {arm: [load_trained(runs, arm, seed) for seed in ([0] if is_whole(arm) else seeds)] for arm in (BASE, *ARMS)}
    autoencoder, base = load_trained(runs, AUTOENCODER), vaes[BASE][0]
    every = [vae for of in vaes.values() for vae in of]
    measured = measure([autoencoder, *every], dataset, runs / "measured")
    differences = [
        difference_record(measured, first, second, metric, seeds)
        for (first, second), metric in itertools.product(PAIRS.values(), PAGE_METRICS)
    ]
    reconstruction = {
        metric: {name: measured.value(name, metric) for name in (AUTOENCODER, BASE)}
        | {"difference": astuple(measured.difference([(BASE, AUTOENCODER)], metric))}
        for metric in PAGE_METRICS
    }
    bicubic = {photo: {"bicubic": psnr} for photo, (_, psnr) in scores(lambda image: image, photos.items()).items()}
    of_photos = {arm: [scores(vae.reconstruct, photos.items()) for vae in of] for arm, of in vaes.items()}
    distribution, distribution_sheet = probe(autoencoder, base, dataset)
    record = {
        "schema": 1,
        "steps": conditions.pop("steps"),
        "arms": {
            "images": len(dataset.items),
            "seeds": list(seeds),
            "weights": {vae.name: vae.fingerprint.short for vae in every},
            "originals_read": measured.value(BASE, "originals_read"),
            "arms": {arm: {key: [measured.value(vae.name, key) for vae in of] for key in PAGE_METRICS}
                     for arm, of in vaes.items()},
            "differences": differences,
            "photos": {photo: of | {arm: [psnr[photo][0] for psnr in each] for arm, each in of_photos.items()}
                       for photo, of in bicubic.items()},
        },
        "distribution": distribution | {"reconstruction": reconstruction},
        "made": {"processor": processor("cpu"), **conditions},
    }  # fmt: skip
    shown = [vaes[arm][0] for arm in SHOWN_ARMS]
    return record, {"proof-arms.png": arms_sheet(shown, dataset), "proof-distribution.png": distribution_sheet}


def difference_record(scores: Scores, first: str, second: str, metric: str, seeds: Sequence[int]) -> dict[str, Any]:
    """First - second with its interval, each seed's arm against that of the same seed, and each seed's own value."""
    pairs = [(row_name(first, seed), row_name(second, seed)) for seed in seeds]
    by_seed = [scores.difference([pair], metric).value for pair in pairs]
    difference = astuple(scores.difference(pairs, metric))
    return {"first": first, "second": second, "metric": metric, "difference": difference, "by_seed": by_seed}


def training_conditions(runs: Path, seeds: Sequence[int]) -> dict[str, Any]:
    """Each training's steps; dtype, threads and versions of all. Raises UsageError where trainings differ in these."""
    steps: dict[str, int] = {}
    common: dict[str, Any] = {}
    for name, seed in itertools.product(TRAININGS, seeds):
        plan = json.loads((place(runs, name, seed).with_suffix("") / "plan.json").read_text("utf-8"))
        count, versions = plan["recipe"]["run"]["steps"], plan["versions"]
        own = {"trained": [plan["dtype"], plan["threads"]], "torch": versions["torch"], "vaelens": versions["vaelens"]}
        common = common or own
        if (steps.setdefault(name, count), common) != (count, own):
            raise UsageError(
                f"{name} with seed {seed} was trained in another way than the others: {count} steps and {own}, they "
                f"{steps[name]} and {common}. Train it in the same way."
            )
    return {"steps": steps} | common


def arms_sheet(vaes: Sequence[VAE], dataset: Dataset) -> np.ndarray:
    """Eyes and letters, original and through each VAE; uint8 [h,w,3]."""
    photos = held_out()
    originals = {name: torch.tensor(np.asarray(photos[name])).permute(2, 0, 1)[None] for name in PHOTO_WINDOWS}
    images = {name: (from_uint8(pixels), PHOTO_WINDOWS[name]) for name, pixels in originals.items()}
    for item in (dataset.items[0], dataset.items[-1]):  # a face, a page of letters
        images[item.id] = decode_bytes(dataset.read(item), item.id).image, SYNTHETIC_WINDOW
    rows: list[SheetRow] = []
    for name, (image, (left, top)) in images.items():
        window = (slice(top, top + SIDE), slice(left, left + SIDE))
        each = [image, *(vae.reconstruct(image) for vae in vaes)]
        cells = (to_pixels(one)[window].repeat(ENLARGEMENT, axis=0).repeat(ENLARGEMENT, axis=1) for one in each)
        rows.append(SheetRow(name, tuple(map(np.ascontiguousarray, cells))))
    return draw_sheet(rows, ["original", *SHOWN_ARMS])


def main() -> None:
    cli = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    commands = cli.add_subparsers(dest="command", required=True)
    recording = commands.add_parser("record")
    recording.add_argument("-o", "--out", type=Path, required=True)
    recording.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2], help="including 0, whose decoders ship")
    commands.add_parser("page")
    a = cli.parse_args()
    if a.command == "page":
        write_atomic(PAGE, page(json.loads(RECORD.read_text("utf-8"))).encode())
        return
    if 0 not in a.seeds or len(set(a.seeds)) < 2:
        cli.error("--seeds takes 0, whose decoders ship, and at least one other seed")
    torch.set_num_threads(1)
    record, sheets = make_record(a.out, a.seeds, open_dataset("synthetic", take=IMAGES, seed=UNSEEN), held_out())
    write_atomic(RECORD, json_text(record).encode())
    for name, sheet in sheets.items():
        write_atomic(DOCS / "images" / name, encode_png(sheet))


if __name__ == "__main__":
    main()
