"""How fast is the engine, how exact, and in how much memory? vaelens against diffusers, OpenVINO, ncnn, ONNX Runtime.

    python -m venv bench && bench/bin/pip install -c constraints.txt -e '.[bench]'
    bench/bin/python benchmarks/engine.py

Decode and encode of a full-width kl-f8 on photos and their latents; memory budgets; growth with the pixels; a
12-megapixel photo through `vaelens reconstruct`. Prints tables and what is reached of the engine's aims, and keeps both
in results/ and RESULTS.md. Two hours on two idle cores with everything; choose with --only, --sizes, --peers, --isa.
README.md says what is measured.
"""

import argparse
import os
import sys
import tempfile
from pathlib import Path
from typing import Any

import instruction_sets
import machine_records
import torch
from aims import aims_as_markdown, all_aims
from cases import Case, measure
from engine_parts import budgets, growth, inexact, photo
from engine_tables import case_as_markdown
from peers.job import Job
from peers.table import DEFAULT, LOW_PRECISION, OURS, PEERS
from realistic import SEED, VERSION, prepare

SIZES = ((256, 256), (512, 512), (520, 776), (1024, 1024), (2048, 2048))
IN_TURNS = 520 * 776  # pixels up to which all peers take turns; above, each runs once
FEW = 1024 * 1024  # pixels above which only vaelens and diffusers run
BATCH = 4
PARTS = ("decode", "encode", "budgets", "growth", "photo")


def main() -> None:
    options = parsed()
    work = Path(options.work)
    work.mkdir(parents=True, exist_ok=True)
    torch.set_num_threads(options.threads)
    prepare(work)
    record = machine_records.read()
    failures: list[str] = []
    for isa in options.isa:
        print(f"\n{instruction_sets.NAMES[isa]}: load average {os.getloadavg()[0]:.2f}", flush=True)
        run(record, isa, options)
        failures += [f"{instruction_sets.NAMES[isa]}, {text}" for text in inexact(record, isa)]
        if options.write:
            machine_records.write(record)
    print(f"\n{aims_as_markdown(record, all_aims(record))}")
    if failures:
        sys.exit("vaelens isn't exact: " + "; ".join(failures))


def run(record: dict[str, Any], isa: str, options: argparse.Namespace) -> None:
    """The chosen parts with these instructions, added to the record and printed."""
    environment = instruction_sets.environment(isa)
    job = Job(OURS, "decode", 512, 512, 1, options.threads, options.work)
    record.setdefault("conditions", {})[isa] = conditions(isa, environment, options)
    cases, parts = record["cases"].setdefault(isa, {}), record["parts"].setdefault(isa, {})
    for case in chosen_cases(job, environment, isa, options):
        print(f"\n{case.name}", flush=True)
        cases[case.name] = measure(case)
        print(f"\n{case_as_markdown(case.name, cases[case.name])}", flush=True)
    if "budgets" in options.only:
        parts["budgets"] = parts.get("budgets", {}) | budgets(job, environment, options.sizes, options.rounds)
    if "growth" in options.only:
        parts["growth"] = growth(job, environment, options.rounds)
    if "photo" in options.only:
        parts["photo"] = photo(job, environment, *options.photo)
    for name in set(options.only) & set(parts):
        print(f"\n{name}\n\n{parts[name]['table']}", flush=True)


def chosen_cases(job: Job, environment: dict[str, str], isa: str, options: argparse.Namespace) -> list[Case]:
    """Cases of the chosen tasks, sizes, batches and peers; the smallest first."""
    found = []
    for task in [part for part in ("decode", "encode") if part in options.only]:
        for height, width in options.sizes:
            for batch in options.batches if (height, width) == (512, 512) else (1,):
                pixels = height * width
                few = {OURS, DEFAULT} if pixels > FEW else set(PEERS)
                # Half precision is slow without AMX, and no aim asks for it.
                names = [n for n in options.peers if n in few and (isa == "amx" or n not in LOW_PRECISION)]
                rounds = options.rounds if pixels <= IN_TURNS else 0
                one = Job(OURS, task, height, width, batch, job.threads, job.work)
                found.append(Case(one, names, rounds, environment))
    return sorted(found, key=lambda case: (case.job.task, case.pixels))


def conditions(isa: str, environment: dict[str, str], options: argparse.Namespace) -> dict[str, Any]:
    """What holds for all cases with these instructions."""
    libraries = {library for name in options.peers for library in PEERS[name].libraries}
    settings = " ".join(f"{name}={environment[name]}" for name in instruction_sets.SETTINGS[isa] if name in environment)
    versions = machine_records.versions(libraries)
    return {"threads": options.threads, "seed": SEED, "settings": settings, "versions": versions}


def parsed() -> argparse.Namespace:
    choices, best = instruction_sets.choices(), instruction_sets.best()
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", nargs="+", choices=PARTS, default=list(PARTS), help="the parts; default: all")
    parser.add_argument("--sizes", nargs="+", type=size, default=list(SIZES), metavar="SIZE", help="512 or 520x776")
    parser.add_argument("--batches", nargs="+", type=int, default=[1, BATCH], metavar="N", help="at 512")
    parser.add_argument("--rounds", type=int, default=5, help="in turns, after the first call")
    parser.add_argument("--isa", nargs="+", choices=choices, default=[best], help=f"instructions; default: {best}")
    parser.add_argument(
        "--peers", nargs="+", choices=list(PEERS), default=list(PEERS), metavar="NAME", help="; ".join(PEERS)
    )
    parser.add_argument(
        "--photo", type=size, default=(4000, 3000), metavar="SIZE", help="width and height of the photo"
    )
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument(
        "--work",
        default=str(Path(tempfile.gettempdir()) / f"vaelens-benchmark-{VERSION}"),
        help="VAE, conversions and references stay here",
    )
    parser.add_argument("--no-write", dest="write", action="store_false", help="print only")
    return parser.parse_args()


def size(text: str) -> tuple[int, int]:
    """ "512" or "520x776"; both lengths multiples of 8."""
    first, _, second = text.partition("x")
    lengths = int(first), int(second or first)
    if min(lengths) < 8 or any(length % 8 for length in lengths):
        raise argparse.ArgumentTypeError(f"{text}: multiples of 8 are expected")
    return lengths


if __name__ == "__main__":
    main()
