"""How fast is a training step? vaelens against the step as it is usually written, in time and memory.

    python -m venv bench && bench/bin/pip install -c constraints.txt -e '.[bench]'
    bench/bin/python benchmarks/finetune.py

A decoder-only step of ft-EMA's recipe with its GAN (L1 + LPIPS, adaptive weight, EMA) on a VAE of kl-f8's size at
256x256. Each round runs in a process of its own, in which the peak memory is measured. The two stacks take turns
(A B A B ...), and the run fails if their losses or gradients differ. Half an hour on two cores. README.md says what is
measured. To try the script: --config tiny-kl --rounds 1 --steps 1 --no-write
"""

import argparse
import json
import platform
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from plain_step import PlainStep
from result_tables import OURS, USUAL, Result, finetune_markdown

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT / "tests"))

from support.random_trunks import random_heads, random_vgg16  # noqa: E402
from vaelens.finetuning.data import Batch  # noqa: E402
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
ALLOWED = 1e-3  # relative, of the loss and of the gradient's norm; fp32 through 50 convolutions
LIBRARIES = ("vaelens", "torch", "diffusers", "numpy")


def main() -> None:
    options = parsed()
    if options.child:
        print(json.dumps(child(options)))
        return
    rounds: dict[str, list[Result]] = {OURS: [], USUAL: []}
    for _ in range(options.rounds):
        for stack, done in rounds.items():
            command = [sys.executable, __file__, "--child", stack, "--batch-size", str(options.batch_size)]
            command += ["--steps", str(options.steps), "--threads", str(options.threads), "--config", options.config]
            ran = subprocess.run(command, capture_output=True, text=True, check=False)
            if ran.returncode:
                sys.exit(ran.stderr)
            done.append(json.loads(ran.stdout.splitlines()[-1]))
            print(stack, done[-1], flush=True)
    found = summary(rounds, options)
    print(f"\n{finetune_markdown(found)}")
    if options.write:
        folder = ROOT / "benchmarks" / "results"
        (folder / "finetune.json").write_text(json.dumps(found, indent=2) + "\n", encoding="utf-8")
        (folder / "finetune.md").write_text(finetune_markdown(found), encoding="utf-8")


def parsed() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--steps", type=int, default=3, help="timed optimizer steps per round, after a warm-up step")
    parser.add_argument("--batch-size", type=int, default=1)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--config", default="sd", help="of the network: sd or, to try the script, tiny-kl")
    parser.add_argument("--child", choices=[OURS, USUAL], help=argparse.SUPPRESS)
    parser.add_argument("--no-write", dest="write", action="store_false", help="print only")
    return parser.parse_args()


def child(options: argparse.Namespace) -> Result:
    """One stack's steps: seconds of each, the peak memory, and the first step's losses and gradient."""
    torch.set_num_threads(options.threads)
    recipe = find_recipe(
        "ft-ema", {"gan.start": 0, "gan.warmup_steps": 0, "data.batch_size": options.batch_size, "model.space": "any"}
    )
    config = cast(AutoencoderKLConfig, registry().network_config(options.config))
    with seeded(SEED):
        network = AutoencoderKL(config)
    state = State(network, recipe, SEED)
    distance, vgg, heads = perceptual()
    pixels = np.stack([draw_face(seed).pixels for seed in range(options.batch_size)])
    image = torch.as_tensor(pixels).permute(0, 3, 1, 2).contiguous().float() / 255
    step: Callable[[], dict[str, float]]
    if options.child == OURS:
        step = ours(state, recipe, distance, image)
    else:
        step = PlainStep(state, recipe, vgg, heads, SEED).step_on(image)
        del state, network
    seconds: list[float] = []
    first = step()
    for _ in range(options.steps):
        started = time.perf_counter()
        step()
        seconds.append(time.perf_counter() - started)
    return {"seconds": seconds, "peak_memory_bytes": peak_memory(), **first}


def ours(state: State, recipe: Recipe, distance: Perceptual, image: torch.Tensor) -> Callable[[], dict[str, float]]:
    config = StepConfig(recipe, distance, SEED)
    batch = Batch(image, ((),) * len(image), tuple(range(len(image))), ())

    def step() -> dict[str, float]:
        log = train_step(state, [(batch, None)], 1, config)
        return {key: float(log[key]) for key in ("loss", "grad_norm", "gan_weight", "discriminator_loss")}

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
        for key in ("loss", "grad_norm", "gan_weight", "discriminator_loss")
    }
    if max(differences.values()) > ALLOWED:
        sys.exit(f"The stacks' first steps differ too much: {differences}")
    seconds = {stack: statistics.median(s for one in of for s in one["seconds"]) for stack, of in rounds.items()}
    memory = {stack: statistics.median(one["peak_memory_bytes"] for one in of) for stack, of in rounds.items()}
    conditions: dict[str, Any] = {
        "cpu": cpu(), "threads": options.threads, "batch_size": options.batch_size, "rounds": options.rounds,
        "steps": options.steps, "config": options.config, "dtype": "float32", "seed": SEED,
        "versions": {name: version(name) for name in LIBRARIES},
    }  # fmt: skip
    return {
        "conditions": conditions,
        "seconds_per_step": seconds,
        "images_per_second": {stack: options.batch_size / value for stack, value in seconds.items()},
        "peak_memory_bytes": memory,
        "times_as_fast": seconds[USUAL] / seconds[OURS],
        "largest_differences": differences,
        "rounds": rounds,
    }


def cpu() -> str:
    """The processor's name."""
    lines = Path("/proc/cpuinfo").read_text().splitlines() if Path("/proc/cpuinfo").exists() else []
    return next((line.partition(":")[2].strip() for line in lines if "model name" in line), platform.processor())


if __name__ == "__main__":
    main()
