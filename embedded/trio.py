"""Train the embedded VAEs by the recipes: one encoder, three decoders; and what docs/proof.md compares them with.

    python embedded/trio.py train tiny-scratch -o RUNS      from scratch, on small crops
    python embedded/trio.py train tiny-kl-f8 -o RUNS        continued on larger ones
    python embedded/trio.py train tiny-ft-ema -o RUNS       its decoder continued
    python embedded/trio.py train tiny-ft-mse -o RUNS       and that one continued, from its EMA weights
    python embedded/trio.py ship -o RUNS                    the three, into the package

Several names are trained in the order given; decoders of different seeds (--seed) may be trained at the same time. Each
training leaves a run of `vaelens finetune`, which the same command resumes, and finally NAME.safetensors in fp16: whole
VAEs in RUNS, decoders of seed N in RUNS/seed-N. On one core about ten minutes for `tiny-scratch`, twenty for a whole
VAE, five for a decoder. Needs scikit-image and scikit-learn, whose wheels carry the photos (credits:
docs/embedded.md); the rest is synthetic.
"""

import argparse
import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from importlib.resources import files
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file

import vaelens
from vaelens.errors import UsageError
from vaelens.files import write_atomic
from vaelens.finetuning.recipe_files import find_recipe
from vaelens.finetuning.training import finetune
from vaelens.images.datasets.items import Dataset
from vaelens.images.datasets.opening import open_dataset
from vaelens.tensors.writing import safetensors_bytes
from vaelens.vae import VAE
from vaelens.weights.reading import read_vae
from vaelens.weights.registry import embedded_paths, registry
from vaelens.weights.spec_sources import SPEC_KEY, metadata_text

PHOTOS = {  # by the library that carries them
    "skimage": ("data", ("coffee.png", "hubble_deep_field.jpg", "ihc.png", "retina.jpg", "rocket.jpg")),
    "sklearn": ("datasets/images", ("china.jpg", "flower.jpg")),
}
SPACE = "tiny"
SYNTHETIC = 400  # faces and pages of letters
WEIGHTS = (2, 1)  # photos, synthetic images
STAGES = 100  # more than there are, so that no two stages of any seeds are trained with one seed


@dataclass(frozen=True)
class Training:
    """What to continue (None: from scratch), by which recipe, with which fields overridden.

    Trainings of one stage see the same crops and noise with a seed, those of another stage others.
    """

    parent: str | None
    recipe: str
    stage: int = 0
    overrides: Mapping[str, Any] = field(default_factory=dict[str, Any])


SAME_LOSS = {"gan.weight": 0.0}  # tiny-ft-ema's recipe is tiny-kl-f8's loss with a discriminator
TRAININGS = {
    "tiny-scratch": Training(None, "tiny-scratch"),
    "tiny-kl-f8": Training("tiny-scratch", "tiny-kl-f8"),
    "tiny-ae": Training("tiny-scratch", "tiny-ae"),
    "tiny-ft-ema": Training("tiny-kl-f8", "tiny-ft-ema", 1),
    "tiny-ft-mse": Training("tiny-ft-ema", "tiny-ft-mse", 2),
    "control": Training("tiny-kl-f8", "tiny-ft-ema", 1, SAME_LOSS),  # as long as tiny-ft-ema
    "control-twice": Training("control", "tiny-ft-ema", 2, SAME_LOSS),  # as long as tiny-ft-mse with what it continues
}
ENCODER = ("encoder.", "quant_conv.")  # how its tensors' names begin
SHIPPED = ("tiny-kl-f8", "tiny-ft-ema", "tiny-ft-mse")


def is_whole(name: str) -> bool:
    """Whether encoder and decoder are trained: once, with seed 0. Every seed's decoders continue the same VAE."""
    return find_recipe(TRAININGS[name].recipe).model.trainable == "all"


def place(runs: Path, name: str, seed: int) -> Path:
    """Where the VAE lies that belongs to a seed's decoders: each seed's own decoder, the same whole one for all."""
    return (runs if is_whole(name) else runs / f"seed-{seed}") / f"{name}.safetensors"


def images(runs: Path) -> list[Dataset]:
    """What all are trained on, whatever their seed: photos and synthetic images."""
    for library, (folder, names) in PHOTOS.items():
        for name in names:
            photo = runs / "photos" / name
            if not photo.exists():  # other trainings may be reading it
                write_atomic(photo, (Path(str(files(library))) / folder / name).read_bytes())
    return [open_dataset(runs / "photos"), open_dataset("synthetic", take=SYNTHETIC, training=True)]


