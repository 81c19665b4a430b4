"""Train the embedded VAEs by the recipes: one encoder, three decoders.

    python embedded/trio.py tiny-kl-f8 -o RUNS          first, from scratch
    python embedded/trio.py tiny-ft-ema -o RUNS         its decoder continued
    python embedded/trio.py tiny-ft-mse -o RUNS         and that one continued, from its EMA weights

Each leaves RUNS/NAME, a run of `vaelens finetune` that goes on where it stopped, and at last RUNS/NAME.safetensors in
fp16, as it ships. About an hour or two on one core for the first, less for the others. Needs scikit-image and
scikit-learn, whose wheels carry the photographs (credits: docs/embedded.md); the rest is drawn.
"""

import argparse
import dataclasses
import shutil
from pathlib import Path

import skimage
import sklearn
import torch

import vaelens
from vaelens.finetuning.recipe import find_recipe
from vaelens.finetuning.running import finetune
from vaelens.vae import VAE

PHOTOS = [Path(skimage.__file__).parent / "data" / n for n in ("coffee.png", "ihc.png", "rocket.jpg", "retina.jpg")]
PHOTOS += [Path(skimage.__file__).parent / "data" / "hubble_deep_field.jpg"]
PHOTOS += [Path(sklearn.__file__).parent / "datasets" / "images" / n for n in ("china.jpg", "flower.jpg")]
FROM = {"tiny-kl-f8": None, "tiny-ft-ema": "tiny-kl-f8", "tiny-ft-mse": "tiny-ft-ema", "tiny-ae": None}
SPACE = "tiny"
DRAWN = 400  # faces and pages of letters
WEIGHTS = (2, 1)  # photographs, drawings


def train(name: str, runs: Path, seed: int, dtype: str) -> Path:
    """One of the trio, to its shipped form."""
    photos = runs / "photos"
    photos.mkdir(parents=True, exist_ok=True)
    for photo in PHOTOS:
        shutil.copy(photo, photos)
    parent = FROM[name]
    tuned = finetune(
        None if parent is None else runs / f"{parent}.safetensors",
        [photos, "drawn"],
        recipe=name,
        output=runs / name,
        weights=WEIGHTS,
        held_out="drawn",
        take=DRAWN,
        seed=seed,
        threads=1,
        device="cpu",
        dtype=dtype,
        announce=print,
        show=lambda done, of, numbers: print(done, of, {k: round(v, 4) for k, v in numbers.items()}, flush=True),
    )
    spec = dataclasses.replace(tuned.vae.spec, latent_space=SPACE)
    notes = {
        "command": f"embedded/trio.py {name} --seed {seed} --dtype {dtype}",
        "recipe_sha256": find_recipe(name).sha256(),
        "pictures": f"{DRAWN} drawn; {len(PHOTOS)} photographs of scikit-image and scikit-learn; {WEIGHTS}",
        "torch": torch.__version__,
        "vaelens": vaelens.__version__,
    }
    return VAE(tuned.vae.network.half(), spec, name).save(runs / f"{name}.safetensors", notes=notes)


def main() -> None:
    cli = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    cli.add_argument("name", choices=FROM)
    cli.add_argument("-o", "--out", type=Path, required=True)
    cli.add_argument("--seed", type=int, default=0)
    cli.add_argument("--dtype", default="bfloat16", help="of the networks; weights are float32")
    a = cli.parse_args()
    print("wrote", train(a.name, a.out, a.seed, a.dtype))


if __name__ == "__main__":
    main()
