"""How fast is a training step? vaelens against the step as it is usually written, in time and memory.

    python -m venv bench && bench/bin/pip install -c constraints.txt -e '.[bench]'
    bench/bin/python benchmarks/finetune.py

A decoder-only step of ft-MSE's recipe (MSE + LPIPS, EMA), or of ft-EMA's with its GAN (L1 + LPIPS, adaptive weight,
EMA), on a VAE of kl-f8's size at 256x256, in float32 or under autocast. Each round runs in a process of its own, in
which the memory is measured. The two stacks take turns (A B A B ...), and the run fails if their losses or gradients
differ. Half an hour on two cores. README.md says what is measured. To try the script: --config tiny-kl --rounds 1
--steps 1 --no-write
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from typing import Any, cast

import instruction_sets
import machine_records
import numpy as np
import torch
from aims import fine_tuning_aims
from plain_step import PlainStep
from resident_memory import peak, settled
from result_tables import OURS, USUAL, Result, finetune_markdown

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT / "tests"))

from support.random_trunks import random_heads, random_vgg16  # noqa: E402
from vaelens.finetuning.data.batches import Batch  # noqa: E402
from vaelens.finetuning.losses import Perceptual  # noqa: E402
from vaelens.finetuning.recipe import Recipe  # noqa: E402
from vaelens.finetuning.recipe_files import find_recipe  # noqa: E402
from vaelens.finetuning.state import State  # noqa: E402
from vaelens.finetuning.step import StepConfig, train_step  # noqa: E402
from vaelens.images.faces import draw_face  # noqa: E402
from vaelens.metrics.lpips import LPIPSHeads, lpips  # noqa: E402
from vaelens.networks.autoencoder_kl import AutoencoderKL, AutoencoderKLConfig  # noqa: E402
from vaelens.networks.vgg import VGG16  # noqa: E402
from vaelens.resources import peak_memory, seeded  # noqa: E402
from vaelens.weights.registry import registry  # noqa: E402

SEED = 0
COMPARED = ("loss", "grad_norm", "gan_weight", "discriminator_loss")
ALLOWED = {"float32": 1e-3, "bfloat16": 0.05}  # relative, of COMPARED, after 50 convolutions
LIBRARIES = ("vaelens", "torch", "diffusers", "numpy")


def main() -> None:
    options = parsed()
    if options.child:
        print(json.dumps(child(options)))
        return
    options.load = round(os.getloadavg()[0], 2)
    rounds: dict[str, list[Result]] = {OURS: [], USUAL: []}
    for _ in range(options.rounds):
        for stack, done in rounds.items():
            command = [sys.executable, __file__, "--child", stack, "--batch-size", str(options.batch_size)]
            command += ["--steps", str(options.steps), "--threads", str(options.threads), "--config", options.config]
            command += ["--recipe", options.recipe, "--dtype", options.dtype]
            ran = subprocess.run(command, capture_output=True, text=True, check=False)
            if ran.returncode:
                sys.exit(ran.stderr)
            done.append(json.loads(ran.stdout.splitlines()[-1]))
            print(stack, done[-1], flush=True)
    found = summary(rounds, options)
    print(f"\n{finetune_markdown(found)}")
    if options.write:
        folder = ROOT / "benchmarks" / "results"
        name = f"finetune-{options.recipe}-{options.dtype}"
        (folder / f"{name}.json").write_text(json.dumps(found, indent=2) + "\n", encoding="utf-8")
        (folder / f"{name}.md").write_text(finetune_markdown(found), encoding="utf-8")
    if options.recipe == "ft-mse" and options.config == "sd":
        print(kept(found, options))


def parsed() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--steps", type=int, default=3, help="timed optimizer steps per round, after a warm-up step")
    parser.add_argument("--batch-size", type=int, default=1)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--recipe", choices=["ft-mse", "ft-ema"], default="ft-mse")
    parser.add_argument("--dtype", choices=["float32", "bfloat16"], default="float32", help="bfloat16: autocast")
    parser.add_argument("--config", default="sd", help="of the network: sd or, to try the script, tiny-kl")
    parser.add_argument("--child", choices=[OURS, USUAL], help=argparse.SUPPRESS)
    parser.add_argument("--no-write", dest="write", action="store_false", help="print only")
    return parser.parse_args()


def kept(found: Result, options: argparse.Namespace) -> str:
    """The result in the machine's record, where it is stored; the lines of what it should reach."""
    ours, usual = (found["activation_memory_bytes"][stack] for stack in (OURS, USUAL))
    part = {"times": found["times_as_fast"], "table": finetune_markdown(found)}
    part["memory"] = None if ours is None or usual is None else ours / usual
    name = f"finetune {options.recipe} {options.dtype}"
    return machine_records.keep("any", name, part, options.write, fine_tuning_aims(options.dtype))


