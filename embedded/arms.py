"""The arms of docs/proof.md: decoders that continue tiny-kl-f8, each measured when it is there.

    python embedded/arms.py SEED -o RUNS

After `trio.py train` of tiny-kl-f8. Trains control, tiny-ft-ema, tiny-ft-mse and control-twice with this seed, and
measures each on the same IMAGES synthetic images of unseen seeds (`vaelens evaluate`, preset offline) in RUNS/measured,
where rows stay. Seeds may run side by side; an interrupted one resumes. About half an hour on one core.
"""

import argparse
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from trio import images, is_whole, place, train

import vaelens
from vaelens.evaluation.run import evaluate
from vaelens.images.datasets.items import Dataset
from vaelens.images.datasets.opening import open_dataset
from vaelens.vae import VAE

BASE = "tiny-kl-f8"
ARMS = ("control", "tiny-ft-ema", "tiny-ft-mse", "control-twice")
IMAGES = 500
PRESET = "offline"
UNSEEN = 9  # the seed of their set; trainings look at those of their own seed
BATCH = 4  # images a chunk: evaluate's on a CPU


def loaded(runs: Path, name: str, seed: int) -> VAE:
    """A trained VAE in float32, under the name that its rows have."""
    vae = vaelens.load(place(runs, name, seed), device="cpu")
    vae.name = row_name(name, seed)
    return vae


def row_name(name: str, seed: int) -> str:
    """What a trained VAE is called in the rows."""
    return name if is_whole(name) else f"{name} {seed}"


def unseen(count: int = IMAGES) -> Dataset:
    """Synthetic images that no training sees, nor looks at on its way."""
    return open_dataset("synthetic", take=count, seed=UNSEEN)


def measure(vaes: list[VAE], dataset: Dataset, folder: Path) -> None:
    """The images through VAEs; what the folder already has isn't measured again."""
    evaluate(vaes, dataset, preset=PRESET, output=folder, batch=BATCH, threads=1, device="cpu", notify=print)


def run_arms(
    runs: Path,
    seed: int,
    dtype: str,
    *,
    data: Sequence[Dataset],
    count: int = IMAGES,
    overrides: Mapping[str, Any] | None = None,
) -> None:
    """One seed's arms, each trained on `data` and then measured on `count` others; tiny-kl-f8 itself first."""
    found = unseen(count)
    measure([loaded(runs, BASE, seed)], found, runs / "measured")
    for name in ARMS:
        train(name, runs, seed, dtype, data=data, overrides=overrides)
        measure([loaded(runs, name, seed)], found, runs / "measured")


def main() -> None:
    cli = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    cli.add_argument("seed", type=int)
    cli.add_argument("-o", "--out", type=Path, required=True)
    cli.add_argument("--dtype", default="bfloat16", help="of the networks in training")
    a = cli.parse_args()
    run_arms(a.out, a.seed, a.dtype, data=images(a.out))


if __name__ == "__main__":
    main()