def train(
    name: str,
    runs: Path,
    seed: int = 0,
    dtype: str = "bfloat16",
    *,
    threads: int = 1,
    data: Sequence[Dataset] | None = None,
    overrides: Mapping[str, Any] | None = None,
) -> Path:
    """One of them, in fp16; gives its file. `data`, `overrides`: others than `images` and the recipe's fields.

    Raises UsageError for another seed than 0 of a whole one.
    """
    if is_whole(name) and seed != 0:
        raise UsageError(f"{name} is trained with seed 0 only; decoders have others.")
    training, target = TRAININGS[name], place(runs, name, seed)
    data = images(runs) if data is None else data
    fields = {**training.overrides, **(overrides or {})}
    tuned = finetune(
        None if training.parent is None else _in_space(place(runs, training.parent, seed)),
        data,
        recipe=training.recipe,
        overrides=fields,
        output=target.with_suffix(""),
        weights=WEIGHTS,
        held_out="synthetic",
        seed=STAGES * seed + training.stage,
        threads=threads,
        device="cpu",
        dtype=dtype,
        notify=print,
        on_log=lambda done, of, numbers: print(done, of, {k: round(v, 4) for k, v in numbers.items()}, flush=True),
    )
    spec = dataclasses.replace(tuned.vae.spec, latent_space=None)
    notes = {
        "command": f"embedded/trio.py train {name} --seed {seed} --dtype {dtype} --threads {threads}",
        "recipe_sha256": find_recipe(training.recipe, fields).sha256(),
        "images": "; ".join(f"{source.name}, weight {w}" for source, w in zip(data, WEIGHTS, strict=True)),
        "made_with": f"vaelens {vaelens.__version__}, torch {torch.__version__}",
    }
    return VAE(tuned.vae.network.half(), spec, name).save(target, notes=notes)


def _in_space(path: Path) -> VAE:
    """A VAE in the latent space that the recipes ask for; its file says none before the registry knows its scale."""
    vae = vaelens.load(path, device="cpu")
    spec = dataclasses.replace(vae.spec, latent_space=SPACE)
    return VAE(vae.network, spec, vae.name, vae.fingerprint)


def ship(runs: Path, seed: int = 0) -> list[Path]:
    """Encoder and decoders into the package, each in a file of its own with its command; gives the files."""
    whole = {name: place(runs, name, seed) for name in SHIPPED}
    read = {name: read_vae(path) for name, path in whole.items()}
    if len({vae.fingerprint.encoder.stored for vae in read.values()}) > 1:
        raise UsageError(f"the VAEs in {runs} don't share one encoder. Train them in order.")
    known, scale = registry().spaces[SPACE].scaling_factor, read[SHIPPED[0]].spec.scaling_factor
    if scale != known:
        raise UsageError(f"the space {SPACE} has the scale {known} in vaes.toml, these latents {scale}. Set it there.")
    targets = {name: embedded_paths(registry().find(name)) for name in SHIPPED}
    if {len(paths) for paths in targets.values()} != {2}:
        raise UsageError(
            "vaes.toml names no file for the decoder and one for the encoder of each. Write them there first."
        )
    written: list[Path] = []
    for name, vae in read.items():
        decoder, encoder = targets[name]
        tensors = load_file(whole[name])
        notes = vae.metadata | {SPEC_KEY: metadata_text(dataclasses.replace(vae.spec, latent_space=SPACE))}
        halves = {decoder: {n: t for n, t in tensors.items() if not n.startswith(ENCODER)}}
        if name == SHIPPED[0]:
            halves[encoder] = {n: t for n, t in tensors.items() if n.startswith(ENCODER)}
        written += [write_atomic(path, safetensors_bytes(half, notes)) for path, half in halves.items()]
    return written


def main() -> None:
    cli = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    commands = cli.add_subparsers(dest="command", required=True)
    training, shipping = commands.add_parser("train"), commands.add_parser("ship")
    training.add_argument("names", metavar="name", nargs="+", choices=TRAININGS, help=", ".join(TRAININGS))
    training.add_argument("--dtype", default="bfloat16", help="of the networks; weights are float32")
    training.add_argument("--threads", type=int, default=1, help="of the CPU; another count rounds differently")
    for command in (training, shipping):
        command.add_argument("-o", "--out", type=Path, required=True)
        command.add_argument("--seed", type=int, default=0)
    a = cli.parse_args()
    if a.command == "train":
        for name in a.names:
            print("wrote", train(name, a.out, a.seed, a.dtype, threads=a.threads))
    else:
        print("wrote", ", ".join(map(str, ship(a.out, a.seed))))


if __name__ == "__main__":
    main()