def child(options: argparse.Namespace) -> Result:
    """One stack's steps: seconds of each, the peak memory, and the first step's losses and gradient."""
    torch.set_num_threads(options.threads)
    autocast = None if options.dtype == "float32" else torch.bfloat16
    changes: dict[str, Any] = {"data.batch_size": options.batch_size, "model.space": "any"}
    if options.recipe == "ft-ema":
        changes |= {"gan.start": 0, "gan.warmup_steps": 0}
    recipe = find_recipe(options.recipe, changes)
    config = cast(AutoencoderKLConfig, registry().network_config(options.config))
    with seeded(SEED):
        network = AutoencoderKL(config)
    state = State(network, recipe, SEED)
    distance, vgg, heads = perceptual()
    pixels = np.stack([draw_face(seed).pixels for seed in range(options.batch_size)])
    image = torch.as_tensor(pixels).permute(0, 3, 1, 2).contiguous().float() / 255
    step: Callable[[], dict[str, float]]
    trained: torch.nn.Module
    if options.child == OURS:
        step, trained = ours(state, recipe, distance, image, autocast), network
    else:
        plain = PlainStep(state, recipe, (vgg, heads), SEED, autocast)
        step, trained = plain.step_on(image), plain.vae
        del state, network
    seconds: list[float] = []
    activations: int | None = None
    first = step()
    for _ in range(options.steps):
        trained.zero_grad()  # else the last step's gradients would hide as many bytes of this one's activations
        resident = settled()
        started = time.perf_counter()
        step()
        seconds.append(time.perf_counter() - started)
        if resident is not None:
            activations = max(activations or 0, peak() - resident)
    return {"seconds": seconds, "activation_memory_bytes": activations, "peak_memory_bytes": peak_memory(), **first}


def ours(
    state: State, recipe: Recipe, distance: Perceptual, image: torch.Tensor, autocast: torch.dtype | None
) -> Callable[[], dict[str, float]]:
    config = StepConfig(recipe, distance, SEED, autocast=autocast)
    batch = Batch(image, ((),) * len(image), tuple(range(len(image))), ())

    def step() -> dict[str, float]:
        log = train_step(state, [(batch, None)], 1, config)
        return {key: float(log[key]) for key in COMPARED if key in log}

    return step


def perceptual() -> tuple[Perceptual, VGG16, LPIPSHeads]:
    """LPIPS with random weights that preserve the variance; the time doesn't depend on them."""
    with torch.device("meta"):
        vgg, heads = VGG16(), LPIPSHeads(VGG16.WIDTHS)
    vgg.load_state_dict(random_vgg16(), assign=True)
    heads.load_state_dict(random_heads(VGG16.WIDTHS), assign=True)
    heads.requires_grad_(False)
    return Perceptual(vgg, lambda x, y: lpips(x, y, heads), shift=True), vgg, heads


def summary(rounds: dict[str, list[Result]], options: argparse.Namespace) -> Result:
    """Medians over all steps of all rounds. Exits if the first steps of the stacks differ too much."""
    first = {stack: of[0] for stack, of in rounds.items()}
    differences = {
        key: abs(first[OURS][key] - first[USUAL][key]) / abs(first[USUAL][key])
        for key in COMPARED
        if key in first[USUAL]
    }
    if max(differences.values()) > ALLOWED[options.dtype]:
        sys.exit(f"The stacks' first steps differ too much: {differences}")
    seconds = {stack: statistics.median(s for one in of for s in one["seconds"]) for stack, of in rounds.items()}
    memory, activations = (
        {stack: median_of([one[key] for one in of]) for stack, of in rounds.items()}
        for key in ("peak_memory_bytes", "activation_memory_bytes")
    )
    conditions: dict[str, Any] = {
        "cpu": instruction_sets.cpu(), "instructions": instruction_sets.NAMES[instruction_sets.best()],
        "load_at_the_start": options.load, "recipe": options.recipe,
        "threads": options.threads, "batch_size": options.batch_size, "rounds": options.rounds,
        "steps": options.steps, "config": options.config, "dtype": options.dtype, "seed": SEED,
        "versions": {name: version(name) for name in LIBRARIES},
    }  # fmt: skip
    return {
        "conditions": conditions,
        "seconds_per_step": seconds,
        "images_per_second": {stack: options.batch_size / value for stack, value in seconds.items()},
        "peak_memory_bytes": memory,
        "activation_memory_bytes": activations,
        "times_as_fast": seconds[USUAL] / seconds[OURS],
        "largest_differences": differences,
        "rounds": rounds,
    }


def median_of(values: list[int | None]) -> float | None:
    """None where the system couldn't tell."""
    known = [value for value in values if value is not None]
    return statistics.median(known) if known else None


if __name__ == "__main__":
    main()
