"""How long does `vaelens identify` take for a full VAE (335 MB), the start of the program included?

    bench/bin/python benchmarks/identify.py

The weights are random (seed 0); caches are empty, so nothing is compared with full-size references. Prints one line of
the machine and the seconds of each run, after one that isn't counted. A minute on two idle cores.
"""

import argparse
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import instruction_sets
import torch

from vaelens.families.discovery import build_network
from vaelens.vae import VAE
from vaelens.weights.registry import registry


def main() -> None:
    """Make the file, run the command, print the times."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    rounds = parser.parse_args().rounds
    spec = registry().space_spec("sd1")
    assert spec is not None
    torch.manual_seed(0)
    with tempfile.TemporaryDirectory() as folder:
        path = VAE(build_network(spec.config), spec, "full").save(Path(folder, "full.safetensors"), layout="ldm")
        caches = {"HF_HUB_CACHE": str(Path(folder, "hub")), "VAELENS_CACHE": str(Path(folder, "cache"))}
        taken: list[float] = []
        for _ in range(rounds + 1):
            start = time.perf_counter()
            command = [sys.executable, "-m", "vaelens", "identify", str(path)]
            subprocess.run(command, check=True, capture_output=True, env=os.environ | caches)
            taken.append(time.perf_counter() - start)
    print(f"{instruction_sets.described()}, Python {platform.python_version()}")
    print(f"torch {torch.__version__}, load {os.getloadavg()[0]:.2f}")
    print(f"median {statistics.median(taken[1:]):.2f} s of {', '.join(f'{one:.2f}' for one in taken[1:])}")


if __name__ == "__main__":
    main()
