"""How long does `vaelens identify` take for a full VAE (335 MB), the start of the program included?

    bench/bin/python benchmarks/identify.py
    bench/bin/python benchmarks/identify.py --against equal --against finetuned --against unrelated

The weights are random (seed 0); caches are empty, so nothing is compared but what is named: `equal` has the same
weights in float16, `finetuned` a decoder 3 % apart, `unrelated` other random weights in float32. Prints one line of the
machine, the finding, the seconds of each run, after one that isn't counted, and the seconds that all its threads
computed, which other programs change less. A minute on two idle cores.
"""

import argparse
import os
import platform
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import instruction_sets
import torch

from vaelens.families.discovery import build_network
from vaelens.vae import VAE
from vaelens.weights.registry import registry


def main() -> None:
    """Make the files, run the command, print the times."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--against", action="append", choices=REFERENCES, default=[])
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        full = random_vae(0)
        path = full.save(Path(folder, "full.safetensors"), layout="ldm")
        command = [sys.executable, "-m", "vaelens", "identify", str(path)]
        for name in arguments.against:
            command += ["--against", str(REFERENCES[name](full).save(Path(folder, f"{name}.safetensors")))]
        caches = {"HF_HUB_CACHE": str(Path(folder, "hub")), "VAELENS_CACHE": str(Path(folder, "cache"))}
        taken: list[float] = []
        computed: list[float] = []
        for _ in range(arguments.rounds + 1):
            start, before = time.perf_counter(), _of_threads()
            found = subprocess.run(command, check=True, capture_output=True, text=True, env=os.environ | caches)
            taken.append(time.perf_counter() - start)
            computed.append(_of_threads() - before)
    print(f"{instruction_sets.described()}, Python {platform.python_version()}")
    print(f"torch {torch.__version__}, load {os.getloadavg()[0]:.2f}")
    print(next(line for line in found.stdout.splitlines() if line.startswith("is ")))
    print(f"median {statistics.median(taken[1:]):.2f} s of {', '.join(f'{one:.2f}' for one in taken[1:])}")
    print(f"of all threads: median {statistics.median(computed[1:]):.2f} s")


def random_vae(seed: int) -> VAE:
    """Of SD 1.x's shapes."""
    spec = registry().space_spec("sd1")
    assert spec is not None
    torch.manual_seed(seed)
    return VAE(build_network(spec.config), spec, "full")


def equal(full: VAE) -> VAE:
    """The same in float16."""
    return VAE(full.network, full.spec, "equal").to(torch.float16)


def finetuned(full: VAE) -> VAE:
    """Its decoder 3 % apart, the encoder the same."""
    torch.manual_seed(2)
    moved = {
        name: t + 0.03 * t.square().mean().sqrt() * torch.randn_like(t) if name.startswith("decoder.") else t
        for name, t in full.tensors().items()
    }
    return VAE.from_tensors(moved, full.spec, "finetuned", device=full.device, dtype=torch.float32)


def unrelated(_full: VAE) -> VAE:
    """Other random weights."""
    return random_vae(1)


REFERENCES: dict[str, Callable[[VAE], VAE]] = {"equal": equal, "finetuned": finetuned, "unrelated": unrelated}


def _of_threads() -> float:
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


if __name__ == "__main__":
    main()
